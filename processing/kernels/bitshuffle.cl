/* The bits of n elements (a multiple of 8), which bitshuffle sorted by their place in the element, put back:
 *
 *   bit b of element e  =  bit e mod 8 of byte  b·n/8 + e/8
 *
 * GROUP = 1 (CPU): 8 bytes that stand n/8 apart are an 8 × 8 matrix of bits. Transposed (halves, quarters and
 * neighbours swapped by shifts and masks) they are one byte of each of 8 elements; this is done for 16 such matrices at
 * a time, whose bytes are then zipped together. GROUP > 1 (GPU): an item collects the bits of one element, so that
 * neighbours write neighbouring elements.
 *
 *   ELEMENT_T  unsigned integer of the size of a pixel; ELEMENT_BYTES its size
 */
#if GROUP == 1

#define ROWS (8 * ELEMENT_BYTES)
#define SWAP_BITS(a, b, shift, mask) \
    { \
        const ulong2 t = ((a >> shift) ^ b) & (ulong)mask; \
        b ^= t; \
        a ^= t << shift; \
    }
/* lanes of `type` of two rows, alternating: each pair of rows becomes one of twice the length */
#define ZIP(type, as_type) \
    { \
        ulong2 zipped[ROWS]; \
        _Pragma("unroll") for (int p = 0; p < ROWS; p += 2 * parts) \
        { \
            _Pragma("unroll") for (int c = 0; c < parts; c++) \
            { \
                const type a = as_type(x[p + c]), b = as_type(x[p + parts + c]); \
                type first, second; \
                first.even = a.lo; \
                first.odd = b.lo; \
                second.even = a.hi; \
                second.odd = b.hi; \
                zipped[p + 2 * c] = as_ulong2(first); \
                zipped[p + 2 * c + 1] = as_ulong2(second); \
            } \
        } \
        _Pragma("unroll") for (int p = 0; p < ROWS; p++) x[p] = zipped[p]; \
    }

/* 128 elements: 16 bytes from each of the rows that stand `n8` apart */
inline void unshuffle_128(const uchar *in, uint n8, global uchar *out)
{
    ulong2 x[ROWS]; /* byte j of element m of each 8: x[m · ELEMENT_BYTES + j] */
#pragma unroll
    for (int j = 0; j < ELEMENT_BYTES; j++) {
        ulong2 r[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            r[i] = GET16(in + (8 * j + i) * n8);
#pragma unroll
        for (int i = 0; i < 4; i++)
            SWAP_BITS(r[i], r[i + 4], 4, 0x0F0F0F0F0F0F0F0FUL)
#pragma unroll
        for (int i = 0; i < 4; i++)
            SWAP_BITS(r[i + i / 2 * 2], r[i + i / 2 * 2 + 2], 2, 0x3333333333333333UL)
#pragma unroll
        for (int i = 0; i < 4; i++)
            SWAP_BITS(r[2 * i], r[2 * i + 1], 1, 0x5555555555555555UL)
#pragma unroll
        for (int m = 0; m < 8; m++)
            x[m * ELEMENT_BYTES + j] = r[m];
    }
    {
        const int parts = 1;
        ZIP(uchar16, as_uchar16)
    }
    {
        const int parts = 2;
        ZIP(ushort8, as_ushort8)
    }
    {
        const int parts = 4;
        ZIP(uint4, as_uint4)
    }
#if ELEMENT_BYTES >= 2
    {
        const int parts = 8;
        ZIP(ulong2, as_ulong2)
    }
#endif
#pragma unroll
    for (int p = 0; p < ROWS; p++) {
#if ELEMENT_BYTES == 4 /* two rows are left, of one vector per 8 elements */
        const ulong2 v = x[p / 2 + p % 2 * (ROWS / 2)];
#else
        const ulong2 v = x[p];
#endif
        PUT16_GLOBAL(out + 16 * p, v);
    }
}

inline void unshuffle(const uchar *in, uint n, global ELEMENT_T *out, uint item)
{
    const uint n8 = n / 8;
    uint g = 0;
    for (; g + 16 <= n8; g += 16)
        unshuffle_128(in + g, n8, (global uchar *)(out + 8 * g));
    for (; g < n8; g++) {
        ELEMENT_T element[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (int j = 0; j < ELEMENT_BYTES; j++) {
            ulong x = 0, t;
            for (int i = 0; i < 8; i++)
                x |= (ulong)in[(8 * j + i) * n8 + g] << (8 * i);
            t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAUL;
            x ^= t ^ (t << 7);
            t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCUL;
            x ^= t ^ (t << 14);
            t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0UL;
            x ^= t ^ (t << 28);
            for (int m = 0; m < 8; m++)
                element[m] |= (ELEMENT_T)((ELEMENT_T)(x >> (8 * m) & 0xFF) << (8 * j));
        }
        for (int m = 0; m < 8; m++)
            out[8 * g + m] = element[m];
    }
}

#else

inline void unshuffle(local const uchar *in, uint n, global ELEMENT_T *out, uint item)
{
    for (uint e = item; e < n; e += GROUP) {
        uint element = 0;
#pragma unroll
        for (uint b = 0; b < 8 * ELEMENT_BYTES; b++)
            element |= (uint)(in[b * (n / 8) + e / 8] >> e % 8 & 1) << b;
        out[e] = (ELEMENT_T)element;
    }
}

#endif
