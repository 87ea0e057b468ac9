"""Everything a run needs before its first frame: source, geometry, mask, device, files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..formats.dense_writer import DenseWriter
from ..formats.sparse_writer import SparseWriter
from ..processing.bins import RadialBins, make_bins
from ..processing.errors import ConfigurationError
from ..processing.frames import PIXEL_DTYPES, Source
from ..processing.geometry import pixel_geometry
from ..processing.opencl import choose_devices
from ..processing.poni import Poni, read_poni
from ..processing.threads import automatic
from ..sources.images import read_image
from ..sources.registry import accepted
from .collector import Collector
from .reducers import Reducers
from .settings import RunSettings
from .sink import RunSink

LIKELY_DTYPE = np.dtype(np.uint32)  # of a detector that has not sent anything yet


@dataclass(slots=True)
class Prepared:
    """A run that can start; `close` ends it, or takes it back where it never started."""

    source: Source
    sink: RunSink
    collector: Collector
    reducers: Reducers
    number_of_frames: int | None = None  # as far as the source told

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # every one is closed, also where closing another fails
            stack.callback(self.reducers.close)
            stack.callback(self.sink.close)
            stack.callback(self.source.close)


def prepare_run(
    settings: RunSettings,
    open_source: Callable[[str], Source],
    *,
    batch_size: int,
    decode_threads: int = 0,
    likely_dtype: np.dtype = LIKELY_DTYPE,
) -> Prepared:
    """Load and open everything; what can fail without the detector fails here.

    A detector tells its pixel type only when a series begins, and then there is little time: kernels are built for
    `likely_dtype` now, so that as a rule they are there.

    Raises
    ------
    FrameSieveError
        Says which setting, what is wrong with it and what would be right.
    """
    settings.check()
    if not settings.source:
        raise ConfigurationError(f"source is not set (accepted: {accepted()})")
    if not settings.geometry:
        raise ConfigurationError("geometry is not set: give the PONI file of the detector (pyFAI-calib2 writes it)")
    devices = choose_devices(settings.opencl_device)
    images = _Images(settings)
    collector = Collector()
    reducers = Reducers(
        devices, images.bins, images.dark, batch_size, collector, decode_threads=automatic(decode_threads)
    )
    source = open_source(settings.source)
    writers: list[SparseWriter | DenseWriter] = []
    try:
        # a detector's connection comes last: what it sends to a run that then cannot begin is gone
        start = source.open() if not source.live else None
        reducers.are_compressed = source.sends_bslz4
        # where the source knows its shape, images of another one are refused here and not at the first frame
        shape = (start.shape if start is not None else None) or images.shape
        if shape is not None:
            images.bins(shape)
        sparse = dense = None
        inputs = [spec.partition("::")[0] for spec in (settings.geometry, settings.mask, settings.dark, settings.flat)]
        inputs += start.metadata.get("files", []) if start is not None else []
        if settings.saving_sparse:
            sparse = _create(SparseWriter, settings.output_path, settings, inputs)
            writers.append(sparse)
        if settings.saving_dense:
            path = settings.output_path
            dense = _create(DenseWriter, path.with_name(f"{path.stem}_nxmx{path.suffix}"), settings, inputs)
            writers.append(dense)
        collector.output_file = str(writers[0].path) if writers else ""
        files = start.metadata.get("files", []) if start is not None else []
        origin = f"file:{', '.join(files)}" if len(files) > 1 else settings.source
        sink = RunSink(collector, sparse, dense, images.poni, origin, images.configuration)
        if start is not None and shape is not None and start.dtype in PIXEL_DTYPES:
            reducers.make(shape, start.dtype)
        elif source.live and shape is not None:
            reducers.expect(shape, likely_dtype)
        if source.live:
            start = source.open()
    except BaseException:
        source.close()
        reducers.close()
        for writer in writers:
            writer.remove()
        raise

    return Prepared(source, sink, collector, reducers, start.number_of_frames if start is not None else None)


def _create(writer: type, path: Path, settings: RunSettings, inputs: list[str]) -> SparseWriter | DenseWriter:
    """A new file, never in the place of one that the run reads."""
    if not settings.saving_file and not settings.saving_directory:
        raise ConfigurationError(
            "saving_directory is not set: give a directory, or switch saving_sparse and saving_dense off"
        )
    if path.exists() and any(os.path.exists(name) and path.samefile(name) for name in inputs):
        raise ConfigurationError(f"{path} is read by this run and cannot be written by it: name another file")
    return writer(os.fspath(path), overwrite=settings.saving_overwrite_policy == "overwrite")


def check_images(settings: RunSettings, names: Collection[str]) -> None:
    """Refuse those of the images mask, dark and flat that cannot be read, or have another shape than the detector, as
    far as the geometry tells it.

    Raises
    ------
    ConfigurationError
    """
    shape = None
    if settings.geometry:
        with contextlib.suppress(ConfigurationError):  # its own fault, told where it is written or used
            shape = read_poni(settings.geometry).shape
    for name in ("mask", "dark", "flat"):
        spec = getattr(settings, name)
        if name in names and spec:
            image = read_image(spec)
            _check_shape(name, spec, image.shape, shape or image.shape)


def _check_shape(name: str, spec: str, shape: tuple[int, int], expected: tuple[int, int]) -> None:
    if shape != expected:
        raise ConfigurationError(
            f"{name} = {spec!r} has {_text(shape)} pixels, the detector has {_text(expected)}: give the {name} of this "
            "detector"
        )


class _Images:
    """Geometry and images of the detector, which must all have one shape."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self.poni: Poni = read_poni(settings.geometry)
        self._mask = _optional_image(settings.mask)
        self._flat = _optional_image(settings.flat)
        self.dark = _optional_image(settings.dark)
        self.shape = self.poni.shape
        for name, image in (("mask", self._mask), ("flat", self._flat), ("dark", self.dark)):
            if image is None:
                continue
            self.shape = self.shape or image.shape
            _check_shape(name, getattr(settings, name), image.shape, self.shape)
        if self.dark is not None:
            used = np.ones(self.dark.shape, bool) if self._mask is None else self._mask == 0
            if not np.all(np.isfinite(self.dark[used])):
                raise ConfigurationError(
                    f"dark = {settings.dark!r} holds values that are not finite; mask those pixels"
                )
        self.configuration = {
            "geometry": settings.geometry,
            "mask": settings.mask,
            "dark": settings.dark,
            "flat": settings.flat,
            "polarization": settings.polarization,
            "solid_angle": settings.solid_angle,
            "radial_bins": settings.radial_bins,
        }
        self._bins: dict[tuple[int, int], RadialBins] = {}

    def bins(self, shape: tuple[int, int]) -> RadialBins:
        """The pixels of frames of this shape, sorted."""
        if shape not in self._bins:
            self._bins[shape] = self._sorted(shape)
        return self._bins[shape]

    def _sorted(self, shape: tuple[int, int]) -> RadialBins:
        if self.shape is not None and shape != self.shape:
            raise ConfigurationError(
                f"the frames have {_text(shape)} pixels, but geometry = {self._settings.geometry!r} (or the mask, dark "
                f"or flat) is for {_text(self.shape)}: give those of this detector"
            )
        settings = self._settings
        geometry = pixel_geometry(
            self.poni, shape, solid_angle=settings.solid_angle, polarization=settings.polarization
        )
        factors = [f for f in (self._flat, geometry.solid_angle, geometry.polarization) if f is not None]
        norm = np.prod(factors, axis=0, dtype=np.float32) if factors else None
        return make_bins(geometry.radius, settings.radial_bins, self._mask, norm)


def _optional_image(spec: str) -> np.ndarray | None:
    return read_image(spec) if spec else None


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} × {shape[1]} (rows × columns)"
