/* Azimuthal sigma clipping, one bin at a time, the raw pixels read once.
 *
 *   Ω = Σω, ΩΩ = Σω², V = Σs, v = s/ω;  mean = V/Ω
 *   std = √(VV/ΩΩ),  VV = Σω²(v − mean)² (azimuthal)  or  Σmax(s, 1) (poisson: the variance of a pixel is its signal)
 *
 * Pixels with |v − mean| > n·std are discarded and the sums made again, until nothing is discarded or `cycles`
 * is reached. n is `cut`, or Chauvenet's √(2 ln(N/√2π)) of the N pixels left, from the table (N up to its end).
 * A pixel once discarded stays so: what is kept is an interval [low, high], which only shrinks. hybrid: azimuthal
 * while clipping, poisson at the end. exact: std = √(mean·Ω/ΩΩ), and discarded is what a Poisson distribution of that
 * mean does not explain (exact.cl), for the average norm of the bin, ΩΩ/Ω.
 *
 * A few very bright pixels can raise the mean so far that nearly all others lie outside of n·√mean. So where the
 * poisson or exact model would discard more than half of the pixels, that cycle is done with the azimuthal std; and a
 * cycle that would discard every pixel is not done at all.
 *
 * Sums are taken of d = s − ω·pivot, the pivot being the last mean, so that float is enough:
 *   D = Σd, B = Σd², W = Σωd, δ = D/Ω:  mean = pivot + δ,  VV = B − 2δW + δ²ΩΩ.
 * Where the pivot was too far off for that (δ²ΩΩ > 4·VV) the same sums are made again about the new mean.
 *
 * A lane adds up BLOCK values at a time and then the sums of the blocks, so that rounding errors of one sign, as
 * equal values give, do not pile up: 10⁵ values are off by 5·10⁻⁶ at the very worst.
 *
 * On a CPU a work-item does a bin, sixteen lanes at a time in vectors, so that all sums stay in registers; on a GPU
 * a work-group does a bin, a lane per work-item. The order of additions is the same. A bin is a multiple of LANES
 * long: its padding is NaN, and has a norm of one.
 */
#define AZIMUTHAL 0
#define POISSON 1
#define HYBRID 2
#define BLOCK 32
#define ROW 16 /* lanes in a vector */

typedef struct {
    int n;
    float d, b, var;
#if HAVE_NORM
    float omega, omega2, w;
#endif
} sums_t;

#if GROUP == 1

/* ROW lanes of sums */
typedef struct {
    int16 n;
    float16 d, b, var;
#if HAVE_NORM
    float16 omega, omega2, w;
#endif
} rows_t;

INLINE void clear_rows(rows_t *a)
{
    a->n = 0;
    a->d = a->b = a->var = 0.0f;
#if HAVE_NORM
    a->omega = a->omega2 = a->w = 0.0f;
#endif
}

INLINE void add_rows(rows_t *a, const rows_t *b)
{
    a->n += b->n;
    a->d += b->d;
    a->b += b->b;
    a->var += b->var;
#if HAVE_NORM
    a->omega += b->omega;
    a->omega2 += b->omega2;
    a->w += b->w;
#endif
}

#define WHERE(keep, x) as_float16(as_int16(x) & (keep))

INLINE void sum_lanes(global const float *values, global const float *norm, uint count, float pivot, float low,
                      float high, bool want_var, rows_t *total)
{
    clear_rows(total);
    for (uint from = 0; from < count; from += BLOCK * LANES) {
        const uint to = SMALLER(from + BLOCK * LANES, count);
        rows_t block;
        clear_rows(&block);
        for (uint k = from; k < to; k += LANES) {
            const float16 s = LOAD16(values + k);
#if HAVE_NORM
            const float16 omega = LOAD16(norm + k);
            const int16 keep = (s >= omega * low) & (s <= omega * high);
            const float16 d = WHERE(keep, s - omega * pivot);
            block.omega += WHERE(keep, omega);
            block.omega2 += WHERE(keep, omega * omega);
            block.w += omega * d;
#else
            const int16 keep = (s >= low) & (s <= high);
            const float16 d = WHERE(keep, s - pivot);
#endif
            block.n -= keep;
            block.d += d;
            block.b += d * d;
            if (want_var)
                block.var += WHERE(keep, LARGER(s, 1.0f));
        }
        add_rows(total, &block);
    }
}

