"""The error model `exact` against scipy's Poisson and gamma distributions, and what it promises at low counts."""

import functools
import math

import numpy as np
import oracles
import pytest
from framesieve.processing.bins import make_bins
from framesieve.processing.parameters import ErrorModel, Parameters
from framesieve.processing.poisson_tails import COUNTS, OCTAVES, deficit_limits, excess_limits, tail_tables
from framesieve.processing.reducer import Reducer
from scipy import special, stats

CUTS = [0.0, 0.5, 1.0, 1.4, 2.0, 3.0, 3.9, 5.0, 8.0, 12.0]
LANES = [False, True]  # a work-item per bin, a work-group per bin


def share_above(cut: float) -> float:
    """Of a normal distribution."""
    return 0.5 * math.erfc(cut / math.sqrt(2))


def test_limits_are_quantiles_of_the_gamma_distribution():
    excess, deficit = excess_limits(CUTS), deficit_limits(CUTS)
    assert excess.shape == deficit.shape == (len(CUTS), COUNTS)
    for row, cut in enumerate(CUTS):
        assert excess[row, 0] == -1
        counts = np.arange(1, COUNTS)
        expected = special.gammaincinv(counts, share_above(cut))
        np.testing.assert_allclose(excess[row, 1:], expected, rtol=3e-7, atol=1e-37)
        expected = special.gammainccinv(np.arange(1, COUNTS + 1), share_above(cut))
        np.testing.assert_allclose(deficit[row], expected, rtol=3e-7)


@pytest.mark.parametrize("cut", [*CUTS, 20.0, 35.0, 200.0, 1000.0])
def test_limits_rise_and_lie_below_the_threshold_of_the_first_look(cut):
    """Pixels are looked at closely only above λ + n·√λ: no excess may lie below that."""
    limits = excess_limits([cut])[0].astype(float)[1:]
    assert np.isfinite(limits).all() and (np.diff(limits) >= 0).all() and limits[0] >= 0
    counts = np.arange(1, COUNTS)
    assert (limits + cut * np.sqrt(limits) <= counts).all()
    large = np.geomspace(COUNTS, 1e7)
    root = np.maximum(1 - 1 / (9 * large) - cut / (3 * np.sqrt(large)), 0)
    assert (large * root**3 + cut * np.sqrt(large * root**3) <= large).all()


def test_tables_for_clipping():
    tables = tail_tables(3.0, 2.0, 0.0)
    assert tables.shape == (2 + 2 * OCTAVES, COUNTS)
    np.testing.assert_array_equal(tables[:2], excess_limits([3.0, 2.0]))
    for octave, n in [(0, 3), (10, 2**10.5), (16, 2**16.5)]:
        cut = math.sqrt(2 * math.log(n / math.sqrt(2 * math.pi)))
        np.testing.assert_allclose(tables[2 + octave], excess_limits([cut])[0], rtol=1e-6)
        np.testing.assert_allclose(tables[2 + OCTAVES + octave], deficit_limits([cut])[0], rtol=1e-6)
    given = tail_tables(3.0, 2.0, 4.0)[2:]
    np.testing.assert_array_equal(given[:OCTAVES], np.tile(excess_limits([4.0]), (OCTAVES, 1)))
    np.testing.assert_array_equal(given[OCTAVES:], np.tile(deficit_limits([4.0]), (OCTAVES, 1)))


# ---- the kernels ----------------------------------------------------------------------------------------------------

SHAPE = (64, 256)


@functools.cache
def reducer(with_norm: bool, lane_per_item: bool) -> Reducer:
    """Every row is a bin, so that its background is that of a bin and nothing is interpolated."""
    radius = np.repeat(np.arange(1.0, SHAPE[0] + 1)[:, None], SHAPE[1], axis=1)
    norm = np.random.default_rng(5).uniform(0.6, 1.4, SHAPE) if with_norm else None
    bins = make_bins(radius, SHAPE[0], None, norm)
    return Reducer(bins, np.uint32, oracles.device(), batch_size=1, lane_per_item=lane_per_item)


