"""Peak search against a reference with loops, saturated plateaus, edges and limits."""

import functools
import math

import numpy as np
import oracles
import pytest
from framesieve.processing import plateau
from framesieve.processing.bins import make_bins
from framesieve.processing.parameters import MAX_PEAKS, ErrorModel, Parameters
from framesieve.processing.reducer import PEAK_CAPACITY, Reducer

SHAPE = (100, 120)
#: bin centres with nothing but background: peaks of a few pixels do not change them
BINS = 8


@functools.cache
def plain_bins(shape, count):
    return make_bins(oracles.radius_image(shape), count)


def bins_of(shape=SHAPE, mask=None, norm=None, count=BINS):
    if (mask is None or not mask.any()) and norm is None:
        return plain_bins(shape, count)
    return make_bins(oracles.radius_image(shape), count, mask, norm)


def add_spot(image: np.ndarray, x: float, y: float, height: float, sigma: float = 0.9) -> None:
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    image += height * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2))


def scene(rng: np.random.Generator, spots: int = 60, level: float = 20) -> np.ndarray:
    """Poisson background with spots anywhere, on the edge and over each other too."""
    image = np.full(SHAPE, level, float)
    for _ in range(spots):
        add_spot(image, rng.uniform(-1, SHAPE[1]), rng.uniform(-1, SHAPE[0]), rng.uniform(10, 800))
    return rng.poisson(image)


def assert_peaks(got, expected: dict, max_peaks: int) -> int:
    """Compare with the reference, matched by position; returns how many differ (all of them for equal pixels)."""
    assert got.n_peaks == pytest.approx(len(expected), abs=0.01 * len(expected))
    assert len(got.peaks) == min(got.n_peaks, max_peaks)
    assert (np.diff(got.peaks[:, 2]) <= 0).all(), "not the strongest first"
    rows = np.array(list(expected.values()))
    matched = 0
    for x, y, intensity, sigma, snr, n_pixels, _ in got.peaks:
        candidates = np.flatnonzero(np.abs(rows[:, :2] - (x, y)).max(axis=1) < 2e-3)
        for i in candidates:
            matched += bool(
                np.allclose(rows[i, 2:4], (intensity, sigma), rtol=1e-4, atol=1e-2)
                and abs(rows[i, 4] - n_pixels) <= 1
                and math.isclose(snr, intensity / sigma, rel_tol=1e-4)
            )
    assert matched >= 0.98 * len(got.peaks)
    return len(got.peaks)


@pytest.mark.parametrize("with_norm, with_dark, lane", [(False, False, False), (True, True, True), (True, True, False)])
def test_against_the_reference(with_norm, with_dark, lane):
    rng = np.random.default_rng([with_norm, with_dark])
    norm = rng.uniform(0.7, 1.3, SHAPE) if with_norm else None
    dark = rng.uniform(0, 4, SHAPE).astype(np.float32) if with_dark else None
    mask = rng.random(SHAPE) < 0.03
    mask[30:34] = True
    bins = bins_of(mask=mask, norm=norm)
    reducer = Reducer(bins, np.uint16, oracles.device(), dark=dark, batch_size=1, lane_per_item=lane)
    total = 0
    for patch_size in (3, 5, 7, 9):
        for changes in [{}, {"min_pixels": 1, "snr_peak": 5}, {"snr_peak": 1, "min_pixels": 8}, {"max_peaks": 7}]:
            for more in [{}, {"radius_min": 1.2, "radius_max": 4.0, "error_model": ErrorModel.poisson}]:
                parameters = Parameters(patch_size=patch_size, **{"snr_pick": 2, **changes, **more})
                raw = scene(rng).astype(np.uint16)
                raw[rng.random(SHAPE) < 0.02] = 65_535
                reducer.inputs[0][0] = raw
                got = reducer.reduce(0, 1, parameters)[0]
                d, sigma = oracles.excess(raw, bins, got.mean, got.std, parameters, dark)
                radius_mm = oracles.radius_image(SHAPE) * 1e3
                expected = oracles.peaks(d, sigma, got.index, parameters, radius_mm)
                total += assert_peaks(got, expected, parameters.max_peaks)
    reducer.close()
    assert total > 500


# ---- known by hand --------------------------------------------------------------------------------------------------


def flat(level: float = 20, shape=SHAPE, dtype=np.uint16) -> np.ndarray:
    return np.full(shape, level, dtype)


SPOT = np.array([[5, 20, 5], [20, 100, 20], [5, 20, 5]])  # 200 counts, symmetric


