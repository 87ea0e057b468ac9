/* Picking: pixels with v > mean + snr_pick·σ, σ² = std² + noise², mean and std interpolated between bin centres.
 * Strong pixels, those that a peak is made of, are those with v ≥ mean + snr_peak·σ.
 *
 * Works in the order of the bins on the signals that sorting left, and marks pixels in two bitmaps of the image, which
 * must be clear: a row takes ⌈columns/32⌉ words, bit i of word j of a row is column 32·j + i. It looks closely only
 * where a value exceeds the lowest threshold that the neighbouring bins can give. Pixels of a bin lie between the centres of its neighbours, so these three are all that is needed. Squares
 * are compared: roots are slow.
 */
#if GROUP == 1
#define RUN 16
#define VEC(type) type##16
#define LOAD(p, k) vload16(0, (p) + (k))
#define TO_FLOAT(x) convert_float16(x)
#define ANY(mask) any_of(mask)

/* bit i: element i of a comparison */
inline uint bits_of(int16 mask)
{
    const int16 weighted = mask & (int16)(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768);
    const int8 a = weighted.lo | weighted.hi;
    const int4 b = a.lo | a.hi;
    const int2 c = b.lo | b.hi;
    return c.x | c.y;
}

/* any() looks at one element after the other on some devices */
inline bool any_of(int16 mask)
{
    const int8 a = mask.lo | mask.hi;
    const int4 b = a.lo | a.hi;
    const int2 c = b.lo | b.hi;
    return (c.x | c.y) != 0;
}
#else
#define RUN 1
#define VEC(type) type
#define LOAD(p, k) (p)[k]
#define TO_FLOAT(x) (float)(x)
#define ANY(mask) (mask)
#define bits_of(mask) ((uint)(mask) & 1u)
#endif

/* Marks the places 32·w + i, for the bits i of `bits`, in a bitmap of the image. The first of them belongs to
 * `segment` or to a later one. */
inline void mark(uint bits, uint w, global const uint2 *segments, uint segment, global const ushort *sources,
                 uint words_per_row, volatile global uint *marks)
{
    uint corner = 0; /* of the tile that the segment comes from: its first word */
    for (uint next = 0; bits; bits &= bits - 1) {
        const uint place = 32 * w + 31 - clz(bits & -bits);
        if (place >= next) {
            while (place >= (next = segments[++segment].x))
                ;
            corner = segments[segment - 1].y;
        }
        const uint source = sources[place];
        const uint word = corner + source / TILE_COLUMNS * words_per_row + source % TILE_COLUMNS / 32;
        atomic_or(marks + word, 1u << (source & 31));
    }
}

/* Global size (GROUP · bins, frames), local size (GROUP, 1); a work-item does 32 places at a time. `norm` and
 * `position` in the order of the bins. */
kernel void pick_pixels(global const VALUE_T *values, uint n_places, global const uint *bounds,
                        global const float *norm, global const float *position, global const float2 *curve,
                        float snr_pick, float snr_peak, float noise, global const uint2 *segments,
                        global const uint *segment_at, global const ushort *sources, uint words_per_row, uint n_words,
                        volatile global uint *picked, volatile global uint *strong)
{
    const int bin = get_group_id(0);
    const int n_bins = get_num_groups(0);
    const size_t frame = get_global_id(1), launched = frame - get_global_offset(1);
    const uint end = bounds[bin + 1] / 32;
    values += launched * n_places;
    picked += launched * n_words;
    strong += launched * n_words;
    curve += frame * n_bins;

    const float2 here = curve[bin];
    float2 before = curve[max(bin - 1, 0)];
    float2 after = curve[min(bin + 1, n_bins - 1)];
    before = isnan(before.x) ? here : before;
    after = isnan(after.x) ? here : after;
    const float mean_ = fmin(here.x, fmin(before.x, after.x));
    const float std_ = fmin(here.y, fmin(before.y, after.y));
    float lowest = mean_ + fmin(snr_pick, snr_peak) * sqrt(std_ * std_ + noise * noise); /* NaN: no valid pixel */
    lowest -= fabs(lowest) * 1e-5f; /* rounding must never hide a pixel */

    for (uint w = bounds[bin] / 32 + get_local_id(0); w < end; w += GROUP) {
        uint picked_bits = 0, strong_bits = 0;
        for (uint part = 0; part < 32; part += RUN) {
            const uint k = 32 * w + part;
            const VEC(float) s = TO_FLOAT(LOAD(values, k));
#if HAVE_NORM
            const VEC(float) omega = LOAD(norm, k);
            if (!ANY(s > omega * lowest))
                continue;
            const VEC(float) v = s / omega;
#else
            const VEC(float) v = s;
            if (!ANY(v > lowest))
                continue;
#endif
            /* as background_at() */
            const VEC(float) p = LOAD(position, k);
            const VEC(int) outer = p >= (float)bin;
            const VEC(float) f = p - (outer ? (VEC(float))bin : (VEC(float))(bin - 1));
            const VEC(float) mean_a = outer ? (VEC(float))here.x : (VEC(float))before.x;
            const VEC(float) mean_b = outer ? (VEC(float))after.x : (VEC(float))here.x;
            const VEC(float) std_a = outer ? (VEC(float))here.y : (VEC(float))before.y;
            const VEC(float) std_b = outer ? (VEC(float))after.y : (VEC(float))here.y;
            const VEC(float) mean = mean_a + (mean_b - mean_a) * f;
            const VEC(float) std = std_a + (std_b - std_a) * f;
            const VEC(float) d = v - mean, variance = std * std + noise * noise;
            const VEC(int) valid = s < MOST;
            const VEC(int) pick = valid & (d > 0.0f) & (d * d > snr_pick * snr_pick * variance);
            const VEC(int) peak = valid & (d >= 0.0f) & (d * d >= snr_peak * snr_peak * variance);
            picked_bits |= bits_of(pick) << part;
            if (ANY(peak))
                strong_bits |= bits_of(peak) << part;
        }
        if (picked_bits)
            mark(picked_bits, w, segments, segment_at[w], sources, words_per_row, picked);
        if (strong_bits)
            mark(strong_bits, w, segments, segment_at[w], sources, words_per_row, strong);
    }
}
