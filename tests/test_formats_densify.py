"""Dense frames: the background has the statistics that it had before it was reduced."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from formats_helpers import BINS, MASKED, SHAPE, reduced_frame, run_info
from framesieve.formats import noise, thresholds
from framesieve.formats.densify import Densifier
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.bins import RadialBins, make_bins
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import ErrorModel, Parameters, ParameterSet
from framesieve.processing.poisson_tails import COUNTS
from scipy import stats

RINGS, PIXELS = 100, 2000  # of an image whose rows are its rings


def rings(norm: np.ndarray | None = None) -> RadialBins:
    radius = np.repeat(np.linspace(0.01, 0.02, RINGS)[:, None], PIXELS, axis=1)
    return make_bins(radius, RINGS, None, norm)


def reduced(raw: np.ndarray, bins: RadialBins, parameters: Parameters, number: int = 0) -> ReducedFrame:
    """Reduced by the reference in float64; by scipy's Poisson law for the model `exact`."""
    if parameters.error_model == ErrorModel.exact:
        mean, std = exact_curves(raw, bins, parameters)
        index = np.flatnonzero(excesses(raw, bins, mean, parameters))
    else:
        mean, std, _ = oracles.clip_image(raw, bins, parameters)
        d, sigma = oracles.excess(raw, bins, mean, std, parameters)
        index, _ = oracles.pick(d, sigma, parameters, np.ones_like(d))
    if parameters.surroundings:
        index = oracles.with_surroundings(index, parameters.surroundings, np.ones(raw.shape, bool))
    frame = ReducedFrame(number, "s", 0.0, Verdict.KEPT, index=index.astype(np.uint32), intensity=raw.ravel()[index])
    frame.background_mean, frame.background_std = mean.astype(np.float32), std.astype(np.float32)
    return frame


def share_above(cut: float) -> float:
    """Of a normal law."""
    return 0.5 * math.erfc(cut / math.sqrt(2))


