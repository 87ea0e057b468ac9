"""Azimuthal sigma clipping against a float64 reference, and what is known by hand."""

import dataclasses
import functools
import math

import numpy as np
import oracles
import pytest
from framesieve.processing.bins import make_bins
from framesieve.processing.chain import chauvenet_table
from framesieve.processing.parameters import ErrorModel, Parameters
from framesieve.processing.reducer import Reducer
from hypothesis import given, settings
from hypothesis import strategies as st

MODELS = oracles.SIGMA_MODELS
LANES = [False, True]  # a work-item per bin, a work-group per bin

ROWS, COLUMNS = 48, 150


@functools.cache
def row_bins(with_norm: bool, rows: int = ROWS, columns: int = COLUMNS):
    """Every row of the image is a bin."""
    radius = np.repeat(np.arange(1.0, rows + 1)[:, None], columns, axis=1)
    norm = np.random.default_rng(5).uniform(0.4, 1.7, radius.shape) if with_norm else None
    return make_bins(radius, rows, None, norm)


def dark_image(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(6).normal(3, 2, (rows, columns)).astype(np.float32)


@functools.cache
def row_reducer(dtype: str, with_norm: bool, with_dark: bool, lane_per_item: bool) -> Reducer:
    dark = dark_image() if with_dark else None
    bins = row_bins(with_norm)
    return Reducer(bins, dtype, oracles.device(), dark=dark, batch_size=1, lane_per_item=lane_per_item)


def curves(reducer: Reducer, raw: np.ndarray, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    reducer.inputs[0][0] = raw
    reduction = reducer.reduce(0, 1, parameters)[0]
    return reduction.mean, reduction.std


def random_rows(dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """A bin per row, each of another kind: backgrounds from nothing to bright, outliers, flags, few pixels."""
    raw = np.empty((ROWS, COLUMNS), np.float64)
    largest = 200 if dtype.itemsize == 1 else 30_000
    for row in raw:
        level = rng.choice([0, 0.02, 0.5, 3, 20, 90, largest / 3])
        row[:] = rng.poisson(level, COLUMNS)
        if rng.random() < 0.6:
            some = rng.choice(COLUMNS, rng.integers(1, 15), replace=False)
            row[some] += rng.integers(1, largest, some.size) / rng.choice([1, 3, 30])
        if dtype.kind == "f":
            row += rng.normal(0, 0.3, COLUMNS) - 0.2  # noise around nothing: values below zero are values
    raw = np.clip(raw, None, largest).astype(dtype)
    flags = np.array(oracles.flags_of(dtype)).astype(dtype)
    for row in raw:
        share = rng.choice([0, 0.1, 0.9, 1 - 2 / COLUMNS, 1])
        flagged = rng.permutation(COLUMNS) < round(share * COLUMNS)
        row[flagged] = rng.choice(flags, flagged.sum())
    return raw


@pytest.mark.parametrize("dtype, with_norm, with_dark, lane_per_item", oracles.VARIANTS)
def test_random_bins(dtype, with_norm, with_dark, lane_per_item):
    rng = np.random.default_rng([len(dtype), with_norm, with_dark])
    reducer = row_reducer(dtype, with_norm, with_dark, lane_per_item)
    compared = 0
    for model in MODELS:
        for snr_clip, cycles in [(0, 5), (0, 0), (3, 5), (2, 1), (1.2, 8), (0, 100)]:
            parameters = Parameters(snr_clip=snr_clip, clip_cycles=cycles, error_model=model)
            raw = random_rows(np.dtype(dtype), rng)
            dark = dark_image() if with_dark else None
            compared += oracles.assert_curves(curves(reducer, raw, parameters), raw, reducer.bins, parameters, dark)
    assert compared > 500


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.integers(0, 60_000) | st.integers(0, 5), min_size=1, max_size=40),
    model=st.sampled_from(MODELS),
    snr_clip=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.5, 4.0]),
    cycles=st.integers(0, 8),
    lane_per_item=st.booleans(),
    with_norm=st.booleans(),
)
def test_any_bin(values, model, snr_clip, cycles, lane_per_item, with_norm):
    """Few pixels of any values: also what no random number generator would think of."""
    raw = np.full((ROWS, COLUMNS), 65535, np.uint16)
    raw[0, : len(values)] = values
    raw[7, 60 : 60 + len(values)] = values[::-1]
    parameters = Parameters(snr_clip=snr_clip, clip_cycles=cycles, error_model=model)
    reducer = row_reducer("uint16", with_norm, False, lane_per_item)
    got = curves(reducer, raw, parameters)
    oracles.assert_curves(got, raw, reducer.bins, parameters)
    assert not np.isnan(got[0][[0, 7]]).any()
    assert np.isnan(np.delete(got[0], [0, 7])).all()


