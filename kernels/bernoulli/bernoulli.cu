// Independent pixels: see reference.py. REAL is float or double; x is (B, D), logits are (rows, D), rows a multiple of B.

constexpr int LANES = 32;
constexpr unsigned EVERY_LANE = 0xffffffffu;

extern "C" __global__ void bernoulli_log_prob(const REAL* __restrict__ x, const REAL* __restrict__ logits,
                                              REAL* __restrict__ out, long long rows, long long B, int D) {
    const long long warps = (long long)gridDim.x * blockDim.x / LANES;
    const int lane = threadIdx.x % LANES;
    for (long long r = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / LANES; r < rows; r += warps) {
        REAL sum = 0;
        for (int i = lane; i < D; i += LANES) {
            const REAL l = logits[r * D + i];
            sum += x[r % B * D + i] * l - (fmax(l, (REAL)0) + log1p(exp(-fabs(l))));
        }
        for (int bit = 1; bit < LANES; bit *= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, bit);
        if (lane == 0) out[r] = sum;
    }
}

extern "C" __global__ void bernoulli_gradient(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                              const REAL* __restrict__ logits, REAL* __restrict__ out, long long rows,
                                              long long B, int D) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < rows * D; i += stride) {
        const long long r = i / D;
        out[i] = g[r] * (x[r % B * D + i % D] - 1 / (1 + exp(-logits[i])));
    }
}
