"""References of every step of the core in numpy (and scipy), float64, and the small things that its tests share.

Written from the equations, not from the kernels: what is kept is a set of pixels (the kernels keep an interval),
sums are taken of the values themselves (the kernels take them about a pivot), bins are found by looking the
radius up among the edges (the core divides), neighbourhoods of peaks are windows of the image, whole.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from framesieve.processing.bins import RadialBins, make_bins
from framesieve.processing.frames import PIXEL_DTYPES
from framesieve.processing.opencl import choose_device
from framesieve.processing.parameters import ErrorModel, Parameters
from framesieve.processing.reducer import Reducer, Reduction
from scipy import ndimage

#: a float32 comparison may fall out otherwise where the sides are as close as this, relatively
CLOSE = 1e-5


#: error models of which the threshold is so many σ above the mean
SIGMA_MODELS = [ErrorModel.azimuthal, ErrorModel.poisson, ErrorModel.hybrid]

#: (dtype, norm, dark, lane_per_item): all variants for one pixel type, every pixel type in one variant: they do not
#: depend on each other. The same ones everywhere, for each takes seconds to build
VARIANTS = [("uint16", norm, dark, lane) for norm in (False, True) for dark in (False, True) for lane in (False, True)]
VARIANTS += [(dtype.name, True, True, False) for dtype in PIXEL_DTYPES if dtype.name != "uint16"]
VARIANTS += [("int32", False, False, False), ("float32", False, False, True)]


# ---- valid pixels ---------------------------------------------------------------------------------------------------


def signal_of(raw: np.ndarray, dark: np.ndarray | None = None) -> np.ndarray:
    """raw − dark as float64, NaN where the detector flags the pixel: all-ones, negative, not finite."""
    signal = raw.astype(np.float64)
    if raw.dtype.kind == "u":
        signal[raw == np.iinfo(raw.dtype).max] = np.nan
    elif raw.dtype.kind == "i":
        signal[raw < 0] = np.nan
    else:
        signal[~np.isfinite(raw)] = np.nan
    return signal if dark is None else signal - dark.astype(np.float32)


def flags_of(dtype: np.dtype) -> list:
    """Values with which a detector says that a pixel is none."""
    dtype = np.dtype(dtype)
    if dtype.kind == "u":
        return [np.iinfo(dtype).max]
    if dtype.kind == "i":
        return [-1, -2, np.iinfo(dtype).min]
    return [np.nan, np.inf, -np.inf]


def bins_of(radius: np.ndarray, valid: np.ndarray, count: int) -> list[np.ndarray]:
    """Sorted flat pixel indices of each of `count` equally wide bins."""
    smallest, largest = radius[valid].min(), radius[valid].max()
    edges = smallest + np.arange(count + 1) / count * (largest * (1 + np.finfo(np.float32).eps) - smallest)
    which = np.digitize(radius.ravel(), edges) - 1
    which[~valid.ravel()] = -1
    return [np.flatnonzero(which == b) for b in range(count)]


# ---- clipping -------------------------------------------------------------------------------------------------------


@dataclass
class Clipped:
    """`mean`, `std` and the set `kept` (bool) of one bin; `clear`: no pixel was so close to a limit, and no share of
    discarded pixels so close to one half, that rounding decides."""

    mean: float
    std: float
    kept: np.ndarray
    clear: bool


def clip(
    signal: np.ndarray,
    norm: np.ndarray | None,
    parameters: Parameters,
    *,
    may_empty: bool = False,
) -> Clipped:
    """Azimuthal sigma clipping of one bin.

    `may_empty`: as pyFAI does it, whose poisson model may discard most or all pixels of a bin (mean = std = 0 then).
    """
    omega = np.ones(signal.shape) if norm is None else norm.astype(np.float64)
    value = signal / omega
    kept = np.isfinite(signal)
    clear = True
    if not kept.any():
        return Clipped(math.nan, math.nan, kept, True)
    for cycle in range(parameters.clip_cycles + 1):
        s, o, v = signal[kept], omega[kept], value[kept]
        mean = s.sum() / o.sum()
        azimuthal = math.sqrt((o**2 * (v - mean) ** 2).sum() / (o**2).sum())
        poisson = math.sqrt(np.maximum(s, 1.0).sum() / (o**2).sum())
        std = poisson if parameters.error_model == ErrorModel.poisson else azimuthal
        if cycle == parameters.clip_cycles:
            break
        n = parameters.snr_clip or math.sqrt(2 * math.log(max(s.size, 3) / math.sqrt(2 * math.pi)))
        distance = np.abs(value - mean)
        wanted, is_clear = _within(distance, kept, n * std, mean)
        if not may_empty and 2 * wanted.sum() < kept.sum() and parameters.error_model == ErrorModel.poisson:
            wanted, is_clear_too = _within(distance, kept, n * azimuthal, mean)
            is_clear = is_clear and is_clear_too
        clear = clear and is_clear
        if not wanted.any():
            if may_empty:
                return Clipped(0.0, 0.0, wanted, clear)
            break
        if np.array_equal(wanted, kept):
            break
        kept = wanted
    if parameters.error_model == ErrorModel.hybrid:
        std = poisson
    return Clipped(mean, std, kept, clear)


def _within(distance: np.ndarray, kept: np.ndarray, width: float, mean: float) -> tuple[np.ndarray, bool]:
    wanted = kept & (distance <= width + abs(mean) * 2.4e-7)
    doubtful = np.abs(distance[kept] - width) <= CLOSE * (abs(mean) + width)
    return wanted, not doubtful.any()


def clip_image(
    raw: np.ndarray, bins: RadialBins, parameters: Parameters, dark: np.ndarray | None = None, **options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mean, std and whether it is clear, of all bins."""
    signal = signal_of(raw, dark).ravel()
    results = []
    for b in range(bins.count):
        pixels = bins.order[bins.bounds[b] : bins.bounds[b + 1]]
        norm = None if bins.norm is None else bins.norm[pixels]
        results.append(clip(signal[pixels], norm, parameters, **options))
    return tuple(np.array([getattr(r, name) for r in results]) for name in ("mean", "std", "clear"))