# ---- cut-off --------------------------------------------------------------------------------------------------------


def test_chauvenet_table():
    table = chauvenet_table(10_000)
    for n in (3, 10, 100, 10_000):
        assert table[n] == pytest.approx(math.sqrt(2 * math.log(n / math.sqrt(2 * math.pi))), rel=1e-6)
    assert table[0] == table[1] == table[2] == table[3]
    assert chauvenet_table(0).size == 1


@pytest.mark.parametrize("lane_per_item", LANES)
def test_cut_off_below_chauvenets_is_honoured(lane_per_item):
    """−1, 0 and 1 times a step around 100, so that it is known what 1.1 σ discards and Chauvenet's 2.86 σ does not."""
    raw = np.full((ROWS, COLUMNS), 100, np.uint16)
    raw[:, :25], raw[:, 25:50] = 90, 110  # σ = 10 · √(1/3)
    reducer = row_reducer("uint16", False, False, lane_per_item)
    for cut, cycles, std in [(0, 5, 10 / 3**0.5), (1.8, 5, 10 / 3**0.5), (1.1, 5, 0), (1.1, 0, 10 / 3**0.5)]:
        mean, got = curves(reducer, raw, Parameters(snr_clip=cut, clip_cycles=cycles))
        np.testing.assert_allclose(got, std, rtol=1e-6, atol=1e-6, err_msg=f"{cut}")
        np.testing.assert_allclose(mean, 100, rtol=1e-7)


def test_cycles_are_counted():
    """Outliers that hide one another: every cycle discards one more."""
    raw = np.full((ROWS, COLUMNS), 65535, np.uint16)
    raw[:, :60] = np.resize([99, 100, 101], 60)
    outliers = [120, 200, 600, 3000, 15_000]
    raw[:, 60:65] = outliers
    reducer = row_reducer("uint16", False, False, False)
    means = [float(curves(reducer, raw, Parameters(clip_cycles=cycles))[0][0]) for cycles in range(8)]
    for cycles in range(6):
        left = np.append(raw[0, :60], sorted(outliers)[: 5 - cycles])
        assert means[cycles] == pytest.approx(left.mean(), rel=1e-6), cycles
    assert means[5] == means[6] == means[7] == 100


# ---- float32 is enough ----------------------------------------------------------------------------------------------

N = 100_000


def large_bins() -> dict[str, np.ndarray]:
    """Whole values up to 4·10⁹ of a bin of 10⁵ pixels, chosen to make float32 sums lose."""
    rng = np.random.default_rng(11)
    bright = rng.poisson(1e6, N)
    return {
        "poisson noise": bright,
        "constant": np.full(N, 1_000_000),
        "constant that is no float-friendly number": np.full(N, 1_000_033),
        "two values": np.where(np.arange(N) % 2, 1_000_033, 999_967),
        "alternating by lane": np.where(np.arange(N) % 64 == 63, 1_000_033, 1_000_031),
        "ramp": 1_000_000 + np.arange(N) % 1000,
        "first pixel hot": np.append(4_000_000_000, bright[1:]),
        "first pixel hot, the rest constant": np.append(4_000_000_000, np.full(N - 1, 1_000_033)),
        "first pixel dead": np.append(0, bright[1:]),
        "first pixel dead, the rest constant": np.append(0, np.full(N - 1, 1_000_033)),
        "half hot": np.where(np.arange(N) % 2, 4_000_000_000, bright),
        "some hot": np.where(np.arange(N) % 100 == 7, 4_000_000_000, bright),
        "wide": rng.integers(0, 4_000_000_000, N),
        "16 million": np.full(N, 16_777_217) + np.arange(N) % 3,
    }


