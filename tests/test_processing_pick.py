"""Picking: which pixels are kept, and with which values."""

import math

import numpy as np
import oracles
import pytest
from framesieve.processing.bins import make_bins
from framesieve.processing.parameters import Parameters
from framesieve.processing.reducer import Reducer

SHAPE = (72, 112)


def scene(dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """Background that falls with the radius, some bright pixels, some flagged ones, and a ring without any valid."""
    radius = oracles.radius_image(SHAPE) * 1e4
    raw = rng.poisson(25 * np.exp(-radius / 30) + 0.05).astype(np.float64)
    some = rng.random(SHAPE) < 0.01
    raw[some] += rng.integers(5, 90, some.sum())
    if dtype.kind == "f":
        raw += rng.normal(0, 0.2, SHAPE)
    raw = raw.astype(dtype)
    flag = {"u": np.iinfo(dtype).max if dtype.kind == "u" else None, "i": -1, "f": np.nan}[dtype.kind]
    raw[rng.random(SHAPE) < 0.02] = flag
    raw[(radius > 20) & (radius < 26)] = flag
    return raw


def geometry(with_norm: bool):
    rng = np.random.default_rng(3)
    norm = rng.uniform(0.5, 1.5, SHAPE) if with_norm else None
    mask = rng.random(SHAPE) < 0.05
    mask[33:37, :] = True
    return make_bins(oracles.radius_image(SHAPE), 30, mask, norm)


@pytest.mark.parametrize("dtype, with_norm, with_dark, lane_per_item", oracles.VARIANTS)
def test_picked_pixels(dtype, with_norm, with_dark, lane_per_item):
    """To the pixel, from the curves that came back; sorted; the value is raw − dark in the pixel type."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng([with_norm, with_dark, dtype.itemsize])
    bins = geometry(with_norm)
    dark = rng.normal(1.5, 1, SHAPE).astype(np.float32) if with_dark else None
    reducer = Reducer(bins, dtype, oracles.device(), dark=dark, batch_size=1, lane_per_item=lane_per_item)
    doubtful_pixels = picked_pixels = 0
    for model in oracles.SIGMA_MODELS:
        for snr_pick, noise in [(3, 1), (2, 0), (0, 0), (0, 1), (8, 0.3), (1.7, 20), (1000, 1)]:
            parameters = Parameters(error_model=model, snr_pick=snr_pick, noise=noise)
            raw = scene(dtype, rng)
            reducer.inputs[0][0] = raw
            got = reducer.reduce(0, 1, parameters)[0]
            assert np.isnan(got.mean).any() and np.isfinite(got.mean).any()
            d, sigma = oracles.excess(raw, bins, got.mean, got.std, parameters, dark)
            scale = np.abs(oracles.signal_of(raw, dark)) + sigma
            expected, doubtful = oracles.pick(d, sigma, parameters, scale)
            different = np.setxor1d(got.index, expected)
            assert np.isin(different, doubtful).all(), f"{different.size} pixels differ"
            doubtful_pixels += doubtful.size
            picked_pixels += expected.size
            assert got.index.dtype == np.uint32 and (np.diff(got.index.astype(np.int64)) > 0).all()
            assert got.intensity.dtype == dtype
            np.testing.assert_array_equal(got.intensity, oracles.as_intensity(raw, dark, got.index))
    reducer.close()
    assert picked_pixels > 5000
    # integers on an exactly known background (0, say) lie on the threshold itself now and then
    assert doubtful_pixels < 0.02 * picked_pixels


def test_threshold_is_strict():
    """A pixel on the threshold is none above it: 100 counts everywhere, noise 10, one pixel at 130, one at 131."""
    raw = np.full(SHAPE, 100, np.uint16)
    raw[50, 50], raw[60, 60] = 130, 131
    bins = make_bins(oracles.radius_image(SHAPE), 5)
    got = oracles.reduce_once(raw, bins, Parameters(noise=10, snr_pick=3, clip_cycles=5))
    assert (got.mean == 100).all() and (got.std == 0).all()
    assert got.index.tolist() == [60 * SHAPE[1] + 60]
    assert got.intensity.tolist() == [131]


def test_threshold_of_zero_and_no_noise_keeps_what_lies_above_the_mean():
    raw = np.full(SHAPE, 100, np.uint16)
    raw[10, 20] = 101
    bins = make_bins(oracles.radius_image(SHAPE), 5)
    got = oracles.reduce_once(raw, bins, Parameters(noise=0, snr_pick=0))
    assert got.index.tolist() == [10 * SHAPE[1] + 20]


def test_intensities_are_rounded_and_saturated():
    """raw − dark in the pixel type: to the nearest (even), never below what the type can hold."""
    bins = make_bins(np.repeat(np.arange(1.0, 5)[:, None], 100, 1), 4)
    raw = np.full((4, 100), 10, np.uint16)
    raw[:, 0] = [50, 51, 65_000, 40]
    dark = np.zeros((4, 100), np.float32)
    dark[:, 0] = [0.5, 0.5, -5000, 0.4]
    got = oracles.reduce_once(raw, bins, Parameters(), dark=dark)
    assert got.index.tolist() == [0, 100, 200, 300]
    assert got.intensity.tolist() == [50, 50, 65_535, 40]
    # below zero: a bin of which the dark is far above the values
    raw[:], dark[:] = 10, 500
    dark[:, 0] = 20
    got = oracles.reduce_once(raw, bins, Parameters(), dark=dark)
    assert got.index.tolist() == [0, 100, 200, 300] and got.intensity.tolist() == [0, 0, 0, 0]


def test_flagged_and_masked_pixels_are_never_picked():
    rng = np.random.default_rng(0)
    raw = rng.poisson(5, SHAPE).astype(np.uint16)
    raw[5, 5:50] = 65_535
    raw[7, 5:50] = 65_534  # a value like any other
    raw[9, 5:50] = 60_000
    mask = np.zeros(SHAPE)
    mask[9] = 1
    got = oracles.reduce_once(raw, make_bins(oracles.radius_image(SHAPE), 10, mask))
    rows = got.index // SHAPE[1]
    assert not np.isin([5, 9], rows[got.intensity > 1000]).any()
    assert np.count_nonzero(got.intensity == 65_534) == 45


@pytest.mark.parametrize("lane_per_item", [False, True])
def test_normal_tails(lane_per_item):
    """A normal background without clipping: the share of it above 1, 2 and 3 σ is that of the normal distribution,
    within four standard deviations of the count."""
    shape = (1000, 1000)
    rng = np.random.default_rng(8)
    raw = rng.normal(1000, 30, shape).astype(np.float32)
    reducer = Reducer(
        make_bins(oracles.radius_image(shape), 100), np.float32, oracles.device(), batch_size=1,
        lane_per_item=lane_per_item,
    )  # fmt: skip
    reducer.inputs[0][0] = raw
    for snr in (1, 2, 3):
        parameters = Parameters(clip_cycles=0, noise=0, snr_pick=snr)
        share = 0.5 * math.erfc(snr / math.sqrt(2))
        expected = share * raw.size
        got = reducer.reduce(0, 1, parameters)[0].index.size
        assert abs(got - expected) < 4 * math.sqrt(expected), f"{got / raw.size:.3%} above {snr} σ"
    # the values are those of the issue
    assert [round(50 * math.erfc(n / math.sqrt(2)), d) for n, d in [(1, 0), (2, 1), (3, 2)]] == [16, 2.3, 0.13]
    reducer.close()
