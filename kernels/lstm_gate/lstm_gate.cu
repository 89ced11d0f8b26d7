// The gates of an LSTM, one thread per hidden unit: see reference.py. REAL is float or double.

#include "lstm.cuh"

extern "C" __global__ void lstm_gate_forward(REAL* __restrict__ gates, const REAL* __restrict__ cell, REAL* __restrict__ after,
                                             REAL* __restrict__ hidden, long long size, int h) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride)
        activate(gates + i / h * 4 * h + i % h, h, cell[i], after + i, hidden + i);
}

extern "C" __global__ void lstm_gate_backward(const REAL* __restrict__ gates, const REAL* __restrict__ cell,
                                              const REAL* __restrict__ after, const REAL* __restrict__ g_hidden,
                                              const REAL* __restrict__ g_after, REAL* __restrict__ g_gates,
                                              REAL* __restrict__ g_cell, long long size, int h) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const long long row = i / h * 4 * h + i % h;
        g_cell[i] = differentiate(gates + row, h, cell[i], after[i], g_hidden[i], g_after[i], g_gates + row);
    }
}
