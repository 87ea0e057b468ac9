/* Azimuthal sigma clipping, one bin at a time, the raw pixels read once.
 *
 *   Ω = Σω, ΩΩ = Σω², V = Σs, v = s/ω;  mean = V/Ω
 *   std = √(VV/ΩΩ),  VV = Σω²(v − mean)² (azimuthal)  or  Σmax(s, 1) (poisson: the variance of a pixel is its signal)
 *
 * Pixels with |v − mean| > n·std are discarded and the sums made again, until nothing is discarded or `cycles`
 * is reached. n is `cut`, or Chauvenet's √(2 ln(N/√2π)) of the N pixels left, from the table (N up to its end).
 * A pixel once discarded stays so: what is kept is an interval [low, high], which only shrinks. hybrid: azimuthal
 * while clipping, poisson at the end.
 *
 * A few very bright pixels can raise the mean so far that nearly all others lie outside of n·√mean. So where the
 * poisson std would discard more than half of the pixels, that cycle is done with the azimuthal one; and a cycle
 * that would discard every pixel is not done at all.
 *
 * Sums are taken of d = s − ω·pivot, the pivot being the last mean, so that float is enough:
 *   D = Σd, B = Σd², W = Σωd, δ = D/Ω:  mean = pivot + δ,  VV = B − 2δW + δ²ΩΩ.
 * Where the pivot was too far off for that (δ²ΩΩ > 4·VV) the same sums are made again about the new mean.
 *
 * A lane adds up BLOCK values at a time and then the sums of the blocks, so that rounding errors of one sign, as
 * equal values give, do not pile up: 10⁵ values are off by 5·10⁻⁶ at the very worst.
 *
 * Built with GROUP = 1 (CPU: a work-item does a bin, LANES values at a time in vectors) or GROUP = LANES (GPU: a
 * work-group does a bin, a lane per work-item). The order of additions is the same.
 */
#define AZIMUTHAL 0
#define POISSON 1
#define HYBRID 2
#define BLOCK 32

typedef struct {
    int n;
    float d, b, var;
#if HAVE_NORM
    float omega, omega2, w;
#endif
} sums_t;

inline sums_t no_sums(void)
{
    sums_t a;
    a.n = 0;
    a.d = a.b = a.var = 0.0f;
#if HAVE_NORM
    a.omega = a.omega2 = a.w = 0.0f;
#endif
    return a;
}

inline sums_t add_sums(sums_t a, sums_t b)
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

/* one pixel into its lane; a NaN fails both comparisons */
inline void add_pixel(sums_t *lane, float s, float omega, float pivot, float low, float high)
{
#if HAVE_NORM
    if (s >= omega * low && s <= omega * high) {
        const float d = s - omega * pivot;
        lane->omega += omega;
        lane->omega2 += omega * omega;
        lane->w += omega * d;
#else
    if (s >= low && s <= high) {
        const float d = s - pivot;
#endif
        lane->n += 1;
        lane->d += d;
        lane->b += d * d;
        lane->var += fmax(s, 1.0f);
    }
}

#if GROUP == 1

#define VECTORS (LANES / 16)

inline sums_t sum_bin(global const float *s, global const float *norm, uint count, float pivot, float low,
                      float high, int item, local sums_t *unused)
{
    /* of a block: a vector for each 16 lanes; of all blocks before it: `lanes` */
    int16 n[VECTORS];
    float16 d[VECTORS], b[VECTORS], var[VECTORS];
#if HAVE_NORM
    float16 o[VECTORS], oo[VECTORS], w[VECTORS];
#endif
    sums_t lanes[LANES];
    for (int j = 0; j < LANES; j++)
        lanes[j] = no_sums();
    const uint whole = count / LANES * LANES;
    for (uint from = 0; from < whole; from += BLOCK * LANES) {
        const uint to = min(from + BLOCK * LANES, whole);
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            n[i] = 0;
            d[i] = b[i] = var[i] = 0.0f;
#if HAVE_NORM
            o[i] = oo[i] = w[i] = 0.0f;
#endif
        }
        for (uint k = from; k < to; k += LANES) {
#pragma unroll
            for (int i = 0; i < VECTORS; i++) {
                const float16 v = vload16(0, s + k + 16 * i);
#if HAVE_NORM
                const float16 om = vload16(0, norm + k + 16 * i);
                const int16 keep = (v >= om * low) & (v <= om * high);
                const float16 x = as_float16(as_int16(v - om * pivot) & keep);
                o[i] += as_float16(as_int16(om) & keep);
                oo[i] += as_float16(as_int16(om * om) & keep);
                w[i] += om * x;
#else
                const int16 keep = (v >= low) & (v <= high);
                const float16 x = as_float16(as_int16(v - pivot) & keep);
#endif
                n[i] -= keep;
                d[i] += x;
                b[i] += x * x;
                var[i] += as_float16(as_int16(fmax(v, 1.0f)) & keep);
            }
        }
        for (int i = 0; i < VECTORS; i++) {
            int ni[16];
            float di[16], bi[16], vari[16];
            vstore16(n[i], 0, ni);
            vstore16(d[i], 0, di);
            vstore16(b[i], 0, bi);
            vstore16(var[i], 0, vari);
#if HAVE_NORM
            float oi[16], ooi[16], wi[16];
            vstore16(o[i], 0, oi);
            vstore16(oo[i], 0, ooi);
            vstore16(w[i], 0, wi);
#endif
            for (int j = 0; j < 16; j++) {
                sums_t *lane = &lanes[16 * i + j];
                lane->n += ni[j];
                lane->d += di[j];
                lane->b += bi[j];
                lane->var += vari[j];
#if HAVE_NORM
                lane->omega += oi[j];
                lane->omega2 += ooi[j];
                lane->w += wi[j];
#endif
            }
        }
    }
    for (uint k = whole; k < count; k++)
        add_pixel(&lanes[k - whole], s[k], HAVE_NORM ? norm[k] : 1.0f, pivot, low, high);
    for (int half_ = LANES / 2; half_ > 0; half_ /= 2)
        for (int j = 0; j < half_; j++)
            lanes[j] = add_sums(lanes[j], lanes[j + half_]);
    return lanes[0];
}

