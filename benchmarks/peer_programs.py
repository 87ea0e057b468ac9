"""How each peer is called: on the standard frame, with the parameters of the standard chain.

A function per task. It prepares everything that is prepared once per geometry, and gives a function that does one
frame. None of the peers is needed to install framesieve; `Missing` says how to get one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import io
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pyopencl as cl

from ..formats.dense_files import densify_file
from ..formats.densify import Densifier
from ..formats.sparse_reader import SparseFile
from ..formats.sparse_writer import SparseWriter
from ..processing.bins import RadialBins
from ..processing.frames import ReducedFrame, RunInfo, Verdict
from ..processing.opencl import DeviceChoice
from ..processing.parameters import ParameterSet
from ..processing.poni import parse_poni
from ..processing.reducer import Reduction
from .standard import CENTRE, PARAMETERS, PIXEL, scale_of

_FRAMES = 16  # of a file that is made dense


class Missing(Exception):
    """The peer is not installed; `command` installs it."""

    def __init__(self, reason: str, command: str) -> None:
        super().__init__(reason)
        self.command = command


@dataclass(frozen=True)
class Scene:
    """What all peers get: the frame, its geometry, and what ours made of it."""

    frame: np.ndarray  # (rows, columns)
    bins: RadialBins
    device: DeviceChoice
    ours: Reduction


@dataclass(frozen=True)
class Peer:
    """One task of one peer.

    `work` does one frame, `found` tells in numbers what came out of it, `ours_found` the same of ours. `by_core_time`:
    compared is the processor time of all cores, since the peer uses one core only. `ours` does the same task on as many
    frames; None: the whole chain is compared. `frames`: so many are done at a time, one unless told.
    """

    name: str
    task: str
    version: str
    work: Callable[[], Any]
    found: Callable[[Any], dict[str, float]]
    ours_found: dict[str, float]
    by_core_time: bool = False
    ours: Callable[[], Any] | None = None
    frames: int = 1


#: peakfinder8 needs numpy only, of all that the package of OM asks for
_INSTALL = {
    "pyFAI": "pip install pyFAI",
    "fabio": "pip install fabio",
    "ondamonitor": "pip install --no-deps ondamonitor",
}


def _module(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{package} is not installed ({error})", _INSTALL[package]) from None


def _pyfai_integrator(scene: Scene):
    """pyFAI's sparse matrix for this geometry, no pixel splitting, on which its sigma clipping works; unit and
    radius of each pixel."""
    azimuthal = _module("pyFAI.integrator.azimuthal", "pyFAI")
    units = _module("pyFAI.units", "pyFAI")
    detectors = _module("pyFAI.detectors", "pyFAI")
    scale = scale_of(scene.frame.shape)
    detector = detectors.Detector(PIXEL, PIXEL, max_shape=scene.frame.shape)
    # pyFAI counts from the corner of the first pixel; the distance plays no part where bins are made of radii in m
    poni1, poni2 = ((centre * scale + 0.5) * PIXEL for centre in CENTRE)
    integrator = azimuthal.AzimuthalIntegrator(dist=0.15, poni1=poni1, poni2=poni2, detector=detector, wavelength=1e-10)
    unit = units.to_unit("r_m")
    sparse = integrator.setup_sparse_integrator(
        scene.frame.shape, scene.bins.count, mask=None, unit=unit, split="no", algo="CSR", scale=False
    )
    return sparse, unit, integrator.array_from_unit(typ="center", unit=unit, scale=False)


def _pyfai_peak_finder(scene: Scene):
    peak_finder = _module("pyFAI.opencl.peak_finder", "pyFAI")
    sparse, unit, radius = _pyfai_integrator(scene)
    return peak_finder.OCL_PeakFinder(
        sparse.lut,
        image_size=scene.frame.size,
        unit=unit,
        bin_centers=sparse.bin_centers,
        radius=radius,
        ctx=cl.Context([scene.device.device]),
    )


#: pyFAI's names for the parameters of the standard chain; "safe" would compare check sums on every call
_CLIP = {
    "error_model": PARAMETERS.error_model.name,
    "cutoff_clip": PARAMETERS.snr_clip,
    "cycle": PARAMETERS.clip_cycles,
    "noise": PARAMETERS.noise,
    "safe": False,
}


def pyfai_sparsify(scene: Scene) -> Peer:
    """Clip and pick on the same OpenCL device."""
    finder = _pyfai_peak_finder(scene)

    def work():
        return finder.sparsify(scene.frame, cutoff_pick=PARAMETERS.snr_pick, **_CLIP)

    def found(sparse) -> dict:
        return {"pixels": int(sparse.index.size)}

    return Peer("pyFAI", "sparsify (OpenCL)", _version("pyFAI"), work, found, {"pixels": len(scene.ours.index)})


def pyfai_sigma_clip(scene: Scene) -> Peer:
    """Clipping alone, compiled Cython on all cores: the engine itself, without what `AzimuthalIntegrator` adds."""
    sparse, _, _ = _pyfai_integrator(scene)
    model = _module("pyFAI.containers", "pyFAI").ErrorModel.parse(PARAMETERS.error_model.name)

    def work():
        return sparse.sigma_clip(
            scene.frame, error_model=model, cutoff=PARAMETERS.snr_clip, cycle=PARAMETERS.clip_cycles, safe=False
        )

    def found(result) -> dict:
        return {"mean_background": round(float(np.mean(result.intensity)), 3)}

    ours = {"mean_background": round(float(np.nanmean(scene.ours.mean)), 3)}
    return Peer("pyFAI", "sigma_clip (Cython, CSR)", _version("pyFAI"), work, found, ours)


def pyfai_peak_finder(scene: Scene) -> Peer:
    """Clip and find peaks on the same OpenCL device."""
    finder = _pyfai_peak_finder(scene)

    def work():
        return finder.peakfinder(
            scene.frame,
            cutoff_peak=PARAMETERS.snr_peak,
            patch_size=PARAMETERS.patch_size,
            connected=PARAMETERS.min_pixels,
            **_CLIP,
        )

    def found(peaks) -> dict:
        return {"peaks": len(peaks)}

    return Peer("pyFAI", "peakfinder (OpenCL)", _version("pyFAI"), work, found, {"peaks": scene.ours.n_peaks})


def om_peakfinder8(scene: Scene) -> Peer:
    """OM's (formerly OnDA's) peakfinder8 on one core. The frame is given as the float32 it wants: that conversion is
    not counted."""
    # the module that wraps it does not import with numpy 2, so its compiled part is called
    find = _module("om.algorithms._crystallography", "ondamonitor").peakfinder_8
    rows, columns = scene.frame.shape
    frame = scene.frame.astype(np.float32)
    good = np.ones(frame.shape, np.int8)
    radius = np.nan_to_num(scene.bins.radius_image / PIXEL).astype(np.float32)
    none = np.zeros(1, np.int32)  # pixels for the radial statistics: only looked at in its "fast mode"
    largest, least_counts, local_radius = 200, 0.0, 3  # pixels of a peak, counts, pixels

    def work():
        return find(
            PARAMETERS.max_peaks, frame, good, radius, 0, none, none, 0, columns, rows, 1, 1,
            least_counts, PARAMETERS.snr_peak, PARAMETERS.min_pixels, largest, local_radius,
        )  # fmt: skip

    def found(columns_of_peaks) -> dict:
        return {"peaks": len(columns_of_peaks[0])}

    ours = {"peaks": scene.ours.n_peaks}
    return Peer("OM", "peakfinder8 (one core)", _version("ondamonitor"), work, found, ours, by_core_time=True)


def fabio_densify(scene: Scene, *, with_noise: bool = False) -> Peer:
    """A sparse frame back to a dense one, on one core."""
    densify = _module("fabio.ext.dense", "fabio").densify
    ours, dtype, radius_image = scene.ours, scene.frame.dtype, scene.bins.radius_image
    radius = scene.bins.radius.astype(np.float32)
    dummy = np.iinfo(dtype).max
    std = ours.std if with_noise else None
    sparse = ReducedFrame(
        0, "", math.nan, Verdict.KEPT, index=ours.index, intensity=ours.intensity, background_mean=ours.mean,
        background_std=ours.std,
    )  # fmt: skip
    densifier = Densifier(radius_image, radius, dtype)

    def work() -> np.ndarray:
        return densify(radius_image, radius, ours.index, ours.intensity, dummy, dtype, ours.mean, std, None)

    def work_of_ours() -> np.ndarray:
        rng = np.random.Generator(np.random.SFC64(1))
        return densifier.image(sparse, noise=PARAMETERS if with_noise else None, rng=rng, masked=dummy)

    def found(dense: np.ndarray) -> dict:
        valid = np.isfinite(radius_image)
        return {"median": float(np.median(dense[valid]))}

    task = f"densify with{'' if with_noise else 'out'} noise (Cython, one core)"
    return Peer(
        "fabio", task, _version("fabio"), work, found, found(work_of_ours()), by_core_time=True, ours=work_of_ours
    )


def fabio_program(scene: Scene, *, with_noise: bool = False) -> Peer:
    """A sparse file to a file of whole images, from reading to compressing and writing, on all cores: its program
    densify-Bragg against `framesieve densify`, both without starting Python."""
    program = _module("fabio.app.densify", "fabio")
    folder = tempfile.TemporaryDirectory(prefix="framesieve-bench-")
    sparse = Path(folder.name) / "sparse.h5"
    _write_sparse(sparse, scene)
    outputs = {"theirs": sparse.with_name("sparse_dense.h5"), "ours": sparse.with_name("ours.h5")}
    options = argparse.Namespace(noisy=float(with_noise), dummy=None, format="lima", output=None, images=[str(sparse)])

    def work() -> Path:
        outputs["theirs"].unlink(missing_ok=True)  # it would add to it
        with contextlib.redirect_stdout(io.StringIO()):
            program.Converter(options).decompress()
        return outputs["theirs"]

    def work_of_ours() -> Path:
        with SparseFile(sparse) as file:
            densify_file(file, outputs["ours"], noise=with_noise, overwrite=True)
        return outputs["ours"]

    def found(path: Path) -> dict:
        assert folder.name  # lives as long as this function
        with h5py.File(path) as h5:
            entry = h5[h5.attrs["default"]]
            images = entry["measurement/data" if path == outputs["theirs"] else "data/data"]
            return {"images": len(images), "median": float(np.median(images[-1][np.isfinite(scene.bins.radius_image)]))}

    task = f"densify-Bragg, whole program with{'' if with_noise else 'out'} noise"
    version = _version("fabio")
    return Peer("fabio", task, version, work, found, found(work_of_ours()), ours=work_of_ours, frames=_FRAMES)


def _write_sparse(path: Path, scene: Scene) -> None:
    """The reduced frame of the scene, some times."""
    scale = scale_of(scene.frame.shape)
    poni1, poni2 = ((centre * scale + 0.5) * PIXEL for centre in CENTRE)
    text = (
        f'poni_version: 2\nDetector: Detector\nDetector_config: {{"pixel1": {PIXEL}, "pixel2": {PIXEL}}}\n'
        f"Distance: 0.15\nPoni1: {poni1}\nPoni2: {poni2}\nWavelength: 1e-10\n"
    )
    info = RunInfo.of_geometry(
        dataclasses.replace(parse_poni(text, "standard frame"), shape=scene.frame.shape),
        {},
        shape=scene.frame.shape,
        dtype=scene.frame.dtype,
        radius=scene.bins.radius.astype(np.float32),
        radius_image=scene.bins.radius_image,
        normalization=None,
        source="standard frame",
    )
    ours = scene.ours
    order = np.argsort(ours.index)
    with SparseWriter(path) as writer:
        writer.begin(info)
        writer.add_parameter_set(ParameterSet(1, PARAMETERS), 0, 0.0)
        for number in range(_FRAMES):
            frame = ReducedFrame(number, "standard", float(number), Verdict.KEPT, n_pixels=len(order), parameter_set=1)
            frame.index, frame.intensity = ours.index[order], ours.intensity[order]
            frame.background_mean, frame.background_std = ours.mean, ours.std
            writer.append([frame])


def _version(package: str) -> str:
    return importlib.metadata.version(package)


#: (peer, task, how it is made)
PROGRAMS: tuple[tuple[str, str, Callable[[Scene], Peer]], ...] = (
    ("pyFAI", "sparsify (OpenCL)", pyfai_sparsify),
    ("pyFAI", "sigma_clip (Cython, CSR)", pyfai_sigma_clip),
    ("pyFAI", "peakfinder (OpenCL)", pyfai_peak_finder),
    ("OM", "peakfinder8 (one core)", om_peakfinder8),
    ("fabio", "densify without noise", fabio_densify),
    ("fabio", "densify with noise", functools.partial(fabio_densify, with_noise=True)),
    ("fabio", "densify-Bragg without noise", fabio_program),
    ("fabio", "densify-Bragg with noise", functools.partial(fabio_program, with_noise=True)),
)
