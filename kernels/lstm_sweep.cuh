// An LSTM that sweeps over an image in waves, on the GPU. REAL is float or double.
//
// A sweep is one launch, however many waves depend on each other: a block takes an image through all of them, and what one wave
// hands to the next lies in the block's shared memory. A wave costs one barrier and no wait for memory: what it reads there is
// asked for before its products and used after them. All that does not depend on the wave before is done outside, by large
// products: the inputs' part of the gates beforehand, the gradients of inputs and weights afterwards. What limits a sweep are
// the products of one block, bound by the loads that feed them, and with few units the chain of a wave's latencies; a batch
// smaller than the number of multiprocessors leaves some without work.
//
// A wave's cells have places on a line, its slots: slot s reads the hidden states at the slots s - shift(tap) of the wave before,
// and goes on with the cell state of slot s. What is read outside the image is zero: a slot holds zeros until its first cell,
// margins beside the line always do, and no one reads a slot after its last cell.

#include "lstm.cuh"

#ifndef CELLS
#define CELLS 4  // side by side, of a thread: each weight that is read serves so many
#endif

constexpr int TILE = 32;               // slots of a block at a time
constexpr int GROUPS = TILE / CELLS;   // of threads along the line
constexpr int MOST_THREADS = 512;
constexpr unsigned EVERY_LANE = 0xffffffffu;

struct __align__(16) Quad {
    REAL v[4];
};

struct __align__(CELLS * sizeof(float)) Span {
    REAL v[CELLS];
};

// The shape of what a block keeps: rows of shared memory, `margin` of zeros, the slots, zeros up to `pitch`.
struct Room {
    int h, margin, pitch;  // margin and pitch are multiples of 4, pitch / 4 is odd: neighbouring rows begin in other banks
};

__device__ void clear(REAL* memory, int size) {
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < size; i += blockDim.x * blockDim.y) memory[i] = 0;
    __syncthreads();
}

// Where a launch finds what a block uses wave after wave.
constexpr int SPILLED = 0;  // rows in global memory, which has room where shared memory has not
constexpr int ROWS = 1;     // rows in shared memory, weights in global memory
constexpr int ALL = 2;      // both in shared memory

// Call body(memory, weight) with room for `rows` rows and, there or in shared memory, the weights.
template <class Body>
__device__ void with_memory(REAL* spill, int mode, int rows, const Room& room, const Quad* __restrict__ weight, int weights,
                            Body body) {
    extern __shared__ __align__(16) REAL shared[];
    if (mode == SPILLED) {
        body(spill + (long long)blockIdx.x * rows * room.pitch, weight);
    } else if (mode == ROWS) {
        body(shared, weight);
    } else {
        Quad* const own = reinterpret_cast<Quad*>(shared + rows * room.pitch);
        for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < weights; i += blockDim.x * blockDim.y) own[i] = weight[i];
        body(shared, own);  // which waits for all threads before it begins
    }
}

// The pixels of a thread's cells, from `slot` on; -1 stands for a slot that has no cell in this wave.
template <class Sweep>
struct Cells {
    int pixel[CELLS];

    __device__ Cells(const Sweep& sweep, int wave, int slot) {
        const int first = wave < 0 ? 1 : sweep.first(wave), last = wave < 0 ? 0 : sweep.last(wave);
#pragma unroll
        for (int c = 0; c < CELLS; c++) pixel[c] = slot + c < first || slot + c > last ? -1 : sweep.pixel(wave, slot + c);
    }
};

// What stands c places from the thread's first slot in a row of the wave before; `here` holds the thread's own slots. Where the
// compiler knows the taps it knows c, and most reads are of registers.
template <class Sweep>
__device__ REAL near(const REAL* row, const Span& here, int c) {
    return Sweep::KNOWN && 0 <= c && c < CELLS ? here.v[c] : row[c];
}

// sum[o][c]: the products of what cell c reads, row k of `states` (h rows) at its slot, with weight (taps, h, h) of Quads.
template <class Sweep>
__device__ void add_products(REAL (&sum)[4][CELLS], const REAL* states, const Quad* __restrict__ weight, const Room& room,
                             int unit, const Sweep& sweep) {
    weight += unit;
#pragma unroll 2
    for (int k = 0; k < room.h; k++, states += room.pitch) {
        const Span here = *reinterpret_cast<const Span*>(states);
#pragma unroll
        for (int tap = 0; tap < sweep.taps(); tap++) {
            const Quad factor = weight[(tap * room.h + k) * room.h];
#pragma unroll
            for (int c = 0; c < CELLS; c++)
#pragma unroll
                for (int o = 0; o < 4; o++) sum[o][c] += factor.v[o] * near<Sweep>(states, here, c - sweep.shift(tap));
        }
    }
}