def put(image: np.ndarray, x: int, y: int, what=SPOT) -> None:
    """Add `what`, centred at x, y; what lies beyond the edge is cut off."""
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if 0 <= y + dy < image.shape[0] and 0 <= x + dx < image.shape[1]:
                image[y + dy, x + dx] += what[dy + 1, dx + 1]


def centroid(there: np.ndarray, noise: float = 1) -> tuple[float, float]:
    """(x, y) of what is left of a background-free image above the noise."""
    weights = np.maximum(there - noise, 0)
    yy, xx = np.mgrid[: there.shape[0], : there.shape[1]]
    return (weights * xx).sum() / weights.sum(), (weights * yy).sum() / weights.sum()


def test_columns_of_a_peak():
    raw = flat()
    put(raw, 40, 30)
    got = oracles.reduce_once(raw, bins_of(), Parameters(noise=2, patch_size=5, min_pixels=4))
    assert got.n_peaks == 1 and got.peaks.shape == (1, 7) and got.peaks.dtype == np.float32
    x, y, intensity, sigma, snr, n_pixels, maximum = got.peaks[0]
    assert (x, y) == pytest.approx((40, 30), abs=1e-5)
    assert intensity == pytest.approx(200, rel=1e-5)
    assert sigma == pytest.approx(math.sqrt(25 * 2**2), rel=1e-5)  # std = 0, so the noise alone
    assert snr == pytest.approx(20, rel=1e-5)
    assert n_pixels == 5  # d ≥ 3·2: the five of 20 and 100 counts
    assert maximum == 120  # raw − dark: the background is in it


@pytest.mark.parametrize(
    "place", [(0, 0), (119, 0), (0, 99), (119, 99), (60, 0), (0, 50), (119, 50), (60, 99), (1, 1), (118, 98)]
)
def test_edges_and_corners(place):
    """Found, and measured with the pixels that are there."""
    raw = flat()
    put(raw, *place)
    got = oracles.reduce_once(raw, bins_of(), Parameters(noise=1, min_pixels=3))
    assert got.n_peaks == 1
    there = raw.astype(float) - 20
    x, y, intensity = got.peaks[0, :3]
    assert intensity == pytest.approx(there.sum(), rel=1e-5)
    assert (x, y) == pytest.approx(centroid(there), abs=1e-4)
    rows = min(place[1] + 2, 99) - max(place[1] - 2, 0) + 1
    columns = min(place[0] + 2, 119) - max(place[0] - 2, 0) + 1
    assert got.peaks[0, 3] == pytest.approx(math.sqrt(rows * columns), rel=1e-5)


@pytest.mark.parametrize("kind", ["masked", "flagged", "norm of zero"])
@pytest.mark.parametrize("missing", [[(31, 40)], [(29, 39), (30, 39), (31, 39)], [(30, 40)]])
def test_next_to_pixels_that_are_none(kind, missing):
    raw = flat()
    put(raw, 40, 30)
    mask, norm = np.zeros(SHAPE), None
    for y, x in missing:
        if kind == "masked":
            mask[y, x] = 1
        elif kind == "flagged":
            raw[y, x] = 65_535
        else:
            norm = np.ones(SHAPE) if norm is None else norm
            norm[y, x] = 0
    got = oracles.reduce_once(raw, bins_of(mask=mask, norm=norm), Parameters(noise=1, min_pixels=3))
    there = np.where(raw == 65_535, 0, raw.astype(float) - 20)
    for y, x in missing:
        there[y, x] = 0
    assert got.n_peaks == 1
    x, y, intensity, sigma = got.peaks[0, :4]
    assert intensity == pytest.approx(there.sum(), rel=1e-5)
    if missing != [(30, 40)]:
        assert sigma == pytest.approx(math.sqrt(25 - len(missing)), rel=1e-5)
    assert (x, y) == pytest.approx(centroid(there), abs=1e-4)


def test_of_two_equal_pixels_the_first_is_the_peak():
    raw = flat()
    raw[30, 40:42] = 120
    raw[31, 40] = raw[31, 41] = 60
    got = oracles.reduce_once(raw, bins_of(), Parameters())
    assert got.n_peaks == 1
    assert got.peaks[0, 0] == pytest.approx(40.5, abs=1e-4)
    assert got.peaks[0, 2] == pytest.approx(280, rel=1e-5)


@pytest.mark.parametrize("min_pixels, found", [(1, 1), (5, 1), (6, 0), (9, 0)])
def test_min_pixels_counts_the_centre_too(min_pixels, found):
    raw = flat()
    put(raw, 40, 30)
    assert oracles.reduce_once(raw, bins_of(), Parameters(noise=2, min_pixels=min_pixels)).n_peaks == found


