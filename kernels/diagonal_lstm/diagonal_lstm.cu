// The Diagonal LSTM: see reference.py, and lstm_sweep.cuh for the arguments. The waves are the diagonals of the image, the slots of
// a diagonal the rows.

#include "lstm_sweep.cuh"

struct Diagonals {
    static constexpr bool KNOWN = true;
    int height, width, reverse;

    __device__ static constexpr int taps() { return 2; }
    __device__ static constexpr int shift(int tap) { return tap == 0; }  // the upper neighbour is in the row above
    __device__ int waves() const { return height + width - 1; }
    __device__ int first(int wave) const { return max(0, wave - width + 1); }
    __device__ int last(int wave) const { return min(height - 1, wave); }
    __device__ int pixel(int wave, int slot) const {
        const int column = wave - slot;
        return slot * width + (reverse ? width - 1 - column : column);
    }
};

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    diagonal_lstm_forward(const Quad* __restrict__ weight, const REAL* __restrict__ bias, REAL* gates, REAL* cells, REAL* read,
                          REAL* hidden, REAL* spill, int mode, int weights, int height, int width, int h, int margin, int pitch,
                          int reverse) {
    const Room room{h, margin, pitch};
    with_memory(spill, mode, 3 * h, room, weight, weights, [&](REAL* memory, const Quad* __restrict__ weight) {
        sweep_forward(Diagonals{height, width, reverse}, weight, bias, gates, cells, read, hidden, room, memory);
    });
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    diagonal_lstm_backward(const REAL* __restrict__ g, const Quad* __restrict__ weight, const REAL* __restrict__ gates,
                           const REAL* __restrict__ cells, REAL* g_gates, REAL* spill, int mode, int weights, int height,
                           int width, int h, int margin, int pitch, int reverse) {
    const Room room{h, margin, pitch};
    with_memory(spill, mode, 9 * h, room, weight, weights, [&](REAL* memory, const Quad* __restrict__ weight) {
        sweep_backward(Diagonals{height, width, reverse}, g, weight, gates, cells, g_gates, room, memory);
    });
}
