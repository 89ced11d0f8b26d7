"""An LSTM that sweeps over a grid of pixels in waves, in Numba: what the diagonal and the row LSTM have in common.

A cell stands for each pixel. It reads the hidden states of a few cells of the wave before, the cell state of one of
them, and the input at a few pixels, so all cells of a wave are computed together. A `Sweep` says who reads whom.

The batch is cut into chunks of images, whose number depends on the size of the batch alone: they run in parallel, and the
bits of the result do not depend on the number of threads. Within a chunk, row `place * images + image` of the matrix
`inputs` holds all that a cell reads, [hidden states | inputs]; places follow the waves, so a wave is one matrix product

    gates = bias + inputs[wave] weight,

and the hidden states that come out are written where the cells of the next wave read them. Backward, a wave is one product
for the gradients of `inputs` and one that adds to the gradient of the weight.
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
    """Who reads whom. Cells are numbered in the order of the waves; a place is a cell's number, or lies past the last.

    starts (waves + 1,): the first cell of each wave, and the number of cells
    targets (taps, cells): the place that reads a cell's hidden state as its tap; past the last cell if none does
    carry: the tap whose place also reads the cell state. Its places are all different, so that every state is kept
    readers (input taps, pixels): the place that reads a pixel as its input tap; the last tap's is the pixel's own cell
    border: the cells that lack something to read, and read zeros
    places: how many there are. What is written to the last is lost
    """

    starts: np.ndarray
    targets: np.ndarray
    carry: int
    readers: np.ndarray
    border: np.ndarray
    places: int


def sweep(waves: np.ndarray, taps: list[tuple[int, int]], carry: int, input_taps: list[tuple[int, int]]) -> Sweep:
    """The tables for a grid (H, W) of wave numbers and for taps given as steps (rows, columns) back to what is read."""
    height, width = waves.shape
    order = np.argsort(waves, axis=None, kind="stable")
    cells = order.size
    row, column = np.divmod(order, width)
    place = np.empty(cells, np.intp)
    place[order] = np.arange(cells)
    place = place.reshape(height, width)

    def reading(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return inside, place[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]

    targets, border = [], np.zeros(cells, bool)
    for up, left in taps:
        inside, readers = reading(row + up, column + left)
        targets.append(np.where(inside, readers, -1))
        border |= ~reading(row - up, column - left)[0]
    final = targets[carry] < 0
    targets[carry][final] = cells + np.arange(final.sum())
    last = cells + int(final.sum())
    readers = []
    for up, left in input_taps:
        inside, read = reading(*np.divmod(np.arange(cells), width) + np.array([[up], [left]]))
        readers.append(np.where(inside, read, last))
        border |= ~reading(row - up, column - left)[0]
    targets = np.where(np.array(targets) < 0, last, targets)
    starts = np.append(0, np.cumsum(np.bincount(waves.ravel())))
    return Sweep(starts, targets, carry, np.array(readers), np.flatnonzero(border), last + 1)


def forward(x: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray, s: Sweep) -> tuple:
    """h (N, hidden, H, W) and what `backward` needs, from x (N, C, H, W), weight_ih (4 hidden, C, input taps),
    weight_hh (4 hidden, hidden, taps) and bias (4 hidden,)."""
    batch, _, height, width = x.shape
    columns, hidden = weight_hh.shape[:2]
    weight = np.concatenate([w.transpose(2, 1, 0).reshape(-1, columns) for w in (weight_hh, weight_ih)])
    images = max(-(-batch // MOST_CHUNKS), min(FEWEST_IMAGES, -(-batch // 2)), 1)
    chunks = -(-batch // images)
    inputs = aligned((chunks, s.places * images, padded(len(weight), x.dtype)), x.dtype)
    gates = aligned((chunks, height * width * images, padded(columns, x.dtype)), x.dtype)
    cells = aligned((chunks, s.places * images, hidden), x.dtype)
    out = np.empty((batch, hidden, height * width), x.dtype)
    _forward(_maps(x), _padded(weight), _padded(bias[None]), s, images, inputs, gates, cells, out)
    return out.reshape(batch, hidden, height, width), (inputs, gates, cells)


def backward(g: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, residual: tuple, s: Sweep) -> tuple:
    """The gradients of x, weight_ih, weight_hh and bias from that of h (N, hidden, H, W)."""
    inputs, gates, cells = residual
    batch, _, height, width = g.shape
    columns, hidden, taps = weight_hh.shape
    channels, input_taps = weight_ih.shape[1:]
    chunks, rows, depth = inputs.shape
    images = rows // s.places
    parts = min(chunks, get_num_threads())  # each has its chunks one after the other, in the same scratch memory
    weight = _padded(np.concatenate([w.swapaxes(1, 2).reshape(columns, -1) for w in (weight_hh, weight_ih)], axis=1))
    work = (
        aligned((parts, height * width * images, hidden), g.dtype),  # gradients of the hidden states,
        aligned((parts, int(np.diff(s.starts).max()) * images, gates.shape[2]), g.dtype),  # of a wave's gates,
        aligned((parts, *cells.shape[1:]), g.dtype),  # of the cell states that are read
        aligned((parts, *inputs.shape[1:]), g.dtype),  # and of all else that is read
    )
    g_x = np.empty((batch, channels, height * width), g.dtype)
    g_weight = aligned((chunks, columns, depth), g.dtype)
    g_bias = np.empty((chunks, columns), g.dtype)
    _backward(_maps(g), weight, s, images, residual, work, g_x, g_weight, g_bias)
    split, end = taps * hidden, taps * hidden + input_taps * channels  # the padding after them holds anything
    g_hh = g_weight[:, :, :split].sum(0).reshape(columns, taps, hidden).swapaxes(1, 2)
    g_ih = g_weight[:, :, split:end].sum(0).reshape(columns, input_taps, channels).swapaxes(1, 2)
    return g_x.reshape(batch, channels, height, width), g_ih, g_hh, g_bias.sum(0)


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
    columns = [part.transpose(2, 1, 0).reshape(part.shape[1] * part.shape[2], batch) for part in (hidden, x)]
    read = aligned((sum(map(len, columns)), width), x.dtype)
    read[:, :batch] = np.concatenate(columns)
    read[:, batch:] = 0
    gates = np.repeat(bias[:, None], width, axis=1)
    before = np.zeros((cell.shape[1], width), x.dtype)
    before[:, :batch] = cell.T
    after, out = np.empty_like(before), np.empty_like(before)
    _step(read, np.ascontiguousarray(weight_hh), np.ascontiguousarray(weight_ih), gates, before, after, out)
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
def _forward(x, weight, bias, s, images, inputs, gates, cells, out):
    for k in prange(len(inputs)):
        some = slice(k * images, (k + 1) * images)
        _sweep_forward(x[some], weight, bias, s, inputs[k], gates[k], cells[k], out[some])


@jit
def _sweep_forward(x, weight, bias, s, inputs, gates, cells, out):
    images, hidden, taps = len(x), out.shape[1], len(s.targets)
    for place in s.border:
        inputs[place * images : (place + 1) * images] = 0
        cells[place * images : (place + 1) * images] = 0
    for tap in range(len(s.readers)):
        _to_rows(x, s.readers[tap], images, inputs, taps * hidden + tap * x.shape[1])
    for wave in range(len(s.starts) - 1):
        first, end = s.starts[wave], s.starts[wave + 1]
        rows = slice(first * images, end * images)
        product(inputs[rows, : len(weight)], weight, bias, gates[rows])
        _wave_forward(first, end, images, s, gates, cells, inputs)
    own = s.readers[-1]
    _to_maps(inputs, s.carry * hidden, s.targets[s.carry][own], images, out, False)


@jit(forceinline=True)
def activate(gates, row, before, after, to, hidden, slot):
    """One cell: gates[row] from pre-activations to i, f, g, o; its states to after[to] and hidden[to, slot:]."""
    size = before.shape[1]
    for u in range(size):
        i, f = sigmoid(gates[row, u]), sigmoid(gates[row, size + u])
        g, o = tanh(gates[row, 2 * size + u]), sigmoid(gates[row, 3 * size + u])
        c = f * before[row, u] + i * g
        gates[row, u], gates[row, size + u], gates[row, 2 * size + u], gates[row, 3 * size + u] = i, f, g, o
        after[to, u] = c
        hidden[to, slot + u] = o * tanh(c)


@jit
def _wave_forward(first, end, images, s, gates, cells, inputs):
    """Turn the gates of cells first..end - 1 into i, f, g, o; write their states where the next wave reads them."""
    hidden, slot = cells.shape[1], s.carry * cells.shape[1]
    for cell in range(first, end):
        for image in range(images):
            row, to = cell * images + image, s.targets[s.carry, cell] * images + image
            activate(gates, row, cells, cells, to, inputs, slot)
            for tap in range(len(s.targets)):
                if tap != s.carry:
                    other = s.targets[tap, cell] * images + image
                    for u in range(hidden):
                        inputs[other, tap * hidden + u] = inputs[to, slot + u]


@pjit
def _backward(g, weight, s, images, residual, work, g_x, g_weight, g_bias):
    inputs, gates, cells = residual
    g_hidden, g_gates, g_cells, g_inputs = work
    parts = len(g_hidden)
    for part in prange(parts):
        scratch = g_hidden[part], g_gates[part], g_cells[part], g_inputs[part]
        for k in range(part * len(inputs) // parts, (part + 1) * len(inputs) // parts):
            some = slice(k * images, (k + 1) * images)
            kept = inputs[k], gates[k], cells[k]
            _sweep_backward(g[some], weight, s, kept, scratch, g_x[some], g_weight[k], g_bias[k])


@jit
def _sweep_backward(g, weight, s, residual, work, g_x, g_weight, g_bias):
    inputs, gates, cells = residual
    g_hidden, g_gates, g_cells, g_inputs = work
    images, hidden, taps, columns = len(g), g.shape[1], len(s.targets), len(weight)
    _to_rows(g, s.readers[-1], images, g_hidden, 0)
    g_inputs[s.starts[-1] * images :] = 0  # nobody reads these
    g_cells[s.starts[-1] * images :] = 0
    g_weight[:] = 0
    g_bias[:] = 0
    zeros = np.zeros((1, weight.shape[1]), weight.dtype)
    for wave in range(len(s.starts) - 2, -1, -1):
        first, end = s.starts[wave], s.starts[wave + 1]
        rows = slice(first * images, end * images)
        _gather(first, end, images, s, g_inputs, g_hidden)
        _wave_backward(first, end, images, s.targets[s.carry], gates, cells, g_hidden, g_cells, g_gates)
        some = g_gates[: (end - first) * images, :columns]
        _add_rows(some, g_bias)
        product(some, weight, zeros, g_inputs[rows])
        product(some.T, inputs[rows], g_weight, g_weight)
    for tap in range(len(s.readers) - 1, -1, -1):
        later = tap < len(s.readers) - 1
        _to_maps(g_inputs, taps * hidden + tap * g_x.shape[1], s.readers[tap], images, g_x, later)


@jit
def _gather(first, end, images, s, g_inputs, g_hidden):
    """Add to the gradients of the hidden states of cells first..end - 1 what comes back from the cells that read them."""
    hidden = g_hidden.shape[1]
    for cell in range(first, end):
        for tap in range(len(s.targets)):
            for image in range(images):
                row, reader = cell * images + image, s.targets[tap, cell] * images + image
                for u in range(hidden):
                    g_hidden[row, u] += g_inputs[reader, tap * hidden + u]


@jit(forceinline=True)
def differentiate(gates, row, before, after, to, g_hidden, g_after, g_gates, k, g_before):
    """One cell: from the gradients of its states to those of its gates' pre-activations and of the state before."""
    size, one = before.shape[1], gates.dtype.type(1)
    for u in range(size):
        i, f, g, o = gates[row, u], gates[row, size + u], gates[row, 2 * size + u], gates[row, 3 * size + u]
        t = tanh(after[to, u])
        g_c = g_after[to, u] + g_hidden[row, u] * o * (one - t * t)
        g_gates[k, u] = g_c * g * i * (one - i)
        g_gates[k, size + u] = g_c * before[row, u] * f * (one - f)
        g_gates[k, 2 * size + u] = g_c * i * (one - g * g)
        g_gates[k, 3 * size + u] = g_hidden[row, u] * t * o * (one - o)
        g_before[row, u] = g_c * f


