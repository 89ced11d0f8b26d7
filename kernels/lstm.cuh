// What the LSTM kernels share on the GPU: the gates of one unit, and the sweep over an image. REAL is float or double.
//
// A sweep is one launch. A block takes an image through all its waves, so that what one wave hands to the next needs a barrier
// of the block only. What does not depend on the wave before is done outside, by large products: the inputs' part of the gates
// beforehand, the gradients of inputs and weights afterwards. Its limits: a batch smaller than the number of multiprocessors
// leaves some without work, and the weights, too many for shared memory at h = 64, are read through the first-level cache
// once a wave.

constexpr int CELLS = 4;               // of a thread: each weight that is read serves so many
constexpr int GROUPS = 8;              // of threads along the cells
constexpr int TILE = CELLS * GROUPS;   // cells of a block at a time
constexpr int CHUNK = 32;              // terms of the sums that are staged in shared memory at a time
constexpr int PITCH = TILE + 4;        // spreads a column over the banks, and keeps 16-byte alignment
constexpr int MOST_UNITS = 64;         // threads along the hidden units
constexpr int MOST_THREADS = GROUPS * MOST_UNITS;

__device__ REAL sigmoid(REAL z) { return 1 / (1 + exp(-z)); }

// One unit: gates[0], [h], [2 h], [3 h] from pre-activations to i, f, g, o, and the states.
__device__ void activate(REAL* gates, int h, REAL before, REAL* after, REAL* hidden) {
    const REAL i = sigmoid(gates[0]), f = sigmoid(gates[h]), g = tanh(gates[2 * h]), o = sigmoid(gates[3 * h]);
    const REAL c = f * before + i * g;
    gates[0] = i;
    gates[h] = f;
    gates[2 * h] = g;
    gates[3 * h] = o;
    *after = c;
    *hidden = o * tanh(c);
}

// One unit: from the gradients of its states to those of the pre-activations, and, returned, of the cell state before.
__device__ REAL differentiate(const REAL* gates, int h, REAL before, REAL after, REAL g_hidden, REAL g_after, REAL* g_gates) {
    const REAL i = gates[0], f = gates[h], g = gates[2 * h], o = gates[3 * h];
    const REAL t = tanh(after);
    const REAL g_c = g_after + g_hidden * o * (1 - t * t);
    g_gates[0] = g_c * g * i * (1 - i);
    g_gates[h] = g_c * before * f * (1 - f);
    g_gates[2 * h] = g_c * i * (1 - g * g);
    g_gates[3 * h] = g_hidden * t * o * (1 - o);
    return g_c * f;
}

// Pixels of an image by their place; -1 stands for those outside.
struct Grid {
    int height, width;

    __device__ int at(int row, int column) const {
        return row >= 0 && row < height && column >= 0 && column < width ? row * width + column : -1;
    }
};

// A sweep has `waves()` waves of `count(wave)` cells. Cell m stands at (row(wave, m), column(wave, m)); for each of its `taps`
// it reads the hidden state `up(tap)` rows above and `left(tap)` columns to the left, and the cell state at the tap `carry`.
template <class Sweep>
__device__ int pixel(const Sweep& sweep, int wave, int m) {
    return m < sweep.count(wave) ? sweep.at(sweep.row(wave, m), sweep.column(wave, m)) : -1;
}

// The pixel that a cell reads as its tap (side = 1), or the one that reads it (side = -1).
template <class Sweep>
__device__ int neighbour(const Sweep& sweep, int wave, int m, int tap, int side) {
    if (m >= sweep.count(wave)) return -1;
    return sweep.at(sweep.row(wave, m) - side * sweep.up(tap), sweep.column(wave, m) - side * sweep.left(tap));
}

