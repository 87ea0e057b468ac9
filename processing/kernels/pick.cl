/* Picking: pixels with v > mean + snr·√(std² + noise²), mean and std interpolated between bin centres.
 *
 * Works in the order of the bins on the signals that the clipping left, marks pixels in a bitmap (bit i of word w:
 * pixel 32·w + i), and looks closely only where the value exceeds the lowest threshold that the neighbouring bins
 * can give. Compacting the bitmap then gives the pixels in the order of the image.
 */
#define RUN 16

/* Global size (GROUP · bins, frames), local size (GROUP, 1); `position` in the order of `order` */
kernel void pick_pixels(global const uint *order, global const uint *bounds, global const float *norm,
                        global const float *position, global const float *values, uint n_valid,
                        global const float2 *curve, float snr, float noise, volatile global uint *bits, uint n_words)
{
    const int bin = get_group_id(0);
    const int n_bins = get_num_groups(0);
    const size_t frame = get_global_id(1);
    const uint end = bounds[bin + 1];
    values += frame * n_valid;
    curve += frame * n_bins;
    bits += frame * n_words;

    const float2 here = curve[bin];
    if (isnan(here.x))
        return; /* no valid pixel */
    const float2 before = curve[max(bin - 1, 0)];
    const float2 after = curve[min(bin + 1, n_bins - 1)];
    const float mean = fmin(here.x, fmin(before.x, after.x)); /* fmin passes over NaN */
    const float std = fmin(here.y, fmin(before.y, after.y));
    float lowest = mean + snr * sqrt(std * std + noise * noise);
    lowest -= fabs(lowest) * 1e-5f; /* rounding must never hide a pixel */

#if GROUP == 1
    /* most runs hold nothing: find out a vector at a time */
    for (uint k = bounds[bin]; k < end; k += RUN) {
        const uint stop = min(k + RUN, end);
        if (k + RUN <= end) {
#if HAVE_NORM
            const int16 above = vload16(0, values + k) > vload16(0, norm + k) * lowest;
#else
            const int16 above = vload16(0, values + k) > lowest;
#endif
            if (!any(above))
                continue;
        }
#else
    {
        const uint k = bounds[bin] + get_local_id(0), stop = end;
#endif
        for (uint i = k; i < stop; i += GROUP) {
            const float omega = HAVE_NORM ? norm[i] : 1.0f;
            if (values[i] > omega * lowest) {
                const float2 bg = background_at(curve, n_bins, position[i]);
                if (values[i] > omega * (bg.x + snr * sqrt(bg.y * bg.y + noise * noise))) {
                    const uint q = order[i];
                    atomic_or(bits + (q >> 5), 1u << (q & 31));
                }
            }
        }
    }
}

/* raw − dark in the type of the raw pixels, rounded to the nearest */
inline RAW_T intensity_of(global const RAW_T *raw, global const float *dark, uint q)
{
#if HAVE_DARK
    return TO_RAW(signal_of(raw, dark, q));
#else
    return raw[q];
#endif
}

/* Global size (any, frames): the intensities of the listed pixels */
kernel void read_picked(global const RAW_T *raw, uint n_pixels, global const float *dark, global const uint *index,
                        global const uint *total, uint capacity, global RAW_T *intensity)
{
    const size_t frame = get_global_id(1);
    const uint n = min(total[frame], capacity);
    raw += frame * n_pixels;
    index += frame * capacity;
    intensity += frame * capacity;
    const uint2 share = share_of(n);
    for (uint i = share.x; i < share.y; i++)
        intensity[i] = intensity_of(raw, dark, index[i]);
}
