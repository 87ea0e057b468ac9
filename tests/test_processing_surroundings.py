"""Surroundings: which pixels are kept around crowded places, and that nothing else changes."""

import numpy as np
import oracles
import pytest
from formats_helpers import run_info
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing import chain as chain_module
from framesieve.processing.bins import RadialBins, make_bins
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import ErrorModel, Parameters, ParameterSet
from framesieve.processing.reducer import Reducer, Reduction
from scipy import ndimage

SHAPE = (67, 131)  # two bands of rows, and rows that begin in the middle of a word
FLAT = Parameters(noise=10, snr_pick=3, min_pixels=1)  # picks what is above 130 where all the rest is 100


def assert_same_but_for_pixels(with_them: Reduction, without: Reduction) -> None:
    for name in ("mean", "std", "peaks"):
        np.testing.assert_array_equal(getattr(with_them, name), getattr(without, name))
    assert with_them.n_peaks == without.n_peaks


def scene(dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """Spots everywhere, in the corners too, and flagged pixels."""
    centres = np.zeros(SHAPE)
    centres[rng.random(SHAPE) < 0.002] = 600
    centres[[0, 0, -1, -1], [0, -1, 0, -1]] = 600
    raw = rng.poisson(6 + ndimage.gaussian_filter(centres, 1.3)).astype(dtype)
    flagged = rng.random(SHAPE) < 0.02
    raw[flagged] = rng.choice(np.array(oracles.flags_of(dtype)).astype(dtype), flagged.sum())
    return raw


def geometry(with_norm: bool) -> RadialBins:
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) < 0.03
    mask[30:34] = True
    return make_bins(oracles.radius_image(SHAPE), 12, mask, rng.uniform(0.5, 1.5, SHAPE) if with_norm else None)


# each of these is in oracles.VARIANTS, and so is built once for all tests
KINDS = [("uint16", False, False, False), ("uint16", True, True, True)]
KINDS += [("int32", True, True, False), ("float32", True, True, False)]


@pytest.mark.parametrize("dtype, with_norm, with_dark, lane_per_item", KINDS)
def test_kept_pixels(dtype, with_norm, with_dark, lane_per_item):
    """To the pixel, for all error models; background and peaks are those that they are without."""
    rng = np.random.default_rng([with_norm, with_dark])
    bins, dtype = geometry(with_norm), np.dtype(dtype)
    dark = rng.normal(1.5, 1, SHAPE).astype(np.float32) if with_dark else None
    reducer = Reducer(bins, dtype, oracles.device(), dark=dark, batch_size=1, lane_per_item=lane_per_item)
    more = 0
    for model, edge, snr_pick in zip([*ErrorModel] * 2, [3, 5, 7, 9, 15, 17, 29, 31], [3, 2, 1] * 3, strict=False):
        raw = scene(dtype, rng)
        reducer.inputs[0][0] = raw
        parameters = Parameters(error_model=model, snr_pick=snr_pick, min_pixels=2)
        without = reducer.reduce(0, 1, parameters)[0]
        got = reducer.reduce(0, 1, parameters.replace(surroundings=edge))[0]
        allowed = ~bins.mask & np.isfinite(oracles.signal_of(raw, dark))
        np.testing.assert_array_equal(got.index, oracles.with_surroundings(without.index, edge, allowed))
        np.testing.assert_array_equal(got.intensity, oracles.as_intensity(raw, dark, got.index))
        assert_same_but_for_pixels(got, without)
        assert without.n_peaks > 5
        more += got.index.size - without.index.size
    reducer.close()
    assert more > 8000


def flat_reducer(shape: tuple[int, int], mask: np.ndarray | None = None) -> tuple[Reducer, np.ndarray]:
    bins = make_bins(oracles.radius_image(shape), 5, mask)
    return Reducer(bins, np.uint16, oracles.device(), batch_size=1), np.full(shape, 100, np.uint16)


def kept(reducer: Reducer, raw: np.ndarray, edge: int) -> np.ndarray:
    reducer.inputs[0][0] = raw
    image = np.zeros(raw.shape, bool)
    image.flat[reducer.reduce(0, 1, FLAT.replace(surroundings=edge))[0].index] = True
    return image


@pytest.mark.parametrize("edge", [3, 9, 31])
def test_four_pixels_in_a_square(edge):
    """Each of them has four within its 3 × 3, no other place more than two. At all corners and edges, across
    words, bands and tiles; a square of (edge + 1)² pixels as far as it lies in the frame."""
    reducer, raw = flat_reducer(SHAPE)
    height, width = SHAPE
    for y in (0, 1, 31, 63, height - 2):
        for x in (0, 1, 30, 31, 32, 63, 64, 100, width - 2):
            raw[y : y + 2, x : x + 2] = 500
            reach = edge // 2
            square = np.zeros(SHAPE, bool)
            square[max(y - reach, 0) : y + 2 + reach, max(x - reach, 0) : x + 2 + reach] = True
            np.testing.assert_array_equal(kept(reducer, raw, edge), square)
            raw[y : y + 2, x : x + 2] = 100
    reducer.close()


def test_two_pixels_are_no_crowd_and_rows_do_not_run_on():
    reducer, raw = flat_reducer(SHAPE)
    raw[5, 5] = raw[5, 6] = raw[8, 5] = 500
    raw[0, 0] = raw[1, 1] = 500
    # at the end of two rows, and at the beginning of the next ones
    raw[20:22, -1] = raw[21:23, 0] = 500
    # in the last word of a frame, and in the first row
    raw[-1, -2:] = raw[0, -2:] = 500
    np.testing.assert_array_equal(kept(reducer, raw, 9), raw > 100)
    raw[20:22, -2] = 500  # a crowd now, which keeps nothing at the beginning of rows
    image = raw > 100
    image[16:26, -6:] = True
    np.testing.assert_array_equal(kept(reducer, raw, 9), image)
    reducer.close()


