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
        self.norm = None if normalization is None else np.ascontiguousarray(normalization, np.float32).ravel()
        self.place = np.zeros(flat.size, np.uint32)
        self._weight = np.zeros(flat.size, np.float32)  # share of the next bin centre
        self.pixels = np.zeros(self.bins, np.int64)
        total_norm, largest_norm = np.zeros(self.bins), -np.inf
        radius = np.asarray(radius, np.float64)
        widths = np.append(np.diff(radius), 1.0)
        for part in blocks(flat.size):
            valid = np.isfinite(flat[part])
            r = np.clip(np.where(valid, flat[part], radius[0]).astype(np.float64), radius[0], radius[-1])
            lower = _last_below(radius, r)
            weight = ((r - radius[lower]) / widths[lower]).astype(np.float32)
            weight = np.minimum(weight, np.nextafter(np.float32(1), np.float32(0)), out=self._weight[part])
            self.place[part] = lower * STEPS + (weight * STEPS).astype(np.int64)
            nearest = np.minimum(lower + (weight >= 0.5), self.bins - 1)[valid]
            self.pixels += np.bincount(nearest, minlength=self.bins)
            if self.norm is not None:  # masked pixels may have any norm
                norm = self.norm[part][valid]
                total_norm += np.bincount(nearest, norm, minlength=self.bins)
                largest_norm = max(largest_norm, norm.max(initial=-np.inf, where=np.isfinite(norm)))
        self.largest_norm = 1.0 if largest_norm == -np.inf else max(float(largest_norm), 1e-30)
        self.mean_norm = np.ones(self.bins)
        if self.norm is not None:
            np.divide(total_norm, self.pixels, out=self.mean_norm, where=self.pixels > 0)
            self.mean_norm[~(self.mean_norm > 0)] = 1

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


def _last_below(centres: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The number of the last of these (ascending) that is not above r, for each r between the first and the last."""
    step = (centres[-1] - centres[0]) / max(len(centres) - 1, 1)
    if np.abs(np.diff(centres) - step).max(initial=0) * len(centres) > step / 2 or not step:
        return np.searchsorted(centres, r, "right") - 1
    found = ((r - centres[0]) / step).astype(np.int64)  # at most one off
    found -= centres.take(found, mode="clip") > r
    found += np.append(centres[1:], np.inf).take(found, mode="clip") <= r
    return found


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
