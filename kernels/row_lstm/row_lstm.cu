// The Row LSTM: see reference.py, and lstm_sweep.cuh for the arguments. The waves are the rows of the image, the slots of a row the
// columns.

#include "lstm_sweep.cuh"

// TAPS = 0 stands for a number that only the launch tells.
template <int TAPS>
struct Rows {
    static constexpr bool KNOWN = TAPS > 0;
    int height, width, count;

    __device__ int taps() const { return TAPS ? TAPS : count; }
    __device__ int shift(int tap) const { return taps() / 2 - tap; }
    __device__ int waves() const { return height; }
    __device__ int first(int wave) const { return 0; }
    __device__ int last(int wave) const { return width - 1; }
    __device__ int pixel(int wave, int slot) const { return wave * width + slot; }
};

// Call body with the sweep of so many taps.
template <class Body>
__device__ void with_rows(int height, int width, int taps, Body body) {
    if (taps == 3)
        body(Rows<3>{height, width, taps});
    else
        body(Rows<0>{height, width, taps});
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    row_lstm_forward(const Quad* __restrict__ weight, const REAL* __restrict__ bias, REAL* gates, REAL* cells, REAL* read,
                     REAL* hidden, REAL* spill, int mode, int weights, int height, int width, int h, int margin, int pitch,
                     int taps) {
    const Room room{h, margin, pitch};
    with_memory(spill, mode, 3 * h, room, weight, weights, [&](REAL* memory, const Quad* __restrict__ weight) {
        with_rows(height, width, taps, [&](const auto& sweep) {
            sweep_forward(sweep, weight, bias, gates, cells, read, hidden, room, memory);
        });
    });
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    row_lstm_backward(const REAL* __restrict__ g, const Quad* __restrict__ weight, const REAL* __restrict__ gates,
                      const REAL* __restrict__ cells, REAL* g_gates, REAL* spill, int mode, int weights, int height, int width,
                      int h, int margin, int pitch, int taps) {
    const Room room{h, margin, pitch};
    with_memory(spill, mode, 9 * h, room, weight, weights, [&](REAL* memory, const Quad* __restrict__ weight) {
        with_rows(height, width, taps,
                  [&](const auto& sweep) { sweep_backward(sweep, g, weight, gates, cells, g_gates, room, memory); });
    });
}