/* lane j + lane j + half, for half = 8, 4, 2, 1 */
INLINE int fold_int(int16 a)
{
    const int8 b = a.lo + a.hi;
    const int4 c = b.lo + b.hi;
    const int2 d = c.lo + c.hi;
    return d.x + d.y;
}

INLINE float fold(float16 a)
{
    const float8 b = a.lo + a.hi;
    const float4 c = b.lo + b.hi;
    const float2 d = c.lo + c.hi;
    return d.x + d.y;
}

INLINE sums_t sum_bin(global const float *values, global const float *norm, uint count, float pivot, float low,
                      float high, bool want_var, int item, local sums_t *unused)
{
    rows_t rows[LANES / ROW];
    for (int i = 0; i < LANES / ROW; i++) {
        if (want_var)
            sum_lanes(values + ROW * i, norm + (HAVE_NORM ? ROW * i : 0), count, pivot, low, high, true, &rows[i]);
        else
            sum_lanes(values + ROW * i, norm + (HAVE_NORM ? ROW * i : 0), count, pivot, low, high, false, &rows[i]);
    }
    for (int half_ = LANES / ROW / 2; half_ > 0; half_ /= 2)
        for (int i = 0; i < half_; i++)
            add_rows(&rows[i], &rows[i + half_]);
    sums_t sums;
    sums.n = fold_int(rows[0].n);
    sums.d = fold(rows[0].d);
    sums.b = fold(rows[0].b);
    sums.var = fold(rows[0].var);
#if HAVE_NORM
    sums.omega = fold(rows[0].omega);
    sums.omega2 = fold(rows[0].omega2);
    sums.w = fold(rows[0].w);
#endif
    return sums;
}

#else

INLINE sums_t no_sums(void)
{
    sums_t a;
    a.n = 0;
    a.d = a.b = a.var = 0.0f;
#if HAVE_NORM
    a.omega = a.omega2 = a.w = 0.0f;
#endif
    return a;
}

INLINE sums_t add_sums(sums_t a, sums_t b)
{
    a.n += b.n;
    a.d += b.d;
    a.b += b.b;
    a.var += b.var;
#if HAVE_NORM
    a.omega += b.omega;
    a.omega2 += b.omega2;
    a.w += b.w;
#endif
    return a;
}

