/* Counts that the background does not explain, by the exact Poisson tail: the error model `exact`.
 *
 *   s is an excess above a mean λ where P(X ≥ s | λ) ≤ Q(n), a deficit where P(X ≤ s | λ) ≤ Q(n),
 *   Q(n) = ½ erfc(n/√2): the share of a normal distribution beyond n σ.
 *
 * Tables from the host (processing/poisson_tails.py) have for each count s the mean λ at which that begins:
 *   rows 0, 1            excess: at snr_pick, at snr_peak
 *   OCTAVES rows         excess, to clip bins of 2^k … 2^(k+1) pixels
 *   OCTAVES rows         deficit, to clip them
 * Larger counts are judged by Wilson and Hilferty's approximation of the same.
 */
#define EXACT 3
#define COUNTS 256
#define OCTAVES 32

/* Whether the count s is an excess above the mean `expected`; `limits` is the table for n = cut. */
INLINE bool is_excess(float s, float expected, global const float *limits, float cut)
{
    if (s < 0.5f)
        return false;
    if (s < COUNTS - 0.5f)
        return expected <= limits[(int)(s + 0.5f)];
    const float root = 1.0f - 1.0f / (9.0f * s) - cut / (3.0f * sqrt(s));
    return root > 0.0f && expected <= s * root * root * root;
}

/* the first count of which the limit is above the mean, or equal where `or_equal`; limits rise */
INLINE int first_above(global const float *limits, float mean, bool or_equal)
{
    int low = 0, high = COUNTS;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (limits[middle] > mean || (or_equal && limits[middle] == mean))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Between these lie the counts that are neither deficit nor excess in a bin of n pixels; the limits are halfway between
 * counts. */
INLINE float2 usual_counts(global const float *tails, int n, float cut, float mean)
{
    global const float *excess = tails + (2 + 31 - (int)clz((uint)n)) * COUNTS, *deficit = excess + OCTAVES * COUNTS;
    /* Cornish and Fisher's expansion of the quantile, where the table ends */
    const float middle = mean + (cut * cut - 1.0f) / 6.0f, width = cut * sqrt(mean) + 0.5f;
    const int first = first_above(excess, mean, true), usual = first_above(deficit, mean, false);
    return (float2)(usual < COUNTS ? usual - 0.5f : middle - width, first < COUNTS ? first - 0.5f : middle + width);
}