@pytest.mark.parametrize("patch_size, found", [(3, 3), (5, 3), (7, 2), (9, 1)])
def test_patch_size_decides_what_is_one_peak(patch_size, found):
    """Three spots 3 pixels and 4 pixels apart; the middle one is the strongest."""
    raw = flat()
    for x, share in [(40, 1.0), (43, 1.5), (47, 1.2)]:
        put(raw, x, 30, (SPOT * share).astype(int))
    assert oracles.reduce_once(raw, bins_of(), Parameters(patch_size=patch_size)).n_peaks == found


def test_peak_within_the_noise_lies_on_its_pixel():
    """With a threshold below 1 σ no pixel needs to have a weight."""
    raw = flat()
    raw[30, 40] = 25
    got = oracles.reduce_once(raw, bins_of(), Parameters(noise=10, snr_pick=0.1, snr_peak=0.1, min_pixels=1))
    assert got.n_peaks == 1
    assert got.peaks[0, :2].tolist() == [40, 30]


def test_radius_limits():
    raw = flat()
    places = [(60, 50), (75, 50), (90, 50), (105, 50)]  # radii of about 0.1, 1.5, 3.0 and 4.5 mm
    for place in places:
        put(raw, *place)
    for low, high, found in [(0, 0, 4), (1, 0, 3), (0, 4, 3), (1, 4, 2), (2, 4, 1), (5, 0, 0), (0.2, 1, 0)]:
        got = oracles.reduce_once(raw, bins_of(), Parameters(radius_min=low, radius_max=high))
        assert got.n_peaks == found, (low, high)


def test_peaks_need_picked_pixels():
    """What is not picked is not looked at."""
    raw = flat()
    put(raw, 40, 30)
    assert oracles.reduce_once(raw, bins_of(), Parameters(noise=1, snr_pick=99, snr_peak=3)).n_peaks == 1
    assert oracles.reduce_once(raw, bins_of(), Parameters(noise=1, snr_pick=101, snr_peak=3)).n_peaks == 0


