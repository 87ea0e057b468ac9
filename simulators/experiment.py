"""Where the detector stands and what hits it: the geometry of a simulated experiment.

A flat detector perpendicular to the beam. Laboratory axes: x along the fast axis (columns), y along the slow
axis (rows), z along the beam; positions on the detector are pixel indices, centre of the first pixel = 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

#: rows × columns of an EIGER2 4M
EIGER2_4M_SHAPE = (2167, 2070)

#: h·c in eV·Å
HC = 12398.4198


@dataclass(frozen=True)
class Experiment:
    """Detector position, beam and pixel size.

    Parameters
    ----------
    shape
        (rows, columns).
    pixel_size
        Edge of a pixel, m.
    distance
        Sample to detector, m.
    wavelength
        Å.
    polarization
        Degree of linear polarization along x, −1 … 1 (1 = all of it horizontal).
    beam_center
        (x, y) where the direct beam would hit, pixel index. By default near the middle, but neither on it nor
        between two modules.
    """

    shape: tuple[int, int] = EIGER2_4M_SHAPE
    pixel_size: float = 75e-6
    distance: float = 0.15
    wavelength: float = 1.0
    polarization: float = 0.99
    beam_center: tuple[float, float] = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.beam_center is None:
            rows, columns = self.shape
            offset = min(1.0, min(self.shape) / 2070)
            center = ((columns - 1) / 2 + 12.3 * offset, (rows - 1) / 2 + 25.8 * offset)
            object.__setattr__(self, "beam_center", center)

    @property
    def energy(self) -> float:
        """Photon energy, eV."""
        return HC / self.wavelength

    def offsets(self, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Distance of the pixel centres from the beam: x float64 (1, columns), y float64 (rows, 1), m."""
        x = (np.arange(self.shape[1]) - self.beam_center[0]) * self.pixel_size
        y = (np.arange(self.shape[0])[rows] - self.beam_center[1]) * self.pixel_size
        return x[None, :], y[:, None]

    def two_theta(self, rows: slice = slice(None)) -> np.ndarray:
        """Scattering angle of the pixel centres, rad, float64 (rows, columns)."""
        x, y = self.offsets(rows)
        return np.arctan(np.hypot(x, y) / self.distance)

    def resolution(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Spacing d = λ / (2 sin θ) of the lattice planes that diffract to pixel (x, y), Å; inf at the beam."""
        radius = np.hypot(np.asarray(x) - self.beam_center[0], np.asarray(y) - self.beam_center[1]) * self.pixel_size
        with np.errstate(divide="ignore"):
            return self.wavelength / (2 * np.sin(np.arctan(radius / self.distance) / 2))

    def highest_resolution(self) -> float:
        """Smallest spacing d that reaches a corner of the detector, Å."""
        rows, columns = self.shape
        x, y = np.meshgrid((-0.5, columns - 0.5), (-0.5, rows - 0.5))
        return float(self.resolution(x, y).min())

    def polarization_factor(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Share of the scattered intensity left by the polarization at offsets (x, y) in m from the beam.

        ½ [1 + cos²2θ − f cos 2χ (1 − cos²2θ)], χ counted from the x axis (Kahn et al. 1982,
        J. Appl. Cryst. 15, 330; the same expression as in pyFAI).
        """
        squared = x**2 + y**2
        cos2 = self.distance**2 / (self.distance**2 + squared)  # cos² 2θ
        with np.errstate(invalid="ignore", divide="ignore"):
            cos_2chi = np.where(squared > 0, (x**2 - y**2) / squared, 1.0)
        return 0.5 * (1 + cos2 - self.polarization * cos_2chi * (1 - cos2))

    def project(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays of `direction` (n, 3), any length, leave the sample and hit: x, y (n,) in pixels, NaN if never."""
        with np.errstate(invalid="ignore", divide="ignore"):
            forward = np.where(direction[:, 2] > 0, self.distance / direction[:, 2] / self.pixel_size, np.nan)
        return self.beam_center[0] + direction[:, 0] * forward, self.beam_center[1] + direction[:, 1] * forward

    def poni_text(self) -> str:
        """The geometry as the text of a PONI file, version 2.1."""
        detector = {
            "pixel1": self.pixel_size,
            "pixel2": self.pixel_size,
            "max_shape": list(self.shape),
            "orientation": 3,
        }
        lines = (
            "# simulated",
            "poni_version: 2.1",
            "Detector: Detector",
            f"Detector_config: {json.dumps(detector)}",
            f"Distance: {self.distance!r}",
            f"Poni1: {float((self.beam_center[1] + 0.5) * self.pixel_size)!r}",
            f"Poni2: {float((self.beam_center[0] + 0.5) * self.pixel_size)!r}",
            "Rot1: 0",
            "Rot2: 0",
            "Rot3: 0",
            f"Wavelength: {self.wavelength * 1e-10!r}",
        )
        return "\n".join(lines) + "\n"