// Add to sum[o][c], for the thread's cells c of the tile from `first` on, the products of their neighbours' rows (pixels, depth)
// with column `unit` of weight (taps, depth, OUT, h). Rows are written in the same launch, so they are not for the read-only cache.
template <int OUT, class Sweep>
__device__ void add_products(REAL (&sum)[OUT][CELLS], const REAL* rows, int depth, const REAL* __restrict__ weight, int h,
                             int unit, const Sweep& sweep, int wave, int first, int side) {
    __align__(16) __shared__ REAL staged[CHUNK][PITCH];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    for (int tap = 0; tap < sweep.taps; tap++) {
        for (int start = 0; start < depth; start += CHUNK) {
            const int terms = min(CHUNK, depth - start);
            __syncthreads();
            for (int i = thread; i < CHUNK * TILE; i += threads) {
                const int k = i % CHUNK, m = i / CHUNK;
                const int from = k < terms ? neighbour(sweep, wave, first + m, tap, side) : -1;
                staged[k][m] = from < 0 ? 0 : rows[from * depth + start + k];
            }
            __syncthreads();
            const REAL* w = weight + (long long)(tap * depth + start) * OUT * h + unit;
#pragma unroll 8
            for (int k = 0; k < terms; k++) {
#pragma unroll
                for (int o = 0; o < OUT; o++) {
                    const REAL factor = w[(k * OUT + o) * h];
#pragma unroll
                    for (int c = 0; c < CELLS; c++) sum[o][c] += factor * staged[k][threadIdx.y * CELLS + c];
                }
            }
        }
    }
}

// gates (N, pixels, 4 h): the inputs' part of the pre-activations in, activations out. weight (taps, h, 4, h). cells and hidden
// (N, pixels, h) are computed. One block per image.
template <class Sweep>
__device__ void sweep_forward(const Sweep& sweep, const REAL* __restrict__ weight, REAL* gates, REAL* cells, REAL* hidden, int h) {
    const long long image = (long long)blockIdx.x * sweep.height * sweep.width * h;
    gates += 4 * image;
    cells += image;
    hidden += image;
    for (int wave = 0; wave < sweep.waves(); wave++) {
        for (int first = 0; first < sweep.count(wave); first += TILE) {
            for (int base = 0; base < h; base += blockDim.x) {
                const int unit = base + threadIdx.x;
                REAL sum[4][CELLS] = {};
                add_products(sum, hidden, h, weight, h, min(unit, h - 1), sweep, wave, first, 1);
#pragma unroll
                for (int c = 0; c < CELLS; c++) {
                    const int m = first + threadIdx.y * CELLS + c, p = pixel(sweep, wave, m);
                    if (p < 0 || unit >= h) continue;
                    REAL* const gate = gates + p * 4 * h + unit;
                    for (int o = 0; o < 4; o++) gate[o * h] += sum[o][c];
                    const int from = neighbour(sweep, wave, m, sweep.carry(), 1);
                    const REAL before = from < 0 ? 0 : cells[from * h + unit];
                    activate(gate, h, before, cells + p * h + unit, hidden + p * h + unit);
                }
            }
        }
        __syncthreads();
    }
}

// g_gates (N, pixels, 4 h) from g (N, pixels, h), the gradient of the hidden states. weight (taps, 4 h, h). g_cells (N, pixels, h)
// is room for the gradients of the cell states that a pixel reads. One block per image.
template <class Sweep>
__device__ void sweep_backward(const Sweep& sweep, const REAL* __restrict__ g, const REAL* __restrict__ weight,
                               const REAL* __restrict__ gates, const REAL* __restrict__ cells, REAL* g_gates, REAL* g_cells,
                               int h) {
    const long long image = (long long)blockIdx.x * sweep.height * sweep.width * h;
    g += image;
    gates += 4 * image;
    cells += image;
    g_gates += 4 * image;
    g_cells += image;
    for (int wave = sweep.waves() - 1; wave >= 0; wave--) {
        for (int first = 0; first < sweep.count(wave); first += TILE) {
            for (int base = 0; base < h; base += blockDim.x) {
                const int unit = base + threadIdx.x;
                REAL sum[1][CELLS] = {};
                add_products(sum, g_gates, 4 * h, weight, h, min(unit, h - 1), sweep, wave, first, -1);
#pragma unroll
                for (int c = 0; c < CELLS; c++) {
                    const int m = first + threadIdx.y * CELLS + c, p = pixel(sweep, wave, m);
                    if (p < 0 || unit >= h) continue;
                    const int from = neighbour(sweep, wave, m, sweep.carry(), 1);
                    const int to = neighbour(sweep, wave, m, sweep.carry(), -1);
                    const REAL before = from < 0 ? 0 : cells[from * h + unit], g_after = to < 0 ? 0 : g_cells[to * h + unit];
                    g_cells[p * h + unit] = differentiate(gates + p * 4 * h + unit, h, before, cells[p * h + unit],
                                                          g[p * h + unit] + sum[0][c], g_after, g_gates + p * 4 * h + unit);
                }
            }
        }
        __syncthreads();
    }
}
