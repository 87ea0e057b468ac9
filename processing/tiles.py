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
RUN = 8  # longest run of neighbouring pixels: 3 bits tell its length, 13 where it begins in a tile
NOWHERE = 0xFFFFFFFF  # the pixel of a place that is padding


@dataclass(frozen=True, slots=True)
class TileOrder:
    """Pixels in bin order: sorted by bin, tile, index; a bin begins and ends at a multiple of `padding` places.

    What a tile gives to a bin is a segment.

    Attributes
    ----------
    bounds
        uint32 (bins + 1,), where the bins begin and end, in places.
    order
        uint32 (places,), the pixel y·width + x of each place, `NOWHERE` in the padding.
    sources
        uint16 (places,), which pixel of its tile that is: row · `TILE_COLUMNS` + column.
    place, length
        int64 (segments,) in the order of the tiles, and of the bins in a tile: first place and number of pixels.
    tile_bounds
        uint32 (tiles + 1,), where the tiles, row by row, begin in `place`.
    """

    bounds: np.ndarray
    order: np.ndarray
    sources: np.ndarray
    place: np.ndarray
    length: np.ndarray
    tile_bounds: np.ndarray

    @property
    def n_tiles(self) -> int:
        return self.tile_bounds.size - 1

    def spread(self, image: np.ndarray, padding: float) -> np.ndarray:
        """`image` (rows · columns,) in bin order (places,), with `padding` where there is no pixel."""
        spread = np.full(self.order.size, padding, image.dtype)
        real = self.order != NOWHERE
        spread[real] = image[self.order[real]]
        return spread

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of a segment that lie side by side in their tile.

        Returns
        -------
        runs
            uint16 (runs,) segment by segment: 8 · first source + number of pixels − 1, up to `RUN` of them.
        first
            int64 (segments + 1,), the first run of each segment.
        """
        ends = np.cumsum(self.length)
        begins = ends - self.length
        source = self.sources[np.arange(ends[-1]) + np.repeat(self.place - begins, self.length)].astype(np.int64)
        is_first = np.ones(source.size, bool)
        is_first[1:] = np.diff(source) != 1
        is_first[begins] = True
        first = np.flatnonzero(is_first)
        within = np.arange(source.size) - np.repeat(first, np.diff(np.append(first, source.size)))
        first = np.flatnonzero(within % RUN == 0)
        lengths = np.diff(np.append(first, source.size))
        return (source[first] * RUN + lengths - 1).astype(np.uint16), np.searchsorted(
            first, np.append(begins, ends[-1])
        )


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
    length = np.diff(np.append(first, tile.size))
    by_tile = np.argsort(tile[first], kind="stable")
    return TileOrder(
        bounds=bounds.astype(np.uint32),
        order=order,
        sources=sources,
        place=place[first][by_tile],
        length=length[by_tile],
        tile_bounds=np.searchsorted(tile[first][by_tile], np.arange(n_tiles + 1)).astype(np.uint32),
    )


def _smallest_type(count: int) -> type:
    return np.uint16 if count <= 1 << 16 else np.uint32