@functools.cache
def large_reducer(dtype: str, with_norm: bool, lane_per_item: bool) -> Reducer:
    """Where there is a norm there is a dark image too, of zeros."""
    norm = np.random.default_rng(1).uniform(0.7, 1.3, N) if with_norm else None
    dark = np.zeros((1, N + 1), np.float32) if with_norm else None
    bins = oracles.one_bin(N, norm)
    return Reducer(bins, dtype, oracles.device(), dark=dark, batch_size=1, lane_per_item=lane_per_item)


LARGE_VARIANTS = [("uint32", True, False), ("float32", False, False), ("float32", False, True), ("float32", True, True)]


@pytest.mark.parametrize("cycles", [0, 5])
@pytest.mark.parametrize("dtype, with_norm, lane_per_item", LARGE_VARIANTS)
@pytest.mark.parametrize("case", large_bins())
def test_large_bright_bins(case, dtype, with_norm, lane_per_item, cycles):
    """Mean and std within 10⁻⁵. The reference gets the values as float32 has them, for that is what the sums are made
    of. Where all values are equal the std is 0 but for the last bits of the mean."""
    values = large_bins()[case]
    raw = np.append(values, 7).astype(dtype)[None, :]
    reducer = large_reducer(dtype, with_norm, lane_per_item)
    reducer.inputs[0][0] = raw
    for model in MODELS:
        parameters = Parameters(clip_cycles=cycles, error_model=model, snr_pick=1000)  # curves only
        got = reducer.reduce(0, 1, parameters)[0]
        signal = values.astype(np.float32).astype(np.float64)
        norm = reducer.bins.norm[:N] if with_norm else None
        expected = oracles.clip(signal, norm, parameters)
        assert got.mean[0] == pytest.approx(expected.mean, rel=1e-5)
        assert got.std[0] == pytest.approx(expected.std, rel=1e-5, abs=3e-7 * expected.mean)


