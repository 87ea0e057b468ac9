"""The numbers behind the plots; numpy only."""

from __future__ import annotations

import functools

import numpy as np

from ...processing.poisson_tails import excess_limits

INVALID = 65535  # in the preview: flagged pixels, and everything above


def kept_fraction(histogram: np.ndarray, max_peaks: int = 0) -> np.ndarray:
    """What each veto threshold would have kept of the frames in a histogram of peak counts.

    Parameters
    ----------
    histogram
        (n,) frames with 0, 1, … peaks; the last bin holds those with more, too.
    max_peaks
        Most peaks of a hit, 0 = no limit. A limit within the last bin cannot be told apart from none.

    Returns
    -------
    float64 (n,), %: the share of frames with at least 0, 1, … peaks and at most `max_peaks`; 0 without frames.
    """
    counts = np.asarray(histogram, dtype=np.float64)
    total = counts.sum()
    if not total:
        return np.zeros(len(counts))
    hits = counts.copy()
    if 0 < max_peaks < len(counts) - 1:
        hits[max_peaks + 1 :] = 0
    return 100.0 * np.cumsum(hits[::-1])[::-1] / total


def picking_threshold(mean: np.ndarray, std: np.ndarray, noise: float, snr_pick: float, error_model: str) -> np.ndarray:
    """float64 (n,): the smallest signal that is kept, at pixels of norm one; NaN where the background is.

    As in docs/how_it_works.md: mean + snr_pick · √(std² + noise²), for `exact` the smallest count that is an excess.
    """
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if error_model != "exact":
        return mean + snr_pick * np.sqrt(std**2 + noise**2)
    limits = _limits(float(snr_pick))
    counts = np.searchsorted(limits, mean, side="left").astype(np.float64)
    counts[counts >= len(limits)] = np.nan
    # beyond the table the normal distribution is good enough for a line on a screen
    return np.where(np.isnan(counts) | np.isnan(mean), mean + snr_pick * np.sqrt(np.maximum(mean, 0)), counts)


@functools.lru_cache(maxsize=4)
def _limits(snr_pick: float) -> np.ndarray:
    return excess_limits([snr_pick])[0].astype(np.float64)


def bright_level(preview: np.ndarray) -> float:
    """A level that few pixels of a preview are above, for its colours; at least 10."""
    sample = preview[::3, ::3]
    sample = sample[sample != INVALID]
    return max(10.0, float(np.percentile(sample, 99.8))) if sample.size else 10.0


def colours(level: float, table: np.ndarray, invalid: tuple[int, int, int]) -> np.ndarray:
    """uint8 (65536, 3): the colour of every preview value, through `table` (n, 3) in a log scale from 0 to `level`;
    `invalid` for pixels without a value."""
    shares = np.log1p(np.arange(INVALID + 1, dtype=np.float64)) / np.log1p(level)
    place = np.clip(shares, 0, 1) * (len(table) - 1)
    lut = np.empty((INVALID + 1, 3), dtype=np.uint8)
    for channel in range(3):
        lut[:, channel] = np.interp(place, np.arange(len(table)), table[:, channel])
    lut[INVALID] = invalid
    return lut


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Places and labels of a decadic logarithmic axis from 10**low to 10**high: so many that two can be read and none
    touch each other."""
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        found = [
            (float(np.log10(digit) + decade), label_of(digit, decade))
            for decade in range(int(np.floor(low)), int(np.ceil(high)) + 1)
            for digit in digits
            if low <= np.log10(digit) + decade <= high
        ]
        if len(found) > 1:
            break
    return found[:: max(1, -(-len(found) // 5))]


def label_of(digit: int, decade: int) -> str:
    """What stands at digit · 10**decade."""
    if -3 <= decade <= 3:
        return f"{digit * 10.0**decade:g}"
    power = str(decade).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{power}" if digit == 1 else f"{digit}·10{power}"


def spots(powder: np.ndarray, longest: int) -> np.ndarray:
    """float32: a virtual powder (rows, columns) for the eye. Of blocks of pixels the highest, so that no side is above
    `longest`, and every spot three pixels wide."""
    block = max(1, -(-max(powder.shape) // longest))
    shown = blocks(powder, block).max(axis=(1, 3), initial=0)
    framed = np.pad(shown, 1)
    rows, columns = shown.shape
    for down in range(3):
        for right in range(3):
            np.maximum(shown, framed[down : down + rows, right : right + columns], out=shown)
    return shown


def blocks(image: np.ndarray, side: int) -> np.ndarray:
    """(rows, side, columns, side): an image in squares, at the far rims filled up with what is there."""
    rows, columns = (-length % side for length in image.shape)
    filled = np.pad(image, ((0, rows), (0, columns)), mode="edge") if rows or columns else image
    return filled.reshape(filled.shape[0] // side, side, filled.shape[1] // side, side)


def shade(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """uint8 (…, 3): colours of values from 0 on through `table` (n, 3), in a log scale whose end few of those above 0
    are beyond."""
    lit = values[values > 0]
    level = max(10.0, float(np.percentile(lit, 99))) if lit.size else 10.0
    place = np.clip(np.log1p(values) / np.log1p(level), 0, 1) * 255
    steps = np.linspace(0, len(table) - 1, 256)
    lut = np.stack([np.interp(steps, np.arange(len(table)), channel) for channel in table.T], axis=1).astype(np.uint8)
    return lut[place.astype(np.uint8)]


def pitch(places: np.ndarray) -> float:
    """How far neighbouring places (n, 2) of a scan usually are from each other; 1 where there is only one."""
    places = np.unique(places, axis=0)
    if len(places) < 2:
        return 1.0
    some = places[:: -(-len(places) // 100)]
    squares = ((some[:, None] - places[None]) ** 2).sum(axis=-1)
    squares[squares == 0] = np.inf
    return float(np.sqrt(np.median(squares.min(axis=1))))
