"""The standard frame, and others of its kind: what `bench core` and `bench peers` reduce."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..processing.bins import RadialBins, make_bins
from ..processing.parameters import Parameters

SHAPE = (2167, 2070)
BINS = 800
PEAKS = 300
PIXEL = 75e-6  # m
CENTRE = (1080.3, 1040.7)  # row, column
PARAMETERS = Parameters(snr_pick=2)

#: shapes of detectors with about 1, 4, 9 and 16 million pixels; the second is the standard
SHAPES = {"1": (1065, 1030), "4": SHAPE, "9": (3269, 3110), "16": (4371, 4150)}


def scale_of(shape: tuple[int, int]) -> float:
    """How many times larger than the standard frame along an edge."""
    return math.sqrt(shape[0] * shape[1] / (SHAPE[0] * SHAPE[1]))


@functools.lru_cache(maxsize=3)  # sorting takes seconds for large frames
def standard_bins(shape: tuple[int, int] = SHAPE, count: int = BINS) -> RadialBins:
    """Radial bins around a centre near the middle; no mask, no norm."""
    scale = scale_of(shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    return make_bins(np.hypot(y - CENTRE[0] * scale, x - CENTRE[1] * scale) * PIXEL, count)


def standard_frame(bins: RadialBins, dtype: str, peaks: int = PEAKS) -> np.ndarray:
    """Air scatter of 20 counts, a ring of 100 counts more at 500 pixels, peaks of five pixels; all Poisson but the
    peaks. On other shapes the ring grows with the frame, so that a bin holds the same mix of pixels.

    Parameters
    ----------
    bins
        From `standard_bins`.
    dtype
        Pixel type.
    peaks
        How many are planted, anywhere; where there are many, some overlap.
    """
    rows, columns = bins.shape
    radius = bins.radius_image / PIXEL
    scale = scale_of(bins.shape)
    ring = np.exp(-(((radius - 500 * scale) / (100 * scale)) ** 2))
    frame = np.random.default_rng(0).poisson(20 + 100 * ring)
    edge = min(5000, rows * columns // 4)  # keeps the arms of the peaks inside
    places = np.random.default_rng(1).integers(edge, frame.size - edge, peaks)
    for offset, counts in ((0, 200), (1, 100), (-1, 100), (columns, 100), (-columns, 100)):
        np.add.at(frame.ravel(), places + offset, counts)
    return frame.astype(dtype)
