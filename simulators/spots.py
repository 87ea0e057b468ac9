"""Spots on the detector: their shape, what is known of them (the truth), and matching found peaks to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: One row per planted spot. `h k l` are 0 where there is no lattice; `x y` the centre, pixel index with the centre of
#: the first pixel = 0; `counts` the expected total; `sigma` the rms width of the profile, pixels; `background` the
#: mean counts of the background at the centre; `peak` the expected counts of the brightest pixel above background;
#: `snr` = peak / √(background + noise²); `clean` whether the spot keeps clear of masked pixels and of the edge.
SPOT_DTYPE = np.dtype(
    [
        ("h", np.int16),
        ("k", np.int16),
        ("l", np.int16),
        ("x", np.float64),
        ("y", np.float64),
        ("counts", np.float64),
        ("sigma", np.float32),
        ("background", np.float32),
        ("peak", np.float32),
        ("snr", np.float32),
        ("clean", np.bool_),
    ]
)

#: smallest meaningful signal (counts) in the signal-to-noise ratio of the truth: the reduction's default `noise`
NOISE = 1.0

#: a spot is drawn out to so many widths; 6·10⁻⁷ of its counts are beyond
REACH = 5.0

#: half the side (pixels) of the square around a spot that must be unmasked for `clean`
CLEAR = 3

_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True)
class FrameTruth:
    """What frame `number` was made of: `hit` or not, its `spots` (`SPOT_DTYPE`, the strongest first), and the
    `orientation` (3, 3) of the crystal, None where there is no lattice."""

    number: int
    hit: bool
    spots: np.ndarray
    orientation: np.ndarray | None = None


def pixel_fractions(center: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of a Gaussian that falls into the pixels around its centre, along one axis.

    Parameters
    ----------
    center, sigma
        (n,), pixels.

    Returns
    -------
    first
        Index of the first pixel, int64 (n,).
    fraction
        float64 (n, m): the integral of the Gaussian over pixel first + j, from j − ½ to j + ½.
    """
    reach = math.ceil(REACH * float(sigma.max(initial=0.5)))
    first = np.rint(center).astype(np.int64) - reach
    edges = first[:, None] + np.arange(2 * reach + 2) - 0.5
    cumulative = 0.5 * _erf((edges - center[:, None]) / (math.sqrt(2) * sigma[:, None])).astype(np.float64)
    return first, np.diff(cumulative, axis=1)


def expected_pixels(spots: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean counts that `spots` (`SPOT_DTYPE`) add: flat pixel index int64 (k,) and mean (k,); pixels may repeat."""
    first_x, share_x = pixel_fractions(spots["x"], spots["sigma"].astype(np.float64))
    first_y, share_y = pixel_fractions(spots["y"], spots["sigma"].astype(np.float64))
    x = (first_x[:, None] + np.arange(share_x.shape[1]))[:, None, :]
    y = (first_y[:, None] + np.arange(share_y.shape[1]))[:, :, None]
    mean = spots["counts"][:, None, None] * share_y[:, :, None] * share_x[:, None, :]
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    return (y * shape[1] + x)[inside], mean[inside]


def describe(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, sigma: float, background: np.ndarray, bad: np.ndarray
) -> np.ndarray:
    """The table (`SPOT_DTYPE`, in the order given, hkl 0) of spots at x, y with expected total counts.

    `background` float (rows, columns) and `bad` bool of the same shape, True = masked.
    """
    spots = np.zeros(len(x), SPOT_DTYPE)
    if not len(x):
        return spots
    spots["x"], spots["y"], spots["counts"], spots["sigma"] = x, y, counts, sigma
    width = np.full(len(x), float(sigma))
    spots["peak"] = counts * pixel_fractions(spots["x"], width)[1].max(1) * pixel_fractions(spots["y"], width)[1].max(1)
    rows, columns = bad.shape
    column, row = np.rint(spots["x"]).astype(int), np.rint(spots["y"]).astype(int)
    spots["background"] = background[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]
    spots["snr"] = spots["peak"] / np.sqrt(spots["background"] + NOISE**2)
    around = np.arange(-CLEAR, CLEAR + 1)
    r, c = (row[:, None] + around)[:, :, None], (column[:, None] + around)[:, None, :]
    outside = (r < 0) | (r >= rows) | (c < 0) | (c >= columns)
    masked = bad[np.clip(r, 0, rows - 1), np.clip(c, 0, columns - 1)]
    spots["clean"] = ~(outside | masked).any(axis=(1, 2))
    return spots


@dataclass(frozen=True)
class PeakMatch:
    """One-to-one pairs of found peaks and planted spots.

    `found` and `truth` int64 (n,) index the two lists, `offset` float64 (n, 2) is found − truth in pixels.
    `recall` is the share of the wanted spots that were found, `precision` the share of the found peaks that are
    a planted spot (any, wanted or not), `rms_error` the root mean square of the distance in pixels; NaN where the
    share is of nothing.
    """

    found: np.ndarray
    truth: np.ndarray
    offset: np.ndarray
    recall: float
    precision: float

    @property
    def rms_error(self) -> float:
        return float(np.sqrt((self.offset**2).sum(axis=1).mean())) if len(self.offset) else math.nan


def match_peaks(
    found_xy: np.ndarray, truth_xy: np.ndarray, radius: float = 1.5, wanted: np.ndarray | None = None
) -> PeakMatch:
    """Pair found peaks with planted spots, each at most once, the closest pairs first.

    Parameters
    ----------
    found_xy, truth_xy
        (n, 2) and (m, 2): x, y in pixels.
    radius
        A pair is at most so far apart, pixels.
    wanted
        bool (m,): the spots that count for the recall, for example those strong enough to be found; by default
        all. The others may be found without harm.
    """
    found_xy = np.asarray(found_xy, np.float64).reshape(-1, 2)
    truth_xy = np.asarray(truth_xy, np.float64).reshape(-1, 2)
    wanted = np.ones(len(truth_xy), bool) if wanted is None else np.asarray(wanted, bool)
    # candidates: for every found peak the spots whose x is within the radius, a run in the order of x
    order = np.argsort(truth_xy[:, 0], kind="stable")
    sorted_x = truth_xy[order, 0]
    first = np.searchsorted(sorted_x, found_xy[:, 0] - radius, "left")
    last = np.searchsorted(sorted_x, found_xy[:, 0] + radius, "right")
    count = last - first
    found = np.repeat(np.arange(len(found_xy)), count)
    run_start = np.repeat(first - np.concatenate([[0], np.cumsum(count)[:-1]]) if len(count) else first, count)
    truth = order[run_start + np.arange(len(found))]
    distance = np.hypot(*(found_xy[found] - truth_xy[truth]).T)
    close = np.flatnonzero(distance <= radius)
    close = close[np.argsort(distance[close], kind="stable")]
    free_found, free_truth = np.ones(len(found_xy), bool), np.ones(len(truth_xy), bool)
    pairs = []
    for f, t in zip(found[close].tolist(), truth[close].tolist(), strict=True):
        if free_found[f] and free_truth[t]:
            free_found[f] = free_truth[t] = False
            pairs.append((f, t))
    index = np.array(pairs, np.int64).reshape(-1, 2)
    recall = float((wanted & ~free_truth).sum() / wanted.sum()) if wanted.any() else math.nan
    precision = len(index) / len(found_xy) if len(found_xy) else math.nan
    return PeakMatch(index[:, 0], index[:, 1], found_xy[index[:, 0]] - truth_xy[index[:, 1]], recall, precision)
