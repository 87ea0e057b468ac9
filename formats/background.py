"""The background of one frame, for any of its pixels: the mean, or drawn from the law of its noise."""

from __future__ import annotations

import numpy as np

from ..processing.parameters import Parameters
from . import noise, thresholds
from .rings import STEPS, Pixels, Rings, at_steps, look_up, of_nearest

_MOST_REDRAWS = 64
_MANY = 1 / 4  # of the pixels of a block
_FEW = 1 / 16  # of the pixels
_LEVEL = 1 / 4  # of a standard deviation: what is less makes no difference within a step


class Mean:
    """Without noise.

    Parameters
    ----------
    rings : Rings
    mean : numpy.ndarray
        Curve float64 (bins,), counts / norm.
    """

    def __init__(self, rings: Rings, mean: np.ndarray) -> None:
        self._rings, self._mean = rings, mean

    def values(self, part: Pixels) -> np.ndarray:
        """float64 (pixels,)"""
        return self._rings.background(self._mean, part)

    def whole_numbers(self, image: np.ndarray, parts: list[slice], low: float, high: float) -> None:
        """Fill these parts of `image` (pixels,) with the nearest integers, limited to `low` and `high`; its type must
        have a larger one than `high`.

        All pixels of a step have the same number, unless its ends differ: then each is computed.
        """
        if self._rings.norm is not None:
            for part in parts:
                image[part] = rounded(self.values(part), low, high)
            return
        table, end = (rounded(at_steps(self._mean, share), low, high) for share in (0, 1))
        table = table.astype(image.dtype)
        unclear = np.iinfo(image.dtype).max
        table[table != end.astype(image.dtype)] = unclear
        left = []
        for part in parts:
            block = look_up(table, self._rings.place[part], image[part])
            pixels = (block == unclear).nonzero()[0]
            if pixels.size > _MANY * block.size:
                block[:] = rounded(self.values(part), low, high)
            elif pixels.size:
                left.append(pixels + part.start)
        if left:
            pixels = np.concatenate(left)
            image[pixels] = rounded(self.values(pixels), low, high)


