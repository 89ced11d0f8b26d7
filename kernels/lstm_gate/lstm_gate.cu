// The gates of an LSTM, one thread per hidden unit: see reference.py. REAL is float or double.

#include "lstm.cuh"

// The four gates of unit i, of h a row, in an array of rows of 4 h.
struct Place {
    long long first;
    int h;

    __device__ Place(long long i, int h) : first(i / h * 4 * h + i % h), h(h) {}
    __device__ void read(const REAL* array, REAL (&gates)[4]) const {
        for (int o = 0; o < 4; o++) gates[o] = array[first + o * h];
    }
    __device__ void write(REAL* array, const REAL (&gates)[4]) const {
        for (int o = 0; o < 4; o++) array[first + o * h] = gates[o];
    }
};

extern "C" __global__ void lstm_gate_forward(REAL* __restrict__ gates, const REAL* __restrict__ cell, REAL* __restrict__ after,
                                             REAL* __restrict__ hidden, long long size, int h) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const Place place(i, h);
        REAL unit[4];
        place.read(gates, unit);
        activate(unit, cell[i], after[i], hidden[i]);
        place.write(gates, unit);
    }
}

extern "C" __global__ void lstm_gate_backward(const REAL* __restrict__ gates, const REAL* __restrict__ cell,
                                              const REAL* __restrict__ after, const REAL* __restrict__ g_hidden,
                                              const REAL* __restrict__ g_after, REAL* __restrict__ g_gates,
                                              REAL* __restrict__ g_cell, long long size, int h) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const Place place(i, h);
        REAL unit[4], g_unit[4];
        place.read(gates, unit);
        g_cell[i] = differentiate(unit, cell[i], after[i], g_hidden[i], g_after[i], g_unit);
        place.write(g_gates, g_unit);
    }
}