def assert_curves(
    got: tuple[np.ndarray, np.ndarray],
    raw: np.ndarray,
    bins: RadialBins,
    parameters: Parameters,
    dark: np.ndarray | None = None,
    *,
    least_clear: float = 0.3,
) -> int:
    """Compare all bins in which rounding does not decide; how many that were."""
    mean, std = got
    expected_mean, expected_std, clear = clip_image(raw, bins, parameters, dark)
    assert clear.mean() >= least_clear, "the test data are no test"
    np.testing.assert_array_equal(np.isnan(mean), np.isnan(expected_mean))
    np.testing.assert_array_equal(np.isnan(std), np.isnan(expected_std))
    scale = np.abs(expected_mean) + expected_std
    wrong = clear & ~np.isnan(mean)
    wrong &= (np.abs(mean - expected_mean) > 1e-5 * scale + 1e-6) | (np.abs(std - expected_std) > 1e-5 * scale + 1e-6)
    rows = [(b, mean[b], expected_mean[b], std[b], expected_std[b]) for b in np.flatnonzero(wrong)[:5]]
    assert not rows, f"{wrong.sum()} bins differ (bin, mean, expected, std, expected): {rows}"
    return int(clear.sum())


# ---- picking --------------------------------------------------------------------------------------------------------


def background(bins: RadialBins, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std at every pixel (NaN where masked): linear between bin centres, constant beyond the outer ones; an
    empty bin has no say."""
    position = np.clip(bins.position.astype(np.float64), 0, bins.count - 1)
    masked = np.isnan(position)
    first = np.where(masked, 0, np.floor(position)).astype(int)
    second = np.minimum(first + 1, bins.count - 1)
    weight = position - first
    images = []
    for curve in (mean, std):
        curve = curve.astype(np.float64)
        has_first, has_second = np.isfinite(mean[first]), np.isfinite(mean[second])
        share_1 = np.where(has_first, np.where(has_second, 1 - weight, 1), 0)
        share_2 = np.where(has_second, np.where(has_first, weight, 1), 0)
        total = np.nan_to_num(curve)[first] * share_1 + np.nan_to_num(curve)[second] * share_2
        images.append(np.where(masked | ~(has_first | has_second), np.nan, total).reshape(bins.shape))
    return images[0], images[1]


def excess(
    raw: np.ndarray,
    bins: RadialBins,
    mean: np.ndarray,
    std: np.ndarray,
    parameters: Parameters,
    dark: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """d = v − mean and σ = √(std² + noise²) of every pixel, (rows, columns), NaN where there is no valid value."""
    value = signal_of(raw, dark)
    if bins.norm is not None:
        value = value / bins.norm.reshape(bins.shape)
    level, spread = background(bins, mean, std)
    return value - level, np.sqrt(spread**2 + parameters.noise**2)


def pick(d: np.ndarray, sigma: np.ndarray, parameters: Parameters, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted flat index of the picked pixels, and of those that lie so close to the threshold that rounding decides;
    `scale` is what the values have been rounded relative to."""
    with np.errstate(invalid="ignore"):
        above = d > parameters.snr_pick * sigma
        doubtful = np.abs(d - parameters.snr_pick * sigma) <= CLOSE * np.abs(scale)
    return np.flatnonzero(above), np.flatnonzero(doubtful)


def with_surroundings(picked: np.ndarray, edge: int, valid: np.ndarray) -> np.ndarray:
    """Sorted flat index of the kept pixels: those picked, likewise, and the valid ones (bool (rows, columns)) of
    edge × edge around each place with three picked ones in its 3 × 3."""
    image = np.zeros(valid.shape, bool)
    image.flat[picked] = True
    crowded = ndimage.convolve(image.astype(int), np.ones((3, 3), int), mode="constant") >= 3
    near = ndimage.binary_dilation(crowded, np.ones((edge, edge)))
    return np.flatnonzero(image | (near & valid))


def as_intensity(raw: np.ndarray, dark: np.ndarray | None, index: np.ndarray) -> np.ndarray:
    """raw − dark at `index`, rounded to the nearest and saturated in the type of `raw`."""
    if dark is None:
        return raw.ravel()[index]
    signal = (raw.ravel()[index].astype(np.float32) - dark.ravel()[index].astype(np.float32)).astype(np.float64)
    if raw.dtype.kind == "f":
        return signal.astype(raw.dtype)
    limits = np.iinfo(raw.dtype)
    return np.clip(np.rint(signal), limits.min, limits.max).astype(raw.dtype)


# ---- peaks ----------------------------------------------------------------------------------------------------------


def peaks(
    d: np.ndarray, sigma: np.ndarray, picked: np.ndarray, parameters: Parameters, radius_mm: np.ndarray | None = None
) -> dict[int, tuple[float, float, float, float, int]]:
    """{flat index of the largest pixel: (x, y, intensity, uncertainty, pixels above snr_peak)}; without merging."""
    n, width = parameters.patch_size, d.shape[1]
    y, x = np.divmod(picked.astype(np.int64), width)
    there, spread = _patches(d, y, x, n), _patches(sigma, y, x, n)
    spread[np.isnan(there)] = np.nan
    middle = n * n // 2
    with np.errstate(invalid="ignore"):
        centre = there[:, middle : middle + 1]
        strong = there >= parameters.snr_peak * spread
        beaten = (there > centre).any(axis=1) | (there[:, :middle] == centre).any(axis=1)
    above = strong.sum(axis=1)
    is_peak = strong[:, middle] & ~beaten & (above >= parameters.min_pixels)
    if radius_mm is not None:
        is_peak &= radius_mm[y, x] >= parameters.radius_min
        is_peak &= radius_mm[y, x] <= (parameters.radius_max or np.inf)
    found = {}
    down, right = np.divmod(np.arange(n * n), n) - np.array(n // 2)
    for i in np.flatnonzero(is_peak):
        weights = np.fmax(there[i] - spread[i], 0.0)
        total = weights.sum() or 1.0
        found[int(picked[i])] = (
            x[i] + (weights * right).sum() / total,
            y[i] + (weights * down).sum() / total,
            np.nansum(there[i]),
            math.sqrt(np.nansum(spread[i] ** 2)),
            int(above[i]),
        )
    return found


def close_calls(
    d: np.ndarray, sigma: np.ndarray, pixels: np.ndarray, parameters: Parameters, scale: np.ndarray
) -> np.ndarray:
    """bool (pixels,): rounding decides whether there is a peak, for a pixel of the neighbourhood lies on the threshold
    or has all but the same excess as the central one; `scale` as in `pick`."""
    y, x = np.divmod(pixels.astype(np.int64), d.shape[1])
    there, limit, doubt = (
        _patches(image, y, x, parameters.patch_size) for image in (d, parameters.snr_peak * sigma, CLOSE * scale)
    )
    middle = there.shape[1] // 2
    equal = np.abs(there - there[:, middle : middle + 1]) <= doubt
    equal[:, middle] = False
    return (equal | (np.abs(there - limit) <= doubt)).any(axis=1)


def _patches(image: np.ndarray, y: np.ndarray, x: np.ndarray, size: int) -> np.ndarray:
    """(pixels, size²): the neighbourhoods of the pixels at y, x, in the order of the image; NaN beyond its edges."""
    padded = np.pad(image, size // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return windows[y, x].reshape(y.size, size * size)


# ---- shared by the tests --------------------------------------------------------------------------------------------


def device():
    return choose_device()


def radius_image(shape: tuple[int, int], centre: tuple[float, float] | None = None, step: float = 1e-4) -> np.ndarray:
    """Distance in m from `centre` (x, y), in the middle by default, of pixels `step` m apart."""
    x0, y0 = centre or ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(x - x0, y - y0) * step


def one_bin(count: int, norm: np.ndarray | None = None) -> RadialBins:
    """`count` pixels in a row, all in one bin. A second bin holds one pixel more, at another radius."""
    radius = np.full((1, count + 1), 1e-3)
    radius[0, -1] = 1.0
    return make_bins(radius, 2, None, None if norm is None else np.append(norm, 1.0)[None, :])


def reduce_once(
    raw: np.ndarray,
    bins: RadialBins,
    parameters: Parameters | None = None,
    *,
    dark: np.ndarray | None = None,
    lane_per_item: bool | None = None,
) -> Reduction:
    """Reduce a single frame. To make a reducer takes a tenth of a second, so those without dark are kept for a while,
    for the next frame with the same `bins` (the object)."""
    reducer = _kept_reducer(bins, raw.dtype, lane_per_item) if dark is None else None
    one = reducer or Reducer(bins, raw.dtype, device(), dark=dark, batch_size=1, lane_per_item=lane_per_item)
    try:
        one.inputs[0][0] = raw
        return one.reduce(0, 1, parameters or Parameters())[0]
    finally:
        if one is not reducer:
            one.close()


_kept: dict[tuple, Reducer] = {}


def _kept_reducer(bins: RadialBins, dtype: np.dtype, lane_per_item: bool | None) -> Reducer:
    key = id(bins), dtype, lane_per_item
    if key not in _kept:
        if len(_kept) == 4:
            _kept.pop(next(iter(_kept))).close()
        # it holds the bins, so their id stays theirs
        _kept[key] = Reducer(bins, dtype, device(), batch_size=1, lane_per_item=lane_per_item)
    return _kept[key]


# ---- a frame of which all is picked ----------------------------------------------------------------------------------


def hill(bins: RadialBins) -> np.ndarray:
    """A frame of which every pixel of every bin but the outer ones is picked with a threshold of zero: means that are
    bent downwards over the radius, so that a bin's mean lies above what is interpolated to its pixels, on average,
    and each pixel by as much as this above what is interpolated to it. The outer bins have a single pixel."""
    middle = (bins.count - 1) / 2
    means = 6e4 * (1 - ((np.arange(bins.count) - middle) / bins.count) ** 2)
    line = np.interp(bins.position, np.arange(bins.count), means)
    raw = np.full(line.size, 65_535, np.uint16)
    for b in range(1, bins.count - 1):
        pixels = bins.order[bins.bounds[b] : bins.bounds[b + 1]]
        raw[pixels] = np.rint(line[pixels] + means[b] - line[pixels].mean())
    for b in (0, bins.count - 1):
        raw[bins.order[bins.bounds[b]]] = means[b]
    return raw.reshape(bins.shape)


@functools.cache
def hill_reducer(lane_per_item: bool, batch_size: int = 3) -> Reducer:
    """Two chunks of words and four tiles, of which every bin has pixels; all radii are there equally often."""
    shape = (67, 131)
    number = np.arange(shape[0] * shape[1]).reshape(shape)
    bins = make_bins(1 + number * 7919 % number.size / number.size, 10)
    return Reducer(bins, "uint16", device(), batch_size=batch_size, lane_per_item=lane_per_item)


EVERYTHING = Parameters(snr_pick=0, noise=0, clip_cycles=0, snr_peak=0, min_pixels=1)


def assert_everything(result: Reduction, bins: RadialBins, raw: np.ndarray) -> None:
    expected = np.sort(bins.order[bins.bounds[1] : bins.bounds[-2]])
    np.testing.assert_array_equal(result.index, expected)
    np.testing.assert_array_equal(result.intensity, raw.flat[expected])