def test_max_peaks_keeps_the_strongest_and_counts_all():
    raw = flat(dtype=np.int32)
    for k in range(60):
        put(raw, 8 + 11 * (k % 10), 8 + 14 * (k // 10), SPOT * (1 + 37 * k % 61))
    all_of_them = oracles.reduce_once(raw, bins_of(), Parameters())
    assert all_of_them.n_peaks == 60 and len(all_of_them.peaks) == 60
    got = oracles.reduce_once(raw, bins_of(), Parameters(max_peaks=10))
    assert got.n_peaks == 60
    np.testing.assert_array_equal(got.peaks, all_of_them.peaks[:10])
    np.testing.assert_allclose(got.peaks[:, 2], 200.0 * np.arange(61, 51, -1)[: len(got.peaks)], rtol=0.02)


def test_more_peaks_than_are_measured():
    """A frame of nothing but peaks: counted, and as many of them measured as there is room for."""
    shape = (500, 520)
    raw = flat(shape=shape, dtype=np.int32)
    raw[1::3, 1::3] = 500  # 28 891 of them
    raw[0, 0] = 100_000
    bins = make_bins(np.ones(shape), 2)
    parameters = Parameters(patch_size=3, min_pixels=1, max_peaks=MAX_PEAKS, snr_clip=1.5)
    got = oracles.reduce_once(raw, bins, parameters)
    assert got.n_peaks == raw[1::3, 1::3].size  # the corner is one, and outshines its neighbour
    assert got.n_peaks > PEAK_CAPACITY
    assert len(got.peaks) == MAX_PEAKS


# ---- plateaus -------------------------------------------------------------------------------------------------------


LARGE = (200, 240)  # even the largest plateau is the smaller part of its bins


def disk(radius: float):
    yy, xx = np.mgrid[: LARGE[0], : LARGE[1]]
    return np.hypot(xx - 57, yy - 48) <= radius


def rows_of(shape):
    return np.broadcast_to(np.arange(shape[0])[:, None], shape)


def columns_of(shape):
    return np.broadcast_to(np.arange(shape[1])[None, :], shape)


def shape_l():
    area = np.zeros(LARGE, bool)
    area[20:60, 30:36] = True
    area[54:60, 30:80] = True
    return area


PLATEAUS = {
    "disk of radius 1": disk(1),
    "disk of radius 3": disk(3),
    "disk of radius 12": disk(12),
    "disk of radius 30": disk(30),
    "L": shape_l(),
    "line": (rows_of(LARGE) == 50) & (np.abs(columns_of(LARGE) - 60) <= 20),
    "diagonal": (rows_of(LARGE) == columns_of(LARGE)) & (rows_of(LARGE) > 20) & (rows_of(LARGE) < 90),
    "ring": disk(20) & ~disk(15),
    "at the edge": (rows_of(LARGE) < 9) & (columns_of(LARGE) > 200),
}


@pytest.mark.parametrize("patch_size", [3, 5, 9])
@pytest.mark.parametrize("sloped", [False, True])
@pytest.mark.parametrize("case", PLATEAUS)
def test_saturated_plateau_is_one_peak_at_its_centre(case, sloped, patch_size):
    area = PLATEAUS[case]
    parameters = Parameters(clip_cycles=8, snr_clip=1.5, min_pixels=2, noise=40, patch_size=patch_size)
    bins = bins_of(LARGE, count=2)  # few, so that the plateau is not most of any of them
    for dtype, top in [(np.uint16, 65_534), (np.int32, 1_000_000)]:
        raw = np.full(LARGE, 20, dtype)
        if sloped:
            raw += (oracles.radius_image(LARGE) * 1e4).astype(dtype)  # up to 156 counts
        raw[area] = top
        got = oracles.reduce_once(raw, bins, parameters)
        assert got.n_peaks == 1 and len(got.peaks) == 1
        y, x = np.nonzero(area)
        assert got.peaks[0, :2] == pytest.approx((x.mean(), y.mean()), abs=0.05)
        assert got.peaks[0, 6] == top


def test_two_plateaus_are_two_peaks():
    raw = flat(shape=LARGE)
    raw[20:30, 20:30] = 65_534
    raw[20:30, 33:43] = 65_534  # three columns between them
    raw[60:70, 60:70] = 65_533
    got = oracles.reduce_once(raw, bins_of(LARGE, count=2), Parameters(snr_clip=1.5, min_pixels=2))
    assert sorted(map(tuple, np.round(got.peaks[:, :2], 2).tolist())) == [(24.5, 24.5), (37.5, 24.5), (64.5, 64.5)]


def test_plateau_with_a_hole_flagged_as_overload():
    """Saturated pixels around, overloaded ones (flagged) inside: one peak in the middle of those that count."""
    raw = np.full(LARGE, 20, np.uint16)
    raw[disk(6)] = 65_534
    raw[disk(3)] = 65_535
    got = oracles.reduce_once(raw, bins_of(LARGE, count=2), Parameters(snr_clip=1.5, min_pixels=2))
    assert got.n_peaks == 1
    assert got.peaks[0, :2] == pytest.approx((57, 48), abs=0.05)


def test_a_plateau_is_followed_for_so_long_only(monkeypatch):
    """A line that winds through the whole frame takes more steps to follow than are allowed, which is what a frame of
    such things would take seconds with: then peaks stay as they are. With more steps it is one."""
    raw = flat()
    raw[::4] = 60_000  # 25 lines
    for k in range(24):
        raw[4 * k : 4 * k + 4, 119 if k % 2 == 0 else 0] = 60_000
    parameters = Parameters(snr_clip=1, min_pixels=2)
    steps = []

    def connected(*arguments):
        found = plateau_connected(*arguments)
        steps.append(found[1])
        return found

    plateau_connected = plateau._connected
    monkeypatch.setattr(plateau, "_connected", connected)
    assert oracles.reduce_once(raw, bins_of(count=2), parameters).n_peaks > 1
    assert sum(steps) <= plateau._MAX_STEPS + 1
    monkeypatch.setattr(plateau, "_MAX_STEPS", 1_000_000)
    assert oracles.reduce_once(raw, bins_of(count=2), parameters).n_peaks == 1


def test_a_constant_frame_is_one_plateau():
    """Its norm is not constant, so thousands of pixels are peaks at first."""
    shape = (300, 300)
    norm = np.random.default_rng(0).uniform(0.7, 1.3, shape)
    bins = bins_of(shape, norm=norm)
    got = oracles.reduce_once(np.full(shape, 60_000, np.uint16), bins, Parameters(error_model="poisson"))
    assert got.index.size > 10_000
    assert got.n_peaks == len(got.peaks) == 1
    assert got.peaks[0, :2] == pytest.approx((149.5, 149.5), abs=0.01)


def test_small_peak_keeps_its_centroid():
    """Three equal pixels in a row, with a shoulder: no plateau to speak of, the weights tell the centre."""
    raw = flat()
    raw[30, 40:43] = 120
    raw[31, 42] = 100
    got = oracles.reduce_once(raw, bins_of(), Parameters(min_pixels=2))
    there = raw.astype(float) - 20
    assert got.n_peaks == 1
    assert got.peaks[0, :2] == pytest.approx(centroid(there), abs=1e-3)
