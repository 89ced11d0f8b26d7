"""An LSTM that sweeps over a grid of pixels in waves, in Numba: what the diagonal and the row LSTM have in common.

A cell stands for each pixel, and all cells of a wave are computed together: a row of the image, or a diagonal. The cells of
a wave lie on a line. A cell reads the hidden states of a few neighbours in the wave before, the cell state of one of them,
and the input of its own pixel and of a few before it in the line: convolutions along a line, of few taps.

The batch is cut into chunks of images, whose number depends on the size of the batch alone: they run in parallel, and the
bits of the result do not depend on the number of threads. Within a chunk, a matrix has a row `place * images + image` for each
cell. Places follow the waves and their lines, with gaps between the waves that hold zeros, so what a wave reads through one
tap are rows that follow each other, and nothing is gathered or written twice:

    gates = bias + sum over taps: inputs[rows, moved by the tap] weight + sum over taps: states[rows, moved] weight.

Backward, the gradients of what is read are convolutions of the gates' gradients in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from .memory import aligned, padded
from .product import product
from .runtime import jit, pjit
from .vectormath import sigmoid, tanh

MOST_CHUNKS, FEWEST_IMAGES = 32, 4  # each chunk has a weight gradient of its own; a wave of few rows is a slow product
CHANNELS = 8  # moved at a time between maps and rows: the lines of as many maps fit the first-level cache


class Sweep(NamedTuple):
    """Who reads whom. Waves -1 and W, before the first and after the last, are gaps: what is read there is zero.

    starts, ends (W,): the places of each wave
    back (W + 1,): a cell of wave w at place p reads as its first tap the place p - back[w] of the wave before; the last number
        is for the cells of wave W, which read the last wave
    taps, carry: how many neighbours' hidden states a cell reads, and which of them goes on with its cell state
    input_taps: how many pixels of the line a cell reads; the last is its own
    place (pixels,), gaps: the places of the pixels' cells, and all others
    """

    starts: np.ndarray
    ends: np.ndarray
    back: np.ndarray
    taps: int
    carry: int
    input_taps: int
    place: np.ndarray
    gaps: np.ndarray


def sweep(wave: np.ndarray, at: np.ndarray, first: int, taps: int, carry: int, input_taps: int) -> Sweep:
    """The tables for a grid: `wave` (H, W) and `at`, the pixels' positions on their waves' lines, without holes.

    A cell at position r reads the states at r + first, ..., r + first + taps - 1 on the line before.
    """
    wave, at = wave.ravel(), at.ravel()
    low = np.array([at[wave == w].min() for w in range(wave.max() + 1)])
    size = np.bincount(wave)
    low, size = (np.concatenate([line[:1], line, line[-1:]]) for line in (low, size))  # with waves -1 and W
    reach = np.concatenate([np.diff(low) + first, np.diff(low + size) + first + taps - 1])
    gap = max(int(abs(reach).max()), input_taps - 1)
    starts = gap + np.cumsum(size + gap) - (size + gap)
    origin = starts - low
    place = origin[1:][wave] + at
    gaps = np.setdiff1d(np.arange(starts[-1] + size[-1] + gap), place)
    inner = slice(1, -1)
    return Sweep(starts[inner], (starts + size)[inner], np.diff(origin) - first, taps, carry, input_taps, place, gaps)


def forward(x: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray, s: Sweep) -> tuple:
    """h (N, hidden, H, W) and what `backward` needs, from x (N, C, H, W), weight_ih (4 hidden, C, input taps),
    weight_hh (4 hidden, hidden, taps) and bias (4 hidden,)."""
    batch, channels, height, width = x.shape
    columns, hidden = weight_hh.shape[:2]
    images = max(-(-batch // MOST_CHUNKS), min(FEWEST_IMAGES, -(-batch // 2)), 1)
    chunks, rows = -(-batch // images), (len(s.place) + len(s.gaps)) * images
    inputs, gates, cells, states = (
        aligned((chunks, rows, size), x.dtype) for size in (channels, padded(columns, x.dtype), hidden, hidden)
    )
    weights = [_padded(w.transpose(2, 1, 0).reshape(-1, columns)) for w in (weight_ih, weight_hh)]
    out = aligned((batch, hidden, height * width), x.dtype)
    _forward(_maps(x), *weights, _padded(bias[None]), s, images, (inputs, gates, cells, states), out)
    return out.reshape(batch, hidden, height, width), (inputs, gates, cells, states)


def backward(g: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, residual: tuple, s: Sweep) -> tuple:
    """The gradients of x, weight_ih, weight_hh and bias from that of h (N, hidden, H, W)."""
    gates = residual[1]
    batch, _, height, width = g.shape
    columns, hidden, taps = weight_hh.shape
    channels, input_taps = weight_ih.shape[1:]
    chunks, rows, wide = gates.shape
    images = rows // (len(s.place) + len(s.gaps))
    parts = min(chunks, get_num_threads())  # each has its chunks one after the other, in the same scratch memory
    weights = [_padded(w.transpose(2, 0, 1)[::-1].reshape(-1, w.shape[1])) for w in (weight_ih, weight_hh)]
    work = tuple(  # gradients of the inputs, of the gates, of the cell states and of the hidden states
        aligned((parts, rows, size), g.dtype) for size in (weights[0].shape[1], wide, hidden, weights[1].shape[1])
    )
    g_x = aligned((batch, channels, height * width), g.dtype)
    g_ih, g_hh, g_bias = (aligned((chunks, size, wide), g.dtype) for size in (input_taps * channels, taps * hidden, 1))
    _backward(_maps(g), *weights, s, images, residual, work, g_x, g_ih, g_hh, g_bias)
    g_ih, g_hh = (
        total[:, :, :columns].sum(0).reshape(-1, size, columns).transpose(2, 1, 0)
        for total, size in ((g_ih, channels), (g_hh, hidden))
    )
    return g_x.reshape(batch, channels, height, width), g_ih, g_hh, g_bias[:, 0, :columns].sum(0)


def step(
    x: np.ndarray,
    hidden: np.ndarray,
    cell: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """h and c (N, hidden) of one cell of N images, from what it reads: x (N, C, input taps), hidden (N, hidden, taps), cell.

    Here the images lie along the rows, and the weights are used as they are: packing them would cost more than the product.
    """
    batch = len(x)
    width = padded(batch, x.dtype)
    columns = [part.transpose(2, 1, 0).reshape(part.shape[1] * part.shape[2], batch) for part in (x, hidden)]
    read = aligned((sum(map(len, columns)), width), x.dtype)
    read[:, :batch] = np.concatenate(columns)
    read[:, batch:] = 0
    gates = np.repeat(bias[:, None], width, axis=1)
    before = np.zeros((cell.shape[1], width), x.dtype)
    before[:, :batch] = cell.T
    after, out = np.empty_like(before), np.empty_like(before)
    _step(read, np.ascontiguousarray(weight_ih), np.ascontiguousarray(weight_hh), gates, before, after, out)
    return out[:, :batch].T.copy(), after[:, :batch].T.copy()


def _maps(x: np.ndarray) -> np.ndarray:
    """(N, channels, pixels), contiguous."""
    return np.ascontiguousarray(x).reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def _padded(matrix: np.ndarray) -> np.ndarray:
    """A copy whose rows fill whole cache lines, with zeros at their ends."""
    copy = aligned((len(matrix), padded(matrix.shape[1], matrix.dtype)), matrix.dtype)
    copy[:, : matrix.shape[1]] = matrix
    copy[:, matrix.shape[1] :] = 0
    return copy


@pjit
def _forward(x, weight_ih, weight_hh, bias, s, images, residual, out):
    inputs, gates, cells, states = residual
    for k in prange(len(inputs)):
        some = slice(k * images, (k + 1) * images)
        _sweep_forward(x[some], weight_ih, weight_hh, bias, s, inputs[k], gates[k], cells[k], states[k], out[some])


@jit
def _sweep_forward(x, weight_ih, weight_hh, bias, s, inputs, gates, cells, states, out):
    images = len(x)
    for matrix in (inputs, cells, states):
        _clear(matrix, s.gaps, images)
    _to_rows(x, s.place, images, inputs)
    for wave in range(len(s.starts)):
        first, end, before = s.starts[wave] * images, s.ends[wave] * images, (s.starts[wave] - s.back[wave]) * images
        some, carried = gates[first:end], cells[before + s.carry * images :]
        product(inputs[first - (s.input_taps - 1) * images :], weight_ih, bias, some, s.input_taps, images)
        product(states[before:], weight_hh, some, some, s.taps, images)
        activate(some, carried, cells[first:end], states[first:end])
    _to_maps(states, s.place, images, out)


@jit
def activate(gates, before, after, hidden):
    """Row by row, gates (rows, 4 h) from pre-activations to i, f, g, o; the cell states after and the hidden states."""
    for row in range(len(after)):
        _activate(gates, before, after, hidden, row)


@jit(forceinline=True)  # the loop alone: LLVM vectorizes it before it is inlined, but not inside another loop
def _activate(gates, before, after, hidden, row):
    size = after.shape[1]
    for u in range(size):
        i, f = sigmoid(gates[row, u]), sigmoid(gates[row, size + u])
        g, o = tanh(gates[row, 2 * size + u]), sigmoid(gates[row, 3 * size + u])
        c = f * before[row, u] + i * g
        gates[row, u], gates[row, size + u], gates[row, 2 * size + u], gates[row, 3 * size + u] = i, f, g, o
        after[row, u] = c
        hidden[row, u] = o * tanh(c)


@pjit
def _backward(g, weight_ih, weight_hh, s, images, residual, work, g_x, g_ih, g_hh, g_bias):
    inputs, gates, cells, states = residual
    g_inputs, g_gates, g_cells, g_states = work
    parts = len(g_inputs)
    for part in prange(parts):
        scratch = g_inputs[part], g_gates[part], g_cells[part], g_states[part]
        for k in range(part * len(inputs) // parts, (part + 1) * len(inputs) // parts):
            some = slice(k * images, (k + 1) * images)
            kept, sums = (inputs[k], gates[k], cells[k], states[k]), (g_ih[k], g_hh[k], g_bias[k])
            _sweep_backward(g[some], weight_ih, weight_hh, s, kept, scratch, g_x[some], sums)


@jit
def _sweep_backward(g, weight_ih, weight_hh, s, residual, work, g_x, sums):
    inputs, gates, cells, states = residual
    g_inputs, g_gates, g_cells, g_states = work
    g_ih, g_hh, g_bias = sums
    images, columns, zeros = len(g), 4 * g.shape[1], np.zeros((1, g_inputs.shape[1]), g.dtype)
    _to_rows(g, s.place, images, g_states)
    _clear(g_gates, s.gaps, images)
    for matrix in (g_cells, g_ih, g_hh, g_bias):
        matrix[:] = 0
    for wave in range(len(s.starts) - 1, -1, -1):
        first, end, before = s.starts[wave] * images, s.ends[wave] * images, (s.starts[wave] - s.back[wave]) * images
        readers = (s.starts[wave] + s.back[wave + 1] - s.taps + 1) * images
        some, carried = g_gates[first:end], before + s.carry * images
        product(g_gates[readers:, :columns], weight_hh, g_states[first:end], g_states[first:end], s.taps, images)
        kept = gates[first:end], cells[carried:], cells[first:end]
        differentiate(*kept, g_states[first:end], g_cells[first:end], some, g_cells[carried:])
        product(g_gates[first:, :columns], weight_ih, zeros, g_inputs[first:end], s.input_taps, images)
        _add_product(inputs, first - (s.input_taps - 1) * images, images, some, g_ih)
        _add_product(states, before, images, some, g_hh)
        for row in range(len(some)):
            _add_row(some, row, g_bias)
    _to_maps(g_inputs, s.place, images, g_x)


@jit
def _add_product(rows, first, apart, g, total):
    """Add the gradient of a weight: total[tap * size + u, j] += sum_m rows[first + tap * apart + m, u] g[m, j]."""
    size = rows.shape[1]
    for tap in range(len(total) // size):
        some, start = total[tap * size : (tap + 1) * size], first + tap * apart
        product(rows[start : start + len(g)].T, g, some, some)


@jit
def differentiate(gates, before, after, g_hidden, g_after, g_gates, g_before):
    """Row by row, from the gradients of the states to those of the gates' pre-activations and of the cell states before."""
    for row in range(len(after)):
        _differentiate(gates, before, after, g_hidden, g_after, g_gates, g_before, row)