@jit
def _wave_backward(first, end, images, successors, gates, cells, g_hidden, g_cells, g_gates):
    """Gradients of the gates' pre-activations, row by row from 0, and of the cell states that cells first..end - 1 read."""
    for cell in range(first, end):
        for image in range(images):
            row, to = cell * images + image, successors[cell] * images + image
            differentiate(gates, row, cells, cells, to, g_hidden, g_cells, g_gates, row - first * images, g_cells)


@jit
def _step(read, weight_hh, weight_ih, gates, before, after, out):
    """The gates of one cell of many images, summed in the same order as in a wave, and the states."""
    first = 0
    for weight in (weight_hh, weight_ih):
        for tap in range(weight.shape[2]):
            end = first + weight.shape[1]
            product(weight[:, :, tap], read[first:end], gates, gates)
            first = end
    flat = gates.reshape(1, -1), before.reshape(1, -1), after.reshape(1, -1), out.reshape(1, -1)
    activate(flat[0], 0, flat[1], flat[2], 0, flat[3], 0)


@jit
def _add_rows(rows, total):
    for row in rows:
        for j in range(total.size):
            total[j] += row[j]


@jit
def _to_rows(maps, places, images, rows, column):
    """rows[places[pixel] * images + image, column + c] = maps[image, c, pixel]"""
    for image in range(len(maps)):
        for start in range(0, maps.shape[1], CHANNELS):
            some = maps[image, start : start + CHANNELS]
            for pixel in range(maps.shape[2]):
                row = rows[places[pixel] * images + image, column + start :]
                for c in range(len(some)):
                    row[c] = some[c, pixel]


@jit
def _to_maps(rows, column, places, images, maps, add):
    """maps[image, c, pixel] = rows[places[pixel] * images + image, column + c], added to what is there if `add`."""
    for image in range(len(maps)):
        for start in range(0, maps.shape[1], CHANNELS):
            some = maps[image, start : start + CHANNELS]
            for pixel in range(maps.shape[2]):
                row = rows[places[pixel] * images + image, column + start :]
                if add:
                    for c in range(len(some)):
                        some[c, pixel] += row[c]
                else:
                    for c in range(len(some)):
                        some[c, pixel] = row[c]