def clipped_mean(counts: np.ndarray, norm: np.ndarray, p: Parameters, in_octaves: bool) -> float:
    """Of one bin, by the definition: P(X ≥ s) and P(X ≤ s) for every pixel, from scipy."""
    kept = counts < np.iinfo(np.uint32).max
    for _ in range(p.clip_cycles):
        mean, average = counts[kept].sum() / norm[kept].sum(), (norm[kept] ** 2).sum() / norm[kept].sum()
        n = 2.0 ** (math.floor(math.log2(kept.sum())) + 0.5) if in_octaves else kept.sum()
        cut = p.snr_clip or math.sqrt(2 * math.log(max(n, 3) / math.sqrt(2 * math.pi)))
        usual = np.arange(int(mean * average + 40 * math.sqrt(mean * average) + 100))
        is_usual = stats.poisson.sf(usual - 1, mean * average) > share_above(cut)
        is_usual &= stats.poisson.cdf(usual, mean * average) > share_above(cut)
        low, high = usual[is_usual][0] - 0.5, usual[is_usual][-1] + 0.5
        still = kept & (counts / norm * average >= low) & (counts / norm * average <= high)
        if 2 * still.sum() < kept.sum() or (still == kept).all():
            break  # tests do not go there
        kept = still
    return counts[kept].sum() / norm[kept].sum()


def rows(seed: int, norm: np.ndarray) -> np.ndarray:
    """Counts, a mean for each row, from next to nothing to bright, with outliers; and flags."""
    rng = np.random.default_rng(seed)
    means = np.geomspace(0.003, 3000, SHAPE[0])
    raw = rng.poisson(means[:, None] * norm).astype(np.uint32)
    for row, mean in zip(raw, means, strict=True):
        some = rng.choice(SHAPE[1], rng.integers(0, 9), replace=False)
        row[some] += rng.integers(1, 4 + int(9 * math.sqrt(mean)), some.size).astype(np.uint32)
    raw[rng.random(SHAPE) < 0.02] = np.iinfo(np.uint32).max
    return raw


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("with_norm", [False, True])
def test_clipping(with_norm, lane_per_item):
    one = reducer(with_norm, lane_per_item)
    norm = np.ones(SHAPE) if one.bins.norm is None else one.bins.norm.reshape(SHAPE).astype(float)
    agree = total = 0
    for seed, snr_clip, cycles in [(1, 0, 5), (2, 0, 1), (3, 3, 5), (4, 2, 2), (5, 0, 0)]:
        raw = rows(seed, norm)
        p = Parameters(error_model="exact", snr_clip=snr_clip, clip_cycles=cycles)
        one.inputs[0][0] = raw
        got = one.reduce(0, 1, p)[0]
        # Chauvenet's cut-off is tabulated for octaves of pixels, and beyond the tables taken as it is
        expected = [
            [clipped_mean(c, n, p, octaves) for c, n in zip(raw.astype(float), norm, strict=True)]
            for octaves in (True, False)
        ]
        # where a mean lies so close to a limit that rounding decides, the next count is in or out; beyond the tables
        # the limits are approximate
        tabulated = np.max(expected, axis=0) < 100
        agree += np.isclose(got.mean, expected, rtol=2e-5, atol=1e-7).any(axis=0)[tabulated].sum()
        total += tabulated.sum()
        np.testing.assert_allclose(got.mean[~tabulated], np.array(expected[1])[~tabulated], rtol=2e-3)
        valid = raw < np.iinfo(np.uint32).max
        if not cycles:  # std = √(mean · Ω/ΩΩ)
            ratio = (norm * valid).sum(axis=1) / (norm**2 * valid).sum(axis=1)
            np.testing.assert_allclose(got.std, np.sqrt(got.mean * ratio), rtol=1e-5)
    assert agree >= 0.99 * total, f"{agree} of {total}"


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("with_norm", [False, True])
def test_picking_is_by_the_tail(with_norm, lane_per_item):
    one = reducer(with_norm, lane_per_item)
    norm = np.ones(SHAPE) if one.bins.norm is None else one.bins.norm.reshape(SHAPE).astype(float)
    picked = doubtful = 0
    for seed, snr_pick in enumerate([0, 1, 1.4, 2, 3, 6]):
        raw = rows(seed + 10, norm)
        one.inputs[0][0] = raw
        got = one.reduce(0, 1, Parameters(error_model="exact", snr_pick=snr_pick, noise=7.0))[0]
        mean, _ = oracles.background(one.bins, got.mean, got.std)
        tail = stats.poisson.sf(raw - 1.0, mean * norm)
        valid = raw < np.iinfo(np.uint32).max
        expected = np.flatnonzero(valid & (tail <= share_above(snr_pick)) & (raw > 0))
        # Wilson and Hilferty beyond 255 counts, float elsewhere
        error = np.where(raw < COUNTS, 2e-5, 0.03)
        unsure = np.flatnonzero(np.abs(tail / share_above(snr_pick) - 1) < error)
        assert np.isin(np.setxor1d(got.index, expected), unsure).all()
        picked, doubtful = picked + expected.size, doubtful + unsure.size
        np.testing.assert_array_equal(got.intensity, raw.ravel()[got.index])
    assert picked > 5000 and doubtful < 0.02 * picked


