"""Where the pixels of a detector are: one neutral form between PONI, CrystFEL, NXmx and XDS.

The laboratory of CrystFEL and of NeXus (McStas): origin at the sample, z along the beam, y up, x completes a
right-handed frame: to the left for someone who looks along the beam. PONI's axes are t1 up, t2 to the right, t3 along
the beam, so x = −t2, y = t1, z = t3.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.poni import Poni

_SAME_PLACE = 1e-6  # m, of what is said to lie on one regular grid


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle of pixels that lie on one flat, regular grid.

    `first` and `size` (slow, fast): which part of the image it is, in pixels. `origin`: the outer corner of its first
    pixel; `slow`, `fast`: from one pixel to the next row, the next column. All float64 (3,), m, in the laboratory.
    """

    name: str
    first: tuple[int, int]
    size: tuple[int, int]
    origin: np.ndarray
    slow: np.ndarray
    fast: np.ndarray

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(slow, fast), m"""
        return float(np.linalg.norm(self.slow)), float(np.linalg.norm(self.fast))

    @property
    def normal(self) -> np.ndarray:
        """Unit vector fast × slow."""
        normal = np.cross(self.fast, self.slow)
        return normal / np.linalg.norm(normal)

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Positions (…, 3) in m of image coordinates; 0 is the outer corner of the first pixel of the image."""
        y, x = np.asarray(y, float)[..., None] - self.first[0], np.asarray(x, float)[..., None] - self.first[1]
        return self.origin + y * self.slow + x * self.fast


@dataclass(frozen=True, slots=True)
class DetectorGeometry:
    """All panels of a detector; `shape` (rows, columns) of the image, `wavelength` in m, None where unknown."""

    panels: tuple[Panel, ...]
    shape: tuple[int, int]
    wavelength: float | None = None
    detector: str = "Detector"

    def positions(self) -> np.ndarray:
        """Of the pixel centres, float64 (rows, columns, 3), m; NaN where there is no panel. 24 bytes per pixel."""
        result = np.full((*self.shape, 3), np.nan)
        for panel in self.panels:
            (y, x), (rows, columns) = panel.first, panel.size
            centres = panel.at(np.arange(y, y + rows)[:, None] + 0.5, np.arange(x, x + columns)[None, :] + 0.5)
            result[y : y + rows, x : x + columns] = centres
        return result

    def upside_down(self) -> DetectorGeometry:
        """Mirrored at the horizontal plane through the beam: for a detector whose rows really run the other way."""
        mirror = np.array([1.0, -1.0, 1.0])
        panels = [replace(p, origin=p.origin * mirror, slow=p.slow * mirror, fast=p.fast * mirror) for p in self.panels]
        return replace(self, panels=tuple(panels))


def check_panels(panels: list[Panel], name: str) -> tuple[int, int]:
    """(rows, columns) of the smallest image that has room for all.

    Raises
    ------
    ConfigurationError
        There is none, or one that no image can have.
    """
    if not panels:
        raise ConfigurationError(f"{name}: there is no detector panel in it")
    for panel in panels:
        vectors = np.stack([panel.origin, panel.slow, panel.fast])
        if min(panel.size) < 1 or min(panel.first) < 0:
            raise ConfigurationError(
                f"{name}: panel {panel.name!r} begins at {panel.first} and has {panel.size} pixels"
            )
        if not np.isfinite(vectors).all() or np.linalg.norm(np.cross(panel.fast, panel.slow)) < 1e-16:
            raise ConfigurationError(f"{name}: panel {panel.name!r}: the fast and the slow axis span no plane")
    shape = tuple(max(panel.first[axis] + panel.size[axis] for panel in panels) for axis in (0, 1))
    if max(shape) > 100_000:
        raise ConfigurationError(f"{name}: an image of {shape[0]} × {shape[1]} pixels; accepted is up to 100 000")
    return shape


