// The Diagonal LSTM: see reference.py, and lstm.cuh for the arguments. The waves are the diagonals of the image.

#include "lstm.cuh"

struct Diagonals : Grid {
    int reverse;
    static constexpr int taps = 2;

    __device__ int waves() const { return height + width - 1; }
    __device__ int top(int wave) const { return max(0, wave - width + 1); }
    __device__ int count(int wave) const { return min(height - 1, wave) - top(wave) + 1; }
    __device__ int row(int wave, int m) const { return top(wave) + m; }
    __device__ int column(int wave, int m) const {
        const int column = wave - row(wave, m);
        return reverse ? width - 1 - column : column;
    }
    __device__ int up(int tap) const { return tap == 0; }
    __device__ int left(int tap) const { return tap == 0 ? 0 : reverse ? -1 : 1; }
    __device__ int carry() const { return 1; }
};

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    diagonal_lstm_forward(const REAL* __restrict__ weight, REAL* gates, REAL* cells, REAL* hidden, int height, int width, int h,
                          int reverse) {
    sweep_forward(Diagonals{{height, width}, reverse}, weight, gates, cells, hidden, h);
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    diagonal_lstm_backward(const REAL* __restrict__ g, const REAL* __restrict__ weight, const REAL* __restrict__ gates,
                           const REAL* __restrict__ cells, REAL* g_gates, REAL* g_cells, int height, int width, int h,
                           int reverse) {
    sweep_backward(Diagonals{{height, width}, reverse}, g, weight, gates, cells, g_gates, g_cells, h);
}
