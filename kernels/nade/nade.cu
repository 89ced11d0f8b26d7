// NADE: see reference.py. REAL is float or double.
//
// A hidden unit never looks at another, so a lane keeps its units in registers and walks the pixels without waiting; lanes
// meet where a logit sums over units. x is read as bits, since the state changes only at a 1. A group of pixels is fetched
// while the one before it is worked on: a walk takes as many waits for memory as it has groups. No atomics: sums have a fixed
// order, and the same device gives the same bits.

constexpr int LANES = 32;
constexpr int GROUP = 8;     // pixels that are fetched and reduced together; divides LANES
constexpr int LONG = 16;     // the same in nade_dots, which has registers for more
constexpr int UNITS = 1;     // hidden units of a lane in nade_dots
constexpr int WARPS = 8;     // of a block in nade_backward: as many as GROUP, so that each adds up one pixel
constexpr int EXAMPLES = 2;  // of a warp in nade_backward
constexpr unsigned EVERY_LANE = 0xffffffffu;

__device__ REAL sigmoid(REAL z) { return 1 / (1 + exp(-z)); }
__device__ REAL softplus(REAL z) { return max(z, REAL(0)) + log1p(exp(-fabs(z))); }

// Rows i to i + P - 1 of V, and those of W that the bits of `ones` name, at some hidden units. Rows past either end
// are read as the outermost one, and not used.
template <int N, int P>
struct Rows {
    REAL V[P][N], W[P][N];

    __device__ Rows(const REAL* W_, const REAL* V_, int i, unsigned ones, const int (&unit)[N], int D, int H) {
#pragma unroll
        for (int p = 0; p < P; p++) {
            const long long row = (long long)max(0, min(i + p, D - 1)) * H;
#pragma unroll
            for (int u = 0; u < N; u++) {
                V[p][u] = V_[row + unit[u]];
                W[p][u] = ones >> p & 1 ? W_[row + unit[u]] : 0;
            }
        }
    }
};

// Bit p < P tells whether pixel i + p of an example is 1; i is a multiple of P.
template <int P>
__device__ unsigned ones_of_group(const unsigned* bits, int i, int D) {
    return i < 0 || i >= D ? 0 : bits[i / LANES] >> i % LANES & ((1u << P) - 1);
}

// Sums over the warp: lane l returns that of values[l % P]. At each step a pair of lanes shares out what it holds.
template <int P>
__device__ REAL sum_group(REAL (&values)[P]) {
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int bit = 1; bit < P; bit *= 2) {
        const bool odd = lane & bit;
#pragma unroll
        for (int k = 0; k < P / (2 * bit); k++) {
            const REAL kept = odd ? values[2 * k + 1] : values[2 * k];
            const REAL given = odd ? values[2 * k] : values[2 * k + 1];
            values[k] = kept + __shfl_xor_sync(EVERY_LANE, given, bit);
        }
    }
    REAL sum = values[0];
#pragma unroll
    for (int bit = P; bit < LANES; bit *= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, bit);
    return sum;
}

// bits (B, words), bit i % 32 of word i / 32 being pixel i. One warp per word.
extern "C" __global__ void nade_bits(const REAL* __restrict__ x, unsigned* __restrict__ bits, int B, int D, int words) {
    const long long task = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    if (task >= (long long)B * words) return;
    const int i = task % words * LANES + threadIdx.x % LANES;
    const unsigned word = __ballot_sync(EVERY_LANE, i < D && x[task / words * D + i] != 0);
    if (threadIdx.x % LANES == 0) bits[task] = word;
}

// partial (tiles, B, D): what the hidden units of a tile add to each logit. last (B, H): the state a after all pixels.
// One warp per example (threadIdx.y) and tile of LANES * UNITS units (blockIdx.y).
extern "C" __global__ void nade_dots(const unsigned* __restrict__ bits, const REAL* __restrict__ W, const REAL* __restrict__ V,
                                     const REAL* __restrict__ c, REAL* __restrict__ partial, REAL* __restrict__ last, int B,
                                     int D, int H, int words) {
    const int lane = threadIdx.x;
    const long long example = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (example >= B) return;
    bits += example * words;
    partial += (blockIdx.y * (long long)B + example) * D;

    int unit[UNITS];
    bool counts[UNITS];  // lanes past H repeat its last unit, with h = 0
    REAL a[UNITS], h[UNITS];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int j = (blockIdx.y * UNITS + u) * LANES + lane;
        counts[u] = j < H;
        unit[u] = min(j, H - 1);
        a[u] = c[unit[u]];
        h[u] = counts[u] ? sigmoid(a[u]) : 0;
    }

    unsigned ones_next = ones_of_group<LONG>(bits, 0, D);
    Rows<UNITS, LONG> next(W, V, 0, ones_next, unit, D, H);
    for (int i = 0; i < D; i += LONG) {
        const unsigned ones = ones_next;
        const Rows<UNITS, LONG> row = next;
        ones_next = ones_of_group<LONG>(bits, i + LONG, D);
        next = Rows<UNITS, LONG>(W, V, i + LONG, ones_next, unit, D, H);
        REAL dot[LONG];
#pragma unroll
        for (int p = 0; p < LONG; p++) {
            dot[p] = 0;
#pragma unroll
            for (int u = 0; u < UNITS; u++) dot[p] += row.V[p][u] * h[u];
            if (ones >> p & 1) {
#pragma unroll
                for (int u = 0; u < UNITS; u++) {
                    a[u] += row.W[p][u];
                    h[u] = counts[u] ? sigmoid(a[u]) : 0;
                }
            }
        }
        const REAL sum = sum_group(dot);
        if (lane < LONG && i + lane < D) partial[i + lane] = sum;
    }