def test_peaks_count_pixels_by_the_tail():
    """A spot of single photons on a background of next to nothing: noise plays no part, three photons are three pixels
    above the threshold, and the uncertainty is one count at least."""
    raw = np.zeros(SHAPE, np.uint32)
    raw[32, 100] = 3
    raw[32, 101] = raw[31, 100] = 2
    radius = oracles.radius_image(SHAPE)
    got = oracles.reduce_once(raw, make_bins(radius, 20), Parameters(error_model="exact", min_pixels=3, patch_size=3))
    assert sorted(got.index.tolist()) == [31 * 256 + 100, 32 * 256 + 100, 32 * 256 + 101]
    ((x, y, intensity, sigma, snr, n_pixels, maximum),) = got.peaks
    assert (n_pixels, maximum) == (3, 3)
    assert intensity == pytest.approx(7, abs=0.01) and sigma == 1.0 and snr == pytest.approx(7, abs=0.01)
    assert (x, y) == (pytest.approx(100 + 2 / 7, abs=0.02), pytest.approx(32 - 2 / 7, abs=0.02))
    azimuthal = oracles.reduce_once(raw, make_bins(radius, 20), Parameters(min_pixels=3, patch_size=3))
    assert azimuthal.n_peaks == 0  # noise of one count hides it


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("mean", [0.01, 0.05, 0.3, 1, 3, 10, 100])
def test_the_share_of_background_that_is_picked_is_what_was_asked_for(mean, lane_per_item):
    """No more than the normal distribution has above n σ, and as much as whole counts allow: a threshold one count
    lower would pick more than was asked for."""
    one = share_reducer(lane_per_item)
    n_pixels = one.bins.order.size
    one.inputs[0][0] = np.random.default_rng(int(1000 * mean)).poisson(mean, one.bins.shape)
    for snr in (1, 2, 3):
        got = one.reduce(0, 1, Parameters(error_model="exact", snr_pick=snr))[0]
        wanted = share_above(snr)
        threshold = 1 + int(stats.poisson.isf(wanted, mean))  # P(X ≥ threshold) ≤ wanted
        expected = n_pixels * stats.poisson.sf(threshold - 1, mean)
        assert stats.poisson.sf(threshold - 2, mean) > wanted >= stats.poisson.sf(threshold - 1, mean)
        # the mean of a bin has an error, so that near a limit some bins take the next count
        lower, upper = (stats.poisson.sf(threshold - 1 + k, mean) for k in (1, -1))
        shaky = any(abs(excess_limits([snr])[0][threshold - k] / mean - 1) < 0.1 for k in (0, 1))
        deviation = 4 * math.sqrt(expected) + 4
        if shaky:
            assert n_pixels * lower - deviation <= got.index.size <= n_pixels * upper + deviation
        else:
            assert abs(got.index.size - expected) < deviation
            assert got.index.size <= wanted * n_pixels + deviation
        np.testing.assert_allclose(np.average(got.mean, weights=np.diff(one.bins.bounds)), mean, rtol=0.03)


@functools.cache
def share_reducer(lane_per_item: bool) -> Reducer:
    bins = make_bins(oracles.radius_image((600, 600)), 50)
    return Reducer(bins, np.uint32, oracles.device(), batch_size=1, lane_per_item=lane_per_item)


def test_a_change_of_the_cut_offs_is_in_force_with_the_next_frame():
    one = reducer(False, False)
    one.inputs[0][0] = np.random.default_rng(0).poisson(5, SHAPE)
    first = one.reduce(0, 1, Parameters(error_model="exact", snr_pick=1))[0].index.size
    assert one.reduce(0, 1, Parameters(error_model="exact", snr_pick=3))[0].index.size < 0.1 * first
    one.reduce(0, 1, Parameters(error_model="poisson", snr_pick=2))
    assert one.reduce(0, 1, Parameters(error_model="exact", snr_pick=1))[0].index.size == first


def test_bright_pixels_do_not_empty_a_bin():
    for values in ([1, 99], [1, 199], [0, 0, 60_000], [3] * 20 + [60_000] * 2):
        raw = np.full((1, len(values) + 1), np.iinfo(np.uint16).max, np.uint16)
        raw[0, : len(values)] = values
        got = oracles.reduce_once(raw, oracles.one_bin(len(values)), Parameters(error_model=ErrorModel.exact))
        assert np.isfinite(got.mean[0]) and min(values) <= got.mean[0] <= max(values)
    assert got.mean[0] == pytest.approx(3)
