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
        centres = _Centres(radius)
        below_one = np.nextafter(np.float32(1), np.float32(0))
        for part in blocks(flat.size):
            lower, weight = centres.last_below(flat[part])
            weight = np.minimum(weight, below_one, out=self._weight[part])
            np.multiply(lower, STEPS, out=self.place[part], casting="unsafe")
            self.place[part] += (weight * STEPS).astype(np.uint32)
            lower += weight >= 0.5
            nearest = np.minimum(lower, self.bins - 1, out=lower)
            valid = np.isfinite(flat[part])
            if not valid.all():
                nearest = nearest[valid]
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


class _Centres:
    """Bin centres (ascending), and where radii lie between them."""

    def __init__(self, radius: np.ndarray) -> None:
        self._centres = np.asarray(radius, np.float64)
        n = len(self._centres)
        self._widths = np.append(np.diff(self._centres), np.inf)  # nothing is beyond the last
        step = (self._centres[-1] - self._centres[0]) / max(n - 1, 1)
        is_even = step > 0 and np.abs(self._widths[:-1] - step).max(initial=0) * n <= step / 2
        self._step = step if is_even else 0.0

    def last_below(self, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the last centre that is not above, int64 (n,), and the share of the way to the next one,
        float64 (n,), for each of these radii (n,). Those before the first centre, and NaN, are taken as at the first,
        those beyond the last as at the last."""
        centres, first, last = self._centres, self._centres[0], self._centres[-1]
        r = np.fmax(radii, first, dtype=np.float64)
        np.minimum(r, last, out=r)
        if not self._step:
            found = np.searchsorted(centres, r, "right") - 1
        else:
            found = ((r - first) * (1 / self._step)).astype(np.int64)  # at most one off
            np.minimum(found, len(centres) - 1, out=found)
        beyond = r - look_up(centres, found)
        widths = look_up(self._widths, found)
        off = np.flatnonzero((beyond < 0) | (beyond >= widths))
        if off.size:
            found[off] += np.where(beyond[off] < 0, -1, 1)
            beyond[off] = r[off] - centres[found[off]]
            widths[off] = self._widths[found[off]]
        return found, np.divide(beyond, widths, out=beyond)


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