INLINE sums_t sum_bin(global const float *values, global const float *norm, uint count, float pivot, float low,
                      float high, bool want_var, int item, local sums_t *lanes)
{
    sums_t lane = no_sums();
    for (uint from = 0; from < count; from += BLOCK * LANES) {
        const uint to = SMALLER(from + BLOCK * LANES, count);
        sums_t block = no_sums();
        for (uint k = from + item; k < to; k += LANES) {
            const float s = values[k];
#if HAVE_NORM
            const float omega = norm[k];
            const bool keep = s >= omega * low && s <= omega * high; /* a NaN fails */
            const float d = keep ? s - omega * pivot : 0.0f;
            block.omega += keep ? omega : 0.0f;
            block.omega2 += keep ? omega * omega : 0.0f;
            block.w += omega * d;
#else
            const bool keep = s >= low && s <= high;
            const float d = keep ? s - pivot : 0.0f;
#endif
            block.n += keep;
            block.d += d;
            block.b += d * d;
            block.var += keep ? LARGER(s, 1.0f) : 0.0f;
        }
        lane = add_sums(lane, block);
    }
    barrier(CLK_LOCAL_MEM_FENCE); /* the last result has been read by all */
    lanes[item] = lane;
    for (int half_ = LANES / 2; half_ > 0; half_ /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < half_)
            lanes[item] = add_sums(lanes[item], lanes[item + half_]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return lanes[0];
}

#endif

INLINE float cut_of(int n, float cut, global const float *chauvenet, int table_end)
{
    return cut > 0.0f ? cut : chauvenet[min(n, table_end)];
}

INLINE void set_limits(float *low, float *high, float last_low, float last_high, float mean, float width)
{
    width += fabs(mean) * 2.4e-7f; /* never clip what float cannot tell from the mean */
    *low = fmax(last_low, mean - width);
    *high = fmin(last_high, mean + width);
}

/* mean and std of a bin, NaN where no pixel is valid */
INLINE float2 clip_bin(global const float *values, global const float *norm, uint count,
                       global const float *chauvenet, int table_end, float cut, int cycles, int model,
                       global const float *tails, int item, local sums_t *lanes)
{
    const bool want_var = model == POISSON || model == HYBRID;

    /* any pixel's value will do as the first pivot */
    float pivot = 0.0f;
    for (uint k = 0; k < count; k++) {
        if (!IS_NAN(values[k])) {
            pivot = HAVE_NORM ? values[k] / norm[k] : values[k];
            break;
        }
    }

    float low = -INFINITY, high = INFINITY, last_low = low, last_high = high;
    float mean = NAN, std = NAN, azimuthal = 0.0f, poisson = 0.0f;
    int left = 0, cycle = 0;
    bool same_pixels = false, wider = false;
    for (;;) {
        const sums_t sums = sum_bin(values, norm, count, pivot, low, high, want_var, item, lanes);
        if (2 * sums.n < left && (model == POISSON || model == EXACT) && !wider) {
            wider = true;
            set_limits(&low, &high, last_low, last_high, mean, cut_of(left, cut, chauvenet, table_end) * azimuthal);
            continue;
        }
        wider = false;
        if (sums.n == 0)
            break; /* an empty bin, or a cycle that would empty it: the last result holds */
#if HAVE_NORM
        const float omega = sums.omega, omega2 = sums.omega2, w = sums.w;
#else
        const float omega = sums.n, omega2 = sums.n, w = sums.d;
#endif
        const float delta = sums.d / omega;
        const float shift = delta * delta * omega2;
        const float vv = fmax(sums.b - 2.0f * delta * w + shift, 0.0f);
        const float new_mean = pivot + delta;
        pivot = new_mean;
        if (shift > 4.0f * vv && !same_pixels) {
            same_pixels = true;
            continue;
        }
        same_pixels = false;
        mean = new_mean;
        azimuthal = sqrt(vv / omega2);
        poisson = sqrt(sums.var / omega2);
        if (model == EXACT)
            poisson = sqrt(fmax(mean, 0.0f) * omega / omega2);
        std = model == POISSON || model == EXACT ? poisson : azimuthal;
        if (sums.n == left || cycle == cycles)
            break;
        left = sums.n;
        cycle++;
        last_low = low;
        last_high = high;
        const float n = cut_of(left, cut, chauvenet, table_end);
        if (model == EXACT) {
            const float average = omega2 / omega;
            const float2 usual = usual_counts(tails, left, n, fmax(mean, 0.0f) * average);
            low = fmax(last_low, usual.x / average);
            high = fmin(last_high, usual.y / average);
        } else {
            set_limits(&low, &high, last_low, last_high, mean, n * std);
        }
    }
    if (model == HYBRID && !isnan(mean))
        std = poisson;
    return (float2)(mean, std);
}

#if GROUP > 1
/* Global size (GROUP · bins, frames), local size (GROUP, 1).
 *   bounds  (bins + 1) where the bins begin in `values` and `norm`
 *   curve   result (frames, bins): mean and std */
kernel void clip_bins(global const float *values, uint n_places, global const uint *bounds, global const float *norm,
                      global const float *chauvenet, int table_end, float cut, int cycles, int model,
                      global const float *tails, global float2 *curve)
{
    local sums_t lanes[LANES];
    const int bin = get_group_id(0), item = get_local_id(0);
    const size_t frame = get_global_id(1);
    const uint start = bounds[bin];
    values += (frame - get_global_offset(1)) * n_places;
    const float2 result = clip_bin(values + start, norm + (HAVE_NORM ? start : 0), bounds[bin + 1] - start, chauvenet,
                                   table_end, cut, cycles, model, tails, item, lanes);
    if (item == 0)
        curve[frame * get_num_groups(0) + bin] = result;
}
#endif
