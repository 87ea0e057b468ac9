/* Chunks as the HDF5 filter 32008 (bitshuffle with LZ4) writes them, and DECTRIS detectors send them:
 *
 *   decoded bytes (64 bit) | bytes of a block (32 bit) | length (32 bit), LZ4 block | length, LZ4 block | … | rest
 *
 * numbers big endian, a length counts the bytes of its LZ4 block. Blocks hold the same number of elements (a multiple
 * of 8), the last one a smaller multiple of 8; up to 7 elements that remain are stored as they are.
 *
 * The host has read the header, and put what follows from it (chunk_t) before the chunk; a size of 0 says that there is
 * no chunk, and the frame is left as it is. `find_blocks` follows the chain of lengths, `decode_blocks` does the blocks
 * side by side. `status` of a frame: ALL_GOOD, or 2·block of the first length that cannot be (2·blocks: the rest is missing),
 * or 2·block + 1 of the first LZ4 block that is broken, whichever block comes first. The pixels of such a frame are
 * undefined.
 *
 *   MAX_BLOCK  bytes of the largest block; GROUP, WALKERS  items that do a block, that follow a chain
 */
#define HEADER 12u
#define ALL_GOOD 0xFFFFFFFFu
#define WINDOW 16384u

typedef struct {
    uint size;      /* bytes of the chunk */
    uint per_block; /* elements */
    uint blocks;
    uint unused;
} chunk_t;

#define CHUNK_START sizeof(chunk_t)

inline uint big_endian(uint a, uint b, uint c, uint d)
{
    return a << 24 | b << 16 | c << 8 | d;
}

/* bytes of block `b` when decoded */
inline uint block_bytes(chunk_t c, uint n_pixels, uint b)
{
    return min(c.per_block, n_pixels / 8 * 8 - b * c.per_block) * ELEMENT_BYTES;
}

/* whether a block that stands at `place` can have that length; no LZ4 block is longer than all literals would be */
inline bool length_is_possible(chunk_t c, uint n_pixels, uint b, uint place, uint length)
{
    const uint n = block_bytes(c, n_pixels, b);
    return length <= c.size - place && length <= n + n / 255 + 16;
}

/* Global size (WALKERS, frames), local size (WALKERS, 1).
 *   rows    (frames, stride) bytes: a chunk_t and the chunk; places  (frames, most_blocks) where LZ4 blocks begin, 0: nowhere */
kernel void find_blocks(global const uchar *rows, ulong stride, uint n_pixels, uint most_blocks, global uint *places,
                        global uint *status, global ELEMENT_T *out)
{
    const size_t frame = get_global_id(1);
    const uint item = get_local_id(0);
    const chunk_t c = *(global const chunk_t *)(rows + frame * stride);
    global const uchar *chunk = rows + frame * stride + CHUNK_START;
    uint b = 0, end = HEADER;
    bool good = true;
    places += frame * most_blocks;
#if WALKERS == 1
    while (good && b < c.blocks) {
        good = c.size - end >= 4;
        if (good) {
            global const uchar *p = chunk + end;
            const uint length = big_endian(p[0], p[1], p[2], p[3]);
            end += 4;
            good = length_is_possible(c, n_pixels, b, end, length);
            if (good) {
                places[b++] = end;
                end += length;
            }
        }
    }
#else
    /* Each length is found by the last one only. So that not every one of them waits for the memory, all items fetch
     * the bytes that follow, and one of them goes along in these. */
    local uint4 window[WINDOW / 16];
    local uint reached[3];
    local const uchar *bytes = (local const uchar *)window;
    while (good && b < c.blocks) {
        const uint start = end / 16 * 16; /* the chunk itself begins at a multiple of 16 */
        const uint count = min(WINDOW, (c.size - start + 15) / 16 * 16);
        for (uint k = item; k < count / 16; k += WALKERS)
            window[k] = ((global const uint4 *)(chunk + start))[k];
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item == 0) {
            good = c.size - end >= 4;
            while (good && b < c.blocks && c.size - end >= 4 && end + 4 <= start + WINDOW) {
                local const uchar *p = bytes + (end - start);
                const uint length = big_endian(p[0], p[1], p[2], p[3]);
                good = length_is_possible(c, n_pixels, b, end + 4, length);
                if (good) {
                    places[b++] = end + 4;
                    end += 4 + length;
                }
            }
            reached[0] = b;
            reached[1] = end;
            reached[2] = good;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        b = reached[0];
        end = reached[1];
        good = reached[2] != 0;
    }
#endif
    const uint rest = n_pixels % 8 * ELEMENT_BYTES;
    good = good && c.size - end >= rest;
    const bool is_there = c.size != 0;
    if (item == 0)
        status[frame] = good || !is_there ? ALL_GOOD : 2 * b;
    for (uint k = b + item; k < c.blocks; k += WALKERS)
        places[k] = 0;
    if (good && is_there) {
        global uchar *to = (global uchar *)(out + (frame + 1) * n_pixels) - rest;
        for (uint k = item; k < rest; k += WALKERS)
            to[k] = chunk[end + k];
    }
}

/* Global size (GROUP · blocks, frames), local size (GROUP, 1). */
kernel void decode_blocks(global const uchar *rows, ulong stride, uint n_pixels, uint most_blocks,
                          global const uint *places, global uint *status, global ELEMENT_T *out)
{
    const size_t frame = get_global_id(1);
    const uint b = get_group_id(0), item = get_local_id(0);
    const chunk_t c = *(global const chunk_t *)(rows + frame * stride);
#if GROUP == 1
    uchar shuffled[MAX_BLOCK + SLACK];
#else
    local uchar shuffled[MAX_BLOCK];
#endif
    const uint place = b < c.blocks ? places[frame * most_blocks + b] : 0;
    if (place == 0)
        return;
    global const uchar *in = rows + frame * stride + CHUNK_START + place;
    const uint n_in = big_endian(in[-4], in[-3], in[-2], in[-1]);
    const uint n_out = block_bytes(c, n_pixels, b);
    const bool good = lz4_decode(in, n_in, shuffled, n_out, item);
#if GROUP > 1
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    if (good)
        unshuffle(shuffled, n_out / ELEMENT_BYTES, out + frame * n_pixels + (size_t)b * c.per_block, item);
    else if (item == 0)
        atomic_min(status + frame, 2 * b + 1);
}
