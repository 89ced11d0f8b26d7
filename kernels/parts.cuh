// A long sum is split into parts, which fill the GPU, and this adds them up. No atomics: in a fixed order. REAL is float or
// double; see parts.py for the launch.
#pragma once

#include "tiles.cuh"

constexpr int RUNS = 8;  // of parts, each added up by a thread of its own

// total = the sum of the parts: of each run in their order, then of the runs in theirs.
extern "C" __global__ void __launch_bounds__(WARP* RUNS)
    add_parts(const REAL* __restrict__ parts, REAL* __restrict__ total, long long size, int count) {
    __shared__ REAL sums[RUNS][WARP];
    const long long i = (long long)blockIdx.x * WARP + threadIdx.x;
    const int length = (count + RUNS - 1) / RUNS, begin = threadIdx.y * length, end = min(begin + length, count);
    REAL sum = 0;
    if (i < size)
        for (int part = begin; part < end; ++part) sum += parts[part * size + i];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || i >= size) return;
    for (int run = 1; run < RUNS; ++run) sum += sums[run][threadIdx.x];
    total[i] = sum;
}
