/* Sorting: the signals of a frame in the order of the bins.
 *
 *   values[place of pixel q] = raw(q) − dark(q), NaN where q is flagged
 *
 * A tile of the image is copied into local memory, row by row; from there its pixels go to the bins, a contiguous run
 * to each (processing/tiles.py). So the image is read once, in order, and nothing but a tile is read at random.
 */

#if GROUP == 1
typedef float8 __attribute__((aligned(4))) unaligned8;
#endif

/* Global size (GROUP · tiles, frames), local size (GROUP, 1).
 *   segments  in the order of the tiles: .x first place, .y number of pixels, .z (CPU) first run
 *   sources   CPU: runs of pixels side by side, 8 · first pixel in the tile + number − 1
 *             GPU: in the order of the bins, row · TILE_COLUMNS + column in the tile
 *   values    scratch, (frames of this launch, places) */
kernel void sort_pixels(global const RAW_T *raw, uint width, uint height, global const float *dark,
                        global const uint *tile_bounds, global const uint4 *segments, global const ushort *sources,
                        global float *values, uint n_places)
{
    local float signals[TILE_ROWS * TILE_COLUMNS + (GROUP == 1 ? 8 : 0)]; /* runs are read in eights */
    const uint tile = get_group_id(0), item = get_local_id(0);
    const uint tiles_per_row = (width + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const uint y0 = tile / tiles_per_row * TILE_ROWS, x0 = tile % tiles_per_row * TILE_COLUMNS;
    const uint rows = SMALLER((uint)TILE_ROWS, height - y0), columns = SMALLER((uint)TILE_COLUMNS, width - x0);
    const size_t frame = get_global_id(1);
    const uint first = tile_bounds[tile], end = tile_bounds[tile + 1];
    if (first == end)
        return; /* all masked */
    raw += frame * width * height;
    values += (frame - get_global_offset(1)) * n_places;

    for (uint y = 0; y < rows; y++) {
        const uint q = (y0 + y) * width + x0;
        for (uint x = item; x < columns; x += GROUP)
            signals[y * TILE_COLUMNS + x] = signal_of(raw, dark, q + x);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint s = first; s < end; s++) {
        const uint4 segment = segments[s];
        global float *to = values + segment.x;
#if GROUP == 1
        /* eight pixels at a time, however short the run is: the next one writes over those that are too many */
        global const ushort *run = sources + segment.z;
        uint k = 0;
        for (; k + 8 <= segment.y; run++) {
            *(global unaligned8 *)(to + k) = *(local const unaligned8 *)(signals + *run / 8);
            k += *run % 8 + 1;
        }
        for (; k < segment.y; run++)
            for (uint i = 0; i <= *run % 8; i++)
                to[k++] = signals[*run / 8 + i];
#else
        for (uint k = item; k < segment.y; k += GROUP)
            to[k] = signals[sources[segment.x + k]];
#endif
    }
}
