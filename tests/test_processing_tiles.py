"""The order of the pixels on the device: every valid pixel once, bins padded, segments that sorting can follow."""

import numpy as np
import oracles
import pytest
from framesieve.processing.bins import RadialBins, make_bins
from framesieve.processing.chain import LANES, range_bounds
from framesieve.processing.tiles import NOWHERE, TILE_COLUMNS, TILE_ROWS, TileOrder, order_by_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

#: rows and columns at and around the sizes of a tile, and of a word of a bitmap
ROWS = st.sampled_from([1, 2, 63, 64, 65, 128, 129, 200])
COLUMNS = st.sampled_from([1, 2, 31, 33, 127, 128, 129, 257, 300])


def tile_of(y: np.ndarray, x: np.ndarray, width: int) -> np.ndarray:
    """Number of the tile of each pixel, by looking it up in an image that is filled tile by tile."""
    shape = int(y.max()) + 1, width
    numbers = np.empty(shape, np.int64)
    number = 0
    for top in range(0, shape[0], 64):
        for left in range(0, width, 128):
            numbers[top : top + 64, left : left + 128] = number
            number += 1
    return numbers[y, x]


def check_order(bins: RadialBins, tiles: TileOrder, valid: np.ndarray, padding: int) -> None:
    """Everything that a `TileOrder` promises."""
    height, width = bins.shape
    counts = np.diff(bins.bounds.astype(np.int64))
    begins, ends = tiles.bounds[:-1].astype(np.int64), tiles.bounds[1:].astype(np.int64)
    real = tiles.order != NOWHERE
    pixels = tiles.order[real].astype(np.int64)

    # every valid pixel exactly once, in the bin that it belongs to
    np.testing.assert_array_equal(np.sort(pixels), np.flatnonzero(valid))
    assert tiles.bounds[0] == 0 and tiles.bounds[-1] == tiles.order.size == tiles.sources.size
    bin_of_place = np.repeat(np.arange(bins.count), ends - begins)
    for b in range(bins.count) if bins.count <= 100 else np.flatnonzero(counts):
        in_bin = tiles.order[begins[b] : ends[b]]
        assert set(in_bin[: counts[b]].tolist()) == set(bins.order[bins.bounds[b] : bins.bounds[b + 1]].tolist())
        assert (in_bin[counts[b] :] == NOWHERE).all(), "padding lies behind the pixels"

    # bins are the smallest multiples of the padding that hold their pixels
    size = ends - begins
    assert (size % padding == 0).all() and (size >= counts).all() and (size - counts < padding).all()

    # sorted by bin, tile, index
    y, x = np.divmod(pixels, width)
    tile = tile_of(y, x, width)
    np.testing.assert_array_equal(np.lexsort((pixels, tile, bin_of_place[real])), np.arange(pixels.size))
    assert tiles.n_tiles == -(-height // 64) * -(-width // 128)

    # segments: all places of pixels exactly once, each of one tile and one bin, none that could be joined, by tile
    places = [np.arange(p, p + n) for p, n in zip(tiles.place, tiles.length, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(places)), np.flatnonzero(real))
    assert (tiles.length > 0).all()
    tile_at, bin_at = np.full(tiles.order.size, -1), bin_of_place
    tile_at[real] = tile
    of_segment = np.array([(tile_at[p[0]], bin_at[p[0]]) for p in places])
    for of, p in zip(of_segment, places, strict=True):
        assert (tile_at[p] == of[0]).all() and (bin_at[p] == of[1]).all()
    assert np.unique(of_segment, axis=0).tolist() == of_segment.tolist(), "sorted by tile and bin, each pair once"
    expected = [np.count_nonzero(of_segment[:, 0] < number) for number in range(tiles.n_tiles + 1)]
    assert tiles.tile_bounds.dtype == np.uint32 and tiles.tile_bounds.tolist() == expected

    # from its tile each pixel is found again
    source = tiles.sources[real].astype(np.int64)
    per_row = -(-width // TILE_COLUMNS)
    y0, x0 = tile // per_row * TILE_ROWS, tile % per_row * TILE_COLUMNS
    assert (source // TILE_COLUMNS < TILE_ROWS).all()
    np.testing.assert_array_equal((y0 + source // TILE_COLUMNS) * width + x0 + source % TILE_COLUMNS, pixels)

    # runs: the sources of each segment once more, up to eight side by side
    runs, first = tiles.runs()
    assert runs.dtype == np.uint16 and first.size == tiles.place.size + 1 and first[-1] == runs.size
    for k, p in enumerate(places if len(places) < 300 else places[:300]):
        of_runs = [int(r) // 8 + i for r in runs[first[k] : first[k + 1]] for i in range(int(r) % 8 + 1)]
        assert of_runs == tiles.sources[p].tolist()


def masked_tiles(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Whole tiles, some rows and single pixels."""
    mask = rng.random(shape) < rng.choice([0, 0.05, 0.9])
    for top in range(0, shape[0], 64):
        for left in range(0, shape[1], 128):
            if rng.random() < 0.3:
                mask[top : top + 64, left : left + 128] = True
    mask[rng.integers(shape[0])] |= rng.random() < 0.5
    mask[rng.integers(shape[0]), rng.integers(shape[1])] = False
    return mask


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    columns=COLUMNS,
    count=st.sampled_from([1, 2, 13, 400, 60_000]),
    padding=st.sampled_from([32, 64]),
    radii=st.sampled_from(["around the middle", "anything", "two values", "one value"]),
    seed=st.integers(0, 1000),
)
def test_any_image(rows, columns, count, padding, radii, seed):
    """More bins than pixels, one bin, bins without pixels in between, tiles that the mask leaves nothing of."""
    rng = np.random.default_rng(seed)
    shape = rows, columns
    radius = {
        "around the middle": oracles.radius_image(shape, (rng.uniform(-50, 300), rng.uniform(-50, 250))),
        "anything": rng.random(shape),
        "two values": rng.integers(1, 3, shape).astype(float),
        "one value": np.ones(shape),
    }[radii]
    mask = masked_tiles(shape, rng)
    bins = make_bins(radius, count, mask)
    check_order(bins, order_by_tiles(bins, padding), ~mask, padding)


def test_known_by_hand():
    """Two tiles side by side and two bins, columns taking turns: written down without a sort."""
    x = np.arange(260).reshape(2, 130) % 130
    bins = make_bins(1.0 + x % 2, 2)
    tiles = order_by_tiles(bins, 64)
    even, odd = np.arange(0, 128, 2), np.arange(1, 128, 2)
    assert tiles.bounds.tolist() == [0, 192, 384]
    assert tiles.order[:130].tolist() == [*even, *(even + 130), 128, 258]
    assert tiles.order[192:322].tolist() == [*odd, *(odd + 130), 129, 259]
    assert (tiles.order[130:192] == NOWHERE).all() and (tiles.order[322:] == NOWHERE).all()
    assert tiles.sources[:130].tolist() == [*even, *(even + 128), 0, 128]
    assert tiles.place.tolist() == [0, 192, 128, 320] and tiles.length.tolist() == [128, 128, 2, 2]
    assert tiles.tile_bounds.tolist() == [0, 2, 4] and tiles.n_tiles == 2


def test_runs_known_by_hand():
    """Three bins side by side, 20, 3 and 1 columns wide, one row: runs of eight, eight and four; three; one."""
    bins = make_bins(np.repeat([0.0, 1.0, 2.0], [20, 3, 1])[None], 3)
    runs, first = order_by_tiles(bins, 64).runs()
    assert first.tolist() == [0, 3, 4, 5]
    assert runs.tolist() == [0 * 8 + 7, 8 * 8 + 7, 16 * 8 + 3, 20 * 8 + 2, 23 * 8 + 0]


@pytest.mark.parametrize("dtype, padding", [(np.float32, np.nan), (np.float32, 1.0), (np.uint8, 7)])
def test_spread(dtype, padding):
    """Each pixel's value at its place, the padding elsewhere, the type kept."""
    shape = (70, 150)
    bins = make_bins(oracles.radius_image(shape), 9, np.random.default_rng(2).random(shape) < 0.2)
    tiles = order_by_tiles(bins, 64)
    image = np.random.default_rng(3).integers(0, 200, shape).astype(dtype).ravel()
    got = tiles.spread(image, padding)
    assert got.dtype == dtype and got.shape == tiles.order.shape
    expected = [padding if q == NOWHERE else image[q] for q in tiles.order.tolist()]
    np.testing.assert_array_equal(got, np.array(expected, dtype))


# ---- ranges of bins -------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 0, 1, 2, 3, 50]), min_size=1, max_size=60).filter(any),
    n_ranges=st.sampled_from([1, 2, 5, 16]),
)
def test_ranges_of_bins(sizes, n_ranges):
    """All bins, in order, each in one range; no range is larger than its share by more than a bin."""
    bounds = np.concatenate([[0], np.cumsum(np.array(sizes) * LANES)]).astype(np.uint32)
    ranges = range_bounds(bounds, n_ranges)
    assert ranges.dtype == np.int32
    assert ranges[0] == 0 and ranges[-1] == len(sizes)
    assert (np.diff(ranges) > 0).all() and ranges.size <= n_ranges + 1
    places = np.diff(bounds[ranges].astype(np.int64))
    assert places.max() <= bounds[-1] / n_ranges + np.max(sizes) * LANES


def test_ranges_of_equal_bins_are_equal():
    bounds = np.arange(161, dtype=np.uint32) * LANES
    assert range_bounds(bounds, 16).tolist() == list(range(0, 161, 10))
    assert range_bounds(bounds[:4], 16).tolist() == [0, 1, 2, 3]  # fewer bins than ranges
    assert range_bounds(bounds[:2], 16).tolist() == [0, 1]