def from_poni(poni: Poni, shape: tuple[int, int] | None = None) -> DetectorGeometry:
    """One panel.

    Raises
    ------
    ConfigurationError
        Neither the PONI file nor `shape` tells the number of pixels.
    """
    shape = shape or poni.shape
    if shape is None:
        raise ConfigurationError(
            "the PONI file does not tell how many pixels the detector has; add max_shape to its Detector_config"
        )
    to_laboratory = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]) @ np.array(poni.rotation)
    corner, slow, fast = [-poni.poni1, -poni.poni2, poni.distance], poni.pixel1, poni.pixel2
    if poni.orientation in (1, 2):  # the array is counted from its last row
        corner[0] += shape[0] * slow
        slow = -slow
    if poni.orientation in (1, 4):
        corner[1] += shape[1] * fast
        fast = -fast
    panel = Panel(
        "panel", (0, 0), shape, to_laboratory @ corner, to_laboratory[:, 0] * slow, to_laboratory[:, 1] * fast
    )
    return DetectorGeometry((panel,), shape, poni.wavelength, poni.detector)


def to_poni(geometry: DetectorGeometry) -> str:
    """The text of a PONI file, version 2.1.

    Raises
    ------
    ConfigurationError
        The panels do not lie on one regular grid: a PONI file has no words for that.
    """
    panel = _one_grid(geometry)
    slow, fast, origin = (np.array([v[1], -v[0], v[2]]) for v in (panel.slow, panel.fast, panel.origin))  # t1, t2, t3
    pixel1, pixel2 = panel.pixel_size
    orientation, p1, p2 = 3, slow / pixel1, fast / pixel2
    normal = np.cross(p1, p2)
    if normal @ origin <= 0:  # seen from the sample rows run the other way round
        orientation, p1, normal = 2, -p1, -normal
        origin = origin + geometry.shape[0] * slow
    if abs(p1 @ p2) > 1e-6:
        raise ConfigurationError("the rows and columns of the detector are not perpendicular, a PONI file has no words")
    # third row of R: sin2, −sin1·cos2, cos1·cos2; first column: cos2·cos3, cos2·sin3, sin2
    rot1 = math.atan2(-p2[2], normal[2])
    rot2 = math.asin(max(-1.0, min(1.0, p1[2])))
    rot3 = math.atan2(p1[1], p1[0])
    config = {
        "pixel1": pixel1,
        "pixel2": pixel2,
        "max_shape": list(geometry.shape),
        "orientation": orientation,
    }
    lines = [
        "# written by framesieve; lengths in m, angles in rad",
        "poni_version: 2.1",
        "Detector: Detector",
        f"Detector_config: {json.dumps(config)}",
        f"Distance: {float(origin @ normal)!r}",
        f"Poni1: {float(-origin @ p1)!r}",
        f"Poni2: {float(-origin @ p2)!r}",
        f"Rot1: {rot1!r}",
        f"Rot2: {rot2!r}",
        f"Rot3: {rot3!r}",
    ]
    if geometry.wavelength is not None:
        lines.append(f"Wavelength: {geometry.wavelength!r}")
    return "\n".join(lines) + "\n"


def _one_grid(geometry: DetectorGeometry) -> Panel:
    """The panel that covers the whole image."""
    first = geometry.panels[0]
    whole = replace(first, first=(0, 0), size=geometry.shape, origin=first.at(0, 0))
    for panel in geometry.panels:
        corners = [panel.first, np.add(panel.first, panel.size)]
        for y, x in ((y, x) for y in (corners[0][0], corners[1][0]) for x in (corners[0][1], corners[1][1])):
            if np.abs(panel.at(y, x) - whole.at(y, x)).max() > _SAME_PLACE:
                raise ConfigurationError(
                    f"panel {panel.name!r} does not lie on one regular grid with {first.name!r}: a PONI file has no "
                    "words for that; convert to .geom, .nxs or XDS.INP"
                )
    return whole
