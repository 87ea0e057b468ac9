"""The order in which the device keeps pixels: a bin is one run, and a tile of the image fills few runs.

Sorting pixels into bins is the step that memory decides. Pixel by pixel along a bin, every access is another cache line
of the image, and every line is fetched by each of the bins that cross it. A tile fits into the fastest memory and
its pixels go to a few tens of bins, to a contiguous place in each, if the pixels of a bin are in the order of
the tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bins import RadialBins

TILE_ROWS, TILE_COLUMNS = 64, 128  # 8192 pixels: a 16-bit number tells which
NOWHERE = 0xFFFFFFFF  # the pixel of a place that is padding


@dataclass(frozen=True, slots=True)
class TileOrder:
    """Pixels in bin order: sorted by bin, tile, index; a bin begins and ends at a multiple of `padding` places.

    What a tile gives to a bin is a segment: a run of places.

    Attributes
    ----------
    bounds
        uint32 (bins + 1,), where the bins begin and end, in places.
    order
        uint32 (places,), the pixel y·width + x of each place, `NOWHERE` in the padding.
    sources
        uint16 (places,), which pixel of its tile that is: row · `TILE_COLUMNS` + column.
    segments
        uint32 (segments + 1, 2) in bin order: first place, and the word of an image's bitmap (`words_per_row` words a
        row) where the tile begins; the last is a sentinel behind all places.
    segment_at
        uint32 (places / 32,), the segment that 32·i belongs to; in the padding, the one before.
    tile_bounds
        uint32 (tiles + 1,), where the tiles, row by row, begin in `tile_segments`.
    tile_segments
        uint32 (segments, 2) in the order of the tiles: first place and number of pixels.
    """

    bounds: np.ndarray
    order: np.ndarray
    sources: np.ndarray
    segments: np.ndarray
    segment_at: np.ndarray
    tile_bounds: np.ndarray
    tile_segments: np.ndarray

    @property
    def n_tiles(self) -> int:
        return self.tile_bounds.size - 1

    def spread(self, image: np.ndarray, padding: float) -> np.ndarray:
        """`image` (rows · columns,) in bin order (places,), with `padding` where there is no pixel."""
        spread = np.full(self.order.size, padding, image.dtype)
        real = self.order != NOWHERE
        spread[real] = image[self.order[real]]
        return spread


def order_by_tiles(bins: RadialBins, padding: int) -> TileOrder:
    """Sort the pixels of `bins`; `padding`, a multiple of 32, is the number of places that bins are rounded up to."""
    width = bins.shape[1]
    tiles_per_row = -(-width // TILE_COLUMNS)
    n_tiles = tiles_per_row * -(-bins.shape[0] // TILE_ROWS)
    counts = np.diff(bins.bounds.astype(np.int64))
    y, x = np.divmod(bins.order, np.uint32(width))
    tile = (y // TILE_ROWS * tiles_per_row + x // TILE_COLUMNS).astype(_smallest_type(n_tiles))
    source = (y % TILE_ROWS * TILE_COLUMNS + x % TILE_COLUMNS).astype(np.uint16)
    bin_of = np.repeat(np.arange(bins.count, dtype=_smallest_type(bins.count)), counts)

    # stable sorts of small integers are radix sorts
    by_bin = np.argsort(tile, kind="stable")
    by_bin = by_bin[np.argsort(bin_of[by_bin], kind="stable")]
    tile = tile[by_bin]  # bin_of stays as it is: sorted
    bounds = np.zeros(bins.count + 1, np.int64)
    np.cumsum(-(-counts // padding) * padding, out=bounds[1:])
    place = np.arange(by_bin.size) + np.repeat(bounds[:-1] - bins.bounds[:-1], counts)
    order = np.full(bounds[-1], NOWHERE, np.uint32)
    order[place] = bins.order[by_bin]
    sources = np.zeros(bounds[-1], np.uint16)
    sources[place] = source[by_bin]

    begins = np.ones(tile.size, bool)
    begins[1:] = (tile[1:] != tile[:-1]) | (bin_of[1:] != bin_of[:-1])
    first = np.flatnonzero(begins)
    lengths = np.diff(np.append(first, tile.size))
    segments = np.zeros((first.size + 1, 2), np.uint32)
    tile_row, tile_column = np.divmod(tile[first].astype(np.int64), tiles_per_row)
    corner = tile_row * TILE_ROWS * words_per_row(width) + tile_column * (TILE_COLUMNS // 32)
    segments[:-1] = np.column_stack([place[first], corner])
    segments[-1, 0] = bounds[-1]
    segment_at = np.searchsorted(segments[:-1, 0], np.arange(0, bounds[-1], 32), side="right") - 1
    by_tile = np.argsort(tile[first], kind="stable")
    return TileOrder(
        bounds=bounds.astype(np.uint32),
        order=order,
        sources=sources,
        segments=segments,
        segment_at=segment_at.astype(np.uint32),
        tile_bounds=np.searchsorted(tile[first][by_tile], np.arange(n_tiles + 1)).astype(np.uint32),
        tile_segments=np.column_stack([place[first], lengths])[by_tile].astype(np.uint32),
    )


def words_per_row(width: int) -> int:
    """32-bit words that a row of an image takes in a bitmap: column x is bit x mod 32 of word x div 32."""
    return -(-width // 32)


def _smallest_type(count: int) -> type:
    return np.uint16 if count <= 1 << 16 else np.uint32