@jit(forceinline=True)
def _differentiate(gates, before, after, g_hidden, g_after, g_gates, g_before, row):
    size, one = after.shape[1], after.dtype.type(1)
    for u in range(size):
        i, f, g, o = gates[row, u], gates[row, size + u], gates[row, 2 * size + u], gates[row, 3 * size + u]
        t, g_h = tanh(after[row, u]), g_hidden[row, u]
        g_c = g_after[row, u] + g_h * o * (one - t * t)
        g_gates[row, u] = g_c * g * i * (one - i)
        g_gates[row, size + u] = g_c * before[row, u] * f * (one - f)
        g_gates[row, 2 * size + u] = g_c * i * (one - g * g)
        g_gates[row, 3 * size + u] = g_h * t * o * (one - o)
        g_before[row, u] = g_c * f


@jit
def _step(inputs, weight_ih, weight_hh, gates, before, after, out):
    """The gates of one cell of many images, summed in the same order as in a wave, and the states."""
    first = 0
    for weight in (weight_ih, weight_hh):
        for tap in range(weight.shape[2]):
            end = first + weight.shape[1]
            product(weight[:, :, tap], inputs[first:end], gates, gates)
            first = end
    activate(gates.reshape(1, -1), before.reshape(1, -1), after.reshape(1, -1), out.reshape(1, -1))


@jit(forceinline=True)
def _add_row(rows, row, total):
    for j in range(rows.shape[1]):
        total[0, j] += rows[row, j]


@jit
def _clear(rows, places, images):
    for place in places:
        rows[place * images : (place + 1) * images] = 0


@jit
def _to_rows(maps, places, images, rows):
    """rows[places[pixel] * images + image, c] = maps[image, c, pixel]"""
    for image in range(len(maps)):
        for start in range(0, maps.shape[1], CHANNELS):
            some = maps[image, start : start + CHANNELS]
            for pixel in range(maps.shape[2]):
                row = rows[places[pixel] * images + image, start:]
                for c in range(len(some)):
                    row[c] = some[c, pixel]


@jit
def _to_maps(rows, places, images, maps):
    """maps[image, c, pixel] = rows[places[pixel] * images + image, c]"""
    for image in range(len(maps)):
        for start in range(0, maps.shape[1], CHANNELS):
            some = maps[image, start : start + CHANNELS]
            for pixel in range(maps.shape[2]):
                row = rows[places[pixel] * images + image, start:]
                for c in range(len(some)):
                    some[c, pixel] = row[c]
