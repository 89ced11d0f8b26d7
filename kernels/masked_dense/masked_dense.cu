// Masked dense layers: see reference.py. REAL is float or double.
//
// Units are taken by degree, through `columns` (in) and `rows` (out), so that output n sees the first reach[n] inputs and reach
// never falls: a tile of the result stops, or begins, where the staircase does. Every sum starts at the bias and runs over the
// inputs by degree, by fused multiply-adds, in the products (see tiles.cuh) as in the sampler: the two have the same bits.
// Rows and columns of a tile past the last one of the result repeat that one, and are not written.

#include "tiles.cuh"

constexpr int HIDDEN = 0, LOGIT = 1;

// Deep slices where a tile is small: the time that a slice takes must be that in which memory answers.
using Tile16 = Tile<16, 32, 1, 32>;
using Tile32 = Tile<32, 32, 2, 32>;
using Tile64 = Tile<64, 64, 8, 16>;

// y (B, out) = x (weight * mask)^T + bias, in tiles of examples by outputs.
template <class T>
__device__ void forward(const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
                        const int* __restrict__ columns, const int* __restrict__ rows, const int* __restrict__ reach,
                        REAL* __restrict__ y, int B, int in, int out) {
    const int m0 = blockIdx.y * T::ROWS, n0 = blockIdx.x * T::COLUMNS, end = reach[min(n0 + T::COLUMNS, out) - 1];
    const int m = m0 + T::row(), n = n0 + T::column();
    REAL sums[T::M][N];
    for (int j = 0; j < N; j++)
        for (int i = 0; i < T::M; i++) sums[i][j] = bias[rows[min(n + j, out - 1)]];
    T::multiply(
        sums, 0, end,
        [&](int from, REAL(&a)[T::LEFT], REAL(&b)[T::RIGHT]) {
#pragma unroll
            for (int i = 0; i < T::LEFT; i++) {
                const int k = from + T::along(i).x;
                a[i] = k < end ? x[(long long)min(m0 + T::along(i).y, B - 1) * in + columns[k]] : 0;
            }
#pragma unroll
            for (int i = 0; i < T::RIGHT; i++) {
                const int k = from + T::along(i).x, seer = min(n0 + T::along(i).y, out - 1);
                b[i] = k < reach[seer] ? weight[(long long)rows[seer] * in + columns[k]] : 0;
            }
        },
        T::along, T::along);
    for (int i = 0; i < T::M; i++)
        for (int j = 0; j < N; j++)
            if (m + i < B && n + j < out) y[(long long)(m + i) * out + rows[n + j]] = sums[i][j];
}

// g_x (B, in) = g (weight * mask), in tiles of examples by inputs. first[k] is the first output that sees input k.
template <class T>
__device__ void input_gradient(const REAL* __restrict__ g, const REAL* __restrict__ weight, const int* __restrict__ columns,
                               const int* __restrict__ rows, const int* __restrict__ reach, const int* __restrict__ first,
                               REAL* __restrict__ g_x, int B, int in, int out) {
    const int m0 = blockIdx.y * T::ROWS, k0 = blockIdx.x * T::COLUMNS;
    auto weight_place = [](int i) { return T::template across<T::COLUMNS>(i); };
    const int load = min(k0 + weight_place(0).y, in - 1), column = columns[load];
    REAL sums[T::M][N] = {};
    T::multiply(
        sums, first[k0], out,
        [&](int from, REAL(&a)[T::LEFT], REAL(&b)[T::RIGHT]) {
#pragma unroll
            for (int i = 0; i < T::LEFT; i++) {
                const int n = from + T::along(i).x;
                a[i] = n < out ? g[(long long)min(m0 + T::along(i).y, B - 1) * out + rows[n]] : 0;
            }
#pragma unroll
            for (int i = 0; i < T::RIGHT; i++) {
                const int n = from + weight_place(i).x;
                b[i] = n < out && load < reach[n] ? weight[(long long)rows[n] * in + column] : 0;
            }
        },
        T::along, weight_place);
    const int m = m0 + T::row(), k = k0 + T::column();
    for (int i = 0; i < T::M; i++)
        for (int j = 0; j < N; j++)
            if (m + i < B && k + j < in) g_x[(long long)(m + i) * in + columns[k + j]] = sums[i][j];
}

// g_weight (out, in) = g^T x * mask, in tiles of outputs by inputs; where the mask is 0 they only write zeros.
template <class T>
__device__ void weight_gradient(const REAL* __restrict__ x, const REAL* __restrict__ g, const int* __restrict__ columns,
                                const int* __restrict__ rows, const int* __restrict__ reach, REAL* __restrict__ g_weight,
                                int B, int in, int out) {
    const int n0 = blockIdx.y * T::ROWS, k0 = blockIdx.x * T::COLUMNS;
    auto g_place = [](int i) { return T::template across<T::ROWS>(i); };
    auto x_place = [](int i) { return T::template across<T::COLUMNS>(i); };
    const int row = rows[min(n0 + g_place(0).y, out - 1)], column = columns[min(k0 + x_place(0).y, in - 1)];
    REAL sums[T::M][N] = {};
    T::multiply(
        sums, 0, k0 < reach[min(n0 + T::ROWS, out) - 1] ? B : 0,
        [&](int from, REAL(&a)[T::LEFT], REAL(&b)[T::RIGHT]) {
#pragma unroll
            for (int i = 0; i < T::LEFT; i++) {
                const long long m = from + g_place(i).x;
                a[i] = m < B ? g[m * out + row] : 0;
            }
#pragma unroll
            for (int i = 0; i < T::RIGHT; i++) {
                const long long m = from + x_place(i).x;
                b[i] = m < B ? x[m * in + column] : 0;
            }
        },
        g_place, x_place);
    const int n = n0 + T::row(), k = k0 + T::column();
    for (int i = 0; i < T::M; i++)
        for (int j = 0; j < N; j++)
            if (n + i < out && k + j < in)
                g_weight[(long long)rows[n + i] * in + columns[k + j]] = k + j < reach[n + i] ? sums[i][j] : 0;
}

#define KERNELS(SIZE)                                                                                                \
    extern "C" __global__ void __launch_bounds__(Tile##SIZE::THREADS) masked_dense_forward_##SIZE(                   \
        const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,                  \
        const int* __restrict__ columns, const int* __restrict__ rows, const int* __restrict__ reach,                \
        REAL* __restrict__ y, int B, int in, int out) {                                                              \
        forward<Tile##SIZE>(x, weight, bias, columns, rows, reach, y, B, in, out);                                   \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(Tile##SIZE::THREADS) masked_dense_input_gradient_##SIZE(            \
        const REAL* __restrict__ g, const REAL* __restrict__ weight, const int* __restrict__ columns,                \
        const int* __restrict__ rows, const int* __restrict__ reach, const int* __restrict__ first,                  \
        REAL* __restrict__ g_x, int B, int in, int out) {                                                            \
        input_gradient<Tile##SIZE>(g, weight, columns, rows, reach, first, g_x, B, in, out);                         \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(Tile##SIZE::THREADS) masked_dense_weight_gradient_##SIZE(           \
        const REAL* __restrict__ x, const REAL* __restrict__ g, const int* __restrict__ columns,                     \
        const int* __restrict__ rows, const int* __restrict__ reach, REAL* __restrict__ g_weight, int B, int in,     \
        int out) {                                                                                                   \
        weight_gradient<Tile##SIZE>(x, g, columns, rows, reach, g_weight, B, in, out);                               \
    }
KERNELS(16)
KERNELS(32)
KERNELS(64)

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