class Noise:
    """With noise; see docs/densify.md.

    Parameters
    ----------
    rings : Rings
    mean, std : numpy.ndarray
        Curves float64 (bins,), counts / norm.
    parameters : Parameters
        Those that the frame was reduced with.
    counts : bool
        Whether pixels are integers.
    rng : numpy.random.Generator
    """

    def __init__(
        self,
        rings: Rings,
        mean: np.ndarray,
        std: np.ndarray,
        parameters: Parameters,
        counts: bool,
        rng: np.random.Generator,
    ) -> None:
        self._rings, self._mean, self._std, self._counts = rings, mean, std, counts
        self._parameters, self._rng = parameters, rng
        law = noise.unclipped(mean, std, rings.pixels, rings.mean_norm, parameters, counts)
        self._rate = law.rate.astype(np.float64)
        # by step: the kind of law is that of the nearest bin centre
        self._jitter = of_nearest(law.jitter) if law.jitter.any() else None
        self._normal = of_nearest(law.normal) if law.normal.any() else None
        self._variance = of_nearest(law.variance)
        self._flat = of_nearest(std == 0) if (std == 0).any() else None
        # no pixel of a step has a lower threshold than this
        ends = [[at_steps(curve, share) for share in (0, 1)] for curve in (mean, std)]
        bound, self._slack = thresholds.bound(*(np.minimum(*both) for both in ends), rings.largest_norm, parameters)
        self._bound = bound.astype(np.float32)
        self._doubtful: list[tuple[np.ndarray, np.ndarray]] = []
        self._plan()

    def _plan(self) -> None:
        """Look-up tables, where all pixels of a step follow about the same law and most laws are tabulated ones. The
        others give a number above any limit there: such pixels are drawn again."""
        self._law = None
        if self._rings.norm is not None:
            return
        begin, rate, end = (at_steps(self._rate, share) for share in (0, 0.5, 1))
        plain = (np.minimum(begin, end) >= 0) & (np.maximum(begin, end) < noise.LARGEST_TABULATED)
        plain &= (end - begin) ** 2 <= _LEVEL**2 * rate
        for other in (self._jitter, self._normal):
            if other is not None:
                plain &= other == 0
        if np.average(plain[::STEPS], weights=self._rings.pixels + 1e-9) < 1 - _FEW:
            return
        limit = np.clip(self._bound, 0, noise.LARGEST_NUMBER - 1).astype(np.uint32)
        self._law = noise.law_of(np.where(plain, rate, 0), self._rng)
        self._law[~plain] = noise.NO_LAW
        self._law += limit

    def draw(self, part: slice) -> np.ndarray:
        """uint16, or float32 that is not rounded. Some may exceed what had to be exceeded to be kept: `draw_again`
        mends that."""
        place = self._rings.place[part]
        if self._law is not None:
            values, over = self._tabulated(place)
        else:
            values = self._any_law(part, place)
            bound = look_up(self._bound, place)
            if self._rings.norm is not None:
                bound *= self._rings.norm[part]
                bound -= self._slack
            if self._counts:
                bound -= 0.5  # values are rounded afterwards
            over = values > bound
        over = over.nonzero()[0]
        self._doubtful.append((over + part.start, values[over]))
        return values

    def _tabulated(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers, and where they exceed the limit of their step."""
        law = look_up(self._law, place)
        limit = law.astype(np.uint16)
        limit &= noise.LAW - 1
        law -= limit
        values = noise.tabulated(law, noise.random_16_bits(self._rng, place.size))
        return values, values > limit

    def draw_again(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels that `draw` has left doubtful, and their values, float32, none above the threshold."""
        pixels = np.concatenate([pixels for pixels, _ in self._doubtful])
        values = np.concatenate([values for _, values in self._doubtful], dtype=np.float32)
        if self._law is None:
            return pixels, self._below(pixels, values, np.arange(pixels.size))
        place = self._rings.place[pixels]
        values[:], over = self._tabulated(place)
        values[values == noise.LARGEST_NUMBER] = np.inf  # no law
        return pixels, self._below(pixels, values, over.nonzero()[0])

    def _below(self, pixels: np.ndarray, values: np.ndarray, doubtful: np.ndarray) -> np.ndarray:
        """`values` themselves, none above the threshold; those that are not `doubtful` are known not to be."""
        rings = self._rings
        which = pixels[doubtful]
        limit = thresholds.threshold(
            rings.between(self._mean, which),
            rings.between(self._std, which),
            1.0 if rings.norm is None else rings.norm[which].astype(np.float64),
            self._parameters,
        )
        limit = np.floor(limit) + 0.499 if self._counts else limit
        drawn = values[doubtful]
        above = np.flatnonzero(drawn > limit)
        for _ in range(_MOST_REDRAWS):
            if not above.size:
                break
            again = which[above]
            drawn[above] = self._any_law(again, rings.place[again])
            above = above[drawn[above] > limit[above]]
        drawn[above] = limit[above]
        values[doubtful] = drawn
        return values

    def _any_law(self, pixels: Pixels, place: np.ndarray) -> np.ndarray:
        """float32, not rounded."""
        bits = noise.random_bits(self._rng, place.size)
        rate = self._rings.between(self._rate, pixels).astype(np.float32)
        norm = None if self._rings.norm is None else self._rings.norm[pixels]
        if norm is not None:
            rate *= norm
        chosen = np.zeros(0, np.intp)
        if self._normal is not None:
            chosen = np.flatnonzero(look_up(self._normal, place))
        if chosen.size == rate.size:
            chosen = slice(None)
        mean = rate[chosen]
        if mean.size < rate.size:
            np.maximum(rate, 0, out=rate)
            if self._jitter is not None:
                rate = noise.uneven(self._rng, rate, look_up(self._jitter, place))
            values = noise.poisson(rate, bits)
        else:
            values = rate
        if mean.size:
            variance = look_up(self._variance, place[chosen])
            if norm is not None:
                variance *= norm[chosen] ** 2
            values[chosen] = noise.normal(bits[chosen], mean, variance, self._counts)
        if self._flat is not None:
            flat = np.flatnonzero(look_up(self._flat, place))
            which = flat + pixels.start if isinstance(pixels, slice) else pixels[flat]
            values[flat] = self._rings.background(self._mean, which)
        return values


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values` themselves: the nearest whole numbers within these limits."""
    values += 0.5
    np.floor(values, out=values)
    return np.clip(values, low, high, out=values)
