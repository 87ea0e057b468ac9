"""Which means make a count an outlier: tables for the error model `exact`.

A count s is an excess at n σ above a Poisson background of mean λ where P(X ≥ s | λ) ≤ Q(n), the share of a normal
distribution above n σ: Q(n) = ½ erfc(n/√2). P(X ≥ s | λ) grows with λ, so for each s there is one largest mean for
which that holds, and a pixel is judged by comparing the mean with it, whatever mean and norm the pixel has. That mean
is the Q(n)-quantile of the gamma distribution of shape s, since P(X ≥ s | λ) is the regularized lower incomplete gamma
function P(s, λ). A deficit, P(X ≤ s | λ) ≤ Q(n), likewise has a smallest mean: the upper Q(n)-quantile for shape s + 1.

Counts beyond the tables are judged by the approximation of Wilson and Hilferty (Proc. Natl. Acad. Sci. 17 (1931) 684)
for the quantiles of the gamma distribution, which from there on is good to 5·10⁻⁵ at 3 σ and 6·10⁻⁴ at 6 σ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

#: counts in a table; also known to kernels/exact.cl
COUNTS = 256

#: tables for clipping, one for bins of 2^k … 2^(k+1) pixels; also known to kernels/exact.cl
OCTAVES = 32

#: beyond this cut-off Q(n) is too small for the series, and the approximation is used for every count
LARGEST_CUT = 30.0


_SHAPES = np.arange(1, COUNTS + 1, dtype=np.float64)
_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(_SHAPES))])
_ITERATIONS = 40  # the start is near; six are enough as a rule


def excess_limits(cuts: Sequence[float]) -> np.ndarray:
    """float32 (cuts, COUNTS): the largest mean above which the count s = 0, 1, … is an excess at so many σ. No count of
    zero is: −1."""
    limits = _quantiles(np.asarray(cuts, np.float64), -1.0, _log_lower_tail)[:, : COUNTS - 1]
    return np.column_stack([np.full(len(limits), -1.0), limits]).astype(np.float32)


def deficit_limits(cuts: Sequence[float]) -> np.ndarray:
    """float32 (cuts, COUNTS): the smallest mean below which the count s = 0, 1, … is a deficit at so many σ."""
    return _quantiles(np.asarray(cuts, np.float64), 1.0, _log_upper_tail).astype(np.float32)


@functools.lru_cache(maxsize=16)
def tail_tables(snr_pick: float, snr_peak: float, snr_clip: float) -> np.ndarray:
    """float32 (2 + 2 · OCTAVES, COUNTS): excess limits for picking and for peaks, then excess and deficit limits for
    clipping bins of 2^k … 2^(k+1) pixels; the cut-off is `snr_clip`, or where that is 0 Chauvenet's for √2 · 2^k."""
    return np.concatenate([excess_limits([snr_pick, snr_peak]), _clip_limits(snr_clip)])


@functools.lru_cache(maxsize=16)
def _clip_limits(snr_clip: float) -> np.ndarray:
    pixels = np.maximum(2.0 ** (np.arange(OCTAVES) + 0.5), 3.0)
    cuts = np.sqrt(2 * np.log(pixels / math.sqrt(2 * math.pi)))
    if snr_clip:
        one = [snr_clip]
        return np.concatenate([np.tile(f(one), (OCTAVES, 1)) for f in (excess_limits, deficit_limits)])
    return np.concatenate([excess_limits(cuts), deficit_limits(cuts)])


def _quantiles(cuts: np.ndarray, side: float, log_tail: Callable) -> np.ndarray:
    """float64 (cuts, COUNTS): the mean at which `log_tail` of each shape is log Q(cut), by Newton's method in log mean
    from the approximation; `side` is −1 for lower and 1 for upper quantiles."""
    z = side * cuts[:, None]
    root = 1 - 1 / (9 * _SHAPES) + z / (3 * np.sqrt(_SHAPES))
    approximate = _SHAPES * np.maximum(root, 0.0) ** 3
    target = np.array([[math.log(0.5 * math.erfc(min(cut, LARGEST_CUT) / math.sqrt(2)))] for cut in cuts])
    if side < 0:
        # P(s, λ) < λ^s / s!, so that this is too small, and never 0
        smallest = (target + _LOG_FACTORIALS[1:]) / _SHAPES
        x = np.maximum(smallest, np.log(np.maximum(approximate, 1e-300)))
    else:
        x = np.log(approximate)
    for _ in range(_ITERATIONS):
        tail, slope = log_tail(np.exp(x))
        step = (tail - target) / slope
        x -= step
        if np.abs(step).max() < 1e-12:
            break
    return np.where(cuts[:, None] <= LARGEST_CUT, np.exp(x), approximate)


def _log_lower_tail(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log P(X ≥ shape | mean) and its derivative by log mean: the first term times Σ mean^j / ((s + 1) … (s + j))."""
    term, total = np.ones_like(mean), np.ones_like(mean)
    for j in range(1, 8 * COUNTS):
        term = term * (mean / (_SHAPES + j))
        total += term
        if j % 16 == 0 and np.all(term < 1e-14 * total):
            break
    return _SHAPES * np.log(mean) - mean - _LOG_FACTORIALS[1:] + np.log(total), _SHAPES / total


def _log_upper_tail(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log P(X < shape | mean) and its derivative by log mean: the last term times a sum that ends."""
    count = _SHAPES - 1
    term, total = np.ones_like(mean), np.ones_like(mean)
    for j in range(COUNTS):
        term = term * (np.maximum(count - j, 0) / mean)
        total += term
        if j % 16 == 0 and np.all(term < 1e-14 * total):
            break
    return count * np.log(mean) - mean - _LOG_FACTORIALS[:-1] + np.log(total), -mean / total
