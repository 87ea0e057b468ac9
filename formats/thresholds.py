"""What a pixel had to exceed to be kept: the limit of the pixels that are not in a sparse file."""

from __future__ import annotations

import functools

import numpy as np

from ..processing.parameters import ErrorModel, Parameters
from ..processing.poisson_tails import COUNTS, excess_limits

_ITERATIONS = 12  # of Newton's method, which needs four
_ROUNDING = 1e-6  # relative: means are float32 in a file, and were interpolated in float32


def threshold(mean: np.ndarray, std: np.ndarray, norm: np.ndarray | float, parameters: Parameters) -> np.ndarray:
    """The largest signal that was not kept, counts; where pixels are counts, the largest whole number up to it.

    Parameters
    ----------
    mean, std : (n,), counts / norm, at the pixels
    norm : (n,), of the pixels, or one for all
    parameters : those that the frame was reduced with

    Returns
    -------
    numpy.ndarray
        float64 (n,)
    """
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if ErrorModel(parameters.error_model) == ErrorModel.exact:
        # where pixels are no counts, they are taken for the nearest one
        return first_excess(mean * norm * (1 - _ROUNDING), parameters.snr_pick) - 0.501
    return (mean + parameters.snr_pick * np.sqrt(std**2 + parameters.noise**2)) * norm


def bound(mean: np.ndarray, std: np.ndarray, largest_norm: float, parameters: Parameters) -> tuple[np.ndarray, float]:
    """What the threshold of a pixel is never below: (first, counts / norm) · norm − second, for all norms up to the
    largest one. `mean` and `std` as in `threshold`."""
    first = threshold(mean, std, largest_norm, parameters) / largest_norm
    # the quantiles of a gamma law bend downwards with the mean, so that they lie above the chord; but counts are whole
    second = 1.0 if ErrorModel(parameters.error_model) == ErrorModel.exact else 0.0
    return first - 1e-6 * np.abs(first), second


def first_excess(expected: np.ndarray, cut: float) -> np.ndarray:
    """The smallest count s that the model `exact` calls an excess at `cut` σ above a Poisson background of so many
    counts: P(X ≥ s | expected) ≤ Q(cut). float64 (n,); see processing/poisson_tails.py."""
    expected = np.maximum(np.asarray(expected, np.float64), 0)
    first = np.searchsorted(_limits(cut), expected, "left").astype(np.float64)
    beyond = np.flatnonzero(first == COUNTS)
    if beyond.size:
        first[beyond] = np.maximum(np.ceil(_wilson_hilferty(expected[beyond], cut)), COUNTS)
    return first


@functools.lru_cache(maxsize=64)
def _limits(cut: float) -> np.ndarray:
    return excess_limits([cut])[0].astype(np.float64)


def _wilson_hilferty(expected: np.ndarray, cut: float) -> np.ndarray:
    """Solves s · (1 − 1/(9 s) − cut/(3 √s))³ = expected for s."""
    s = expected + cut * np.sqrt(expected) + cut**2 / 2 + 1
    for _ in range(_ITERATIONS):
        root = 1 - 1 / (9 * s) - cut / (3 * np.sqrt(s))
        slope = root**3 + 3 * root**2 * (1 / (9 * s) + cut / (6 * np.sqrt(s)))
        step = (s * root**3 - expected) / slope
        s = s - step
        if np.abs(step).max() < 1e-9 * s.max():
            break
    return s
