/* Peaks among the picked pixels.
 *
 *   d = v − mean, σ = √(std² + noise²), both at the pixel's own position between the bin centres
 * A picked pixel with d ≥ snr_peak·σ is a peak when no pixel of its n × n neighbourhood has a larger d (among equals
 * the lowest index wins), and at least `min_pixels` pixels of the neighbourhood, itself included, have
 * d ≥ snr_peak·σ. Masked and flagged pixels and pixels beyond the edge are not there: a peak that touches them is
 * measured with the pixels that remain.
 *   intensity = Σd, uncertainty = √Σσ², centroid weighted with max(d − σ, 0), all over the neighbourhood
 * Weights max(d, 0) would count the positive half of the noise of every pixel and so pull the centroid towards the
 * middle of the neighbourhood: for a Gaussian of rms width 0.8 px at 8 to 12 σ by 22 % of its true offset, these by
 * 11 %, and the noise of the centroid is less too.
 */

/* d and σ of pixel q; d = NaN where there is no valid value */
inline float2 excess_of(global const RAW_T *raw, global const float *norm, global const float *dark,
                        global const float *position, global const float2 *curve, int n_bins, float noise, uint q)
{
    const float p = position[q];
    if (isnan(p))
        return (float2)(NAN, 0.0f);
    float v = signal_of(raw, dark, q);
#if HAVE_NORM
    v /= norm[q];
#endif
    const float2 bg = background_at(curve, n_bins, p);
    return (float2)(v - bg.x, sqrt(bg.y * bg.y + noise * noise));
}

/* Global size (any, frames): marks peaks in the bitmap `peaks`. `norm` and `position` in the order of the
 * image; positions are limited to [first, last]. */
kernel void find_peaks(global const RAW_T *raw, uint width, uint height, global const float *norm,
                       global const float *dark, global const float *position, global const float2 *curve, int n_bins,
                       global const uint *picked, global const uint *n_picked, uint capacity, float snr, float noise,
                       int half_patch, int min_pixels, float first, float last, volatile global uint *peaks,
                       uint n_words)
{
    const size_t frame = get_global_id(1);
    raw += frame * width * height;
    curve += frame * n_bins;
    picked += frame * capacity;
    const uint n = min(n_picked[frame], capacity);
    const uint2 share = share_of(n);
    for (uint i = share.x; i < share.y; i++) {
        const uint q = picked[i];
        const float p = position[q];
        if (p < first || p > last)
            continue;
        const float2 centre = excess_of(raw, norm, dark, position, curve, n_bins, noise, q);
        if (!(centre.x >= snr * centre.y))
            continue;
        const int y = q / width, x = q % width;
        const int y0 = max(y - half_patch, 0), y1 = min(y + half_patch, (int)height - 1);
        const int x0 = max(x - half_patch, 0), x1 = min(x + half_patch, (int)width - 1);
        /* most picked pixels lose against a direct neighbour already */
        int above = 0;
        bool largest = true;
        for (int i = 0; i < 4 && largest; i++) {
            const int yy = y + (i == 0) - (i == 1), xx = x + (i == 2) - (i == 3);
            if (yy < y0 || yy > y1 || xx < x0 || xx > x1)
                continue;
            const uint r = yy * width + xx;
            const float d = excess_of(raw, norm, dark, position, curve, n_bins, noise, r).x;
            largest = !(d > centre.x || (d == centre.x && r < q));
        }
        for (int yy = y0; yy <= y1 && largest; yy++) {
            for (int xx = x0; xx <= x1; xx++) {
                const uint r = yy * width + xx;
                const float2 e = excess_of(raw, norm, dark, position, curve, n_bins, noise, r);
                if (e.x > centre.x || (e.x == centre.x && r < q)) {
                    largest = false;
                    break;
                }
                above += e.x >= snr * e.y;
            }
        }
        if (largest && above >= min_pixels)
            atomic_or(peaks + frame * n_words + (q >> 5), 1u << (q & 31));
    }
}

/* Global size (any, frames): measures the listed peaks. A row of `results` is
 * (x, y, intensity, uncertainty, pixels above snr, raw − dark of the centre, pixels equal to the centre, 0). */
kernel void measure_peaks(global const RAW_T *raw, uint width, uint height, global const float *norm,
                          global const float *dark, global const float *position, global const float2 *curve, int n_bins,
                          global const uint *found, global const uint *n_found, uint capacity, float snr, float noise,
                          int half_patch, global float8 *results)
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
                if (isnan(e.x))
                    continue;
                const float w = fmax(e.x - e.y, 0.0f);
                sum += e.x;
                variance += e.y * e.y;
                weight += w;
                my += w * (yy - y);
                mx += w * (xx - x);
                above += e.x >= snr * e.y;
                equal += raw[r] == raw[q];
            }
        }
        if (weight == 0.0f)
            weight = 1.0f; /* nothing above the noise: the pixel itself */
        results[i] = (float8)(x + mx / weight, y + my / weight, sum, sqrt(variance), above,
                              signal_of(raw, dark, q), equal, 0.0f);
    }
}
