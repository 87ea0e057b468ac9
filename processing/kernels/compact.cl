/* From a bitmap to a sorted list: count per chunk of words, running sum over the chunks, emission.
 *
 *   rank of a set bit = Σ popcount(words before) + popcount(lower bits of its word)
 */
#define CHUNK 256 /* words per work-item */

/* Global size (chunks, frames) */
kernel void count_bits(global const uint *bits, uint n_words, global uint *counts)
{
    const uint chunk = get_global_id(0), n_chunks = get_global_size(0);
    const size_t frame = get_global_id(1);
    bits += frame * n_words;
    const uint end = min((chunk + 1) * CHUNK, n_words);
    uint sum = 0;
    for (uint w = chunk * CHUNK; w < end; w++)
        sum += popcount(bits[w]);
    counts[frame * n_chunks + chunk] = sum;
}

/* Global size (frames); counts become the rank of the first bit of each chunk, `total` the sum */
kernel void sum_counts(global uint *counts, uint n_chunks, global uint *total)
{
    const size_t frame = get_global_id(0);
    counts += frame * n_chunks;
    uint sum = 0;
    for (uint c = 0; c < n_chunks; c++) {
        const uint here = counts[c];
        counts[c] = sum;
        sum += here;
    }
    total[frame] = sum;
}

/* Global size (chunks, frames); indices beyond `capacity` are not written */
kernel void emit_bits(global const uint *bits, uint n_words, global const uint *counts, uint capacity,
                      global uint *index)
{
    const uint chunk = get_global_id(0), n_chunks = get_global_size(0);
    const size_t frame = get_global_id(1);
    bits += frame * n_words;
    index += frame * capacity;
    const uint end = min((chunk + 1) * CHUNK, n_words);
    uint rank = counts[frame * n_chunks + chunk];
    for (uint w = chunk * CHUNK; w < end; w++) {
        uint word = bits[w];
        while (word) {
            const uint bit = 31 - clz(word & -word);
            if (rank < capacity)
                index[rank] = 32 * w + bit;
            rank++;
            word &= word - 1;
        }
    }
}
