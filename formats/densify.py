"""Whole frames from sparse ones: background curve, its noise, and the pixels that were kept."""

from __future__ import annotations

import numpy as np

from ..processing.frames import ReducedFrame
from ..processing.parameters import Parameters
from . import noise as noise_of
from . import thresholds

_BLOCK = 1 << 16  # pixels at a time: its arrays stay in the processor's cache
_MOST_REDRAWS = 64


class Densifier:
    """Makes frames of one detector dense. Frames may be made by several threads at a time.

    Parameters
    ----------
    radius_image : numpy.ndarray
        Radius of each pixel (rows, columns), NaN where masked.
    radius : numpy.ndarray
        Bin centres (bins,), ascending, in the same unit.
    dtype : numpy.dtype
        Of the stored intensities: whether they are counts.
    normalization : numpy.ndarray, optional
        Norm of each pixel (rows, columns); one where absent.
    """

    def __init__(
        self,
        radius_image: np.ndarray,
        radius: np.ndarray,
        dtype: np.dtype,
        normalization: np.ndarray | None = None,
    ) -> None:
        self.shape = radius_image.shape
        self._counts = np.dtype(dtype).kind in "iu"
        self._dtype = np.dtype(dtype)
        flat = radius_image.ravel()
        self._masked = np.flatnonzero(~np.isfinite(flat))
        self._bins = len(radius)
        # curves get their last value once more: beyond the last centre, and at it, the background is constant
        self._lower = np.zeros(flat.size, np.uint16)  # bin centre at or below each pixel
        self._weight = np.zeros(flat.size, np.float32)  # share of the next one
        radius = np.asarray(radius, np.float64)
        widths = np.append(np.diff(radius), 1.0)
        for part in _blocks(flat.size):
            r = np.clip(np.nan_to_num(flat[part].astype(np.float64), nan=radius[0]), radius[0], radius[-1])
            lower = np.clip(np.searchsorted(radius, r, "right") - 1, 0, self._bins - 1)
            self._lower[part] = lower
            self._weight[part] = (r - radius[lower]) / widths[lower]
        self._chance = (self._weight * 256).astype(np.uint8)
        self._norm = None if normalization is None else np.ascontiguousarray(normalization, np.float32).ravel()
        # masked pixels may have any norm
        usable = None if self._norm is None else self._norm[np.isfinite(flat) & np.isfinite(self._norm)]
        self._largest_norm = 1.0 if usable is None or not usable.size else max(float(usable.max()), 1e-30)
        self._pixels, self._bin_norm = self._rings()

    def _rings(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of valid pixels of each bin, and the mean of their norms."""
        nearest = np.minimum(self._lower + (self._weight >= 0.5), self._bins - 1)
        valid = np.ones(nearest.size, bool)
        valid[self._masked] = False
        nearest = nearest[valid]
        pixels = np.bincount(nearest, minlength=self._bins)
        if self._norm is None:
            return pixels, np.ones(self._bins)
        total = np.bincount(nearest, self._norm[valid], minlength=self._bins)
        norm = np.where(pixels > 0, total / np.maximum(pixels, 1), 1)
        return pixels, np.where(norm > 0, norm, 1)

    def image(
        self,
        frame: ReducedFrame,
        *,
        noise: Parameters | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.dtype | None = None,
        masked: float = 0,
        lowest: float = -np.inf,
    ) -> np.ndarray:
        """The frame as an image.

        The background of a pixel is interpolated linearly between bin centres, constant beyond the first and the last,
        times the norm of the pixel.

        Parameters
        ----------
        frame : ReducedFrame
            Its `index`, `intensity` and curves.
        noise : Parameters, optional
            Those that the frame was reduced with: draw the noise. None: the background without it.
        rng : numpy.random.Generator
            What noise is drawn from.
        dtype : numpy.dtype, optional
            Of the image, that of the intensities unless given. Values beyond its range are limited to it.
        masked : float
            Value of masked pixels.
        lowest : float
            No other pixel has a lower value. 0 where negative values mark bad pixels.

        Returns
        -------
        numpy.ndarray
            (rows, columns)
        """
        dtype = self._dtype if dtype is None else np.dtype(dtype)
        image = np.zeros(self._lower.size, dtype)
        if frame.background_mean is not None:
            std = frame.background_std
            curves = _Curves(self, frame.background_mean, np.zeros_like(frame.background_mean) if std is None else std)
            if noise is not None:
                curves.prepare(noise)
            drawn = noise is not None and std is not None
            low, high = _limits(dtype)
            low = max(low, lowest)

            def store(pixels: slice | np.ndarray, values: np.ndarray) -> None:
                if dtype.kind in "iu":
                    values += 0.5
                    np.floor(values, out=values)
                image[pixels] = np.clip(values, low, high, out=values)

            for part in _blocks(image.size):
                store(part, curves.draw(part, rng) if drawn else curves.background(part))
            if drawn:
                store(*curves.draw_again(rng))
        if frame.index is not None:
            intensity = frame.intensity
            if dtype.kind in "iu" and (dtype != intensity.dtype or lowest > -np.inf):
                limits = np.iinfo(dtype)
                intensity = np.clip(np.rint(intensity), max(limits.min, lowest), limits.max)
            image[frame.index] = intensity
        image[self._masked] = masked
        return image.reshape(self.shape)

    @property
    def masked(self) -> np.ndarray:
        """bool (rows, columns)"""
        mask = np.zeros(self._lower.size, bool)
        mask[self._masked] = True
        return mask.reshape(self.shape)


class _Curves:
    """The background of one frame, for any of its pixels."""

    def __init__(self, detector: Densifier, mean: np.ndarray, std: np.ndarray) -> None:
        self._d = detector
        # other programs write NaN where no pixel is
        self._mean, self._std = (_extended(np.nan_to_num(curve), np.float64) for curve in (mean, std))
        self._doubtful: list[tuple[np.ndarray, np.ndarray]] = []

    def background(self, part: slice | np.ndarray) -> np.ndarray:
        """Without noise, float64."""
        values = self._between(self._mean, part)
        if self._d._norm is not None:
            values *= self._d._norm[part]
        return values

    def _between(self, curve: np.ndarray, part: slice | np.ndarray) -> np.ndarray:
        lower = self._d._lower[part]
        values = np.diff(curve, append=curve[-1]).take(lower)
        values *= self._d._weight[part]
        values += curve.take(lower)
        return values

    def prepare(self, parameters: Parameters) -> None:
        """Find the laws that noise follows."""
        d = self._d
        self._parameters = parameters
        law = noise_of.unclipped(self._mean[:-1], self._std[:-1], d._pixels, d._bin_norm, parameters, d._counts)
        self._rate, self._jitter = _extended(law.rate, np.float32), _extended(law.jitter, np.float32)
        self._normal, self._variance = _extended(law.normal, bool), _extended(law.variance, np.float32)
        self._flat = self._std == 0
        # no pixel between two centres has a lower threshold than this
        least = [np.minimum(curve, np.append(curve[1:], curve[-1])) for curve in (self._mean, self._std)]
        bound, self._slack = thresholds.bound(*least, d._largest_norm, parameters)
        self._bound = bound.astype(np.float32)

    def draw(self, part: slice, rng: np.random.Generator) -> np.ndarray:
        """With noise, float32. Some may exceed what had to be exceeded to be kept: `draw_again` mends that."""
        d = self._d
        values = self._once(part, rng)
        bound = self._bound.take(d._lower[part])
        if d._norm is not None:
            bound *= d._norm[part]
            bound -= self._slack
        if d._counts:
            bound -= 0.5  # values are rounded afterwards
        doubtful = np.flatnonzero(values > bound)
        self._doubtful.append((doubtful + part.start, values[doubtful]))
        return values

    def draw_again(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The pixels that `draw` has left doubtful, and their values, none above the threshold."""
        d = self._d
        pixels, values = (np.concatenate(parts) for parts in zip(*self._doubtful, strict=True))
        limit = thresholds.threshold(
            self._between(self._mean, pixels),
            self._between(self._std, pixels),
            1.0 if d._norm is None else d._norm[pixels].astype(np.float64),
            self._parameters,
        )
        limit = np.floor(limit) + 0.499 if d._counts else limit
        above = np.flatnonzero(values > limit)
        for _ in range(_MOST_REDRAWS):
            if not above.size:
                break
            values[above] = self._once(pixels[above], rng)
            above = above[values[above] > limit[above]]
        values[above] = limit[above]
        return pixels, values

    def _once(self, part: slice | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32. A pixel follows the law of one of the two bins next to it, by chance: the closer one more often."""
        d = self._d
        lower = d._lower[part]
        bits = noise_of.random_bits(rng, lower.size)
        row = lower + (bits.view(np.uint8)[2::4] < d._chance[part])
        rate = self._rate.take(row)
        norm = None if d._norm is None else d._norm[part]
        if norm is not None:
            rate *= norm
        special = self._normal.take(row) if self._normal.any() else None
        if special is not None:
            mean = rate.copy()
            np.maximum(rate, 0, out=rate)
        if self._jitter.any():
            rate = noise_of.uneven(rng, rate, self._jitter.take(row))
        if special is None:
            return noise_of.poisson(rate, bits)
        chosen = np.flatnonzero(special)
        values = noise_of.poisson(rate, bits) if chosen.size < rate.size else np.empty(rate.size, np.float32)
        variance = self._variance.take(row[chosen])
        if norm is not None:
            variance *= norm[chosen] ** 2
        values[chosen] = noise_of.normal(rng, mean[chosen], variance, d._counts)
        if self._flat.any():
            flat = np.flatnonzero(self._flat.take(row))
            pixels = flat + part.start if isinstance(part, slice) else part[flat]
            values[flat] = self.background(pixels)
        return values


def _extended(curve: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """With the last value once more."""
    return np.append(curve, curve[-1]).astype(dtype)


def _blocks(size: int):
    """Slices of so many pixels."""
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """Least and largest value of the background. The largest of an unsigned type marks a bad pixel."""
    if dtype.kind not in "iu":
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return float(limits.min), float(np.nextafter(np.float32(limits.max), np.float32(0)))
