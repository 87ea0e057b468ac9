"""Lets DIALS open sparse files as if they were images: they are made dense when they are read.

dxtbx finds the class by the entry point `dxtbx.format` of this package, which must be importable in the Python of DIALS
(docs/densify.md tells how). Images are those that `framesieve densify` would write: the same noise, every time.
"""

from __future__ import annotations

import os

import h5py
import numpy as np
from cctbx.eltbx import attenuation_coefficient
from dxtbx.format.FormatHDF5 import FormatHDF5
from dxtbx.model import BeamFactory, Detector, ParallaxCorrectedPxMmStrategy
from scitbx.array_family import flex

from . import nexus
from .dense_files import MASKED
from .panels import DetectorGeometry
from .sparse_reader import SparseFile

#: set to 1: rows run the other way than the orientation in the PONI file says
UPSIDE_DOWN = "FRAMESIEVE_UPSIDE_DOWN"

_TO_IMGCIF = np.array([-1.0, 1.0, -1.0])  # from the laboratory of NeXus: z against the beam, x the other way
_LOWEST = -1e12  # of floats: lower ones are markers


class FormatFramesieve(FormatHDF5):
    """A sparse file of framesieve (or of pyFAI's sparsify-Bragg): stills."""

    @staticmethod
    def understand(image_file: str) -> bool:
        try:
            with h5py.File(image_file, "r") as h5:
                entry = h5.get(h5.attrs["default"])
                return entry is not None and "pyFAI_sparse_frames" in entry.attrs
        except (OSError, KeyError):
            return False

    def _start(self) -> None:
        self._opened: tuple[int, SparseFile] | None = None
        file = self._sparse()
        info = file.run_info()
        if info.wavelength is None:
            raise ValueError(f"{self._image_file}: the wavelength is not known; DIALS cannot do without it")
        geometry = nexus.geometry_of(info)
        if os.environ.get(UPSIDE_DOWN, "") not in ("", "0"):
            geometry = geometry.upside_down()
        self._wavelength = info.wavelength * nexus.METRES_TO_ANGSTROM
        self._largest, (self._material, self._thickness) = _sensor(info)
        self._geometry = geometry
        self._frames = len(file)
        self._good = (flex.bool(np.ascontiguousarray(~file.densifier.masked)),)

    def _sparse(self) -> SparseFile:
        """Open in this process: a file that another one has opened must not be read here."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), SparseFile(self._image_file)
        return self._opened[1]

    def _detector(self, index: int | None = None) -> Detector:
        file = self._sparse()
        lowest = _LOWEST if file.dtype.kind == "f" else 0.0
        return _model(
            self._geometry, self._wavelength, self._material, self._thickness, (lowest - 1, float(self._largest))
        )

    def _beam(self, index: int | None = None):
        return BeamFactory.simple(self._wavelength)

    def _goniometer(self):
        return None  # nothing of a rotation is in a sparse file

    def _scan(self):
        return None

    def get_detector(self, index: int | None = None):
        return self._detector_instance

    def get_num_images(self) -> int:
        return self._frames

    def get_static_mask(self, index=None, goniometer=None):
        return self._good

    def get_raw_data(self, index: int = 0):
        """flex.int, flex.double for floats; masked pixels are −1."""
        file = self._sparse()
        frame = file.frame(index, peaks=False)
        noise, rng = file.parameters_of(frame), file.generator(frame)
        if file.dtype.kind == "f":
            image = file.densifier.image(frame, noise=noise, rng=rng, dtype=np.float32, masked=MASKED)
            return (flex.double(image.astype(np.float64)),)
        image = file.densifier.image(frame, noise=noise, rng=rng, dtype=np.int32, masked=MASKED, lowest=0)
        return (flex.int(image),)


def _sensor(info) -> tuple[float, tuple[str, float]]:
    """Largest value that is no overload; material of the sensor, and its thickness in mm. As in a dense file."""
    with h5py.File("sensor", "w", driver="core", backing_store=False) as h5:
        detector = nexus.write_nxmx(h5, info, np.dtype(np.int32))
        largest = float(detector["saturation_value"][()])
        return largest, (detector["sensor_material"].asstr()[()], 1e3 * float(detector["sensor_thickness"][()]))


def _model(
    geometry: DetectorGeometry, wavelength: float, material: str, thickness: float, trusted: tuple[float, float]
) -> Detector:
    """The detector as dxtbx has it: mm, and the axes of imgCIF."""
    absorption = attenuation_coefficient.get_table(material).mu_at_angstrom(wavelength) / 10.0
    detector = Detector()
    for one in geometry.panels:
        slow_size, fast_size = one.pixel_size
        panel = detector.add_panel()
        panel.set_type("SENSOR_PAD")
        panel.set_name(one.name)
        axes = (vector * _TO_IMGCIF for vector in (one.fast / fast_size, one.slow / slow_size, 1e3 * one.origin))
        panel.set_local_frame(*(tuple(float(v) for v in axis) for axis in axes))
        panel.set_pixel_size((1e3 * fast_size, 1e3 * slow_size))
        panel.set_image_size((one.size[1], one.size[0]))
        panel.set_trusted_range(trusted)
        panel.set_material(material)
        panel.set_thickness(thickness)
        panel.set_mu(absorption)
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(absorption, thickness))
    return detector
