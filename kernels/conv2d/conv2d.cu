// Convolution as products of matrices that are never built, in tiles of sums: see tiles.cuh. What differs between the kernels
// is where an entry of a factor comes from. REAL is float or double; see cuda.py for the launches. No atomics: sums run in a
// fixed order.

#include "parts.cuh"
#include "tiles.cuh"

// One product of the sum for an output: which weight (counted from the first of its output channel), how far the pixel lies
// from the output's own place in the input, and how far down and to the right, for the test whether it is inside the image.
struct alignas(16) Term {
    int weight, offset, down, right;
};

struct Image {
    int height, width;

    __device__ bool holds(int row, int column) const {
        return (unsigned)row < (unsigned)height && (unsigned)column < (unsigned)width;
    }
};

// The numbers of a convolution from images `in` to images `out`. Outputs of a grid are `step` apart, pixels of neighbouring
// outputs of a grid `scale` apart; row_step leads from the weights of one output channel to the next's, weight_step from group
// to group. Pixels of all images, and numbers of one image, are fewer than 2^31.
struct Shape {
    int images, groups, channels, outs, terms, grids, row_step, weight_step;  // channels and outs in a group
    Image in, out;
    int scale_h, scale_w, step_h, step_w;
};

// Their slices are ALONG deep, so that what a thread fetches along a sum is of one term only, or of one pixel.
using Tile8 = Tile<8, 32, 2, ALONG>;
using Tile16 = Tile<16, 32, 4, ALONG>;
using Tile32 = Tile<32, 32, 8, ALONG>;
using Tile64 = Tile<64, 64, 8, ALONG>;

// Output channels x pixels: left factor the weights, right factor the pixels that the terms reach.
template <class T>
__device__ void convolve(const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
                         const Term* __restrict__ terms, const int* __restrict__ grids, const Shape s,
                         REAL* __restrict__ out) {
    const int* grid = grids + blockIdx.z % s.grids * 6;
    const int group = blockIdx.z / s.grids, first_row = blockIdx.y * T::ROWS, first = blockIdx.x * T::COLUMNS;
    const int begin = grid[0], end = grid[1], top = grid[2], left = grid[3], area = grid[4] * grid[5], width = grid[5];
    const int pixels = s.images * area;
    if (first >= pixels) return;

    // Rows and columns past the last one repeat it, and are not written.
    auto pixel_place = [](int i) { return T::template across<T::COLUMNS>(i); };
    const int pixel = min(first + pixel_place(0).y, pixels - 1), place = pixel % area;
    const int row = place / width * s.scale_h, column = place % width * s.scale_w;
    const long long image = pixel / area * s.groups + group;
    const REAL* source = x + (image * s.channels * s.in.height + row) * s.in.width + column;
    const REAL* factors = weight + (long long)group * s.weight_step;

    REAL sums[T::M][N] = {};
    T::multiply(
        sums, begin, end,
        [&](int from, REAL(&a)[T::LEFT], REAL(&b)[T::RIGHT]) {
            const int mine = from + T::along(0).x;
            const REAL* factor = factors + terms[min(mine, end - 1)].weight;
#pragma unroll
            for (int i = 0; i < T::LEFT; ++i)
                a[i] = mine < end ? factor[min(first_row + T::along(i).y, s.outs - 1) * s.row_step] : REAL(0);
#pragma unroll
            for (int i = 0; i < T::RIGHT; ++i) {
                const int k = from + pixel_place(i).x;
                const Term term = terms[min(k, end - 1)];
                const bool inside = k < end && s.in.holds(row + term.down, column + term.right);
                b[i] = inside ? source[term.offset] : REAL(0);
            }
        },
        T::along, pixel_place);

    const int m0 = first_row + T::row(), p0 = first + T::column(), rows = min(T::M, s.outs - m0);
    auto shifted = [&](int i, int j) { return sums[i][j] + (bias ? bias[group * s.outs + m0 + i] : REAL(0)); };
    if (s.grids == 1 && area % N == 0) {  // a thread's pixels lie side by side
        if (p0 >= pixels) return;
        REAL* target = out + ((long long)(p0 / area * s.groups + group) * s.outs + m0) * area + p0 % area;
#pragma unroll
        for (int i = 0; i < T::M; ++i)
            if (i < rows)
                *reinterpret_cast<Quad*>(target + i * area) = {shifted(i, 0), shifted(i, 1), shifted(i, 2), shifted(i, 3)};
        return;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const int p = p0 + j, inside = p % area;
        if (p >= pixels) return;
        const int h = top + inside / width * s.step_h, w = left + inside % width * s.step_w;
        REAL* target = out + (((long long)(p / area * s.groups + group) * s.outs + m0) * s.out.height + h) * s.out.width + w;
#pragma unroll
        for (int i = 0; i < T::M; ++i)
            if (i < rows) target[i * s.out.height * s.out.width] = shifted(i, j);
    }
}

