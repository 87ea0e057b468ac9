"""The chain of kernels as a whole, on odd shapes and frames that reach the limits of each step, against float64
references; and that a frame leaves nothing behind for the next one."""

import functools

import numpy as np
import oracles
import pyopencl as cl
import pytest
from framesieve.processing import chain as chain_module
from framesieve.processing import reducer as reducer_module
from framesieve.processing.bins import RadialBins, make_bins
from framesieve.processing.parameters import Parameters
from framesieve.processing.reducer import Reducer, Reduction

BATCH = 3
LANES = [False, True]  # as on a CPU, as on a GPU

#: (shape, number of bins)
GEOMETRIES = {
    "four tiles, two chunks of words": ((67, 131), 14),
    "two tiles": ((67, 121), 14),
    "one tile and whole words": ((64, 128), 30),
    "one pixel": ((1, 1), 1),
    "one pixel, some bins": ((1, 1), 5),
    "narrower than a patch": ((9, 3), 4),
    "lower than a patch, four tiles wide": ((3, 397), 12),
    "narrower than a word": ((130, 21), 90),
}
MAIN = "four tiles, two chunks of words"

PARAMETERS = [
    Parameters(min_pixels=2),
    Parameters(patch_size=3, min_pixels=1, snr_pick=2, snr_peak=4, noise=0.3),
    Parameters(patch_size=7, min_pixels=6, snr_pick=3, snr_peak=1.5, error_model="poisson", snr_clip=2.5),
    Parameters(patch_size=15, min_pixels=20, snr_pick=1.5, snr_peak=1.5, error_model="hybrid", clip_cycles=2),
    Parameters(min_pixels=1, snr_pick=0, snr_peak=2, noise=0, snr_clip=2, radius_min=0.8037, radius_max=4.0123),
    Parameters(min_pixels=1, snr_pick=1000, snr_peak=0, noise=1e4, patch_size=3),  # nothing is picked
]


