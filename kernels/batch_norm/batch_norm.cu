// Batch normalization: see reference.py. REAL is float or double; x is (N, C, L).
//
// A block sums one channel: its threads stride over the N * L numbers, and their sums meet in double, in an order that is
// always the same. What needs no sums is one thread per element.

constexpr int LANES = 32;
constexpr int THREADS = 256;  // of a block that sums

// The sum over the block, in all of its threads.
__device__ double block_sum(double value) {
    __shared__ double warps[THREADS / LANES];
    for (int bit = 1; bit < LANES; bit *= 2) value += __shfl_xor_sync(0xffffffffu, value, bit);
    if (threadIdx.x % LANES == 0) warps[threadIdx.x / LANES] = value;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < THREADS / LANES; w++) sum += warps[w];
    __syncthreads();  // before the next sum writes
    return sum;
}

// Where number k of channel c lies.
__device__ long long place(long long k, int c, int C, int L) { return (k / L * C + c) * L + k % L; }

extern "C" __global__ void batch_norm_moments(const REAL* __restrict__ x, REAL* __restrict__ mean, REAL* __restrict__ variance, int N,
                                   int C, int L) {
    const int c = blockIdx.x;
    const long long count = (long long)N * L;
    double sum = 0;
    for (long long k = threadIdx.x; k < count; k += THREADS) sum += x[place(k, c, C, L)];
    const double m = block_sum(sum) / count;
    sum = 0;
    for (long long k = threadIdx.x; k < count; k += THREADS) {
        const double away = x[place(k, c, C, L)] - m;
        sum += away * away;
    }
    const double v = block_sum(sum) / count;
    if (threadIdx.x == 0) mean[c] = m, variance[c] = v;
}

extern "C" __global__ void batch_norm_forward(const REAL* __restrict__ x, const REAL* __restrict__ mean,
                                   const REAL* __restrict__ variance, const REAL* __restrict__ weight,
                                   const REAL* __restrict__ bias, REAL* __restrict__ y, long long size, int C, int L, REAL eps,
                                   REAL slope) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const int c = i / L % C;
        const REAL u = (x[i] - mean[c]) * (weight[c] / sqrt(variance[c] + eps)) + bias[c];
        y[i] = u > 0 ? u : slope * u;
    }
}

extern "C" __global__ void batch_norm_parameter_gradients(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                               const REAL* __restrict__ mean, const REAL* __restrict__ variance,
                                               const REAL* __restrict__ weight, const REAL* __restrict__ bias,
                                               REAL* __restrict__ g_weight, REAL* __restrict__ g_bias, int N, int C, int L,
                                               REAL eps, REAL slope) {
    const int c = blockIdx.x;
    const REAL m = mean[c], deviation = sqrt(variance[c] + eps), scale = weight[c] / deviation, shift = bias[c];
    double total = 0, along = 0;
    for (long long k = threadIdx.x; k < (long long)N * L; k += THREADS) {
        const long long i = place(k, c, C, L);
        const REAL centred = x[i] - m, passed = centred * scale + shift > 0 ? g[i] : slope * g[i];
        total += passed;
        along += passed * centred;
    }
    total = block_sum(total);
    along = block_sum(along);
    if (threadIdx.x == 0) g_bias[c] = total, g_weight[c] = along / deviation;
}

extern "C" __global__ void batch_norm_input_gradient(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                          const REAL* __restrict__ mean, const REAL* __restrict__ variance,
                                          const REAL* __restrict__ weight, const REAL* __restrict__ bias,
                                          const REAL* __restrict__ g_weight, const REAL* __restrict__ g_bias,
                                          REAL* __restrict__ g_x, long long size, int C, int L, REAL eps, REAL slope) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    const REAL share = REAL(1) / (size / C);
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const int c = i / L % C;
        const REAL deviation = sqrt(variance[c] + eps), scale = weight[c] / deviation, centred = x[i] - mean[c];
        const REAL passed = centred * scale + bias[c] > 0 ? g[i] : slope * g[i];
        g_x[i] = scale * (passed - share * g_bias[c] - centred / deviation * share * g_weight[c]);
    }
}
