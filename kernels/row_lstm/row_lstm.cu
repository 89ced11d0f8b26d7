// The Row LSTM: see reference.py, and lstm.cuh for the arguments. The waves are the rows of the image.

#include "lstm.cuh"

struct Rows : Grid {
    int taps;

    __device__ int waves() const { return height; }
    __device__ int count(int wave) const { return width; }
    __device__ int row(int wave, int m) const { return wave; }
    __device__ int column(int wave, int m) const { return m; }
    __device__ int up(int tap) const { return 1; }
    __device__ int left(int tap) const { return taps / 2 - tap; }
    __device__ int carry() const { return taps / 2; }
};

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    row_lstm_forward(const REAL* __restrict__ weight, REAL* gates, REAL* cells, REAL* hidden, int height, int width, int h,
                     int taps) {
    sweep_forward(Rows{{height, width}, taps}, weight, gates, cells, hidden, h);
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    row_lstm_backward(const REAL* __restrict__ g, const REAL* __restrict__ weight, const REAL* __restrict__ gates,
                      const REAL* __restrict__ cells, REAL* g_gates, REAL* g_cells, int height, int width, int h, int taps) {
    sweep_backward(Rows{{height, width}, taps}, g, weight, gates, cells, g_gates, g_cells, h);
}
