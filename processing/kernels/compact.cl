/* From a bitmap of the image (pick.cl) to a sorted list: count per chunk of words, running sum over the chunks, emission.
 *
 *   rank of a set bit = Σ popcount(words before) + popcount(lower bits of its word)
 *
 * CHUNK, words per work-item, suits the device. Emission clears the bitmaps that picking made, for
 * the next frame.
 */

/* Global size (chunks, frames) */
kernel void count_bits(global const uint *bits, uint n_words, global uint *counts)
{
    const uint chunk = get_global_id(0), n_chunks = get_global_size(0);
    const size_t launched = get_global_id(1) - get_global_offset(1);
    bits += launched * n_words;
    const uint end = min((chunk + 1) * CHUNK, n_words);
    uint sum = 0;
    for (uint w = chunk * CHUNK; w < end; w++)
        sum += count_ones(bits[w]);
    counts[launched * n_chunks + chunk] = sum;
}

/* Global size (GROUP, frames), local size (GROUP, 1); counts become the rank of the first bit of each chunk, `total`
 * the sum */
kernel void sum_counts(global uint *counts, uint n_chunks, global uint *total)
{
    local uint parts[GROUP];
    const uint item = get_local_id(0);
    const size_t frame = get_global_id(1);
    counts += (frame - get_global_offset(1)) * n_chunks;
    const uint part = (n_chunks + GROUP - 1) / GROUP;
    const uint start = min(item * part, n_chunks), end = min(start + part, n_chunks);
    uint sum = 0;
    for (uint c = start; c < end; c++)
        sum += counts[c];
    parts[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    uint rank = 0;
    for (uint i = 0; i < item; i++)
        rank += parts[i];
    for (uint c = start; c < end; c++) {
        const uint here = counts[c];
        counts[c] = rank;
        rank += here;
    }
    if (item == GROUP - 1)
        total[frame] = rank;
}

/* raw − dark in the type of the raw pixels, rounded to the nearest */
INLINE RAW_T intensity_of(global const RAW_T *raw, global const float *dark, uint q)
{
#if HAVE_DARK
    return TO_RAW(signal_of(raw, dark, q));
#else
    return raw[q];
#endif
}

/* Global size (chunks, frames): the picked pixels and their intensities; every pixel may be one */
kernel void emit_pixels(global uint *bits, uint n_words, global const uint *counts, global const RAW_T *raw,
                        global const float *dark, uint n_pixels, global uint *index,
                        global RAW_T *intensity)
{
    const uint chunk = get_global_id(0), n_chunks = get_global_size(0);
    const size_t frame = get_global_id(1), launched = frame - get_global_offset(1);
    bits += launched * n_words;
    raw += frame * n_pixels;
    const uint end = min((chunk + 1) * CHUNK, n_words);
    const uint rank = counts[launched * n_chunks + chunk];
    index += frame * n_pixels + rank;
    intensity += frame * n_pixels + rank;
    uint n = 0;
    for (uint w = chunk * CHUNK; w < end; w++) {
        for (uint word = bits[w]; word; word &= word - 1) {
            index[n] = 32 * w + lowest_bit(word);
            PREFETCH(raw + index[n]);
            n++;
        }
        bits[w] = 0;
    }
    for (uint i = 0; i < n; i++)
        intensity[i] = intensity_of(raw, dark, index[i]);
}

/* Global size (chunks, frames): the peaks; those beyond `capacity` are not written. Clears `strong`. */
kernel void emit_peaks(global const uint *bits, uint n_words, global const uint *counts, uint capacity,
                       global uint *found, global uint *strong)
{
    const uint chunk = get_global_id(0), n_chunks = get_global_size(0);
    const size_t frame = get_global_id(1), launched = frame - get_global_offset(1);
    bits += launched * n_words;
    strong += launched * n_words;
    found += frame * capacity;
    const uint end = min((chunk + 1) * CHUNK, n_words);
    uint rank = counts[launched * n_chunks + chunk];
    for (uint w = chunk * CHUNK; w < end; w++) {
        for (uint word = bits[w]; word && rank < capacity; word &= word - 1)
            found[rank++] = 32 * w + lowest_bit(word);
        strong[w] = 0;
    }
}