def test_rings_of_pixels_around_a_place():
    """Three or more of 3 × 3 wherever they are; the place itself need not be picked, nor be valid."""
    reducer, raw = flat_reducer((40, 100), (mask := np.zeros((40, 100), bool)))
    reducer.close()
    mask[10, 11] = True  # near the first
    mask[20, 50] = True  # in the middle of the second
    reducer, raw = flat_reducer((40, 100), mask)
    square = np.zeros(raw.shape, bool)
    for y, x in ((10, 10), (20, 50), (30, 90)):
        raw[[y - 1, y - 1, y + 1, y + 1], [x - 1, x + 1, x - 1, x + 1]] = 500
        square[y - 3 : y + 4, x - 3 : x + 4] = True
    raw[30, 89] = 65_535  # flagged
    square[30, 89] = square[10, 11] = square[20, 50] = False
    np.testing.assert_array_equal(kept(reducer, raw, 7), square)
    raw[9, 9] = 65_535  # one of the four: three are left
    square[9, 9] = False
    np.testing.assert_array_equal(kept(reducer, raw, 7), square)
    raw[9, 11] = 100  # two are left
    square[6:14, 6:14] = False
    square[11, [9, 11]] = True
    np.testing.assert_array_equal(kept(reducer, raw, 7), square)
    reducer.close()


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (9, 3), (3, 397), (130, 21), (64, 128)])
def test_any_shape(shape):
    rng = np.random.default_rng(1)
    reducer, raw = flat_reducer(shape)
    raw[rng.random(shape) < 0.15] = 500
    without = kept(reducer, raw, 0)
    for edge in (3, 31):
        index = np.flatnonzero(kept(reducer, raw, edge))
        np.testing.assert_array_equal(
            index, oracles.with_surroundings(np.flatnonzero(without), edge, np.ones(shape, bool))
        )
    reducer.close()


def test_nothing_is_left_behind_and_nothing_runs_where_off():
    rng = np.random.default_rng(2)
    reducer = Reducer(geometry(False), np.uint16, oracles.device(), batch_size=1)
    reducer.inputs[0][0] = scene(np.dtype(np.uint16), rng)
    results = [reducer.reduce(0, 1, Parameters(snr_pick=2, surroundings=edge))[0] for edge in (0, 9, 0, 5, 9)]
    assert results[1].index.size > results[3].index.size > results[0].index.size
    for first, second in ((0, 2), (1, 4)):
        assert results[first].index.tobytes() == results[second].index.tobytes()
        assert results[first].intensity.tobytes() == results[second].intensity.tobytes()
    steps = {edge: set(reducer.profile(0, 1, Parameters(surroundings=edge))) for edge in (0, 3)}
    assert steps[3] - steps[0] == {"find_crowds", "keep_around"}
    reducer.close()


def test_all_frames_of_a_batch_in_one_launch(monkeypatch):
    """As on a GPU: each frame with its own bitmaps, and bands of fewer rows."""
    build = chain_module.Chain._build

    def as_on_a_gpu(chain: chain_module.Chain, have_dark: bool) -> object:
        chain._frames_per_launch, chain._band = 3, 8
        return build(chain, have_dark)

    monkeypatch.setattr(chain_module.Chain, "_build", as_on_a_gpu)
    rng = np.random.default_rng(4)
    bins = geometry(False)
    reducer = Reducer(bins, np.uint16, oracles.device(), batch_size=3, lane_per_item=True)
    for n in (3, 1, 2):
        raw = np.stack([scene(np.dtype(np.uint16), rng) for _ in range(n)])
        reducer.inputs[0][:n] = raw
        without = reducer.reduce(0, n, Parameters(snr_pick=2))
        for one, got, frame in zip(
            without, reducer.reduce(0, n, Parameters(snr_pick=2, surroundings=7)), raw, strict=True
        ):
            allowed = ~bins.mask & (frame != 65_535)
            np.testing.assert_array_equal(got.index, oracles.with_surroundings(one.index, 7, allowed))
            assert_same_but_for_pixels(got, one)
    reducer.close()


def test_a_file_with_them_is_made_dense(tmp_path):
    """Kept pixels that the background would hide come back as they were, and the parameter set tells about them."""
    info = run_info()
    raw = np.random.default_rng(5).poisson(5, info.shape).astype(np.uint16)
    raw[20:22, 40:42] = 90
    bins = make_bins(info.radius_image, len(info.radius), ~np.isfinite(info.radius_image))
    parameters = Parameters(surroundings=9)
    result = oracles.reduce_once(raw, bins, parameters)
    frame = ReducedFrame(3, "s", 0.0, Verdict.KEPT, parameter_set=1, n_pixels=result.index.size)
    frame.index, frame.intensity, frame.peaks = result.index, result.intensity, result.peaks
    frame.background_mean, frame.background_std = result.mean, result.std
    with SparseWriter(tmp_path / "sparse.h5") as writer:
        writer.begin(info)
        writer.add_parameter_set(ParameterSet(1, parameters), 3, 0.0)
        writer.append([frame])
    with SparseFile(tmp_path / "sparse.h5") as file:
        assert file.parameters_of(file.frame(0)).surroundings == 9
        assert file.ledger["n_pixels"].tolist() == [result.index.size]
        image = file.densify(0, noise=True)
    around = np.s_[16:26, 36:46]
    assert (raw[around] < 5).sum() > 20 and np.isin(np.arange(raw.size).reshape(raw.shape)[around], result.index).all()
    np.testing.assert_array_equal(image[around], raw[around])
    assert (image != raw).mean() > 0.5