#pragma unroll
    for (int u = 0; u < UNITS; u++)
        if (counts[u]) last[example * H + unit[u]] = a[u];
}

// logits (B, D) from their partial sums, and log_prob (B,). One block per example.
extern "C" __global__ void nade_log_prob(const REAL* __restrict__ x, const REAL* __restrict__ partial,
                                         const REAL* __restrict__ b, REAL* __restrict__ logits, REAL* __restrict__ log_prob,
                                         int B, int D, int tiles) {
    __shared__ REAL sums[LANES];
    const long long row = (long long)blockIdx.x * D;
    REAL sum = 0;
    for (int i = threadIdx.x; i < D; i += blockDim.x) {
        REAL logit = b[i];
        for (int t = 0; t < tiles; t++) logit += partial[(long long)t * B * D + row + i];
        logits[row + i] = logit;
        sum += x[row + i] * logit - softplus(logit);
    }
    for (int bit = 1; bit < LANES; bit *= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, bit);
    if (threadIdx.x % LANES == 0) sums[threadIdx.x / LANES] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / LANES; w++) sum += sums[w];
        log_prob[blockIdx.x] = sum;
    }
}

// d (B, D), the cotangent of the logits: g (x - sigmoid(logits)).
extern "C" __global__ void nade_cotangent(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                          const REAL* __restrict__ logits, REAL* __restrict__ d, int B, int D) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x; k < (long long)B * D; k += stride)
        d[k] = g[k / D] * (x[k] - sigmoid(logits[k]));
}

// A hidden unit of one example on its way back: its state, A so far, and the cotangent of h from the pixels that saw this h.
struct Unit {
    REAL a, h, A = 0, gh = 0;

    __device__ void arrive(REAL state) {
        a = state;
        h = sigmoid(a);
    }
    __device__ void leave() {
        A += gh * h * (1 - h);
        gh = 0;
    }
};

// What a warp needs to walk back through a group of pixels, at one hidden unit: rows, bits of its examples, and their d.
struct Step {
    unsigned ones[EXAMPLES], any = 0;
    REAL d[EXAMPLES][GROUP];

    __device__ Step(const unsigned* bits, const REAL* d_, const long long (&example)[EXAMPLES], int i, int B, int D, int words) {
#pragma unroll
        for (int k = 0; k < EXAMPLES; k++) {
            const bool exists = example[k] < B;
            ones[k] = exists ? ones_of_group<GROUP>(bits + example[k] * words, i, D) : 0;
            any |= ones[k];
#pragma unroll
            for (int p = 0; p < GROUP; p++) d[k][p] = exists && i >= 0 && i + p < D ? d_[example[k] * D + i + p] : 0;
        }
    }
};

