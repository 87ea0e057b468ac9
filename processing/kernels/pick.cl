/* Picking: pixels with v > mean + snr_pick·σ, σ² = std² + noise², mean and std interpolated between bin centres.
 * Strong pixels, those that a peak is made of, are those with v ≥ mean + snr_peak·σ and above the mean.
 * In the error model exact, pixels are picked and strong whose count a Poisson distribution of mean ω·mean does not
 * explain (exact.cl).
 *
 * Works in the order of the bins on the signals that sorting left, and marks pixels in two bitmaps of the image, which
 * must be clear: bit i of word w is pixel 32·w + i. It looks closely only where a value exceeds the lowest threshold
 * that the neighbouring bins can give. Pixels of a bin lie between the centres of its neighbours, so these three
 * are all that is needed. Squares are compared: roots are slow.
 */
#define PICKED 1u
#define STRONG 2u

typedef struct {
    float snr_pick, snr_peak, noise;
    bool is_exact;
    global const float *tails;  /* limits for picking, limits for peaks */
    float narrowest;            /* 1/√ω of the largest norm */
    global const uint *bounds;  /* where the places of a bin begin */
    global const float *norm;   /* in the order of the bins */
    global const uint2 *origin; /* in the order of the bins: pixel and position, a float */
    volatile global uint *picked, *strong;
} pick_t;

#define PICK_ARGUMENTS                                                                                                  \
    float snr_pick, float snr_peak, float noise, int is_exact, global const float *tails, float narrowest,              \
        global const uint *bounds, global const float *norm, global const uint2 *origin, volatile global uint *picked,  \
        volatile global uint *strong, uint n_words
#define PICK_T(frame)                                                                                                   \
    {                                                                                                                   \
        snr_pick, snr_peak, noise, is_exact, tails, narrowest, bounds, norm, origin, picked + (frame) * n_words,        \
            strong + (frame) * n_words                                                                                  \
    }

/* the lowest threshold that a pixel between these can have; NaN where the bin is empty */
INLINE float lowest_threshold(float2 before, float2 here, float2 after, const pick_t *p)
{
    const float mean = SMALLER(here.x, SMALLER(before.x, after.x));
    float std = SMALLER(here.y, SMALLER(before.y, after.y));
    if (p->is_exact) /* the smallest excess is above ωλ + n·√(ωλ) */
        std = p->narrowest * sqrt(LARGER(mean, 0.0f));
    const float lowest = mean + SMALLER(p->snr_pick, p->snr_peak) * sqrt(std * std + p->noise * p->noise);
    return lowest - (fabs(lowest) * 1e-5f); /* rounding must never hide a pixel */
}

/* PICKED and STRONG of the signal s at a place */
INLINE uint judge(float s, uint place, int bin, float2 before, float2 here, float2 after, const pick_t *p)
{
    /* as background_at() */
    const float position = as_float(p->origin[place].y);
    const bool outer = position >= (float)bin;
    const float2 a = outer ? here : before, b = outer ? after : here;
    const float2 background = a + (b - a) * (position - (float)(outer ? bin : bin - 1));
    if (p->is_exact) {
        const float expected = background.x * (HAVE_NORM ? p->norm[place] : 1.0f);
        return is_excess(s, expected, p->tails, p->snr_pick) * PICKED |
               is_excess(s, expected, p->tails + COUNTS, p->snr_peak) * STRONG;
    }
#if HAVE_NORM
    s /= p->norm[place];
#endif
    const float d = s - background.x, variance = background.y * background.y + p->noise * p->noise;
    const uint picked = d > 0.0f && d * d > p->snr_pick * p->snr_pick * variance;
    const uint strong = d > 0.0f && d * d >= p->snr_peak * p->snr_peak * variance;
    return picked * PICKED | strong * STRONG;
}

INLINE void mark(uint q, uint marks, const pick_t *p)
{
    if (marks & PICKED)
        atomic_or(p->picked + q / 32, 1u << (q & 31));
    if (marks & STRONG)
        atomic_or(p->strong + q / 32, 1u << (q & 31));
}

#if GROUP == 1

/* bit i: element i of a comparison */
INLINE uint bits_of(int16 mask)
{
    const int16 bits = mask & (int16)(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768);
    const int8 a = bits.lo | bits.hi;
    const int4 b = a.lo | a.hi;
    const int2 c = b.lo | b.hi;
    return c.x | c.y;
}

/* Picks from a bin. First all places above the lowest threshold are listed, a vector at a time, then they are judged,
 * then marked: each of these loops has many accesses to memory under way at a time.
 * `list` has room for all places of a bin. */
INLINE void pick_bin(global const float *values, int bin, float2 before, float2 here, float2 after,
                     global uint *list, const pick_t *p)
{
    before = IS_NAN(before.x) ? here : before;
    after = IS_NAN(after.x) ? here : after;
    const float lowest = lowest_threshold(before, here, after, p);
    const uint end = p->bounds[bin + 1];
    uint n = 0;
    for (uint k = p->bounds[bin]; k < end; k += 16) {
#if HAVE_NORM
        const float16 limits = LOAD16(p->norm + k) * lowest;
        uint bits = bits_of(LOAD16(values + k) > limits);
#else
        uint bits = bits_of(LOAD16(values + k) > lowest);
#endif
        for (; bits; bits &= bits - 1) {
            list[n] = k + lowest_bit(bits);
            PREFETCH(p->origin + list[n]);
            n++;
        }
    }
    uint n_marks = 0;
    for (uint i = 0; i < n; i++) {
        const uint place = list[i];
        const uint marks = judge(values[place], place, bin, before, here, after, p);
        list[n_marks] = place | marks << 30;
        n_marks += marks != 0;
    }
    for (uint i = 0; i < n_marks; i++)
        mark(p->origin[list[i] & 0x3fffffff].x, list[i] >> 30, p);
}

#else

/* Global size (GROUP · bins, frames), local size (GROUP, 1) */
kernel void pick_pixels(global const float *values, uint n_places, global const float2 *curve, PICK_ARGUMENTS)
{
    const int bin = get_group_id(0), n_bins = get_num_groups(0);
    const size_t frame = get_global_id(1), launched = frame - get_global_offset(1);
    const pick_t p = PICK_T(launched);
    values += launched * n_places;
    curve += frame * n_bins;
    const float2 here = curve[bin];
    float2 before = curve[max(bin - 1, 0)], after = curve[min(bin + 1, n_bins - 1)];
    before = IS_NAN(before.x) ? here : before;
    after = IS_NAN(after.x) ? here : after;
    const float lowest = lowest_threshold(before, here, after, &p);
    const uint end = bounds[bin + 1];
    for (uint k = bounds[bin] + get_local_id(0); k < end; k += GROUP) {
        if (values[k] > (HAVE_NORM ? norm[k] * lowest : lowest)) {
            const uint marks = judge(values[k], k, bin, before, here, after, &p);
            mark(origin[k].x, marks, &p);
        }
    }
}

#endif
