/* Shared by all steps. A program is built for one pixel type:
 *   RAW_T          OpenCL type of a raw pixel, TO_RAW the conversion of a float to it, rounded and saturated
 *   RAW_IS_SIGNED  1: negative values are the detector's flags (gap, dead pixel, overload)
 *   RAW_IS_FLOAT   1: not-a-number and infinity are
 *   (neither)      the largest value of the type is
 *   HAVE_NORM      1: pixels have a norm ω = flat · solid angle · polarization; 0: ω is one
 *   HAVE_DARK      1: a dark image is subtracted
 *   KEEP_RAW       1: signals wait in bin order as raw pixels, 0: as float, NaN where flagged
 *   LANES          partial sums per bin. The number is the same on every device and place k of a bin always goes
 *                  into lane k mod LANES, so sums are the same to the last bit everywhere.
 *   GROUP          work-items that share a bin or a tile: 1 (CPU, vectors) or LANES (GPU, a lane each)
 */
#pragma OPENCL FP_CONTRACT OFF

#if RAW_IS_FLOAT
#define IS_VALID(raw) isfinite(raw)
#elif RAW_IS_SIGNED
#define IS_VALID(raw) ((raw) >= 0)
#else
#define IS_VALID(raw) ((raw) != (RAW_T)~(RAW_T)0)
#endif

#if KEEP_RAW
#define VALUE_T RAW_T
#else
#define VALUE_T float
#endif

/* s · 1 where the value in bin order is valid, else NaN */
#if KEEP_RAW
#define SIGNAL(value) (IS_VALID(value) ? (float)(value) : NAN)
#else
#define SIGNAL(value) (value)
#endif

/* all signals lie between, flagged raw pixels do not */
#if KEEP_RAW && RAW_IS_SIGNED
#define LEAST (-0.5f)
#define MOST INFINITY
#elif KEEP_RAW
#define LEAST (-INFINITY)
#define MOST ((float)(RAW_T)~(RAW_T)0 - 0.5f)
#else
#define LEAST (-INFINITY)
#define MOST INFINITY
#endif

/* signal = raw − dark; NaN where the detector flags the pixel */
inline float signal_of(global const RAW_T *raw, global const float *dark, uint q)
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
