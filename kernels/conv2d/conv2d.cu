// Convolution as products of matrices that are never built. REAL is float or double; see cuda.py for the launches.
//
// A block of 128 threads computes a tile of 8 M x 128 sums; each thread keeps M x 8 of them in registers. Slices of DEPTH columns
// of the left factor and rows of the right one are fetched to registers while the previous slices are multiplied from shared
// memory. What differs between the kernels is where an entry of a factor comes from. Sums run in a fixed order: no atomics.

constexpr int THREADS = 128, COLUMNS = 128, DEPTH = 8, GROUP = 16;  // GROUP threads side by side share the rows of sums
constexpr int PADDING = 4;                                          // spreads the columns over the banks of shared memory

// One product of the sum for an output: which weight (counted from the first of its output channel), how far the pixel lies from
// the output's own place in the input, and how far down and to the right, for the test whether it is inside the image.
struct Term {
    int weight, offset, down, right;
};

struct Image {
    int height, width;

    __device__ bool holds(int row, int column) const {
        return (unsigned)row < (unsigned)height && (unsigned)column < (unsigned)width;
    }
};

// The numbers of a convolution from images `in` to images `out`. Outputs of a grid are `step` apart, pixels of neighbouring outputs
// of a grid `scale` apart; row_step leads from the weights of one output channel to the next's, weight_step from group to group.
struct Shape {
    int images, groups, channels, outs, terms, grids, row_step, weight_step;  // channels and outs in a group
    Image in, out;
    int scale_h, scale_w, step_h, step_w;
};

template <int M>
struct Tile {
    static constexpr int ROWS = 8 * M, LEFT = (ROWS * DEPTH + THREADS - 1) / THREADS, RIGHT = COLUMNS * DEPTH / THREADS;

    // Multiply all slices: left(i, begin) and right(i, begin) fetch the i-th entry that this thread carries, of the slice that
    // starts at `begin`; left_place and right_place say where in the slices (depth, row or column) it belongs.
    template <class Left, class Right, class LeftPlace, class RightPlace>
    static __device__ void multiply(REAL (&sums)[M][8], long long begin, long long end, Left left, Right right,
                                    LeftPlace left_place, RightPlace right_place) {
        __shared__ REAL a[DEPTH][ROWS + PADDING], b[DEPTH][COLUMNS + PADDING];
        const int row = threadIdx.x / GROUP * M, column = threadIdx.x % GROUP;
        REAL next_a[LEFT], next_b[RIGHT];
        for (int i = 0; i < M; ++i)
            for (int j = 0; j < 8; ++j) sums[i][j] = 0;
        auto fetch = [&](long long from) {
            for (int i = 0; i < LEFT; ++i) next_a[i] = left(i, from);
            for (int i = 0; i < RIGHT; ++i) next_b[i] = right(i, from);
        };
        if (begin < end) fetch(begin);
        for (long long from = begin; from < end; from += DEPTH) {
            for (int i = 0; i < LEFT; ++i) {
                const int2 place = left_place(i);
                if (place.y < ROWS) a[place.x][place.y] = next_a[i];
            }
            for (int i = 0; i < RIGHT; ++i) {
                const int2 place = right_place(i);
                b[place.x][place.y] = next_b[i];
            }
            __syncthreads();
            if (from + DEPTH < end) fetch(from + DEPTH);
#pragma unroll
            for (int k = 0; k < DEPTH; ++k)
#pragma unroll
                for (int j = 0; j < 8; ++j)
#pragma unroll
                    for (int i = 0; i < M; ++i) sums[i][j] += a[k][row + i] * b[k][column + GROUP * j];
            __syncthreads();
        }
    }
};

// Output channels x pixels: left factor the weights, right factor the pixels that the terms reach.
// Output channels x pixels: left factor the weights, right factor the pixels that the terms reach.
template <int M>
__device__ void convolve(const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
                         const Term* __restrict__ terms, const int* __restrict__ grids, const Shape& s,
                         REAL* __restrict__ out) {
    const int* grid = grids + blockIdx.z % s.grids * 6;
    const int group = blockIdx.z / s.grids, first_row = blockIdx.y * Tile<M>::ROWS, thread = threadIdx.x;
    const int begin = grid[0], end = grid[1], top = grid[2], left = grid[3], area = grid[4] * grid[5], width = grid[5];
    const long long pixels = (long long)s.images * area, first = (long long)blockIdx.x * COLUMNS;
    if (first >= pixels) return;

    const long long pixel = first + thread < pixels ? first + thread : pixels - 1;
    const int place = pixel % area, row = place / width * s.scale_h, column = place % width * s.scale_w;
    const REAL* source = x + ((pixel / area * s.groups + group) * s.channels * s.in.height + row) * s.in.width + column;
    const REAL* factors = weight + (long long)group * s.weight_step;

    REAL sums[M][8];
    Tile<M>::multiply(
        sums, begin, end,
        [&](int i, long long k) -> REAL {  // weights: neighbouring threads fetch neighbouring terms
            const int m = first_row + (thread + i * THREADS) / DEPTH;
            k += thread % DEPTH;
            return m < s.outs && k < end ? factors[(long long)m * s.row_step + terms[k].weight] : REAL(0);
        },
        [&](int i, long long k) -> REAL {  // pixels: neighbouring threads fetch neighbouring pixels
            if (k + i >= end) return 0;
            const Term term = terms[k + i];
            return s.in.holds(row + term.down, column + term.right) ? source[term.offset] : REAL(0);
        },
        [&](int i) { return make_int2(thread % DEPTH, (thread + i * THREADS) / DEPTH); },
        [&](int i) { return make_int2(i, thread); });

    for (int j = 0; j < 8; ++j) {
        const long long p = first + thread % GROUP + GROUP * j;
        if (p >= pixels) return;
        const int inside = p % area, h = top + inside / width * s.step_h, w = left + inside % width * s.step_w;
        for (int i = 0; i < M; ++i) {
            const int m = first_row + thread / GROUP * M + i;
            if (m >= s.outs) break;
            const long long channel = (p / area * s.groups + group) * s.outs + m;
            out[(channel * s.out.height + h) * s.out.width + w] = sums[i][j] + (bias ? bias[group * s.outs + m] : REAL(0));
        }
    }
}

