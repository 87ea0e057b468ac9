"""A threshold for the veto, from the peak counts of the frames that have been seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLEAR = 0.8  # share of the variance that lies between the two groups; a single normal group gives 2/π = 0.64
LEAST_FRAMES = 20


@dataclass(frozen=True, slots=True)
class Proposal:
    """A threshold between the frames without and those with a crystal.

    Attributes
    ----------
    min_peaks
        Frames with at least so many peaks are hits.
    hits
        Share of the frames that have so many, %.
    separation
        How far apart the two groups are: the share of the variance of log(1 + peaks) that lies between them, 0 to 1.
    """

    min_peaks: int
    hits: float
    separation: float


def propose_threshold(histogram: np.ndarray) -> Proposal | None:
    """The threshold that parts the frames into two groups that are as narrow as possible. It is Otsu's (IEEE
    Trans. SMC 9 (1979) 62), on the logarithm of the peak counts since hits spread over decades; in the middle of the
    gap between the groups, on that scale.

    Parameters
    ----------
    histogram
        (n,) frames with 0, 1, 2 … peaks: the attribute `peak_count_histogram`.

    Returns
    -------
    None where there are less than 20 frames, or no two groups.
    """
    frames = np.asarray(histogram, dtype=np.float64)
    total = frames.sum()
    filled = np.flatnonzero(frames)
    if total < LEAST_FRAMES or len(filled) < 2:
        return None
    position = np.log1p(np.arange(len(frames)))
    below = np.cumsum(frames)[:-1] / total  # share of frames with at most n peaks
    mean = np.sum(frames * position) / total
    mean_below = np.cumsum(frames * position)[:-1] / total
    inside = (below > 0) & (below < 1)
    between = np.zeros_like(below)
    between[inside] = (mean * below[inside] - mean_below[inside]) ** 2 / (below[inside] * (1 - below[inside]))
    separation = float(between.max() / (np.sum(frames * (position - mean) ** 2) / total))
    if separation < CLEAR:
        return None
    last = int(filled[filled <= int(np.argmax(between))][-1])  # of the lower group
    first = int(filled[filled > last][0])  # of the upper group
    middle = np.expm1((np.log1p(last) + np.log1p(first)) / 2)
    threshold = min(max(int(np.ceil(middle)), last + 1), first)
    return Proposal(threshold, float(100 * frames[threshold:].sum() / total), separation)
