"""Where each pixel of a detector lies on the curves of a frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: between two bin centres; what is computed once per step and frame is looked up for its pixels
STEPS = 32
_SHIFT = STEPS.bit_length() - 1
_BLOCK = 1 << 16  # pixels at a time: its arrays stay in the processor's cache

Pixels = slice | np.ndarray


class Rings:
    """Pixels in relation to bin centres; one for all frames of a file.

    Parameters
    ----------
    radius_image : numpy.ndarray
        Radius of each pixel (rows, columns), NaN where masked.
    radius : numpy.ndarray
        Bin centres (bins,), ascending, in the same unit.
    normalization : numpy.ndarray, optional
        Norm of each pixel (rows, columns); one where absent.

    Attributes
    ----------
    place : numpy.ndarray
        uint32 (rows · columns,): `STEPS` for every bin centre below the pixel, and one for every `STEPS`-th of the way
        to the next one.
    norm : numpy.ndarray or None
        float32 (rows · columns,)
    largest_norm : float
    masked : numpy.ndarray
        Flat indices of masked pixels.
    pixels, mean_norm : numpy.ndarray
        (bins,): number of valid pixels nearest to each bin centre, and the mean of their norms.
    """

    def __init__(self, radius_image: np.ndarray, radius: np.ndarray, normalization: np.ndarray | None) -> None:
        flat = radius_image.ravel()
        self.masked = np.flatnonzero(~np.isfinite(flat))
        self.bins = len(radius)
        self.place = np.zeros(flat.size, np.uint32)
        self._weight = np.zeros(flat.size, np.float32)  # share of the next bin centre
        radius = np.asarray(radius, np.float64)
        widths = np.append(np.diff(radius), 1.0)
        for part in blocks(flat.size):
            r = np.clip(np.nan_to_num(flat[part].astype(np.float64), nan=radius[0]), radius[0], radius[-1])
            lower = np.clip(np.searchsorted(radius, r, "right") - 1, 0, self.bins - 1)
            weight = ((r - radius[lower]) / widths[lower]).astype(np.float32)
            self._weight[part] = np.minimum(weight, np.nextafter(np.float32(1), np.float32(0)))
            self.place[part] = lower * STEPS + (self._weight[part] * STEPS).astype(np.int64)
        self.norm = None if normalization is None else np.ascontiguousarray(normalization, np.float32).ravel()
        # masked pixels may have any norm
        usable = None if self.norm is None else self.norm[np.isfinite(flat) & np.isfinite(self.norm)]
        self.largest_norm = 1.0 if usable is None or not usable.size else max(float(usable.max()), 1e-30)
        self.pixels, self.mean_norm = self._count()

    def _count(self) -> tuple[np.ndarray, np.ndarray]:
        nearest = np.minimum((self.place >> _SHIFT) + (self._weight >= 0.5), self.bins - 1)
        valid = np.ones(nearest.size, bool)
        valid[self.masked] = False
        nearest = nearest[valid]
        pixels = np.bincount(nearest, minlength=self.bins)
        if self.norm is None:
            return pixels, np.ones(self.bins)
        total = np.bincount(nearest, self.norm[valid], minlength=self.bins)
        norm = np.where(pixels > 0, total / np.maximum(pixels, 1), 1)
        return pixels, np.where(norm > 0, norm, 1)

    def between(self, curve: np.ndarray, pixels: Pixels) -> np.ndarray:
        """A curve float64 (bins,) at these pixels: linear between bin centres, constant beyond the last."""
        lower = self.place[pixels] >> _SHIFT
        values = look_up(np.diff(curve, append=curve[-1]), lower)
        values *= self._weight[pixels]
        values += look_up(curve, lower)
        return values

    def background(self, mean: np.ndarray, pixels: Pixels) -> np.ndarray:
        """The curve of the mean at these pixels, times their norms, float64."""
        values = self.between(mean, pixels)
        if self.norm is not None:
            values *= self.norm[pixels]
        return values


def at_steps(curve: np.ndarray, share: float) -> np.ndarray:
    """A curve (bins,) at so much of every step: 0 at its beginning, 1 at its end; float64 (bins · `STEPS`,)."""
    weights = (np.arange(STEPS) + share) / STEPS
    curve = np.asarray(curve, np.float64)
    # the same operations as for single pixels, so that a pixel is never beyond the ends of its step
    return (np.diff(curve, append=curve[-1])[:, None] * weights + curve[:, None]).ravel()


def of_nearest(curve: np.ndarray) -> np.ndarray:
    """For each step what a curve (bins,) of any type has at the nearest bin centre."""
    half = STEPS // 2
    return (
        np.stack([np.repeat(curve, half), np.repeat(np.append(curve[1:], curve[-1:]), half)])
        .reshape(2, -1, half)
        .transpose(1, 0, 2)
        .reshape(-1)
    )


def look_up(table: np.ndarray, places: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """table[places], faster: places are not checked."""
    return table.take(places, out=out, mode="wrap")


def blocks(size: int) -> Iterator[slice]:
    """Slices of so many pixels."""
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))
