// NADE on the GPU; the equations are in reference.py. REAL is float or double.
//
// A hidden state changes only after a pixel that is 1, so states are few: state s holds for the pixels after the one
// numbered s - 1 up to the one numbered s. Forward and sampling take a block of threads for each example; its warps dot
// rows of V with the state in shared memory. Backward, given the gradient in the logits, a column of the hidden units
// needs no other column: a thread walks over the pixels of its column, and nothing is summed between threads.

#define WARP 32
#define EVERY_LANE 0xffffffffu
#define PIXELS 16  // that a thread holds in registers going back

__device__ REAL sigmoid(REAL t) { return 1 / (1 + exp(-t)); }

__device__ REAL softplus(REAL t) { return fmax(t, REAL(0)) + log1p(exp(-fabs(t))); }

// The dot product of two rows, in lane 0.
__device__ REAL warp_dot(const REAL *row, const REAL *state, int length, int lane) {
    REAL sum = 0;
    for (int j = lane; j < length; j += WARP) sum += row[j] * state[j];
    for (int offset = WARP / 2; offset; offset /= 2) sum += __shfl_down_sync(EVERY_LANE, sum, offset);
    return sum;
}

// The places of the ones among x[0 .. D - 1], in order, found by one warp; returns how many there are.
__device__ int list_ones(const REAL *x, int D, int *ones, int lane) {
    int count = 0;
    for (int base = 0; base < D; base += WARP) {
        bool one = base + lane < D && x[base + lane] != 0;
        unsigned lanes = __ballot_sync(EVERY_LANE, one);
        if (one) ones[count + __popc(lanes & ((1u << lane) - 1))] = base + lane;
        count += __popc(lanes);
    }
    return count;
}

// A block for each example. In shared memory: `batch` states of H units, then the places of the ones.
extern "C" __global__ void nade_forward(const REAL *__restrict__ x, const REAL *__restrict__ W,
                                        const REAL *__restrict__ V, const REAL *__restrict__ b,
                                        const REAL *__restrict__ c, REAL *__restrict__ log_prob,
                                        REAL *__restrict__ logits, REAL *__restrict__ a, int D, int H, int batch) {
    extern __shared__ double shared_memory[];
    __shared__ int count;
    __shared__ REAL partial[WARP];
    REAL *states = (REAL *)shared_memory;
    int *ones = (int *)(states + (size_t)batch * H);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x += (size_t)blockIdx.x * D;
    logits += (size_t)blockIdx.x * D;
    a += (size_t)blockIdx.x * H;
    if (warp == 0) {
        int found = list_ones(x, D, ones, lane);
        if (lane == 0) count = found;
    }
    for (int j = threadIdx.x; j < H; j += blockDim.x) a[j] = c[j];
    __syncthreads();

    REAL sum = 0;
    for (int first = 0; first <= count; first += batch) {
        int last = min(first + batch, count + 1);
        for (int j = threadIdx.x; j < H; j += blockDim.x) {
            REAL t = a[j];
            for (int s = first; s < last; s++) {
                states[(size_t)(s - first) * H + j] = sigmoid(t);
                if (s < count) t += W[(size_t)ones[s] * H + j];
            }
            a[j] = t;
        }
        __syncthreads();
        int begin = first ? ones[first - 1] + 1 : 0, end = last <= count ? ones[last - 1] + 1 : D;
        for (int i = begin + warp, s = first; i < end; i += warps) {
            while (s < count && ones[s] < i) s++;
            REAL logit = b[i] + warp_dot(V + (size_t)i * H, states + (size_t)(s - first) * H, H, lane);
            if (lane == 0) {
                logits[i] = logit;
                sum += x[i] * logit - softplus(logit);
            }
        }
        __syncthreads();
    }
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < warps; w++) sum += partial[w];
        log_prob[blockIdx.x] = sum;
    }
}

// A thread for each logit: the gradient of sum(g * log_prob) in it.
extern "C" __global__ void nade_g_logits(const REAL *__restrict__ g, const REAL *__restrict__ x,
                                         const REAL *__restrict__ logits, REAL *__restrict__ g_logits, int B, int D) {
    size_t k = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k < (size_t)B * D) g_logits[k] = g[k / D] * (x[k] - sigmoid(logits[k]));
}