// partial (gridDim.y, 2 D + 1, H): the rows of gW, of gV, and gc, summed over a share of the examples. One block per LANES
// hidden units (blockIdx.x) and share (blockIdx.y): each warp takes EXAMPLES examples at a time back from their last state,
// and the block adds its warps up.
extern "C" __global__ void __launch_bounds__(LANES * WARPS)
    nade_backward(const unsigned* __restrict__ bits, const REAL* __restrict__ d, const REAL* __restrict__ last,
                  const REAL* __restrict__ W, const REAL* __restrict__ V, REAL* __restrict__ partial, int B, int D, int H,
                  int words) {
    static_assert(WARPS == GROUP, "warp w adds up pixel w of a group");
    __shared__ REAL gW_of[WARPS][GROUP][LANES], gV_of[WARPS][GROUP][LANES];
    const int lane = threadIdx.x, warp = threadIdx.y;
    const int j = blockIdx.x * LANES + lane;
    const int unit[1] = {min(j, H - 1)};  // lanes past H repeat its last unit, and write nothing
    REAL* const gW = partial + (long long)blockIdx.y * (2 * D + 1) * H;
    REAL* const gV = gW + (long long)D * H;
    const int final_group = (D - 1) / GROUP * GROUP;
    REAL gc = 0;

    const long long round = (long long)gridDim.y * WARPS * EXAMPLES;
    for (long long share = (long long)blockIdx.y * WARPS * EXAMPLES; share < B; share += round) {
        long long example[EXAMPLES];
        Unit state[EXAMPLES];
#pragma unroll
        for (int k = 0; k < EXAMPLES; k++) {
            example[k] = share + warp * EXAMPLES + k;
            state[k].arrive(last[min(example[k], B - 1LL) * H + unit[0]]);
        }
        Step next(bits, d, example, final_group, B, D, words);
        Rows<1, GROUP> next_row(W, V, final_group, next.any, unit, D, H);
        for (int i = final_group; i >= 0; i -= GROUP) {
            const Step step = next;
            const Rows<1, GROUP> row = next_row;
            next = Step(bits, d, example, i - GROUP, B, D, words);
            next_row = Rows<1, GROUP>(W, V, i - GROUP, next.any, unit, D, H);
#pragma unroll
            for (int p = GROUP - 1; p >= 0; p--) {
                REAL gW_sum = 0, gV_sum = 0;
#pragma unroll
                for (int k = 0; k < EXAMPLES; k++) {
                    if (step.ones[k] >> p & 1) {
                        state[k].leave();
                        gW_sum += state[k].A;
                        state[k].arrive(state[k].a - row.W[p][0]);
                    }
                    gV_sum += step.d[k][p] * state[k].h;
                    state[k].gh += step.d[k][p] * row.V[p][0];
                }
                gW_of[warp][p][lane] = gW_sum;
                gV_of[warp][p][lane] = gV_sum;
            }
            __syncthreads();
            const int pixel = i + warp;
            if (pixel < D && j < H) {
                const long long at = (long long)pixel * H + j;
                REAL gW_sum = share < round ? 0 : gW[at], gV_sum = share < round ? 0 : gV[at];
                for (int w = 0; w < WARPS; w++) {
                    gW_sum += gW_of[w][warp][lane];
                    gV_sum += gV_of[w][warp][lane];
                }
                gW[at] = gW_sum;
                gV[at] = gV_sum;
            }
            __syncthreads();
        }
#pragma unroll
        for (int k = 0; k < EXAMPLES; k++) {
            state[k].leave();
            if (example[k] < B) gc += state[k].A;
        }
    }
    gW_of[0][warp][lane] = gc;
    __syncthreads();
    if (warp == 0 && j < H) {
        for (int w = 1; w < WARPS; w++) gc += gW_of[0][w][lane];
        gV[(long long)D * H + j] = gc;
    }
}

// Draw the pixels of x (n, D) from `start` on. a (n, H) holds the state before pixel `start`, h (n, H) is room for its
// sigmoids. One block per example. While pixels come out 0 the state stays: the logits of a group are worked out together,
// as though all its pixels but the last were 0, and hold up to the first that comes out 1.
extern "C" __global__ void nade_complete(REAL* __restrict__ x, const REAL* __restrict__ uniforms, const REAL* __restrict__ W,
                                         const REAL* __restrict__ V, const REAL* __restrict__ b, REAL* __restrict__ a,
                                         REAL* __restrict__ h, int start, int D, int H) {
    __shared__ REAL sums[2][LANES][GROUP];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    x += (long long)blockIdx.x * D;
    uniforms += (long long)blockIdx.x * D;
    a += (long long)blockIdx.x * H;
    h += (long long)blockIdx.x * H;
    for (int j = threadIdx.x; j < H; j += blockDim.x) h[j] = sigmoid(a[j]);

    int buffer = 0;  // two, so that one barrier a group is enough
    for (int i = start; i < D; buffer ^= 1) {
        REAL dot[GROUP] = {};
        for (int j = threadIdx.x; j < H; j += blockDim.x) {
            const REAL h_j = h[j];
#pragma unroll
            for (int p = 0; p < GROUP; p++) dot[p] += h_j * V[(long long)min(i + p, D - 1) * H + j];
        }
        const REAL sum = sum_group(dot);
        if (lane < GROUP) sums[buffer][warp][lane] = sum;
        __syncthreads();
        bool one = false;
        if (lane < GROUP && i + lane < D) {
            REAL logit = b[i + lane];
            for (int w = 0; w < warps; w++) logit += sums[buffer][w][lane];
            one = uniforms[i + lane] < sigmoid(logit);
        }
        const unsigned ones = __ballot_sync(EVERY_LANE, one);
        const int drawn = min(ones ? __ffs(ones) : GROUP, D - i);
        if (warp == 0 && lane < drawn) x[i + lane] = one;
        i += drawn;
        if (ones)
            for (int j = threadIdx.x; j < H; j += blockDim.x) {
                a[j] += W[(long long)(i - 1) * H + j];
                h[j] = sigmoid(a[j]);
            }
    }
}
