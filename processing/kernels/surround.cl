/* Surroundings: pixels that are kept besides the picked ones, whatever their value.
 *
 * A place where at least 3 of 3 × 3 pixels were picked is crowded. All pixels of n × n around it are kept, but those
 * that are masked or flagged. So the tails of a spot, each too weak to be picked, stay together with it.
 *
 * Crowded places have a bitmap of their own, in which each row begins with a new word: "column" c of a row are its
 * pixels 32·c … 32·c + 31. The bitmap of picked pixels runs on from row to row (pick.cl). A work-item does columns of
 * BAND rows, and 32 pixels at a time: numbers of neighbours are added bit by bit, place by place.
 */

typedef struct {
    uint column, first, end; /* rows [first, end) of a column */
} band_t;

INLINE uint columns_of(uint width)
{
    return (width + 31) / 32;
}

/* [x, y): the bands that this work-item does */
INLINE uint2 bands_of(uint width, uint height)
{
    return share_of(columns_of(width) * ((height + BAND - 1) / BAND));
}

INLINE band_t band_at(uint i, uint width, uint height)
{
    const uint columns = columns_of(width), first = i / columns * BAND;
    const band_t band = {i % columns, first, SMALLER(first + BAND, height)};
    return band;
}

INLINE uint is_set(volatile global const uint *bits, uint q)
{
    return bits[q / 32] >> (q & 31) & 1;
}

/* the pixels of a column of row y; 0 beyond the end of the row */
INLINE uint pixels_of(volatile global const uint *bits, uint n_words, uint width, uint y, uint column)
{
    const uint q = y * width + 32 * column, left = width - 32 * column;
    const uint w = q / 32, shift = q & 31;
    uint word = bits[w] >> shift;
    if (shift && w + 1 < n_words)
        word |= bits[w + 1] << (32 - shift);
    return left < 32 ? word & ((1u << left) - 1) : word;
}

INLINE uint majority(uint a, uint b, uint c)
{
    return (a & b) | (c & (a | b));
}

/* How many of each pixel and its neighbours to the left and right are picked: ones in x, twos in y */
INLINE uint2 sum_of_row(volatile global const uint *picked, uint n_words, uint width, uint y, uint column)
{
    const uint q = y * width + 32 * column;
    const uint here = pixels_of(picked, n_words, width, y, column);
    const uint left = here << 1 | (column ? is_set(picked, q - 1) : 0);
    const uint right = here >> 1 | (32 * column + 32 < width ? is_set(picked, q + 32) << 31 : 0);
    return (uint2)(left ^ here ^ right, majority(left, here, right));
}

/* Global size (parts of the image, frames): the bitmap of crowded places. None is needed beyond the edges: what was
 * picked around it lies around the place next to it in the frame too. */
kernel void find_crowds(global const uint *picked, uint n_words, uint width, uint height, global uint *crowds)
{
    const size_t launched = get_global_id(1) - get_global_offset(1);
    const uint columns = columns_of(width);
    picked += launched * n_words;
    crowds += launched * columns * height;
    const uint2 share = bands_of(width, height);
    for (uint i = share.x; i < share.y; i++) {
        const band_t band = band_at(i, width, height);
        uint2 above = 0, here = sum_of_row(picked, n_words, width, band.first, band.column);
        if (band.first > 0)
            above = sum_of_row(picked, n_words, width, band.first - 1, band.column);
        for (uint y = band.first; y < band.end; y++) {
            uint2 below = 0;
            if (y + 1 < height)
                below = sum_of_row(picked, n_words, width, y + 1, band.column);
            /* 3 are two twos, or a two and a one; of the ones, two or three make a two */
            const uint one = above.x ^ here.x ^ below.x, two = majority(above.x, here.x, below.x);
            const uint any = above.y | here.y | below.y | two;
            const uint several = (above.y & here.y) | (below.y & two) | ((above.y | here.y) & (below.y | two));
            crowds[y * columns + band.column] = several | (any & one);
            above = here;
            here = below;
        }
    }
}

/* the pixels of a column that lie within `reach` < 32 pixels of those set in it or in its neighbours, in this row */
INLINE uint widened(uint before, uint here, uint after, uint reach)
{
    uint wide = here;
    for (uint s = 1; s <= reach; s++)
        wide |= here << s | before >> (32 - s) | here >> s | after << (32 - s);
    return wide;
}

/* Global size (parts of the image, frames): adds the pixels around crowded places to those picked, n = 2·reach + 1.
 * `usable` is a bitmap of the pixels that are not masked. Other work-items add other pixels to the same words. */
kernel void keep_around(global const uint *crowds, uint width, uint height, uint reach, global const RAW_T *raw,
                        global const float *dark, global const uint *usable, volatile global uint *picked,
                        uint n_words)
{
    const size_t frame = get_global_id(1), launched = frame - get_global_offset(1);
    const uint columns = columns_of(width);
    raw += frame * width * height;
    picked += launched * n_words;
    crowds += launched * columns * height;
    const uint2 share = bands_of(width, height);
    for (uint i = share.x; i < share.y; i++) {
        const band_t band = band_at(i, width, height);
        uint near[BAND];
        for (uint k = 0; k < BAND; k++)
            near[k] = 0;
        const uint from = band.first > reach ? band.first - reach : 0, to = SMALLER(band.end + reach, height);
        for (uint y = from; y < to; y++) {
            global const uint *row = crowds + y * columns + band.column;
            const uint before = band.column ? row[-1] : 0, after = band.column + 1 < columns ? row[1] : 0;
            if ((before | *row | after) == 0)
                continue;
            const uint wide = widened(before, *row, after, reach);
            const uint first = y > band.first + reach ? y - reach : band.first, last = SMALLER(y + reach + 1, band.end);
            for (uint t = first; t < last; t++)
                near[t - band.first] |= wide;
        }
        for (uint y = band.first; y < band.end; y++) {
            uint more = near[y - band.first];
            if (more == 0)
                continue;
            more &= pixels_of(usable, n_words, width, y, band.column);
            more &= ~pixels_of(picked, n_words, width, y, band.column);
            const uint q = y * width + 32 * band.column, shift = q & 31;
            for (uint word = more; word; word &= word - 1) {
                const uint r = q + lowest_bit(word);
                if (IS_NAN(signal_of(raw, dark, r)))
                    more ^= word & -word;
            }
            if (more)
                atomic_or(picked + q / 32, more << shift);
            if (shift && more >> (32 - shift))
                atomic_or(picked + q / 32 + 1, more >> (32 - shift));
        }
    }
}
