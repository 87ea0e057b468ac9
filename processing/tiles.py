"""The order in which the device keeps pixels: a bin is one run, and a tile of the image fills few runs.

Sorting pixels into bins is the step that memory decides. Pixel by pixel along a bin, every access is another cache line
of the image, and every line is fetched by each of the bins that cross it. A tile stays in the fastest memory and
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

    What a tile gives to a bin is a segment: a run of places. Its corner is the first pixel of the tile.

    Attributes
    ----------
    bounds
        uint32 (bins + 1,), where the bins begin and end, in places.
    order
        uint32 (places,), the pixel y·width + x of each place, `NOWHERE` in the padding.
    sources
        uint16 (places,), which pixel of its tile that is: row · `TILE_COLUMNS` + column.
    place, length, corner, bin, tile
        int64 (segments,) in bin order: first place, number of pixels, first pixel of the tile, and the numbers of
        bin and tile.
    n_tiles
        Tiles are numbered row by row.
    """

    bounds: np.ndarray
    order: np.ndarray
    sources: np.ndarray
    place: np.ndarray
    length: np.ndarray
    corner: np.ndarray
    bin: np.ndarray
    tile: np.ndarray
    n_tiles: int

    def spread(self, image: np.ndarray, padding: float) -> np.ndarray:
        """`image` (rows · columns,) in bin order (places,), with `padding` where there is no pixel."""
        spread = np.full(self.order.size, padding, image.dtype)
        real = self.order != NOWHERE
        spread[real] = image[self.order[real]]
        return spread

    def segments(self, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """uint32 (chosen segments, 4): first place, number of pixels, corner, 0."""
        columns = [self.place[chosen], self.length[chosen], self.corner[chosen], np.zeros_like(self.place[chosen])]
        return np.column_stack(columns).astype(np.uint32)


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
    sorted_ = np.argsort(tile, kind="stable")
    sorted_ = sorted_[np.argsort(bin_of[sorted_], kind="stable")]
    tile = tile[sorted_]  # bin_of stays as it is
    bounds = np.zeros(bins.count + 1, np.int64)
    np.cumsum(-(-counts // padding) * padding, out=bounds[1:])
    place = np.arange(sorted_.size) + np.repeat(bounds[:-1] - bins.bounds[:-1], counts)
    order = np.full(bounds[-1], NOWHERE, np.uint32)
    order[place] = bins.order[sorted_]
    sources = np.zeros(bounds[-1], np.uint16)
    sources[place] = source[sorted_]

    begins = np.ones(tile.size, bool)
    begins[1:] = (tile[1:] != tile[:-1]) | (bin_of[1:] != bin_of[:-1])
    first = np.flatnonzero(begins)
    tile_row, tile_column = np.divmod(tile[first].astype(np.int64), tiles_per_row)
    return TileOrder(
        bounds=bounds.astype(np.uint32),
        order=order,
        sources=sources,
        place=place[first],
        length=np.diff(np.append(first, tile.size)),
        corner=tile_row * TILE_ROWS * width + tile_column * TILE_COLUMNS,
        bin=bin_of[first].astype(np.int64),
        tile=tile[first].astype(np.int64),
        n_tiles=n_tiles,
    )


def _smallest_type(count: int) -> type:
    return np.uint16 if count <= 1 << 16 else np.uint32