@functools.cache
def geometry(name: str, with_norm: bool) -> RadialBins:
    """Some pixels masked, a whole tile where there are several; in the middle of the curve a bin of one pixel between
    two empty ones."""
    shape, count = GEOMETRIES[name]
    rng = np.random.default_rng(len(name))
    radius = oracles.radius_image(shape)
    norm = rng.uniform(0.6, 1.6, shape) if with_norm else None
    mask = np.zeros(shape, bool)
    if radius.size > 1000:
        mask = rng.random(shape) < 0.03
        mask[64:, :128] |= shape[0] == 67
        middle = np.abs(make_bins(radius, count).position.reshape(shape) - count // 2)
        mask |= middle < 1.5
        mask.flat[np.argmin(middle)] = False
    mask.flat[[np.argmin(radius), np.argmax(radius)]] = False  # the bins lie between these
    return make_bins(radius, count, mask, norm)


def dark_image(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(6).uniform(0, 2, shape).astype(np.float32)


@functools.cache
def reducer_for(
    name: str, dtype: str, with_norm: bool, with_dark: bool, lane_per_item: bool, batch_size: int
) -> Reducer:
    bins = geometry(name, with_norm)
    dark = dark_image(bins.shape) if with_dark else None
    return Reducer(bins, dtype, oracles.device(), dark=dark, batch_size=batch_size, lane_per_item=lane_per_item)


def scene(bins: RadialBins, dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """Background that falls with the radius; spots in the corners, at the edges, next to masked pixels, on the first
    and the last bit of a word of a bitmap, and anywhere; flagged pixels."""
    height, width = bins.shape
    image = rng.poisson(4 + 16 * np.exp(-oracles.radius_image(bins.shape) / 2e-3)).astype(float)
    places = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (height // 2, 0), (0, width // 2)]
    masked = np.argwhere(bins.mask)
    places += [(y, min(x + 1, width - 1)) for y, x in rng.permutation(masked)[:4]]
    words = rng.integers(0, max(image.size // 32, 1), 3) * 32
    places += [divmod(min(int(word) + bit, image.size - 1), width) for word in words for bit in (0, 31)]
    places += list(zip(rng.integers(0, height, 8), rng.integers(0, width, 8), strict=True))
    spread = rng.uniform(0.1, 0.6)
    yy, xx = np.mgrid[:height, :width]
    for y, x in places[: 2 + image.size // 200]:
        image += rng.uniform(20, 190) * spread ** ((yy - y) ** 2 + (xx - x) ** 2)
    if dtype.kind == "f":
        image += rng.normal(-0.5, 0.3, image.shape)
    raw = np.clip(image, None, 250).astype(dtype)
    flagged = rng.random(image.shape) < 0.02
    raw[flagged] = rng.choice(np.array(oracles.flags_of(dtype)).astype(dtype), flagged.sum())
    return raw


def read(reducer: Reducer, buffer: cl.Buffer, dtype: type, *shape: int) -> np.ndarray:
    out = np.empty(shape, dtype)
    cl.enqueue_copy(reducer._queue, out, buffer)
    return out


def check_frame(
    reducer: Reducer, i: int, got: Reduction, raw: np.ndarray, parameters: Parameters, dark: np.ndarray | None
) -> tuple[int, int, int]:
    """Compare all that is known about frame i of the last batch; numbers of bins in which rounding did not decide, of
    picked pixels and of peaks."""
    bins = reducer.bins
    clear = oracles.assert_curves((got.mean, got.std), raw, bins, parameters, dark, least_clear=0)
    d, sigma = oracles.excess(raw, bins, got.mean, got.std, parameters, dark)
    scale = np.abs(np.nan_to_num(oracles.signal_of(raw, dark))) + np.nan_to_num(sigma)
    expected, doubtful = oracles.pick(d, sigma, parameters, scale)
    different = np.setxor1d(got.index, expected)
    assert np.isin(different, doubtful).all(), f"pixels differ: {different.tolist()}"
    np.testing.assert_array_equal(got.intensity, oracles.as_intensity(raw, dark, got.index))

    # peaks before those of a plateau are merged
    chain = reducer._chain
    n_found = int(read(reducer, chain.n_found, np.uint32, i + 1)[i])
    found = read(reducer, chain.found, np.uint32, i + 1, chain_module.PEAK_CAPACITY)[i, :n_found]
    rows = read(reducer, chain.results, np.float32, i + 1, chain_module.PEAK_CAPACITY, 8)[i, :n_found]
    radius_mm = oracles.radius_image(bins.shape) * 1e3
    peaks = oracles.peaks(d, sigma, got.index, parameters, radius_mm)
    different = np.setxor1d(found, np.array(sorted(peaks), np.uint32))
    assert different.size <= 1 + 0.02 * n_found
    assert oracles.close_calls(d, sigma, different, parameters, scale).all(), f"peaks differ: {different.tolist()}"
    assert (np.diff(found.astype(np.int64)) > 0).all()
    for q, row in zip(found.tolist(), rows, strict=True):
        if q in peaks:
            x, y, intensity, uncertainty, above = peaks[q]
            patch_scale = 1e-5 * scale.max() * parameters.patch_size**2
            assert (row[0], row[1]) == pytest.approx((x, y), abs=5e-3)
            assert row[2] == pytest.approx(intensity, abs=patch_scale)
            assert row[3] == pytest.approx(uncertainty, rel=1e-4, abs=1e-4)
            close = oracles.close_calls(d, sigma, np.array([q]), parameters, scale)[0]
            assert row[4] == above or (close and abs(row[4] - above) <= 2)
            assert row[5] == np.float32(oracles.signal_of(raw, dark).flat[q])
    assert len(got.peaks) == min(got.n_peaks, parameters.max_peaks)
    assert n_found - got.n_peaks >= 0
    if parameters.min_pixels > 1 and got.n_peaks == n_found:
        np.testing.assert_array_equal(got.peaks[:, 2], np.sort(rows[:, 2])[::-1][: parameters.max_peaks])
    return clear, got.index.size, n_found


# batches and shapes for one pixel type, all variants for one shape: what is built for them is built already
CASES = [(name, "uint16", False, False, lane, BATCH) for name in GEOMETRIES for lane in LANES]
CASES += [("two tiles", *variant, 1) for variant in oracles.VARIANTS]


@pytest.mark.parametrize("name, dtype, with_norm, with_dark, lane_per_item, batch_size", CASES)
def test_against_the_references(name, dtype, with_norm, with_dark, lane_per_item, batch_size):
    """Curves, pixels, intensities and peaks, in batches of one to three frames and both slots."""
    reducer = reducer_for(name, dtype, with_norm, with_dark, lane_per_item, batch_size)
    bins = reducer.bins
    dark = dark_image(bins.shape) if with_dark else None
    rng = np.random.default_rng([len(name), len(dtype), with_norm, with_dark])
    totals = []
    for k, parameters in enumerate(PARAMETERS):
        n, slot = 1 + k % batch_size, k % 2
        frames = [scene(bins, reducer.dtype, rng) for _ in range(n)]
        reducer.inputs[slot][:n] = frames
        results = reducer.reduce(slot, n, parameters)
        for i, (frame, result) in enumerate(zip(frames, results, strict=True)):
            totals.append(check_frame(reducer, i, result, frame, parameters, dark))
            assert parameters.snr_pick < 1000 or totals[-1][1:] == (0, 0)
    clear, picked, peaks = np.sum(totals, axis=0)
    if bins.order.size > 1000:
        assert clear > 0.5 * bins.count * len(totals) and picked > 1000 and peaks > 50


# ---- the limits of picking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane_per_item", LANES)
def test_every_pixel_picked_and_then_none(lane_per_item):
    """In every place of a batch; a frame of nothing after a frame of everything has nothing in it."""
    reducer = oracles.hill_reducer(lane_per_item)
    full = oracles.hill(reducer.bins)
    for batch in [(1,), (0,), (1, 0), (0, 1), (0,), (1, 0, 1), (0, 0, 0), (1, 1, 1), (0, 1, 0), (0,)]:
        for slot in (0, 1):
            reducer.inputs[slot][:] = full  # places that are not in the batch too
            for i, is_full in enumerate(batch):
                reducer.inputs[slot][i] = full if is_full else 0
            results = reducer.reduce(slot, len(batch), oracles.EVERYTHING)
            for is_full, result in zip(batch, results, strict=True):
                if is_full:
                    oracles.assert_everything(result, reducer.bins, full)
                    assert result.n_peaks > 0
                else:
                    assert result.index.size == result.n_peaks == len(result.peaks) == 0


@pytest.mark.parametrize("lane_per_item", LANES)
def test_neighbouring_bins_decide(lane_per_item):
    """Bins of 1000 between bins of 0: between two centres the threshold is what a straight line says, so all pixels of
    1000 are picked (but those at their centre, or beyond the last centre), and none of 0."""
    count, size = 96, 40
    k = np.arange(count * size)
    bins = make_bins(1 + k[None, :] / size, count)
    raw = np.where(k // size % 2, 1000, 0).astype(np.uint16)
    distance = np.abs(bins.position - k // size)  # from the centre of its own bin
    assert np.diff(bins.bounds).tolist() == [size] * count and distance[raw > 0].min() > 1e-4
    reducer = Reducer(bins, np.uint16, oracles.device(), batch_size=1, lane_per_item=lane_per_item)
    reducer.inputs[0][0] = raw
    for noise in (0, 60, 200):
        got = reducer.reduce(0, 1, Parameters(noise=noise, snr_pick=1))[0]
        above = 1000 * (1 - distance) + noise < 1000  # the neighbours are 0
        assert np.abs(1000 * distance - noise)[raw > 0].min() > 1e-2, "rounding decides"
        expected = np.flatnonzero((raw > 0) & above & (bins.position < count - 1))
        np.testing.assert_array_equal(got.index, expected)
    reducer.close()


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("level", [0, 100])
def test_no_spread_and_no_noise(level, lane_per_item):
    """σ is zero: every pixel above the mean is picked and strong, those at the mean are not, whatever the level."""
    bins = make_bins(oracles.radius_image((40, 64)), 4)
    raw = np.full((40, 64), level, np.uint16)
    raw[20, 30] += 50
    got = oracles.reduce_once(raw, bins, Parameters(noise=0, min_pixels=1), lane_per_item=lane_per_item)
    assert got.index.tolist() == [20 * 64 + 30]
    np.testing.assert_allclose(got.peaks, [[30, 20, 50, 0, 0, 1, level + 50]])


# ---- the limits of the peak search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [3, 5, 7, 15])
def test_strong_pixels_are_counted_in_the_patch_and_nowhere_else(patch_size):
    """At many places of the words of the bitmap and at the edges: a patch of strong pixels with none around it, and a
    patch with none in the middle of strong ones. Enough rows of zeros lie below to keep the background down."""
    half, width = patch_size // 2, 71
    height, y = patch_size + 4, half + 2
    shape = (4 * height, width)
    reducer = Reducer(make_bins(np.ones(shape), 1), np.uint16, oracles.device(), batch_size=1, lane_per_item=False)
    yy, xx = np.mgrid[: shape[0], :width]
    bright = 150 + (yy * width + xx) * 7919 % 40  # no plateau
    for x in [*range(0, width - 1, 2 if patch_size < 15 else 5), width - 1]:
        inside = np.maximum(np.abs(yy - y), np.abs(xx - x)) <= half
        for strong in (inside, ~inside & (yy < height)):
            strong[y, x] = True
            raw = np.where(strong, bright, 0)
            raw[y, x] = 300
            reducer.inputs[0][0] = raw
            n_strong = int((strong & inside).sum())
            for min_pixels in range(n_strong, min(n_strong + 1, patch_size**2) + 1):
                parameters = Parameters(
                    snr_pick=0, snr_peak=(100 - raw.mean()) / np.hypot(raw.std(), 1), clip_cycles=0,
                    patch_size=patch_size, min_pixels=min_pixels,
                )  # fmt: skip
                peaks = reducer.reduce(0, 1, parameters)[0].peaks
                (centre,) = [peak for peak in peaks if peak[6] == 300] or [None]
                if min_pixels > n_strong:
                    assert centre is None, (x, n_strong)
                else:
                    assert centre[5] == n_strong, (x, n_strong)
    reducer.close()


def test_of_equal_pixels_the_first_is_the_peak_wherever_the_other_is():
    """Pairs at all distances: within a patch the one of lower index is a peak, farther apart both are."""
    reducer = oracles.hill_reducer(False)
    raw = np.full((67, 131), 20, np.uint16)
    expected = []
    offsets = [(dy, dx) for dy in range(4) for dx in range(-3, 4) if (dy, dx) > (0, 0)]
    for k, (dy, dx) in enumerate(offsets):
        y, x = 5 + 12 * (k // 9), 10 + 13 * (k % 9)
        raw[y, x] = raw[y + dy, x + dx] = 100
        expected.append(y * 131 + x)
        if max(dy, abs(dx)) > 2:
            expected.append((y + dy) * 131 + x + dx)
    reducer.inputs[0][0] = raw
    got = reducer.reduce(0, 1, Parameters(min_pixels=1, patch_size=5, snr_clip=2))[0]
    found = read(reducer, reducer._chain.found, np.uint32, got.n_peaks)
    np.testing.assert_array_equal(found, sorted(expected))


@pytest.mark.parametrize("lane_per_item", LANES)
def test_more_peaks_than_there_is_room_for(lane_per_item, monkeypatch):
    """All are counted, the first of them are measured, and what lies behind the room for them stays as it is."""
    monkeypatch.setattr(chain_module, "PEAK_CAPACITY", 8)
    monkeypatch.setattr(reducer_module, "PEAK_CAPACITY", 8)
    bins = make_bins(np.ones((67, 131)), 1)
    raw = np.zeros((67, 131), np.uint16)
    raw[1::3, 1::3] = 500 + np.arange(raw[1::3, 1::3].size).reshape(raw[1::3, 1::3].shape)
    places = np.flatnonzero(raw)
    few = np.where(np.arange(raw.size).reshape(raw.shape) < places[8], raw, 0)  # eight: just enough room
    reducer = Reducer(bins, np.uint16, oracles.device(), batch_size=2, lane_per_item=lane_per_item)
    chain = reducer._chain
    for buffer in (chain.found, chain.results):
        cl.enqueue_fill_buffer(reducer._queue, buffer, np.uint32(12345), 0, buffer.size)
    parameters = Parameters(patch_size=3, min_pixels=1, snr_clip=2)
    for frame, n_peaks in [(few, 8), (raw, places.size)]:
        reducer.inputs[0][0] = frame
        got = reducer.reduce(0, 1, parameters)[0]
        assert got.n_peaks == n_peaks and len(got.peaks) == 8
        np.testing.assert_array_equal(np.sort(got.peaks[:, 6]), frame.flat[places[:8]])
        found = read(reducer, chain.found, np.uint32, 2, 8)
        np.testing.assert_array_equal(found[0], places[:8])
        assert (found[1] == 12345).all()
        assert (read(reducer, chain.results, np.uint32, 2, 8, 8)[1] == 12345).all()
    reducer.close()