// gates (N, pixels, 4 h): the inputs' part of the pre-activations in, activations out. weight (taps, h, h, 4): from the tap's
// state k to the gates of unit j; bias (4 h). cells (N, pixels, h), hidden (N, h, pixels) and read (N, pixels, taps h + 4), what
// each cell reads and behind it 1, 0, 0, 0, are computed. One block per image; memory has room for 3 h rows.
template <class Sweep>
__device__ void sweep_forward(const Sweep& sweep, const Quad* __restrict__ weight, const REAL* __restrict__ bias, REAL* gates,
                              REAL* cells, REAL* read, REAL* hidden, const Room& room, REAL* memory) {
    const int h = room.h, pixels = sweep.height * sweep.width, columns = sweep.taps() * h + 4;
    const long long image = (long long)blockIdx.x * pixels;
    gates += image * 4 * h;
    cells += image * h;
    read += image * columns;
    hidden += image * h;
    REAL *before = memory + room.margin, *after = before + h * room.pitch, *const cell = after + h * room.pitch;
    clear(memory, 3 * h * room.pitch);
    for (int wave = 0; wave < sweep.waves(); wave++) {
        for (int slot = threadIdx.y * CELLS; slot <= sweep.last(wave); slot += TILE) {
            if (slot + CELLS <= sweep.first(wave)) continue;
            const Cells<Sweep> at(sweep, wave, slot);
            for (int unit = threadIdx.x; unit < h; unit += blockDim.x) {
                REAL gate[CELLS][4], sum[4][CELLS] = {};
#pragma unroll
                for (int c = 0; c < CELLS; c++)
#pragma unroll
                    for (int o = 0; o < 4; o++)
                        gate[c][o] = at.pixel[c] < 0 ? 0 : gates[at.pixel[c] * 4 * h + o * h + unit];
                add_products(sum, before + slot, weight, room, unit, sweep);
                Span* const carried = reinterpret_cast<Span*>(cell + unit * room.pitch + slot);
                Span cell_states = *carried, states;
#pragma unroll
                for (int c = 0; c < CELLS; c++) {  // without a branch: the cells' chains of functions run side by side
#pragma unroll
                    for (int o = 0; o < 4; o++) gate[c][o] += bias[o * h + unit] + sum[o][c];
                    activate(gate[c], cell_states.v[c], cell_states.v[c], states.v[c]);
                    if (at.pixel[c] < 0) cell_states.v[c] = states.v[c] = 0;
                }
                *carried = cell_states;
                *reinterpret_cast<Span*>(after + unit * room.pitch + slot) = states;
#pragma unroll
                for (int c = 0; c < CELLS; c++) {
                    const int p = at.pixel[c];
                    if (p < 0) continue;
#pragma unroll
                    for (int o = 0; o < 4; o++) gates[p * 4 * h + o * h + unit] = gate[c][o];
                    cells[p * h + unit] = cell_states.v[c];
                    hidden[unit * pixels + p] = states.v[c];
                    for (int tap = 0; tap < sweep.taps(); tap++)
                        read[p * columns + tap * h + unit] = before[unit * room.pitch + slot + c - sweep.shift(tap)];
                    if (unit == 0)
                        for (int i = 0; i < 4; i++) read[p * columns + columns - 4 + i] = i == 0;
                }
            }
        }
        __syncthreads();
        REAL* const written = after;
        after = before;
        before = written;
    }
}

// As add_products on the way back, for the units of a Quad: sum[u][c] over one of the four gates of every unit k of the cells
// that read cell c. gradients: row 4 k + gate; weight (taps, h, quads, 4 gates), of Quads.
template <class Sweep>
__device__ void add_products_back(REAL (&sum)[4][CELLS], const REAL* gradients, const Quad* __restrict__ weight,
                                  const Room& room, int unit, const Sweep& sweep) {
    const int units = (room.h + 3) / 4 * 4;
    gradients += unit % 4 * room.pitch;
    weight += unit;
#pragma unroll 2
    for (int k = 0; k < room.h; k++, gradients += 4 * room.pitch) {
        const Span here = *reinterpret_cast<const Span*>(gradients);
#pragma unroll
        for (int tap = 0; tap < sweep.taps(); tap++) {
            const Quad factor = weight[(tap * room.h + k) * units];
#pragma unroll
            for (int c = 0; c < CELLS; c++)
#pragma unroll
                for (int u = 0; u < 4; u++) sum[u][c] += factor.v[u] * near<Sweep>(gradients, here, c + sweep.shift(tap));
        }
    }
}

