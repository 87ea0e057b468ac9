/* Shared by all steps. A program is built for one pixel type:
 *   RAW_T          OpenCL type of a raw pixel, TO_RAW the conversion of a float to it, rounded and saturated
 *   RAW_IS_SIGNED  1: negative values are the detector's flags (gap, dead pixel, overload)
 *   RAW_IS_FLOAT   1: not-a-number and infinity are
 *   (neither)      the largest value of the type is
 *   HAVE_NORM      1: pixels have a norm ω = flat · solid angle · polarization; 0: ω is one
 *   HAVE_DARK      1: a dark image is subtracted
 *   LANES          partial sums per bin. The number is the same on every device and pixel k of a bin always goes
 *                  into lane k mod LANES, so sums are the same to the last bit everywhere.
 */
#pragma OPENCL FP_CONTRACT OFF

#if RAW_IS_FLOAT
#define IS_VALID(raw) isfinite(raw)
#elif RAW_IS_SIGNED
#define IS_VALID(raw) ((raw) >= 0)
#else
#define IS_VALID(raw) ((raw) != (RAW_T)~(RAW_T)0)
#endif

/* signal = raw − dark of the pixel `q`; NaN where the detector flags it */
inline float signal_of(global const RAW_T *raw, global const float *dark, uint q)
{
    const RAW_T r = raw[q];
#if HAVE_DARK
    return IS_VALID(r) ? (float)r - dark[q] : NAN;
#else
    return IS_VALID(r) ? (float)r : NAN;
#endif
}

/* [x, y): the part of n list entries that this work-item does. Neighbours in the list are neighbours in the image, so
 * parts are contiguous: a CPU stays in its cache, and on a GPU a part has one entry or two. */
inline uint2 share_of(uint n)
{
    const uint part = (n + get_global_size(0) - 1) / get_global_size(0);
    const uint start = min(part * (uint)get_global_id(0), n);
    return (uint2)(start, min(start + part, n));
}

/* Background at a position between bin centres: linear, constant beyond the first and the last centre. An empty
 * neighbour (NaN) is not used. x: mean, y: standard deviation. */
inline float2 background_at(global const float2 *curve, int n_bins, float position)
{
    const float p = clamp(position, 0.0f, (float)(n_bins - 1));
    const int i = (int)p;
    const int j = min(i + 1, n_bins - 1);
    const float f = p - (float)i;
    float2 a = curve[i];
    float2 b = curve[j];
    a = isnan(a.x) ? b : a;
    b = isnan(b.x) ? a : b;
    return a + (b - a) * f; /* exactly a where both are equal */
}
