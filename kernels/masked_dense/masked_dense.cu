// Masked dense layers: see reference.py. REAL is float or double.
//
// Units are taken by degree, through `columns` (in) and `rows` (out), so that output n sees the first reach[n] inputs and reach
// never falls: a tile of the result stops, or begins, where the staircase does. Every sum starts at the bias and runs over the
// inputs by degree, by fused multiply-adds, in the products as in the sampler: the two have the same bits.

constexpr int TILE = 32;   // rows and columns of the result that a block computes
constexpr int DEPTH = 32;  // terms of a sum that it takes to shared memory at a time
constexpr int STEP = 8;    // rows of threads in a block; each thread owns every STEP-th row of a column
constexpr int HIDDEN = 0, LOGIT = 1;

struct Shared {
    REAL a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];  // of both factors, padded against bank conflicts
};

// sum[i] += sum over k of a[k][row i] b[k][column]
__device__ void multiply(const Shared& shared, REAL (&sum)[TILE / STEP], int depth) {
    for (int k = 0; k < depth; k++) {
        const REAL b = shared.b[k][threadIdx.x];
#pragma unroll
        for (int i = 0; i < TILE / STEP; i++) sum[i] = fma(shared.a[k][threadIdx.y + i * STEP], b, sum[i]);
    }
}

// y (B, out) = x (weight * mask)^T + bias; bias may be null. Blocks: batch tiles (x) by output tiles (y).
extern "C" __global__ void masked_dense_forward(const REAL* __restrict__ x, const REAL* __restrict__ weight,
                                                const REAL* __restrict__ bias, const int* __restrict__ columns,
                                                const int* __restrict__ rows, const int* __restrict__ reach,
                                                REAL* __restrict__ y, int B, int in, int out) {
    __shared__ Shared shared;
    const int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE, n = n0 + threadIdx.x;
    const int row = n < out ? rows[n] : 0, end = reach[min(n0 + TILE, out) - 1];
    REAL sum[TILE / STEP];
    for (REAL& s : sum) s = bias && n < out ? bias[row] : 0;
    for (int k0 = 0; k0 < end; k0 += DEPTH) {
        const int k = k0 + threadIdx.x;
        for (int i = threadIdx.y; i < TILE; i += STEP) {
            shared.a[threadIdx.x][i] = k < end && m0 + i < B ? x[(long long)(m0 + i) * in + columns[k]] : 0;
            const bool counts = n0 + i < out && k < reach[min(n0 + i, out - 1)];
            shared.b[threadIdx.x][i] = counts ? weight[(long long)rows[n0 + i] * in + columns[k]] : 0;
        }
        __syncthreads();
        multiply(shared, sum, min(DEPTH, end - k0));
        __syncthreads();
    }
    for (int i = 0; i < TILE / STEP; i++) {
        const int m = m0 + threadIdx.y + i * STEP;
        if (m < B && n < out) y[(long long)m * out + row] = sum[i];
    }
}

// g_x (B, in) = g (weight * mask). Blocks: batch tiles (x) by input tiles (y). first[k] is the first output that sees input k.
extern "C" __global__ void masked_dense_input_gradient(const REAL* __restrict__ g, const REAL* __restrict__ weight,
                                                       const int* __restrict__ columns, const int* __restrict__ rows,
                                                       const int* __restrict__ reach, const int* __restrict__ first,
                                                       REAL* __restrict__ g_x, int B, int in, int out) {
    __shared__ Shared shared;
    const int m0 = blockIdx.x * TILE, k0 = blockIdx.y * TILE, k = k0 + threadIdx.x;
    REAL sum[TILE / STEP] = {};
    for (int n0 = first[k0]; n0 < out; n0 += DEPTH) {
        for (int i = threadIdx.y; i < TILE; i += STEP) {
            const int n = n0 + threadIdx.x;
            shared.a[threadIdx.x][i] = n < out && m0 + i < B ? g[(long long)(m0 + i) * out + rows[n]] : 0;
            const bool counts = n0 + i < out && k < reach[min(n0 + i, out - 1)];
            shared.b[i][threadIdx.x] = counts ? weight[(long long)rows[n0 + i] * in + columns[k]] : 0;
        }
        __syncthreads();
        multiply(shared, sum, min(DEPTH, out - n0));
        __syncthreads();
    }
    for (int i = 0; i < TILE / STEP; i++) {
        const int m = m0 + threadIdx.y + i * STEP;
        if (m < B && k < in) g_x[(long long)m * in + columns[k]] = sum[i];
    }
}

// g_weight (out, in) = g^T x * mask. Blocks: input tiles (x) by output tiles (y); where the mask is 0 they only write zeros.
extern "C" __global__ void masked_dense_weight_gradient(const REAL* __restrict__ x, const REAL* __restrict__ g,
                                                        const int* __restrict__ columns, const int* __restrict__ rows,
                                                        const int* __restrict__ reach, REAL* __restrict__ g_weight, int B,
                                                        int in, int out) {
    __shared__ Shared shared;
    const int k0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE, k = k0 + threadIdx.x;
    const int column = k < in ? columns[k] : 0, n_load = n0 + threadIdx.x, row = n_load < out ? rows[n_load] : 0;
    const int examples = k0 < reach[min(n0 + TILE, out) - 1] ? B : 0;
    REAL sum[TILE / STEP] = {};
    for (int m0 = 0; m0 < examples; m0 += DEPTH) {
        for (int i = threadIdx.y; i < DEPTH; i += STEP) {
            const long long m = m0 + i;
            shared.a[i][threadIdx.x] = m < B && n_load < out ? g[m * out + row] : 0;
            shared.b[i][threadIdx.x] = m < B && k < in ? x[m * in + column] : 0;
        }
        __syncthreads();
        multiply(shared, sum, min(DEPTH, B - m0));
        __syncthreads();
    }
    for (int i = 0; i < TILE / STEP; i++) {
        const int n = n0 + threadIdx.y + i * STEP;
        if (n < out && k < in) g_weight[(long long)rows[n] * in + column] = k < reach[n] ? sum[i] : 0;
    }
}

// Draw the pixels of x (D, n) from `start` on. state (rows, n) holds pixels and activations, one column for each example, and
// units (count, 6) the program: see plan.py. One thread per example; it waits for no other.
extern "C" __global__ void masked_dense_complete(const long long* __restrict__ units, const REAL* __restrict__ weights,
                                                 const REAL* __restrict__ biases, const REAL* __restrict__ uniforms,
                                                 REAL* __restrict__ state, int count, int start, int n) {
    const int example = blockIdx.x * blockDim.x + threadIdx.x;
    if (example >= n) return;
    state += example;
    uniforms += example;
    REAL direct = 0;
    for (int u = 0; u < count; u++) {
        const long long* unit = units + 6LL * u;
        const long long kind = unit[0], seen = unit[3], place = unit[4];
        const REAL* w = weights + unit[1];
        const REAL* input = state + unit[2] * n;
        if (kind != HIDDEN && place < start) continue;
        REAL sum = biases[unit[5]];
        for (long long k = 0; k < seen; k++) sum = fma(w[k], input[k * n], sum);
        if (kind == HIDDEN)
            state[place * n] = sum > 0 ? sum : 0;
        else if (kind == LOGIT)
            state[place * n] = uniforms[place * n] < 1 / (1 + exp(-(sum + direct)));
        else
            direct = sum;
    }
}
