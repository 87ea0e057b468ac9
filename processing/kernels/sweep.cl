/* Clipping and picking in one sweep, for a CPU: a bin is picked from while its signals are still in the cache.
 *
 * A work-item does a range of neighbouring bins. Picking needs the curve of the bins on either side, so it follows one
 * bin behind, and the range begins one bin early and ends one late.
 */
#if GROUP == 1

/* Global size (ranges, frames), local size (1, 1).
 *   ranges  (ranges + 1) the first bins of the ranges
 *   lists   scratch, (frames of this launch, ranges, list_size) */
kernel void sweep_bins(global const float *values, uint n_places, int n_bins, global const int *ranges,
                       global const float *chauvenet, int table_end, float cut, int cycles, int model,
                       global const float *clip_tails, global float2 *curve, global uint *lists, uint list_size, PICK_ARGUMENTS)
{
    const size_t range = get_global_id(0), frame = get_global_id(1), launched = frame - get_global_offset(1);
    const int begin = ranges[range], end = ranges[range + 1];
    const pick_t p = PICK_T(launched);
    global uint *list = lists + (launched * get_global_size(0) + range) * list_size;
    values += launched * n_places;
    curve += frame * n_bins;
    float2 before = (float2)(NAN, NAN), here = before;
    for (int bin = begin > 0 ? begin - 1 : 0; bin <= end; bin++) {
        float2 after = (float2)(NAN, NAN);
        if (bin < n_bins) {
            const uint start = bounds[bin];
            after = clip_bin(values + start, norm + (HAVE_NORM ? start : 0), bounds[bin + 1] - start, chauvenet,
                             table_end, cut, cycles, model, clip_tails, 0, 0);
            if (bin >= begin && bin < end)
                curve[bin] = after;
        }
        if (bin > begin)
            pick_bin(values, bin - 1, before, here, after, list, &p);
        before = here;
        here = after;
    }
}

#endif