#else

inline sums_t sum_bin(global const float *s, global const float *norm, uint count, float pivot, float low,
                      float high, int item, local sums_t *lanes)
{
    sums_t lane = no_sums();
    const uint whole = count / LANES * LANES;
    for (uint from = 0; from < whole; from += BLOCK * LANES) {
        const uint to = min(from + BLOCK * LANES, whole);
        sums_t block = no_sums();
        for (uint k = from + item; k < to; k += LANES)
            add_pixel(&block, s[k], HAVE_NORM ? norm[k] : 1.0f, pivot, low, high);
        lane = add_sums(lane, block);
    }
    if (whole + item < count)
        add_pixel(&lane, s[whole + item], HAVE_NORM ? norm[whole + item] : 1.0f, pivot, low, high);
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

inline float cut_of(int n, float cut, global const float *chauvenet, int table_end)
{
    return cut > 0.0f ? cut : chauvenet[min(n, table_end)];
}

inline void set_limits(float *low, float *high, float last_low, float last_high, float mean, float width)
{
    width += fabs(mean) * 2.4e-7f; /* never clip what float cannot tell from the mean */
    *low = fmax(last_low, mean - width);
    *high = fmin(last_high, mean + width);
}

/* Global size (GROUP · bins, frames), local size (GROUP, 1).
 *   order   sorted pixel indices; bounds  (bins + 1) runs of it
 *   norm    in the order of `order`; dark  in the order of the image
 *   values  scratch (frames, valid pixels): the signals in the order of `order`, NaN where flagged
 *   curve   result (frames, bins): mean and std, NaN where no pixel is valid */
kernel void clip_bins(global const RAW_T *raw, uint n_pixels, global const uint *order, global const uint *bounds,
                      global const float *norm, global const float *dark, global const float *chauvenet, int table_end,
                      float cut, int cycles, int model, global float *values, uint n_valid, global float2 *curve)
{
    const int bin = get_group_id(0);
    const int item = get_local_id(0);
    const size_t frame = get_global_id(1);
#if GROUP > 1
    local sums_t lanes[LANES];
#else
    local sums_t *lanes = 0;
#endif
    const uint start = bounds[bin];
    const uint count = bounds[bin + 1] - start;
    raw += frame * n_pixels;
    global float *s = values + frame * n_valid + start;
#if HAVE_NORM
    norm += start;
#endif

    for (uint k = item; k < count; k += GROUP)
        s[k] = signal_of(raw, dark, order[start + k]);
#if GROUP > 1
    barrier(CLK_GLOBAL_MEM_FENCE);
#endif

    /* any pixel's value will do as the first pivot */
    float pivot = 0.0f;
    for (uint k = 0; k < count; k++) {
        if (!isnan(s[k])) {
            pivot = HAVE_NORM ? s[k] / norm[k] : s[k];
            break;
        }
    }

    float low = -INFINITY, high = INFINITY, last_low = low, last_high = high;
    float mean = NAN, std = NAN, azimuthal = 0.0f, poisson = 0.0f;
    int left = 0, cycle = 0;
    bool same_pixels = false, wider = false;
    for (;;) {
        const sums_t sums = sum_bin(s, norm, count, pivot, low, high, item, lanes);
        if (2 * sums.n < left && model == POISSON && !wider) {
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
        std = model == POISSON ? poisson : azimuthal;
        if (sums.n == left || cycle == cycles)
            break;
        left = sums.n;
        cycle++;
        last_low = low;
        last_high = high;
        set_limits(&low, &high, last_low, last_high, mean, cut_of(left, cut, chauvenet, table_end) * std);
    }
    if (model == HYBRID && !isnan(mean))
        std = poisson;
    if (item == 0)
        curve[frame * get_num_groups(0) + bin] = (float2)(mean, std);
}