# ---- what is known by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, with_norm, with_dark, lane_per_item", oracles.VARIANTS)
def test_empty_and_constant_bins(dtype, with_norm, with_dark, lane_per_item):
    """Every pixel has 42 counts above a dark of 10, and a norm of one half where there is one."""
    dark = np.full((ROWS, COLUMNS), 10, np.float32) if with_dark else None
    bins = row_bins(False)
    if with_norm:
        bins = dataclasses.replace(bins, norm=np.full(ROWS * COLUMNS, 0.5, np.float32))
    reducer = Reducer(bins, dtype, oracles.device(), dark=dark, batch_size=1, lane_per_item=lane_per_item)
    raw = np.full((ROWS, COLUMNS), 52 if with_dark else 42, dtype)
    flags = oracles.flags_of(np.dtype(dtype))
    for b in range(0, ROWS, 3):
        raw[b] = flags[b // 3 % len(flags)]  # a bin without any valid pixel
    raw[1, 1:] = flags[0]  # a single pixel
    empty = np.arange(ROWS) % 3 == 0
    norm = 0.5 if with_norm else 1
    for model in MODELS:
        mean, std = curves(reducer, raw, Parameters(error_model=model))
        assert np.isnan(mean[empty]).all() and np.isnan(std[empty]).all()
        assert (mean[~empty] == 42 / norm).all()
        expected = 0 if model == ErrorModel.azimuthal else math.sqrt(42) / norm
        np.testing.assert_allclose(std[~empty], expected, rtol=1e-6)
    reducer.close()


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("pair", [(1, 199), (199, 1), (1, 99), (0, 60_000)])
@pytest.mark.parametrize("model", MODELS)
def test_two_pixels_do_not_empty_each_other(pair, model, lane_per_item):
    """The mean of {1, 199} is 100, its Poisson σ 10: both lie 9.9 σ off."""
    raw = np.full((ROWS, COLUMNS), 65535, np.uint16)
    raw[:, [3, 77]] = pair
    mean, std = curves(row_reducer("uint16", False, False, lane_per_item), raw, Parameters(error_model=model))
    low, high = sorted(pair)
    np.testing.assert_allclose(mean, (low + high) / 2, rtol=1e-6)
    expected = (high - low) / 2 if model == ErrorModel.azimuthal else math.sqrt((max(low, 1) + high) / 2)
    np.testing.assert_allclose(std, expected, rtol=1e-6)


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("model", MODELS)
def test_bright_outliers_do_not_empty_the_bin(model, lane_per_item):
    """Five pixels of 60 000 among 145 of about 100 raise the mean to 2097, from which the others are 43.6 Poisson σ
    away: a clipping that believes it keeps nothing. Here the background comes out as if they were not there."""
    rng = np.random.default_rng(2)
    raw = rng.poisson(100, (ROWS, COLUMNS)).astype(np.uint16)
    clean = raw[:, 5:].astype(float)
    raw[:, :5] = 60_000
    parameters = Parameters(error_model=model)
    mean, std = curves(row_reducer("uint16", False, False, lane_per_item), raw, parameters)
    np.testing.assert_allclose(mean, clean.mean(axis=1), rtol=0.01)  # a real tail may be clipped too
    np.testing.assert_allclose(std, 10, rtol=0.25 if model == ErrorModel.azimuthal else 0.02)

    emptied = oracles.clip(raw[0].astype(float), None, Parameters(error_model="poisson"), may_empty=True)
    assert emptied.mean == 0 and emptied.std == 0  # the case is the one that it claims to be


def test_poisson_variance_below_one_count_is_that_of_one():
    """Pixels of 0 count with a variance of 1: a bin without any count has σ = 1 rather than 0."""
    raw = np.zeros((ROWS, COLUMNS), np.uint16)
    for model, expected in [("poisson", 1), ("hybrid", 1), ("azimuthal", 0)]:
        mean, std = curves(row_reducer("uint16", False, False, False), raw, Parameters(error_model=model))
        assert (mean == 0).all() and (std == expected).all()


@pytest.mark.parametrize("marker", [1e12, 3.4e38, -3.4e38, np.inf, np.nan])
def test_float_markers_of_bad_pixels_take_no_part(marker):
    """The largest float is such a marker in some files; one must not spoil its bin."""
    bins = make_bins(oracles.radius_image((90, 80)), 5)
    frame = np.random.default_rng(4).poisson(20, (90, 80)).astype(np.float32)
    frame[40, 50] = marker
    mask = np.zeros((90, 80), bool)
    mask[40, 50] = True
    got = oracles.reduce_once(frame, bins, Parameters())
    expected = oracles.reduce_once(frame, make_bins(oracles.radius_image((90, 80)), 5, mask), Parameters())
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(got.std, expected.std, rtol=1e-5)
    assert got.index.tolist() == expected.index.tolist() and 40 * 80 + 50 not in got.index


@pytest.mark.parametrize("bright", [1e6, 1e9, 9.9e11])
def test_a_very_bright_float_pixel_does_not_spoil_its_bin(bright):
    bins = make_bins(oracles.radius_image((90, 80)), 5)
    frame = np.random.default_rng(4).poisson(20, (90, 80)).astype(np.float32)
    usual = oracles.reduce_once(frame, bins, Parameters())
    frame[40, 50] = bright
    got = oracles.reduce_once(frame, bins, Parameters())
    np.testing.assert_allclose(got.mean, usual.mean, rtol=2e-3)
    np.testing.assert_allclose(got.std, usual.std, rtol=2e-3)
    assert 40 * 80 + 50 in got.index
