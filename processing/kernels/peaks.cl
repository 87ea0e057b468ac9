/* Peaks among the picked pixels.
 *
 *   d = v − mean, σ = √(std² + noise²), both at the pixel's own position between the bin centres
 * A picked pixel with d ≥ snr_peak·σ (a strong one) is a peak when no pixel of its n × n neighbourhood has a larger d
 * (among equals the lowest index wins), and at least `min_pixels` pixels of the neighbourhood, itself included, are
 * strong. Masked and flagged pixels and pixels beyond the edge are not there: a peak that touches them is
 * measured with the pixels that remain. In the error model exact, strong are the pixels that a Poisson distribution of
 * the mean does not explain (exact.cl), and the uncertainty is one count at least.
 *   intensity = Σd, uncertainty = √Σσ², centroid weighted with max(d − σ, 0), all over the neighbourhood
 * Weights max(d, 0) would count the positive half of the noise of every pixel and so pull the centroid towards the
 * middle of the neighbourhood: for a Gaussian of rms width 0.8 px at 8 to 12 σ by 22 % of its true offset, these by
 * 11 %, and the noise of the centroid is less too.
 */

/* [x, y): the part of n words or list entries that this work-item does. Neighbours among them are neighbours in the
 * image, so parts are contiguous: a CPU stays in its cache, and on a GPU a part has a few entries. */
INLINE uint2 share_of(uint n)
{
    const uint part = (n + get_global_size(0) - 1) / get_global_size(0);
    const uint start = min(part * (uint)get_global_id(0), n);
    return (uint2)(start, min(start + part, n));
}

/* d and σ² of pixel q; d = NaN where there is no valid value */
INLINE float2 excess_of(global const RAW_T *raw, global const float *norm, global const float *dark,
                        global const float *position, global const float2 *curve, int n_bins, float noise, uint q)
{
    const float p = position[q];
    if (IS_NAN(p))
        return (float2)(NAN, 0.0f);
    float v = signal_of(raw, dark, q);
#if HAVE_NORM
    v /= norm[q];
#endif
    const float2 bg = background_at(curve, n_bins, p);
    return (float2)(v - bg.x, bg.y * bg.y + noise * noise);
}

/* d ≥ snr·σ and d > 0, without the root; false for NaN */
INLINE bool is_above(float2 e, float snr)
{
    return e.x > 0.0f && e.x * e.x >= snr * snr * e.y;
}

/* whether the count of pixel q is an excess at snr_peak */
INLINE bool is_excess_at(global const RAW_T *raw, global const float *norm, global const float *dark,
                         global const float *position, global const float2 *curve, int n_bins, float snr,
                         global const float *limits, uint q)
{
    const float expected = background_at(curve, n_bins, position[q]).x * (HAVE_NORM ? norm[q] : 1.0f);
    return is_excess(signal_of(raw, dark, q), expected, limits, snr);
}

/* how many of the pixels [first, last] are strong */
INLINE int count_strong(global const uint *strong, uint first, uint last)
{
    int count = 0;
    for (uint w = first / 32; w <= last / 32; w++) {
        uint word = strong[w];
        if (w == first / 32)
            word &= 0xffffffffu << (first & 31);
        if (w == last / 32)
            word &= 0xffffffffu >> (31 - (last & 31));
        count += count_ones(word);
    }
    return count;
}

/* Whether the picked and strong pixel q is a peak. Most are noise, with few strong pixels around; then most lose
 * against a direct neighbour. */
INLINE bool is_peak(global const RAW_T *raw, uint width, uint height, global const float *norm,
                    global const float *dark, global const float *position, global const float2 *curve, int n_bins,
                    float noise, int half_patch, int min_pixels, float nearest, float farthest,
                    global const uint *strong, uint q)
{
    const int y = q / width, x = q % width;
    const int y0 = max(y - half_patch, 0), y1 = min(y + half_patch, (int)height - 1);
    const int x0 = max(x - half_patch, 0), x1 = min(x + half_patch, (int)width - 1);
    int count = 0;
    for (int yy = y0; yy <= y1; yy++)
        count += count_strong(strong, yy * width + x0, yy * width + x1);
    if (count < min_pixels || position[q] < nearest || position[q] > farthest)
        return false;
    const float centre = excess_of(raw, norm, dark, position, curve, n_bins, noise, q).x;
    for (int i = 0; i < 4; i++) {
        const int yy = y + (i == 0) - (i == 1), xx = x + (i == 2) - (i == 3);
        if (yy < y0 || yy > y1 || xx < x0 || xx > x1)
            continue;
        const uint r = yy * width + xx;
        const float d = excess_of(raw, norm, dark, position, curve, n_bins, noise, r).x;
        if (d > centre || (d == centre && r < q))
            return false;
    }
    for (int yy = y0; yy <= y1; yy++) {
        for (int xx = x0; xx <= x1; xx++) {
            const uint r = yy * width + xx;
            const float d = excess_of(raw, norm, dark, position, curve, n_bins, noise, r).x;
            if (d > centre || (d == centre && r < q))
                return false;
        }
    }
    return true;
}

