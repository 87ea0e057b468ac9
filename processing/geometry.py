"""Where each pixel is: radius, solid angle and polarization factor, from a PONI geometry.

Equations as in pyFAI (J. Kieffer & D. Karkoulis, J. Phys. Conf. Ser. 425 (2013) 202012): pixel centre
p1 = (y+½)·pixel1 − poni1, p2 = (x+½)·pixel2 − poni2, p3 = distance; (t1, t2, t3) = R·(p1, p2, p3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .poni import Poni

_ROWS_AT_ONCE = 256  # keeps the float64 temporaries of a 16-Mpixel detector below 100 MB


@dataclass(frozen=True, slots=True)
class PixelGeometry:
    """Per-pixel arrays of a detector, each (rows, columns).

    `radius` float64, distance from the beam axis in m; `solid_angle` float32, relative to a pixel at the point of
    normal incidence; `polarization` float32 (both one where not asked for: None).
    """

    radius: np.ndarray
    solid_angle: np.ndarray | None
    polarization: np.ndarray | None


def pixel_geometry(
    poni: Poni, shape: tuple[int, int], *, solid_angle: bool = False, polarization: float = 0.0
) -> PixelGeometry:
    """Compute the per-pixel arrays.

    Parameters
    ----------
    shape
        (rows, columns) of the frames.
    solid_angle
        Whether to compute cos³(angle of incidence).
    polarization
        Degree of linear polarization f in the horizontal plane, −1 … 1; 0 means no correction (None).
        P = ½ [1 + cos²2θ − f·cos(2χ)·(1 − cos²2θ)], χ = atan2(t1, t2).
    """
    radius = np.empty(shape, dtype=np.float64)
    omega = np.empty(shape, dtype=np.float32) if solid_angle else None
    factor = np.empty(shape, dtype=np.float32) if polarization else None
    for rows, p1, p2 in _positions(poni, shape):
        (r11, r12, r13), (r21, r22, r23), (r31, r32, r33) = poni.rotation
        t1 = r11 * p1 + r12 * p2 + r13 * poni.distance
        t2 = r21 * p1 + r22 * p2 + r23 * poni.distance
        radius[rows] = np.hypot(t1, t2)
        if omega is not None:
            omega[rows] = (poni.distance / np.sqrt(poni.distance**2 + p1**2 + p2**2)) ** 3
        if factor is not None:
            t3 = r31 * p1 + r32 * p2 + r33 * poni.distance
            radius2 = t1**2 + t2**2
            cos2_tth = t3**2 / (radius2 + t3**2)
            # cos 2χ = cos²χ − sin²χ, with t2 = r cos χ and t1 = r sin χ
            cos_2chi = np.divide(t2**2 - t1**2, radius2, out=np.zeros_like(radius2), where=radius2 > 0)
            factor[rows] = 0.5 * (1 + cos2_tth - polarization * cos_2chi * (1 - cos2_tth))
    return PixelGeometry(radius, omega, factor)


def _positions(poni: Poni, shape: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(rows, p1 as a column, p2 as a row) in m, a block of rows at a time.

    Orientations 1, 2 and 4 count rows or columns from the other side: positions move, the array does not.
    """
    y = np.arange(shape[0], dtype=np.float64)
    x = np.arange(shape[1], dtype=np.float64)
    if poni.orientation in (1, 2):
        y = shape[0] - 1 - y
    if poni.orientation in (1, 4):
        x = shape[1] - 1 - x
    p1 = (y + 0.5) * poni.pixel1 - poni.poni1
    p2 = (x + 0.5) * poni.pixel2 - poni.poni2
    for start in range(0, shape[0], _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, shape[0]))
        yield rows, p1[rows, None], p2[None, :]