def exact_curves(raw: np.ndarray, bins: RadialBins, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """mean, std of each row of `raw`, clipped by the tails of the Poisson law of its mean."""
    norm = np.ones(raw.shape) if bins.norm is None else bins.norm.reshape(raw.shape).astype(float)
    curves = []
    for counts, omega in zip(raw.astype(float), norm, strict=True):
        kept = np.ones(counts.size, bool)
        for _ in range(parameters.clip_cycles):
            average = (omega[kept] ** 2).sum() / omega[kept].sum()
            mean = counts[kept].sum() / omega[kept].sum()
            octave = max(2.0 ** (math.floor(math.log2(kept.sum())) + 0.5), 3)
            share = share_above(parameters.snr_clip or math.sqrt(2 * math.log(octave / math.sqrt(2 * math.pi))))
            scaled = np.rint(counts / omega * average)
            usual = stats.poisson.sf(scaled - 1, mean * average) > share
            usual &= stats.poisson.cdf(scaled, mean * average) > share
            if not (kept & ~usual).any():
                break
            kept &= usual
        mean = counts[kept].sum() / omega[kept].sum()
        curves.append((mean, math.sqrt(mean * omega[kept].sum() / (omega[kept] ** 2).sum())))
    return tuple(np.array(curves).T)


def excesses(raw: np.ndarray, bins: RadialBins, mean: np.ndarray, parameters: Parameters) -> np.ndarray:
    """bool (rows, columns): the counts that the background does not explain. A tail beyond the tables is taken for one
    that is smaller by 3 %, about the error of the approximation."""
    level, _ = oracles.background(bins, mean, mean)
    if bins.norm is not None:
        level = level * bins.norm.reshape(bins.shape)
    tail = stats.poisson.sf(raw - 1.0, level)
    return (tail * np.where(raw < COUNTS, 1 - 1e-5, 0.97) <= share_above(parameters.snr_pick)) & (raw > 0)


def densifier(bins: RadialBins, dtype: str = "uint16") -> Densifier:
    norm = None if bins.norm is None else bins.norm.reshape(bins.shape)
    return Densifier(bins.radius_image, bins.radius.astype(np.float32), np.dtype(dtype), norm)


def assert_below_threshold(image: np.ndarray, frame: ReducedFrame, bins: RadialBins, parameters: Parameters) -> None:
    """Every pixel that was not kept."""
    if parameters.error_model == ErrorModel.exact:
        above = excesses(image, bins, frame.background_mean, parameters)
        above.ravel()[frame.index] = False
        sure = image < COUNTS - 1
        assert not (above & sure).any()
        # beyond the tables limits are approximate: one count more is no excess by this much
        assert not (above & excesses(np.maximum(image, 1) - 1, bins, frame.background_mean, parameters)).any()
        return
    level, spread = oracles.background(bins, frame.background_mean, frame.background_std)
    limit = level + parameters.snr_pick * np.sqrt(spread**2 + parameters.noise**2)
    if bins.norm is not None:
        limit = limit * bins.norm.reshape(bins.shape)
    rest = np.ones(image.size, bool)
    rest[frame.index] = False
    assert (image.ravel()[rest] <= limit.ravel()[rest] * (1 + 1e-6)).all()


def moments_of_both(
    draw, bins: RadialBins, parameters: Parameters, frames: int, dtype: str = "uint16"
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) of all pixels, of the originals that `draw()` gives and of what is made of their reductions."""
    dense = densifier(bins, dtype)
    values = ([], [])
    for number in range(frames):
        raw = draw()
        frame = reduced(raw, bins, parameters, number)
        image = dense.image(frame, noise=parameters, rng=np.random.default_rng([17, number]))
        assert_below_threshold(image, frame, bins, parameters)
        assert np.array_equal(image.ravel()[frame.index], frame.intensity)
        values[0].append(raw.astype(float))
        values[1].append(image.astype(float))
    return tuple(np.array([np.mean(v), np.mean([image.var(axis=1).mean() for image in v])]) for v in values)


@pytest.mark.parametrize("snr_pick", [2.0, 3.0])
@pytest.mark.parametrize(
    "model, rate",
    [("poisson", rate) for rate in (0.05, 0.3, 1, 5, 31.5, 33, 200, 1000)]
    + [("azimuthal", rate) for rate in (0.3, 2, 10, 60, 1000)]
    + [("hybrid", rate) for rate in (0.7, 8, 300)]
    + [("exact", rate) for rate in (0.05, 0.3, 1, 5, 31.5, 33, 200, 260, 1000)],
)
def test_background_has_its_mean_and_variance(model, rate, snr_pick):
    rng = np.random.default_rng([int(rate * 100), int(snr_pick)])
    parameters = Parameters(error_model=model, snr_pick=snr_pick)
    frames = 12 if rate < 0.1 else 4
    original, made = moments_of_both(
        lambda: rng.poisson(rate, (RINGS, PIXELS)).astype(np.uint16), rings(), parameters, frames
    )
    pixels = frames * RINGS * PIXELS
    errors = np.sqrt(2 * np.array([1 / rate, 2 + 1 / rate]) / pixels)  # of the difference of two samples
    assert (errors < 0.005).all(), "too few pixels for a test"
    np.testing.assert_array_less(np.abs(made / original - 1), 0.005 + 3 * errors)


@pytest.mark.parametrize("model, rate", [("poisson", 8), ("exact", 0.3), ("exact", 8)])
def test_surroundings_leave_the_background_unbiased(model, rate):
    """They are where the noise went up by chance: of what is kept they raise the mean, of all pixels they do not."""
    rng = np.random.default_rng(int(rate == 8))
    parameters = Parameters(error_model=model, snr_pick=1.3 if rate == 8 else 0.7, surroundings=7)
    raw = rng.poisson(rate, (8, RINGS, PIXELS)).astype(np.uint16)
    bins = rings()
    dense = densifier(bins)
    frames = [reduced(image, bins, parameters) for image in raw]
    kept = np.concatenate([frame.intensity for frame in frames])
    assert 0.1 < kept.size / raw.size < 0.8 and kept.mean() > 1.02 * rate
    made = np.array([dense.image(f, noise=parameters, rng=np.random.default_rng(i)) for i, f in enumerate(frames)])
    for image, frame in zip(made, frames, strict=True):
        assert_below_threshold(image, frame, bins, parameters)
    assert made.mean() == pytest.approx(raw.mean(), rel=0.007)
    assert made.astype(float).var() == pytest.approx(raw.astype(float).var(), rel=0.012)


@pytest.mark.parametrize("snr", [1.0, 1.4, 2.0, 3.0, 5.0])
def test_the_first_excess(snr):
    """By the Poisson law of scipy: the count is an excess, one less is none."""
    expected = np.geomspace(1e-3, 5e4, 3001)
    first = thresholds.first_excess(expected, snr)
    assert (first >= 1).all()
    # float32 in the tables; beyond them Wilson and Hilferty's approximation, at 5 σ to some per cent of the tail
    slack = np.where(first < COUNTS, 1e-4, 0.03 if snr < 5 else 0.1)
    share = share_above(snr)
    assert (stats.poisson.sf(first - 1, expected) <= share * (1 + slack)).all()
    assert (stats.poisson.sf(first - 2, expected) >= share * (1 - slack)).all()
    assert thresholds.first_excess(np.zeros(1), snr).tolist() == [1]


@pytest.mark.parametrize("model", ["poisson", "exact"])
def test_background_under_a_normalization(model):
    """Norms from 0.4 to 1.2 within every ring: counts in a pixel are as many as its norm says."""
    rng = np.random.default_rng(5)
    norm = np.tile(np.linspace(0.4, 1.2, PIXELS), (RINGS, 1))
    bins, parameters = rings(norm), Parameters(error_model=model)
    for rate in (1.0, 40.0):
        dense = densifier(bins)
        raw = np.array([rng.poisson(rate * norm) for _ in range(6)], np.uint16)
        frames = [reduced(image, bins, parameters) for image in raw]
        made = np.array([dense.image(f, noise=parameters, rng=np.random.default_rng(i)) for i, f in enumerate(frames)])
        for image, frame in zip(made, frames, strict=True):
            assert_below_threshold(image, frame, bins, parameters)
        for columns in np.split(np.arange(PIXELS), 4):
            mean, variance = ([v[..., columns].mean(), v[..., columns].astype(float).var()] for v in (raw, made))
            np.testing.assert_allclose(variance[0] / mean[0], 1, atol=0.015)
            np.testing.assert_allclose(variance[1] / mean[1], 1, atol=0.015)


@pytest.mark.parametrize(
    "rate, unevenness, tolerance", [(3.0, 0.6, 0.03), (200.0, 0.2, 0.03), (2000.0, 0.3, 0.03), (0.6, 1.0, 0.12)]
)
def test_uneven_rings_keep_their_measured_spread(rate, unevenness, tolerance):
    """Around each ring the rate varies; the azimuthal model has measured that."""
    rng = np.random.default_rng(8)
    around = rate * (1 + unevenness * np.cos(np.linspace(0, 4 * np.pi, PIXELS)))
    parameters = Parameters(error_model="azimuthal", snr_pick=4)
    original, made = moments_of_both(
        lambda: rng.poisson(np.tile(around, (RINGS, 1))).astype(np.uint16), rings(), parameters, 4
    )
    assert original[1] > 1.2 * original[0]
    # of the law of the rates only the spread is known, so what clipping and the threshold cut off is a guess
    np.testing.assert_allclose(made, original, rtol=tolerance)


def test_floating_pixels_are_normal():
    rng = np.random.default_rng(2)
    parameters = Parameters(error_model="azimuthal", noise=0)
    original, made = moments_of_both(
        lambda: rng.normal(0.2, 0.4, (RINGS, PIXELS)).astype(np.float32), rings(), parameters, 4, "float32"
    )
    assert abs(original[0] - made[0]) < 0.002
    np.testing.assert_allclose(made[1], original[1], rtol=0.01)


def test_less_spread_than_poisson():
    """Rounded numbers of a small gain: normal, with the spread that was measured."""
    rng = np.random.default_rng(2)
    original, made = moments_of_both(
        lambda: np.rint(rng.normal(100, 3, (RINGS, PIXELS))).astype(np.int32), rings(), Parameters(), 4, "int32"
    )
    np.testing.assert_allclose(made, original, rtol=0.01)


@pytest.mark.parametrize("rate", [0.05, 0.8, 7.3, 31.0, 45.0, 900.0])
def test_numbers_follow_the_law_of_poisson(rate):
    n = 2_000_000
    rng = np.random.default_rng(3)
    values = noise.poisson(np.full(n, rate, np.float32), noise.random_bits(rng, n))
    values = np.floor(values + 0.5).astype(int)
    assert values.min() >= 0
    counts = np.bincount(values)
    k = np.arange(len(counts))
    expected = n * np.exp(k * math.log(rate) - rate - np.array([math.lgamma(i + 1) for i in k]))
    # the tables have steps of 1/65536, and tell nothing of numbers within their outermost 1/4096; the normal
    # approximation is good to a few per cent in the tails
    below = np.cumsum(expected) / n
    tested = (below > 1 / 2000) & (1 - below + expected / n > 1 / 2000)
    tolerance = 5 * np.sqrt(expected[tested]) + (1e-2 if rate < 32 else 6e-2) * expected[tested] + n / 65536
    assert (np.abs(counts[tested] - expected[tested]) < tolerance).all()
    assert tested.sum() > 1
    variance = (2 * rate**2 + rate) / n  # of the sample variance
    assert values.var() == pytest.approx(rate, abs=5 * math.sqrt(variance) + 2e-3 * rate)
    assert values.mean() == pytest.approx(rate, abs=5 * math.sqrt(rate / n) + 1e-3 * rate)


def test_no_spread_gives_the_mean():
    info = run_info()
    dense = Densifier(info.radius_image, info.radius, info.dtype)
    frame = reduced_frame(1)
    frame.background_std = np.zeros(BINS, np.float32)
    plain = dense.image(frame)
    assert plain.max() > 10
    assert np.array_equal(dense.image(frame, noise=Parameters(), rng=np.random.default_rng(1)), plain)


def test_background_that_clipping_has_taken_away():
    """Single counts, all discarded as outliers by the azimuthal model: nothing is left to draw."""
    bins, parameters = rings(), Parameters(error_model="azimuthal")
    raw = np.random.default_rng(1).poisson(0.01, bins.shape).astype(np.uint16)
    frame = reduced(raw, bins, parameters)
    assert not frame.background_mean.any()
    image = densifier(bins).image(frame, noise=parameters, rng=np.random.default_rng(1))
    assert image.sum() == frame.intensity.sum()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("bins, largest", [(40, 200.0), (7, 60_000.0), (1, 30.0)])
def test_without_noise_each_pixel_is_the_nearest_integer(dtype, bins, largest):
    """Flat curves and steep ones, by numpy's interpolation; evenly spaced bins and others."""
    rng = np.random.default_rng(bins)
    for radius in (np.linspace(1, 2, bins), np.sort(rng.uniform(1, 2, bins))):
        radius_image = rng.uniform(0.9, 2.1, (200, 300))
        frame = ReducedFrame(0, "s", 0.0, Verdict.KEPT)
        frame.background_mean = rng.uniform(0, largest, bins).astype(np.float32)
        image = Densifier(radius_image, radius, np.dtype(dtype)).image(frame)
        expected = np.interp(radius_image, radius, frame.background_mean)
        near_a_border = np.abs(expected % 1 - 0.5) < 1e-6 * largest  # of rounding: weights are float32
        expected = np.clip(np.floor(expected + 0.5), 0, {"uint8": 254, "uint16": 65534}.get(dtype, np.inf))
        assert near_a_border.mean() < 0.2
        assert np.array_equal(image[~near_a_border], expected[~near_a_border])


def test_bright_rings_beside_dim_ones():
    """Most rings are drawn from tables; those that have none, and steep slopes, are not."""
    radius_image = np.repeat(np.arange(100.0)[:, None], 4000, axis=1)  # at the bin centres, to the last digit
    mean = np.full(100, 20.0)
    mean[[10, 40, 41]] = 5000, 0.3, 300
    parameters = Parameters(error_model="poisson", snr_pick=3)
    frame = ReducedFrame(0, "s", 0.0, Verdict.KEPT)
    frame.background_mean, frame.background_std = mean.astype(np.float32), np.sqrt(mean).astype(np.float32)
    image = Densifier(radius_image, np.arange(100.0), np.dtype("uint16")).image(
        frame, noise=parameters, rng=np.random.default_rng(2)
    )
    limit = mean + 3 * np.sqrt(mean + 1)
    assert (image <= limit[:, None]).all()
    counts = np.arange(6000)
    for number in (9, 10, 11, 39, 40, 41, 42, 77):
        law = stats.poisson.pmf(counts, mean[number]) * (counts <= limit[number])
        expected = (law * counts).sum() / law.sum()
        error = math.sqrt(mean[number] / 4000)
        assert image[number].mean() == pytest.approx(expected, abs=4 * error + 0.005 * expected)


def test_outer_pixels_have_the_end_values():
    radius_image = np.array([[0.0, 1.0, 2.0, 2.5, 3.0, 9.0, np.nan]])
    dense = Densifier(radius_image, np.array([1.0, 2.0, 3.0]), np.dtype("float32"))
    frame = ReducedFrame(0, "s", 0.0, Verdict.KEPT)
    frame.background_mean, frame.background_std = np.array([10, 20, 40], np.float32), np.zeros(3, np.float32)
    for parameters in (None, Parameters()):
        image = dense.image(frame, noise=parameters, rng=np.random.default_rng(0), masked=np.nan)
        np.testing.assert_allclose(image[0], [10, 10, 20, 30, 40, 40, np.nan])


def test_a_single_bin():
    dense = Densifier(np.array([[0.5, 1.0, 1.5]]), np.array([1.0]), np.dtype("uint16"))
    frame = ReducedFrame(0, "s", 0.0, Verdict.KEPT)
    frame.background_mean = frame.background_std = np.array([9], np.float32)
    assert dense.image(frame).tolist() == [[9, 9, 9]]


def test_other_types_and_flags():
    info = run_info("uint32")
    dense = Densifier(info.radius_image, info.radius, info.dtype)
    frame = reduced_frame(0, dtype="uint32")
    frame.intensity[0] = 3_000_000_000
    image = dense.image(frame, noise=Parameters(), rng=np.random.default_rng(1), dtype=np.int32, masked=-1, lowest=0)
    assert image.dtype == np.int32
    assert (image.ravel()[MASKED] == -1).all() and (image == -1).sum() == len(MASKED)
    assert image.ravel()[frame.index[0]] == 2**31 - 1
    assert np.array_equal(image.ravel()[frame.index[1:]], frame.intensity[1:])


def write(path, frames: list[ReducedFrame], *sets: Parameters, dtype: str = "uint16") -> None:
    with SparseWriter(path) as writer:
        writer.begin(run_info(dtype))
        for number, values in enumerate(sets, 1):
            writer.add_parameter_set(ParameterSet(number, values), 0, 0.0)
        writer.append(frames)


def smooth_frame(number: int, parameter_set: int = 1) -> ReducedFrame:
    frame = reduced_frame(number)
    frame.parameter_set = parameter_set
    frame.background_mean = np.linspace(30, 2, BINS).astype(np.float32)
    frame.background_std = np.sqrt(frame.background_mean)
    return frame


def test_a_frame_has_the_threshold_that_was_applied_to_it(tmp_path):
    frames = [smooth_frame(5, 1), smooth_frame(6, 2)]
    sets = [Parameters(snr_pick=0.5, noise=0), Parameters(snr_pick=6)]
    write(tmp_path / "a.h5", frames, *sets)
    largest = []
    with SparseFile(tmp_path / "a.h5") as file:
        for row, (frame, parameters) in enumerate(zip(frames, sets, strict=True)):
            assert file.parameters_of(file[row]) == parameters
            excess = file.densify(row, noise=True).astype(float) - file.densify(row)
            excess.ravel()[frame.index] = 0
            largest.append(excess.max())
    assert largest[0] <= 0.5 * math.sqrt(30) + 0.5
    assert largest[1] > 12


def test_noise_is_repeatable(tmp_path):
    write(tmp_path / "a.h5", [smooth_frame(number) for number in range(6)], Parameters())
    write(tmp_path / "b.h5", [smooth_frame(number) for number in (4, 5)], Parameters())
    with SparseFile(tmp_path / "a.h5") as file, SparseFile(tmp_path / "b.h5") as other:
        one = [file.densify(row, noise=True) for row in range(6)]
        with ThreadPoolExecutor(4) as pool:
            four = list(pool.map(lambda row: file.densify(row, noise=True), range(6)))
        assert all(np.array_equal(a, b) for a, b in zip(one, four, strict=True))
        assert np.array_equal(other.densify(0, noise=True), one[4])  # same series, same frame number
        seeded = [file.densify(0, noise=True, seed=seed) for seed in (0, 0, 1)]
        assert np.array_equal(seeded[0], seeded[1])
        assert not np.array_equal(seeded[0], seeded[2])
        assert not np.array_equal(one[0], one[1])
        for row, image in enumerate(one):
            assert not image.ravel()[MASKED].any()
            assert np.array_equal(image.ravel()[file[row].index], file[row].intensity)
        assert one[0].shape == SHAPE