// Tiles of 64 output channels.
extern "C" __global__ void __launch_bounds__(THREADS)
    convolve_many(const REAL* x, const REAL* weight, const REAL* bias, int has_bias, const Term* terms, const int* grids,
                  const Shape* shape, REAL* out) {
    convolve<8>(x, weight, has_bias ? bias : nullptr, terms, grids, *shape, out);
}

// Tiles of 8 output channels.
extern "C" __global__ void __launch_bounds__(THREADS)
    convolve_few(const REAL* x, const REAL* weight, const REAL* bias, int has_bias, const Term* terms, const int* grids,
                 const Shape* shape, REAL* out) {
    convolve<1>(x, weight, has_bias ? bias : nullptr, terms, grids, *shape, out);
}

// Output channels x terms, summed over the pixels of part blockIdx.z / groups: left factor the output gradient, right factor the
// pixels. parts (count, groups, outs, terms) takes one matrix for each part of part_size pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    correlate(const REAL* __restrict__ x, const REAL* __restrict__ g, const Term* __restrict__ terms,
              const Shape* __restrict__ shape, REAL* __restrict__ parts, long long part_size) {
    constexpr int M = 8, STEP = THREADS / DEPTH;  // a thread carries every STEP-th row or column, always of the same pixel
    const Shape s = *shape;
    const int group = blockIdx.z % s.groups, part = blockIdx.z / s.groups, thread = threadIdx.x;
    const int first_row = blockIdx.y * Tile<M>::ROWS, first_column = blockIdx.x * COLUMNS, lane = thread / DEPTH;
    const long long area = (long long)s.out.height * s.out.width, pixels = area * s.images;
    const long long begin = part * part_size, end = begin + part_size < pixels ? begin + part_size : pixels;

    // The pixel (image n, row i, column j) that this thread fetches: it moves on by DEPTH from slice to slice.
    long long n = (begin + thread % DEPTH) / area;
    int i = (begin + thread % DEPTH) % area / s.out.width, j = (begin + thread % DEPTH) % s.out.width;
    const REAL *source = x, *gradient = g;

    REAL sums[M][8];
    Tile<M>::multiply(
        sums, begin, end,
        [&](int r, long long p) -> REAL {
            if (r == 0) {
                if (p > begin)
                    for (j += DEPTH; j >= s.out.width; j -= s.out.width)
                        if (++i == s.out.height) i = 0, ++n;
                source = x + ((n * s.groups + group) * s.channels * s.in.height + i * s.scale_h) * s.in.width + j * s.scale_w;
                gradient = g + ((n * s.groups + group) * s.outs * s.out.height + i) * s.out.width + j;
            }
            const int m = first_row + lane + r * STEP;
            return m < s.outs && p + thread % DEPTH < end ? gradient[m * area] : REAL(0);
        },
        [&](int r, long long p) -> REAL {
            const int k = first_column + lane + r * STEP;
            if (k >= s.terms || p + thread % DEPTH >= end) return 0;
            const Term term = terms[k];
            return s.in.holds(i * s.scale_h + term.down, j * s.scale_w + term.right) ? source[term.offset] : REAL(0);
        },
        [&](int r) { return make_int2(thread % DEPTH, lane + r * STEP); },
        [&](int r) { return make_int2(thread % DEPTH, lane + r * STEP); });

    REAL* out = parts + ((long long)part * s.groups + group) * s.outs * s.terms;
    for (int r = 0; r < M; ++r)
        for (int c = 0; c < 8; ++c) {
            const int m = first_row + thread / GROUP * M + r, k = first_column + thread % GROUP + GROUP * c;
            if (m < s.outs && k < s.terms) out[(long long)m * s.terms + k] = sums[r][c];
        }
}

// gradient = the sum of the parts, in their order.
extern "C" __global__ void add_parts(const REAL* __restrict__ parts, REAL* __restrict__ gradient, long long size, int count) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        REAL sum = 0;
        for (int part = 0; part < count; ++part) sum += parts[part * size + i];
        gradient[i] = sum;
    }
}