// Output channels x terms, summed over the pixels of part blockIdx.z / groups: left factor the output gradient, right factor
// the pixels. parts (count, groups, outs, terms) takes one matrix for each part of part_size pixels.
template <class T>
__device__ void correlate(const REAL* __restrict__ x, const REAL* __restrict__ g, const Term* __restrict__ terms, const Shape s,
                          REAL* __restrict__ parts, int part_size) {
    const int group = blockIdx.z % s.groups, part = blockIdx.z / s.groups;
    const int first_row = blockIdx.y * T::ROWS, first_column = blockIdx.x * T::COLUMNS, ahead = T::along(0).x;
    const int area = s.out.height * s.out.width, begin = part * part_size, end = min(begin + part_size, s.images * area);

    // Rows and columns past the last one repeat it, and are not written.
    Term columns[T::RIGHT];
    for (int r = 0; r < T::RIGHT; ++r) columns[r] = terms[min(first_column + T::along(r).y, s.terms - 1)];

    // The pixel (image n, row i, column j) that this thread fetches: it moves on by DEPTH from slice to slice.
    const int start = begin + ahead;
    int n = start / area, i = start % area / s.out.width, j = start % area % s.out.width;

    REAL sums[T::M][N] = {};
    T::multiply(
        sums, begin, end,
        [&](int from, REAL(&a)[T::LEFT], REAL(&b)[T::RIGHT]) {
            const int row = i * s.scale_h, column = j * s.scale_w;
            const long long block = (long long)n * s.groups + group;
            const REAL* gradient = g + (block * s.outs * s.out.height + i) * s.out.width + j;
            const REAL* source = x + (block * s.channels * s.in.height + row) * s.in.width + column;
            const bool counts = from + ahead < end;
#pragma unroll
            for (int r = 0; r < T::LEFT; ++r)
                a[r] = counts ? gradient[min(first_row + T::along(r).y, s.outs - 1) * area] : REAL(0);
#pragma unroll
            for (int r = 0; r < T::RIGHT; ++r) {
                const bool inside = counts && s.in.holds(row + columns[r].down, column + columns[r].right);
                b[r] = inside ? source[columns[r].offset] : REAL(0);
            }
            for (j += T::DEPTH; j >= s.out.width; j -= s.out.width)
                if (++i == s.out.height) i = 0, ++n;
        },
        T::along, T::along);

    REAL* out = parts + ((long long)part * s.groups + group) * s.outs * s.terms;
#pragma unroll
    for (int r = 0; r < T::M; ++r)
#pragma unroll
        for (int c = 0; c < N; ++c) {
            const int m = first_row + T::row() + r, k = first_column + T::column() + c;
            if (m < s.outs && k < s.terms) out[m * s.terms + k] = sums[r][c];
        }
}

#define KERNELS(ROWS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(Tile##ROWS::THREADS) convolve_##ROWS(                         \
        const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,            \
        int has_bias, const Term* __restrict__ terms, const int* __restrict__ grids, const Shape* shape,       \
        REAL* __restrict__ out) {                                                                              \
        convolve<Tile##ROWS>(x, weight, has_bias ? bias : nullptr, terms, grids, *shape, out);                 \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(Tile##ROWS::THREADS) correlate_##ROWS(                        \
        const REAL* __restrict__ x, const REAL* __restrict__ g, const Term* __restrict__ terms,                \
        const Shape* shape, REAL* __restrict__ parts, int part_size) {                                         \
        correlate<Tile##ROWS>(x, g, terms, *shape, parts, part_size);                                          \
    }
KERNELS(8)
KERNELS(16)
KERNELS(32)
KERNELS(64)
