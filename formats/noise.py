"""Background noise as it was: from the stored curves back to the law of the pixels that were not kept.

What a sparse file stores of a background pixel is the mean and the spread of its ring *after clipping*, and that its
value did not exceed the threshold of picking, or it would be stored itself. So its value is drawn from the law of the
unclipped background, on the condition that it does not exceed that threshold: drawn and kept pixels together have the
law of the unclipped background again. docs/densify.md derives it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ..processing.parameters import ErrorModel, Parameters
from ..processing.poisson_tails import deficit_limits, excess_limits

#: rates below are drawn from tables, those above from a normal law with the skewness of Poisson's
LARGEST_TABULATED = 256.0
_STEPS = 64  # of the tables, per unit of √rate: neighbours are 1/32 of a standard deviation apart
_QUANTILES = 65_536
LAW = _QUANTILES // 16  # cells of a table, and a step from one law to the next
_ROWS = int(np.sqrt(LARGEST_TABULATED) * _STEPS) + 2
LARGEST_NUMBER = 4095  # in a table
NO_LAW = _ROWS * LAW  # where `tabulated` gives nothing but the largest number
_GOLDEN = (np.sqrt(5) - 1) / 2
_WIDEST_JITTER = 0.5  # relative; wider ones follow a gamma law, so that no rate is negative

_LARGEST_MODELLED = (
    60.0  # clipping hardly moves the mean of a Poisson law beyond, and its width as that of a normal law
)
_POOLED_PIXELS = 20_000  # so many tell the dispersion to 1 %
_SIGNIFICANT = 4.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Law:
    """The law of the background in each bin, before clipping. All float32 (bins,), for pixels of norm 1.

    `rate`: mean, counts. `jitter`: relative spread of the rates themselves around it, where the ring is more uneven
    than Poisson's law. `variance`: only where `normal` (bool) is set; there the values follow a normal law: those that
    are no counts, or spread less than Poisson's. A variance of 0 is the mean itself.
    """

    rate: np.ndarray
    jitter: np.ndarray
    normal: np.ndarray
    variance: np.ndarray


def unclipped(
    mean: np.ndarray, std: np.ndarray, pixels: np.ndarray, norm: np.ndarray, parameters: Parameters, counts: bool
) -> Law:
    """What the background was before it was clipped.

    Parameters
    ----------
    mean, std : (bins,), counts / norm, as stored
    pixels : (bins,), number of valid pixels
    norm : (bins,), their mean norm
    counts : whether pixels are integers
    """
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    model = ErrorModel(parameters.error_model)
    if model == ErrorModel.exact:  # its cut-offs are those of octaves of pixels
        pixels_or_octave = np.exp2(np.floor(np.log2(np.maximum(pixels, 1))) + 0.5)
    else:
        pixels_or_octave = pixels
    cutoffs = np.full(mean.shape, parameters.snr_clip) if parameters.snr_clip else chauvenet(pixels_or_octave)
    cutoffs = np.round(np.minimum(cutoffs, 8.0), 1) if parameters.clip_cycles else np.full(mean.shape, 8.0)
    measured = model == ErrorModel.azimuthal  # else the spread only tells the mean
    flat = std == 0
    rate, clipped_variance = mean.copy(), np.maximum(mean * norm, 0)
    for cutoff in np.unique(cutoffs):
        chosen = cutoffs == cutoff
        here = mean[chosen] * norm[chosen]
        response = _response(model, parameters.clip_cycles, float(cutoff))
        if counts:
            rate[chosen] = response.rate_of(here) / norm[chosen]
        clipped_variance[chosen] = response.variance_of(rate[chosen] * norm[chosen])
    in_counts = np.maximum(rate * norm, 1e-6)
    variance = np.where(measured, std**2 * norm**2 * in_counts / np.maximum(clipped_variance, 1e-12), in_counts)
    if not counts:
        shrunk = _normal_variance(parameters, cutoffs)
        variance = std**2 * norm**2 / shrunk if measured else np.maximum(mean, 0) * norm
        normal = np.ones(mean.shape, bool)
        dispersion = np.ones(mean.shape)
    else:
        dispersion = _significant(variance / in_counts, pixels, in_counts) if measured else np.ones(mean.shape)
        normal = flat | (rate <= 0) | (dispersion < 1)
        # no counts at all: their spread is known only where it was measured; a dark image makes negative ones
        lowest = std**2 * norm**2 if measured else np.where(rate < 0, std**2 * norm**2, 0)
        variance = np.where(rate <= 0, lowest, dispersion * in_counts)
    variance = np.where(flat, 0, variance)
    rate = np.where(flat, mean, rate)
    jitter = np.sqrt(np.maximum(dispersion - 1, 0) / in_counts)
    jitter[normal] = 0
    return Law(*(a.astype(t) for a, t in ((rate, "f4"), (jitter, "f4"), (normal, bool), (variance / norm**2, "f4"))))


def chauvenet(pixels: np.ndarray) -> np.ndarray:
    """The cut-off of Chauvenet's criterion for so many pixels, σ."""
    return np.sqrt(2 * np.log(np.maximum(pixels, 3) / np.sqrt(2 * np.pi)))