// A thread for each column (blockIdx.x) of each share of the examples (blockIdx.y). `a` comes as the last state and
// goes back to the first by subtraction; `g_a` (B, H) ends as each example's gradient in c; gW and gV (shares, D, H)
// hold what each share of the examples gives.
extern "C" __global__ void nade_backward(const REAL *__restrict__ x, const REAL *__restrict__ W,
                                         const REAL *__restrict__ V, const REAL *__restrict__ g_logits,
                                         REAL *__restrict__ a, REAL *__restrict__ g_a, REAL *__restrict__ gW,
                                         REAL *__restrict__ gV, int B, int D, int H) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= H) return;
    int begin = (long long)B * blockIdx.y / gridDim.y, end = (long long)B * (blockIdx.y + 1) / gridDim.y;
    gW += (size_t)blockIdx.y * D * H + j;
    gV += (size_t)blockIdx.y * D * H + j;
    for (int e = begin; e < end; e++) g_a[(size_t)e * H + j] = 0;
    for (int start = (D - 1) / PIXELS * PIXELS; start >= 0; start -= PIXELS) {
        REAL w[PIXELS], v[PIXELS], gw[PIXELS], gv[PIXELS];
#pragma unroll
        for (int k = 0; k < PIXELS; k++) {
            bool inside = start + k < D;
            w[k] = inside ? W[(size_t)(start + k) * H + j] : 0;
            v[k] = inside ? V[(size_t)(start + k) * H + j] : 0;
            gw[k] = gv[k] = 0;
        }
        for (int e = begin; e < end; e++) {
            REAL state_sum = a[(size_t)e * H + j], h = sigmoid(state_sum), g_h = 0, g_sum = g_a[(size_t)e * H + j];
            const REAL *pixels = x + (size_t)e * D + start, *g_logit = g_logits + (size_t)e * D + start;
#pragma unroll
            for (int k = PIXELS - 1; k >= 0; k--) {
                if (start + k >= D) continue;
                if (pixels[k] != 0) {
                    g_sum += g_h * h * (1 - h);
                    gw[k] += g_sum;
                    state_sum -= w[k];
                    h = sigmoid(state_sum);
                    g_h = 0;
                }
                gv[k] += g_logit[k] * h;
                g_h += g_logit[k] * v[k];
            }
            a[(size_t)e * H + j] = state_sum;
            g_a[(size_t)e * H + j] = g_sum + g_h * h * (1 - h);
        }
#pragma unroll
        for (int k = 0; k < PIXELS; k++) {
            if (start + k < D) {
                gW[(size_t)(start + k) * H] = gw[k];
                gV[(size_t)(start + k) * H] = gv[k];
            }
        }
    }
}

// A block for each sample: its pixels before `observed` are kept, the others drawn. As many pixels as there are warps
// are drawn from the same state; those behind the first 1 are then drawn again. In shared memory: a and h of H units.
extern "C" __global__ void nade_complete(REAL *__restrict__ x, const REAL *__restrict__ uniforms,
                                         const REAL *__restrict__ W, const REAL *__restrict__ V,
                                         const REAL *__restrict__ b, const REAL *__restrict__ c, int observed, int D,
                                         int H) {
    extern __shared__ double shared_memory[];
    __shared__ int drawn[WARP];
    REAL *a = (REAL *)shared_memory, *h = a + H;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x += (size_t)blockIdx.x * D;
    uniforms += (size_t)blockIdx.x * D;
    for (int j = threadIdx.x; j < H; j += blockDim.x) {
        REAL t = c[j];
        for (int i = 0; i < observed; i++)
            if (x[i] != 0) t += W[(size_t)i * H + j];
        a[j] = t;
        h[j] = sigmoid(t);
    }
    __syncthreads();
    for (int i = observed; i < D;) {
        int ahead = min(warps, D - i), accepted = 0;
        if (warp < ahead) {
            REAL logit = warp_dot(V + (size_t)(i + warp) * H, h, H, lane);
            if (lane == 0) drawn[warp] = uniforms[i + warp] < sigmoid(b[i + warp] + logit);
        }
        __syncthreads();
        while (accepted < ahead && !drawn[accepted]) accepted++;
        bool one = accepted < ahead;
        accepted += one;
        if (threadIdx.x < accepted) x[i + threadIdx.x] = one && threadIdx.x == accepted - 1;
        i += accepted;
        if (one) {
            for (int j = threadIdx.x; j < H; j += blockDim.x) {
                a[j] += W[(size_t)(i - 1) * H + j];
                h[j] = sigmoid(a[j]);
            }
        }
        __syncthreads();
    }
}
