/* One LZ4 block: `n_in` bytes → exactly `n_out` bytes.
 *
 * A block is a chain of sequences:  token | length of literals, continued | literals | offset | length, continued
 *   token    high 4 bits: number of literals; low 4 bits: length of the match, less 4
 *   continued: a 15 in the token goes on in bytes to be added, up to and with the first that is not 255
 *   literals are copied as they are; the match repeats what stands `offset` (16 bit, little endian) before it, and
 *   itself where it is longer than that:  out[o + k] = out[o − offset + k mod offset]
 * The last sequence ends after its literals.
 *
 * The bytes may be anything: lengths are compared with what is left before they are used, so nothing is read or
 * written elsewhere, and every sequence takes at least a byte, so there is an end. False: the block is broken.
 *
 * GROUP = 1 (CPU): one work-item copies 16 bytes at a time, and up to 15 more than it should: `in` and `out` need that
 * much room behind them. GROUP > 1 (GPU): the items of a group read the same sequences and share the copying.
 */
#define SLACK 16
#define TOO_LONG 0x80000000u /* more than any block has */

/* the length that begins with the 4 bits `nibble`; moves `i` behind it */
inline uint lz4_length(global const uchar *in, uint n_in, uint *i, uint nibble)
{
    if (nibble < 15)
        return nibble;
    uint length = nibble, byte = 255;
    while (byte == 255 && *i < n_in) {
        byte = in[(*i)++];
        length += byte;
    }
    return byte == 255 ? TOO_LONG : length;
}

#if GROUP == 1

/* 16 bytes anywhere. vload16 and vstore16 would say the same, but PoCL calls a function for each of them */
typedef struct __attribute__((packed)) {
    ulong2 v;
} bytes16_t;
#define GET16(from) (((const bytes16_t *)(from))->v)
#define GET16_GLOBAL(from) (((global const bytes16_t *)(from))->v)
#define PUT16(to, value) (((bytes16_t *)(to))->v = (value))
#define PUT16_GLOBAL(to, value) (((global bytes16_t *)(to))->v = (value))

inline bool lz4_decode(global const uchar *in, uint n_in, uchar *out, uint n_out, uint item)
{
    uint i = 0, o = 0;
    while (i < n_in) {
        const uint token = in[i++];
        const uint literals = lz4_length(in, n_in, &i, token >> 4);
        if (literals > n_in - i || literals > n_out - o)
            return false;
        for (uint k = 0; k < literals; k += 16)
            PUT16(out + o + k, GET16_GLOBAL(in + i + k));
        i += literals;
        o += literals;
        if (i == n_in)
            return o == n_out;

        if (n_in - i < 2)
            return false;
        const uint offset = in[i] | (uint)in[i + 1] << 8;
        i += 2;
        const uint length = lz4_length(in, n_in, &i, token & 15) + 4;
        if (offset == 0 || offset > o || length > n_out - o)
            return false;
        uchar *to = out + o;
        if (offset == 1) {
            const ulong2 run = to[-1] * 0x0101010101010101UL;
            for (uint k = 0; k < length; k += 16)
                PUT16(to + k, run);
        } else {
            uint k = 0, back = offset; /* the first k bytes are right; so the distance may grow to k + offset */
            while (back < 16 && k < length) {
                PUT16(to + k, GET16(to + k - back));
                k += back;
                back *= 2;
            }
            for (; k < length; k += 16)
                PUT16(to + k, GET16(to + k - back));
        }
        o += length;
    }
    return false;
}

#else

/* ends with a barrier still to be made, before what others wrote is read */
inline bool lz4_decode(global const uchar *in, uint n_in, local uchar *out, uint n_out, uint item)
{
    uint i = 0, o = 0;
    bool good = true, more = true;
    while (more) { /* the same for all items: they read the same bytes */
        const uint token = i < n_in ? in[i] : 0;
        good = i++ < n_in;
        const uint literals = lz4_length(in, n_in, &i, token >> 4);
        good = good && literals <= n_in - i && literals <= n_out - o;
        uint length = 0, offset = 1;
        if (good) {
            for (uint k = item; k < literals; k += GROUP)
                out[o + k] = in[i + k];
            i += literals;
            o += literals;
            more = i < n_in;
            if (more) {
                good = n_in - i >= 2;
                offset = good ? in[i] | (uint)in[i + 1] << 8 : 0;
                i += 2;
                length = good ? lz4_length(in, n_in, &i, token & 15) + 4 : 0;
                good = good && offset != 0 && offset <= o && length <= n_out - o;
            } else {
                good = o == n_out;
            }
        }
        more = more && good;
        barrier(CLK_LOCAL_MEM_FENCE); /* everything before the match is there */
        if (more) {
            for (uint k = item; k < length; k += GROUP)
                out[o + k] = out[o - offset + (k < offset ? k : k % offset)];
            o += length;
        }
    }
    return good;
}

#endif
