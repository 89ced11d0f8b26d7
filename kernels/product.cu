// The product of two matrices, in tiles of sums: see tiles.cuh. A factor lies in memory with its sums along the rows or across
// them. REAL is float or double; see product_cuda.py for the launches. No atomics: sums run in a fixed order.

#include "parts.cuh"
#include "tiles.cuh"

using Tile32 = Tile<32, 32, 8, ALONG>;
using Tile64 = Tile<64, 64, 8, ALONG>;

constexpr bool along = true, across = false;

// Rows of the left factor x columns of the right one, summed over part blockIdx.y of the depth. LEFT and RIGHT say how the
// factors lie in memory: (rows, depth) where the left one's sums run along it, or else (depth, rows); (columns, depth) or else
// (depth, columns). parts (count, rows, columns) takes one matrix for each part of part_size products. Numbers of a matrix are
// fewer than 2^31; only the parts together may be more.
template <class T, bool LEFT, bool RIGHT>
__device__ void multiply(const REAL* __restrict__ left, const REAL* __restrict__ right, int rows, int columns, int depth,
                         REAL* __restrict__ parts, int part_size) {
    const int across_tiles = (columns + T::COLUMNS - 1) / T::COLUMNS;
    const int first_row = blockIdx.x / across_tiles * T::ROWS, first_column = blockIdx.x % across_tiles * T::COLUMNS;
    const int begin = blockIdx.y * part_size, end = min(begin + part_size, depth);

    // Neighbouring threads fetch neighbours in memory.
    auto left_place = [](int i) { return LEFT ? T::along(i) : T::template across<T::ROWS>(i); };
    auto right_place = [](int i) { return RIGHT ? T::along(i) : T::template across<T::COLUMNS>(i); };

    REAL sums[T::M][N] = {};
    T::multiply(
        sums, begin, end,
        [&](int from, REAL(&a)[T::LEFT], REAL(&b)[T::RIGHT]) {
            // Rows and columns past the last one repeat it, and are not written.
#pragma unroll
            for (int i = 0; i < T::LEFT; ++i) {
                const int k = from + left_place(i).x, row = min(first_row + left_place(i).y, rows - 1);
                a[i] = k < end ? left[LEFT ? row * depth + k : k * rows + row] : REAL(0);
            }
#pragma unroll
            for (int i = 0; i < T::RIGHT; ++i) {
                const int k = from + right_place(i).x, column = min(first_column + right_place(i).y, columns - 1);
                b[i] = k < end ? right[RIGHT ? column * depth + k : k * columns + column] : REAL(0);
            }
        },
        left_place, right_place);

    REAL* out = parts + (long long)blockIdx.y * rows * columns;
    const int row = first_row + T::row(), column = first_column + T::column();
#pragma unroll
    for (int i = 0; i < T::M; ++i) {
        if (row + i >= rows || column >= columns) return;
        REAL* target = out + (row + i) * columns + column;
        if (columns % N == 0) {
            *reinterpret_cast<Quad*>(target) = {sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
        } else {
#pragma unroll
            for (int j = 0; j < N; ++j)
                if (column + j < columns) target[j] = sums[i][j];
        }
    }
}

#define KERNEL(SIZE, LEFT, RIGHT)                                                                              \
    extern "C" __global__ void __launch_bounds__(Tile##SIZE::THREADS) product_##SIZE##_##LEFT##_##RIGHT(       \
        const REAL* __restrict__ left, const REAL* __restrict__ right, int rows, int columns, int depth,       \
        REAL* __restrict__ parts, int part_size) {                                                             \
        multiply<Tile##SIZE, LEFT, RIGHT>(left, right, rows, columns, depth, parts, part_size);                \
    }
#define KERNELS(SIZE)           \
    KERNEL(SIZE, along, along)  \
    KERNEL(SIZE, along, across) \
    KERNEL(SIZE, across, along) \
    KERNEL(SIZE, across, across)
KERNELS(32)
KERNELS(64)