// Four lanes side by side hold sums of the same four units: lane l of them returns in total[c] those of unit l, added up.
__device__ void share_out(const REAL (&sum)[4][CELLS], REAL (&total)[CELLS]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int c = 0; c < CELLS; c++) {
        REAL pair[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const REAL kept = odd ? sum[2 * i + 1][c] : sum[2 * i][c], given = odd ? sum[2 * i][c] : sum[2 * i + 1][c];
            pair[i] = kept + __shfl_xor_sync(EVERY_LANE, given, 1);
        }
        total[c] = (upper ? pair[1] : pair[0]) + __shfl_xor_sync(EVERY_LANE, upper ? pair[0] : pair[1], 2);
    }
}

// g_gates (N, pixels, 4 h) from g (N, h, pixels), the gradient of the hidden states. weight (taps, h, quads, 4, 4): from the gate
// (its fourth axis) of unit k to the unit u of a quad, h filled up to whole quads. One block per image; memory has room for 9 h
// rows.
template <class Sweep>
__device__ void sweep_backward(const Sweep& sweep, const REAL* __restrict__ g, const Quad* __restrict__ weight,
                               const REAL* __restrict__ gates, const REAL* __restrict__ cells, REAL* g_gates, const Room& room,
                               REAL* memory) {
    const int h = room.h, pixels = sweep.height * sweep.width;
    const long long image = (long long)blockIdx.x * pixels;
    g += image * h;
    gates += image * 4 * h;
    cells += image * h;
    g_gates += image * 4 * h;
    REAL *later = memory + room.margin, *now = later + 4 * h * room.pitch, *const g_cell = now + 4 * h * room.pitch;
    clear(memory, 9 * h * room.pitch);
    for (int wave = sweep.waves() - 1; wave >= 0; wave--) {
        for (int tile = 0; tile <= sweep.last(wave); tile += TILE) {
            const int slot = tile + threadIdx.y * CELLS;
            const bool any = slot <= sweep.last(wave) && slot + CELLS > sweep.first(wave);
            if (!__any_sync(EVERY_LANE, any)) continue;  // lanes of another group take part in the exchange of sums
            const Cells<Sweep> at(sweep, wave, slot), from(sweep, wave - 1, slot);
            for (int base = 0; base < h; base += blockDim.x) {
                const int unit = base + threadIdx.x;
                REAL gate[CELLS][4] = {}, before[CELLS] = {}, after[CELLS] = {}, g_hidden[CELLS] = {}, sum[4][CELLS] = {};
#pragma unroll
                for (int c = 0; c < CELLS; c++) {
                    const int p = at.pixel[c];
                    if (p < 0 || unit >= h) continue;
#pragma unroll
                    for (int o = 0; o < 4; o++) gate[c][o] = gates[p * 4 * h + o * h + unit];
                    before[c] = from.pixel[c] < 0 ? 0 : cells[from.pixel[c] * h + unit];
                    after[c] = cells[p * h + unit];
                    g_hidden[c] = g[unit * pixels + p];
                }
                REAL total[CELLS];
                if (any && unit / 4 * 4 < h) add_products_back(sum, later + slot, weight, room, unit, sweep);
                share_out(sum, total);
                if (!any || unit >= h) continue;
                Span* const carried = reinterpret_cast<Span*>(g_cell + unit * room.pitch + slot);
                Span g_cells = *carried, gradients[4];
#pragma unroll
                for (int c = 0; c < CELLS; c++) {
                    REAL g_gate[4];
                    g_cells.v[c] = differentiate(gate[c], before[c], after[c], g_hidden[c] + total[c], g_cells.v[c], g_gate);
                    if (at.pixel[c] < 0) g_cells.v[c] = 0;
#pragma unroll
                    for (int o = 0; o < 4; o++) gradients[o].v[c] = at.pixel[c] < 0 ? 0 : g_gate[o];
                }
                *carried = g_cells;
#pragma unroll
                for (int o = 0; o < 4; o++) {
                    *reinterpret_cast<Span*>(now + (unit * 4 + o) * room.pitch + slot) = gradients[o];
#pragma unroll
                    for (int c = 0; c < CELLS; c++)
                        if (at.pixel[c] >= 0) g_gates[at.pixel[c] * 4 * h + o * h + unit] = gradients[o].v[c];
                }
            }
        }
        __syncthreads();
        REAL* const written = now;
        now = later;
        later = written;
    }
}
