/* Sorting: the signals of a frame in the order of the bins.
 *
 *   values[place of pixel q] = raw(q) − dark(q)
 *
 * A tile of the image is copied into local memory, row by row; from there its pixels go to the bins, a contiguous run
 * to each (processing/tiles.py). So the image is read once, in order, and nothing but tiles is read at random.
 */
#define TILE (TILE_ROWS * TILE_COLUMNS)

/* Global size (GROUP · tiles, frames), local size (GROUP, 1). `values` is scratch, (frames of this launch, places) */
kernel void sort_pixels(global const RAW_T *raw, uint width, uint height, global const float *dark,
                        global const uint *tile_bounds, global const uint2 *tile_segments, global const ushort *sources,
                        global VALUE_T *values, uint n_places)
{
    local VALUE_T pixels[TILE];
    const uint tile = get_group_id(0), item = get_local_id(0);
    const uint tiles_per_row = (width + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const uint y0 = tile / tiles_per_row * TILE_ROWS, x0 = tile % tiles_per_row * TILE_COLUMNS;
    const uint rows = min((uint)TILE_ROWS, height - y0), columns = min((uint)TILE_COLUMNS, width - x0);
    const size_t frame = get_global_id(1);
    const uint first = tile_bounds[tile], end = tile_bounds[tile + 1];
    if (first == end)
        return; /* all masked */
    raw += frame * width * height;
    values += (frame - get_global_offset(1)) * n_places;

    for (uint y = 0; y < rows; y++) {
        const uint q = (y0 + y) * width + x0;
        for (uint x = item; x < columns; x += GROUP)
#if KEEP_RAW
            pixels[y * TILE_COLUMNS + x] = raw[q + x];
#else
            pixels[y * TILE_COLUMNS + x] = signal_of(raw, dark, q + x);
#endif
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint s = first; s < end; s++) {
        const uint place = tile_segments[s].x, count = tile_segments[s].y;
        global VALUE_T *to = values + place;
        global const ushort *from = sources + place;
        for (uint k = item; k < count; k += GROUP)
            to[k] = pixels[from[k]];
    }
}
