"""Radial bins: which pixels belong together, sorted once per geometry.

Every valid pixel belongs to one bin (no pixel splitting). Bins have equal width between the smallest and the
largest radius of the valid pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import ConfigurationError

#: the last bin is made a little wider, so that the largest radius falls inside it
_WIDEN = 1.0 + np.finfo(np.float32).eps


@dataclass(frozen=True, slots=True)
class RadialBins:
    """Pixels sorted by bin.

    Attributes
    ----------
    shape
        (rows, columns) of a frame.
    order
        uint32 (valid pixels,), flat pixel indices y·width + x sorted by (bin, index): a bin is one run of it.
    bounds
        uint32 (bins + 1,), where the runs begin and end.
    position
        float32 (rows · columns,), radius of each pixel in units of bins counted from the centre of the first
        bin; NaN where masked. The background at a pixel is interpolated at this position.
    radius
        float64 (bins,), radii of the bin centres in m.
    width
        Of a bin, m.
    norm
        float32 (rows · columns,) or None where it is one everywhere: flat · solid angle · polarization.
    """

    shape: tuple[int, int]
    order: np.ndarray
    bounds: np.ndarray
    position: np.ndarray
    radius: np.ndarray
    width: float
    norm: np.ndarray | None

    @property
    def count(self) -> int:
        return self.radius.size

    @property
    def mask(self) -> np.ndarray:
        """bool (rows, columns), True = bad."""
        return np.isnan(self.position).reshape(self.shape)

    @property
    def radius_image(self) -> np.ndarray:
        """float32 (rows, columns), radius in m, NaN where masked."""
        return (self.position * self.width + self.radius[0]).astype(np.float32).reshape(self.shape)


def make_bins(
    radius: np.ndarray, count: int, mask: np.ndarray | None = None, norm: np.ndarray | None = None
) -> RadialBins:
    """Sort pixels into bins.

    Parameters
    ----------
    radius
        (rows, columns), m.
    count
        Number of bins.
    mask
        (rows, columns), non-zero = bad.
    norm
        (rows, columns); pixels where it is not finite or not above zero are masked.

    Raises
    ------
    ConfigurationError
        No pixel is left.
    """
    shape = radius.shape
    valid = np.ones(shape, dtype=bool) if mask is None else np.equal(mask, 0)
    valid &= np.isfinite(radius)
    if norm is not None:
        valid &= np.isfinite(norm) & (norm > 0)
    if not valid.any():
        raise ConfigurationError("the mask (or the flat field) leaves no pixel of the detector to work with")
    good = np.flatnonzero(valid).astype(np.uint32)
    r = radius.ravel()[good]
    smallest, largest = float(r.min()), float(r.max()) * _WIDEN
    width = (largest - smallest) / count or 1.0
    bin_of = np.clip(((r - smallest) / width).astype(np.int64), 0, count - 1).astype(np.uint16)
    order = good[np.argsort(bin_of, kind="stable")]  # radix sort: the pixel indices stay ascending in a bin
    bounds = np.zeros(count + 1, dtype=np.uint32)
    np.cumsum(np.bincount(bin_of, minlength=count), out=bounds[1:])
    position = np.full(radius.size, np.nan, dtype=np.float32)
    position[good] = (r - smallest) / width - 0.5
    centres = smallest + (np.arange(count) + 0.5) * width
    flat_norm = None
    if norm is not None and not np.all(norm.ravel()[good] == 1):
        flat_norm = np.where(valid, norm, 1).astype(np.float32).ravel()
    return RadialBins(shape, order, bounds, position, centres, width, flat_norm)
