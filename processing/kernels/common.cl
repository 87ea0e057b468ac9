/* Shared by all steps. A program is built for one pixel type:
 *   RAW_T          OpenCL type of a raw pixel, TO_RAW the conversion of a float to it, rounded and saturated
 *   RAW_IS_SIGNED  1: negative values are the detector's flags (gap, dead pixel, overload)
 *   RAW_IS_FLOAT   1: not-a-number, infinity and what lies beyond ±10¹² are; squares of that overflow, and nothing
 *                  else in the bin could be told from zero beside it
 *   (neither)      the largest value of the type is
 *   HAVE_NORM      1: pixels have a norm ω = flat · solid angle · polarization; 0: ω is one
 *   HAVE_DARK      1: a dark image is subtracted
 *   LANES          partial sums per bin. The number is the same on every device and place k of a bin always goes
 *                  into lane k mod LANES, so sums are the same to the last bit everywhere.
 *   GROUP          work-items that share a bin or a tile: 1 (CPU, with vectors) or LANES (GPU, a lane each)
 */
#pragma OPENCL FP_CONTRACT OFF

/* Some compilers leave built-in functions as calls, vectors and all. So helpers are inlined by force, and what runs for
 * every pixel is written with operators. */
#define INLINE __attribute__((always_inline)) inline
#define IS_NAN(x) ((x) != (x))
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))
#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#if GROUP == 1 && defined(__has_builtin)
#if __has_builtin(__builtin_prefetch)
#define PREFETCH(p) __builtin_prefetch(p)
#endif
#endif
#ifndef PREFETCH
#define PREFETCH(p)
#endif
#define LOAD16(p) (*(global const float16 *)(p)) /* places of vectors are multiples of 16 */

/* number of the lowest bit that is set, from the exponent of a power of two */
INLINE uint lowest_bit(uint word)
{
    return (as_uint((float)(word & -word)) >> 23) - 127;
}

/* how many bits are set: pairs, fours, bytes, all */
INLINE uint count_ones(uint word)
{
    word -= word >> 1 & 0x55555555u;
    word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
    word = word + (word >> 4) & 0x0f0f0f0fu;
    return word * 0x01010101u >> 24;
}

#if RAW_IS_FLOAT
#define IS_VALID(raw) ((raw) > -1e12f && (raw) < 1e12f)
#elif RAW_IS_SIGNED
#define IS_VALID(raw) ((raw) >= 0)
#else
#define IS_VALID(raw) ((raw) != (RAW_T)~(RAW_T)0)
#endif

/* signal = raw − dark; NaN where the detector flags the pixel */
INLINE float signal_of(global const RAW_T *raw, global const float *dark, uint q)
{
    const RAW_T r = raw[q];
#if HAVE_DARK
    return IS_VALID(r) ? (float)r - dark[q] : NAN;
#else
    return IS_VALID(r) ? (float)r : NAN;
#endif
}

/* Background at a position between bin centres: linear, constant beyond the first and the last centre. An empty
 * neighbour (NaN) is not used. x: mean, y: standard deviation. */
INLINE float2 background_at(global const float2 *curve, int n_bins, float position)
{
    const float last = n_bins - 1;
    const float p = position < 0.0f ? 0.0f : position > last ? last : position;
    const int i = (int)p;
    const int j = i + 1 < n_bins ? i + 1 : i;
    const float f = p - (float)i;
    float2 a = curve[i];
    float2 b = curve[j];
    a = IS_NAN(a.x) ? b : a;
    b = IS_NAN(b.x) ? a : b;
    return a + (b - a) * f; /* exactly a where both are equal */
}