/* Global size (parts of the bitmap, frames): the bitmap `peaks` from the bitmaps of picked and of strong pixels.
 * `norm` and `position` in the order of the image; positions are limited to [nearest, farthest]. */
kernel void find_peaks(global const RAW_T *raw, uint width, uint height, global const float *norm,
                       global const float *dark, global const float *position, global const float2 *curve, int n_bins,
                       float noise, int half_patch, int min_pixels, float nearest, float farthest,
                       global const uint *picked, global const uint *strong, global uint *peaks, uint n_words)
{
    const size_t frame = get_global_id(1), launched = frame - get_global_offset(1);
    raw += frame * width * height;
    curve += frame * n_bins;
    picked += launched * n_words;
    strong += launched * n_words;
    peaks += launched * n_words;
    const uint2 share = share_of(n_words);
    for (uint w = share.x; w < share.y; w++) {
        uint found = 0;
        for (uint word = picked[w] & strong[w]; word; word &= word - 1) {
            const uint lowest = word & -word;
            if (is_peak(raw, width, height, norm, dark, position, curve, n_bins, noise, half_patch, min_pixels,
                        nearest, farthest, strong, 32 * w + lowest_bit(word)))
                found |= lowest;
        }
        peaks[w] = found;
    }
}

/* Global size (any, frames): measures the listed peaks. A row of `results` is
 * (x, y, intensity, uncertainty, pixels above snr, raw − dark of the centre, pixels equal to the centre, 0). */
kernel void measure_peaks(global const RAW_T *raw, uint width, uint height, global const float *norm,
                          global const float *dark, global const float *position, global const float2 *curve, int n_bins,
                          float noise, int half_patch, float snr, int is_exact, global const float *tails,
                          global const uint *found,
                          global const uint *n_found, uint capacity, global float8 *results)
{
    const size_t frame = get_global_id(1);
    raw += frame * width * height;
    curve += frame * n_bins;
    found += frame * capacity;
    results += frame * capacity;
    const uint n = min(n_found[frame], capacity);
    const uint2 share = share_of(n);
    for (uint i = share.x; i < share.y; i++) {
        const uint q = found[i];
        const int y = q / width, x = q % width;
        const int y0 = max(y - half_patch, 0), y1 = min(y + half_patch, (int)height - 1);
        const int x0 = max(x - half_patch, 0), x1 = min(x + half_patch, (int)width - 1);
        float sum = 0.0f, variance = 0.0f, weight = 0.0f, my = 0.0f, mx = 0.0f;
        int above = 0, equal = 0;
        for (int yy = y0; yy <= y1; yy++) {
            for (int xx = x0; xx <= x1; xx++) {
                const uint r = yy * width + xx;
                const float2 e = excess_of(raw, norm, dark, position, curve, n_bins, noise, r);
                if (IS_NAN(e.x))
                    continue;
                const float w = fmax(e.x - sqrt(e.y), 0.0f);
                sum += e.x;
                variance += e.y;
                weight += w;
                my += w * (yy - y);
                mx += w * (xx - x);
                above += is_exact ? is_excess_at(raw, norm, dark, position, curve, n_bins, snr, tails + COUNTS, r)
                                  : is_above(e, snr);
                equal += raw[r] == raw[q];
            }
        }
        if (is_exact)
            variance = fmax(variance, 1.0f);
        if (weight == 0.0f)
            weight = 1.0f; /* nothing above the noise: the pixel itself */
        results[i] = (float8)(x + mx / weight, y + my / weight, sum, sqrt(variance), above,
                              signal_of(raw, dark, q), equal, 0.0f);
    }
}