def _significant(dispersion: np.ndarray, pixels: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Variance over that of Poisson's law, 1 wherever it cannot be told from it: of the ring alone where that is
    enough, else of it and its neighbours."""
    pixels = np.maximum(pixels, 1.0)
    half = int(np.clip(_POOLED_PIXELS / (2 * np.median(pixels)), 0, len(pixels) // 4))
    kernel = np.ones(2 * half + 1)
    total = np.convolve(pixels, kernel, "same")
    pooled = np.convolve(pixels * dispersion, kernel, "same") / total
    result = np.ones(dispersion.shape)
    for estimate, of in ((pooled, total), (dispersion, pixels)):
        error = np.sqrt((2 + 1 / rate) / of)  # of a sample variance of Poisson's law
        told = np.abs(estimate - 1) > _SIGNIFICANT * error
        result[told] = estimate[told]
    return result


# ---- what clipping does to a law -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Response:
    """Mean and variance that clipping leaves of Poisson laws of some rates, and of normal laws of variance 1."""

    rates: np.ndarray
    means: np.ndarray  # ascending
    variances: np.ndarray
    normal_variance: float

    def rate_of(self, mean: np.ndarray) -> np.ndarray:
        rate = np.interp(mean, self.means, self.rates)
        beyond = (mean <= 0) | (mean >= self.means[-1])
        rate[beyond] = mean[beyond]
        return rate

    def variance_of(self, rate: np.ndarray) -> np.ndarray:
        return np.where(rate < self.rates[-1], np.interp(rate, self.rates, self.variances), rate * self.normal_variance)


@functools.lru_cache(maxsize=512)
def _response(model: ErrorModel, cycles: int, cutoff: float) -> _Response:
    rates = np.geomspace(1e-3, _LARGEST_MODELLED, 240)
    counts = np.arange(int(_LARGEST_MODELLED + 12 * np.sqrt(_LARGEST_MODELLED)))
    log_factorial = np.concatenate([[0], np.cumsum(np.log(counts[1:]))])
    law = np.exp(counts * np.log(rates[:, None]) - rates[:, None] - log_factorial)
    means, variances = _clip(law, counts.astype(np.float64), model, cycles, cutoff)
    z = np.linspace(-10, 10, 4001)
    _, normal = _clip(np.exp(-(z[None] ** 2) / 2), z, ErrorModel.azimuthal, cycles, cutoff)
    return _Response(rates, np.maximum.accumulate(means), variances, float(normal[0]))


def _clip(
    law: np.ndarray, values: np.ndarray, model: ErrorModel, cycles: int, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of what sigma clipping leaves of each row of `law` (rows, values)."""
    law = law.copy()
    for cycle in range(cycles + 1):
        total = law.sum(axis=1)
        mean = (law @ values) / total
        distance = np.abs(values - mean[:, None])
        variance = (law * distance**2).sum(axis=1) / total
        if model == ErrorModel.exact:
            (excess,), (deficit,) = (limits([cutoff])[:, : len(values)] for limits in (excess_limits, deficit_limits))
            beyond = ((mean[:, None] <= excess) | (mean[:, None] >= deficit)) & (law > 0)
        else:
            spread = variance if model != ErrorModel.poisson else (law @ np.maximum(values, 1)) / total
            beyond = (distance > cutoff * np.sqrt(spread)[:, None]) & (law > 0)
        if cycle == cycles or not beyond.any():
            break
        beyond[(law * ~beyond).sum(axis=1) == 0] = False
        law[beyond] = 0
    return mean, variance


def _normal_variance(parameters: Parameters, cutoffs: np.ndarray) -> np.ndarray:
    found, place = np.unique(cutoffs, return_inverse=True)
    model = ErrorModel(parameters.error_model)
    return np.array([_response(model, parameters.clip_cycles, float(c)).normal_variance for c in found])[place]


# ---- drawing ---------------------------------------------------------------------------------------------------------


def random_bits(rng: np.random.Generator, count: int) -> np.ndarray:
    """uint32 (count,)"""
    return rng.integers(0, 1 << 64, (count + 1) // 2, dtype=np.uint64).view(np.uint32)[:count]


def random_16_bits(rng: np.random.Generator, count: int) -> np.ndarray:
    """uint16 (count,)"""
    return rng.integers(0, 1 << 64, (count + 3) // 4, dtype=np.uint64).view(np.uint16)[:count]


def poisson(rate: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Poisson numbers, float32 (n,), not rounded where the rate is large.

    Parameters
    ----------
    rate : float32 (n,), not negative
    bits : uint32 (n,), random; the third byte is not used
    """
    small = rate < LARGEST_TABULATED
    if small.all():
        return _tabulated(rate, bits).astype(np.float32)
    if not small.any():
        return _skewed_normal(rate, bits)
    values = np.empty(rate.shape, np.float32)
    chosen = np.flatnonzero(small)
    values[chosen] = _tabulated(rate[chosen], bits[chosen])
    np.logical_not(small, out=small)
    chosen = np.flatnonzero(small)
    values[chosen] = _skewed_normal(rate[chosen], bits[chosen])
    return values


def _tabulated(rate: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """uint16 (n,): by chance from one of the two tables next to the rate, so that the mean is right in between."""
    row = np.sqrt(rate)
    row *= _STEPS
    row += bits.view(np.uint8)[3::4] * np.float32(1 / 256)
    law = row.astype(np.uint32)
    law *= LAW
    return tabulated(law, bits.view(np.uint16)[::2])


def law_of(rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which table numbers of these rates come from, for `tabulated`: uint32 (n,).

    Between two tables it is one of them, in such a way that the rates of neighbours are right on average.

    Parameters
    ----------
    rate : (n,), from 0 to `LARGEST_TABULATED`; neighbours are about equal
    """
    # multiples of the golden ratio, from a place of its own for each frame, are evenly spread from 0 to 1
    share = (np.arange(rate.size) * _GOLDEN + rng.random()) % 1
    return (np.sqrt(rate) * _STEPS + share).astype(np.uint32) * np.uint32(LAW)


def tabulated(law: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Poisson numbers, uint16 (n,).

    Parameters
    ----------
    law : uint32 (n,), from `law_of`, or `NO_LAW`; used up
    bits : uint16 (n,), random
    """
    law += bits >> 4
    numbers = _tables().take(law, mode="wrap")
    numbers += bits & 15
    numbers >>= 4
    return numbers


@functools.cache
def _tables() -> np.ndarray:
    """uint16 (tables · `LAW`,): the quantiles of Poisson laws whose rates are equidistant in their roots.

    So small that those which a frame needs stay in the processor's cache: a cell stands for 16 quantiles and holds 16
    times a number, plus how many of the 16 are one more.
    """
    # a chance between two neighbours g and g + 1 has (f − f²) / _STEPS² too large a mean, 1/6 of it on average
    rates = np.maximum(np.arange(_ROWS) ** 2 - 1 / 6, 0) / _STEPS**2
    counts = np.arange(int(LARGEST_TABULATED + 10 * np.sqrt(LARGEST_TABULATED)))
    log_factorial = np.concatenate([[0], np.cumsum(np.log(counts[1:]))])
    tables = np.empty((_ROWS + 1, LAW), np.uint16)
    tables[-1] = 16 * LARGEST_NUMBER
    for table, rate in zip(tables[:-1], rates, strict=True):
        law = np.exp(counts * np.log(max(rate, 1e-300)) - rate - log_factorial)
        ends = np.rint(np.cumsum(law) * _QUANTILES).astype(np.int64)
        ends[-1] = _QUANTILES
        table[:] = np.repeat(counts, np.diff(ends, prepend=0)).reshape(LAW, 16).sum(axis=1)
    return tables.reshape(-1)


def _skewed_normal(rate: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """rate + √rate · z + (z² − 1) / 6, the beginning of Cornish and Fisher's expansion; the variance makes room for
    what the last term and rounding add."""
    z = _normal_quantiles().take(bits.view(np.uint16)[::2], mode="wrap")
    values = np.sqrt(rate - np.float32(1 / 12 + 1 / 18))
    values += z * np.float32(1 / 6)
    values *= z
    values += rate
    values -= np.float32(1 / 6)
    return values


@functools.cache
def _normal_quantiles() -> np.ndarray:
    """float32 (`_QUANTILES`,): of the standard normal law, to its variance."""
    z = np.linspace(-6, 6, 200_001)
    below = np.cumsum(np.exp(-(z**2) / 2))
    below = (below - (below - np.append(0, below[:-1])) / 2) / below[-1]  # to the middle of each step
    quantiles = np.interp((np.arange(_QUANTILES) + 0.5) / _QUANTILES, below, z)
    return (quantiles / quantiles.std()).astype(np.float32)


def normal(bits: np.ndarray, mean: np.ndarray, variance: np.ndarray, counts: bool) -> np.ndarray:
    """Normal numbers, float32 (n,), from `bits`, uint32 (n,); `counts`: they will be rounded, which adds to their
    variance."""
    if counts:
        variance = np.where(variance > 1 / 6, variance - np.float32(1 / 12), variance / 2)
    values = _normal_quantiles().take(bits.view(np.uint16)[::2], mode="wrap")
    values *= np.sqrt(variance)
    values += mean
    return values


def uneven(rng: np.random.Generator, rate: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Rates, float32 (n,), that vary around `rate` by the relative spread `jitter`: evenly, as around a ring, or where
    that would need negative rates as a gamma law."""
    uniform = random_bits(rng, (rate.size + 1) // 2).view(np.uint16)[: rate.size]
    result = uniform * np.float32(np.sqrt(12) / 65_536)
    result -= np.float32(np.sqrt(3))
    result *= jitter
    result += 1
    wide = np.flatnonzero(jitter > _WIDEST_JITTER)
    if wide.size:
        shape = jitter[wide].astype(np.float64) ** -2
        result[wide] = rng.standard_gamma(shape) / shape
    result *= rate
    return result
