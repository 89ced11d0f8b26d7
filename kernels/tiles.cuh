// Tiles of sums of products, for kernels that multiply matrices whose entries they fetch as they need them. REAL is float or
// double.
//
// A block computes ROWS x COLUMNS sums, a thread M x 4 of them in registers. Slices of DEPTH columns of the left factor and
// rows of the right one go to shared memory, which has room for two: while one is multiplied, the next is on its way through
// registers, and each waits at one barrier only. Every sum starts from what it is given and takes its products one by one, in
// their order, whatever the tile: by fused multiply-adds, so that kernels which compute one sum alone can have the same bits.

#pragma once

constexpr int WARP = 32;
constexpr int N = 4;        // adjacent columns of a thread: floats are one load of 16 bytes
constexpr int ACROSS = 8;   // threads of a warp beside each other: their floats are the 128 bytes that one access gives
constexpr int ALONG = 8;    // threads side by side that fetch neighbours along a row of the left factor: 32 bytes of floats
constexpr int PADDING = 4;  // spreads the columns over the banks of shared memory, and keeps 16-byte alignment

struct alignas(16) Quad {  // sums of a row that a thread can write at once
    REAL of[N];
};

template <int ROWS_, int COLUMNS_, int M_, int DEPTH_>
struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, M = M_, DEPTH = DEPTH_, THREADS = ROWS / M * (COLUMNS / N);
    static constexpr int LEFT = ROWS * DEPTH / THREADS, RIGHT = COLUMNS * DEPTH / THREADS;  // entries that a thread carries
    static constexpr int BESIDE = COLUMNS / (N * ACROSS);                                   // warps
    static_assert(COLUMNS % (N * ACROSS) == 0 && ROWS % (WARP / ACROSS * M) == 0 && DEPTH % ALONG == 0);

    // The place in the tile of a thread's sums.
    static __device__ int row() { return (threadIdx.x / WARP / BESIDE * (WARP / ACROSS) + threadIdx.x % WARP / ACROSS) * M; }
    static __device__ int column() { return (threadIdx.x / WARP % BESIDE * ACROSS + threadIdx.x % ACROSS) * N; }

    // Which entry of a slice is the i-th that a thread carries: x along the sum, y along the other side of the factor, where it
    // has SIZE entries. Neighbouring threads carry neighbours along the sum (`along`), or along the other side (`across`).
    static __device__ int2 along(int i) {
        constexpr int TURNS = DEPTH / ALONG;
        return make_int2(threadIdx.x % ALONG + i % TURNS * ALONG, threadIdx.x / ALONG + i / TURNS * (THREADS / ALONG));
    }
    template <int SIZE>
    static __device__ int2 across(int i) {
        return make_int2(threadIdx.x / SIZE + i * (THREADS / SIZE), threadIdx.x % SIZE);
    }

    // Add the products from begin to end to the sums. fetch(from, a, b) fills in what this thread carries of the slices that
    // start at `from`: a[i] at left_place(i) and b[i] at right_place(i), zeros past the end.
    template <class Fetch, class Place, class OtherPlace>
    static __device__ void multiply(REAL (&sums)[M][N], int begin, int end, Fetch fetch, Place left_place,
                                    OtherPlace right_place) {
        __align__(16) __shared__ REAL left[2][DEPTH][ROWS + PADDING], right[2][DEPTH][COLUMNS + PADDING];
        REAL a[LEFT], b[RIGHT];
        auto put = [&](int buffer) {
#pragma unroll
            for (int i = 0; i < LEFT; ++i) left[buffer][left_place(i).x][left_place(i).y] = a[i];
#pragma unroll
            for (int i = 0; i < RIGHT; ++i) right[buffer][right_place(i).x][right_place(i).y] = b[i];
        };
        if (begin >= end) return;
        fetch(begin, a, b);
        put(0);
        __syncthreads();
        for (int from = begin, now = 0; from < end; from += DEPTH, now ^= 1) {
            const bool more = from + DEPTH < end;
            if (more) fetch(from + DEPTH, a, b);
#pragma unroll
            for (int k = 0; k < DEPTH; ++k) {
                const REAL *l = left[now][k] + row(), *r = right[now][k] + column();
#pragma unroll
                for (int i = 0; i < M; ++i)
#pragma unroll
                    for (int j = 0; j < N; ++j) sums[i][j] = fma(l[i], r[j], sums[i][j]);
            }
            if (more) put(now ^ 1);
            __syncthreads();
        }
    }
};
