"""An LSTM that sweeps over images on the GPU: what the diagonal and the row LSTM have in common, as `lstm_waves` on the CPU.

The recurrence is one launch (lstm_sweep.cuh). All that does not wait for it is a large matrix product (product_cuda.py): the
inputs' part of the gates before, the gradients of inputs and weights after, which take maps as rows, (N, H, W, channels). A
pass is three launches forward and seven backward besides small copies of weights: with few images, launches take as long as
the work.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .lstm_gate import cuda as lstm_gate
from .product_cuda import product
from .runtime import cuda_function, cupy, shared_memory

Array = Any  # cupy.ndarray
ROWS_SOURCE = Path(__file__).with_name("rows.cu")
TILE, MOST_UNITS, FEWEST_UNITS, WARP = 32, 64, 16, 32  # slots of a block at a time; threads along the units, at most and least
FEW = 32  # units with which twice as many threads, each of half as many cells, hide each other's waits
QUAD = 4  # numbers that are loaded together
SIDE, TURNERS = 32, 8  # of the tiles in which maps become rows, and the rows of threads that turn one
ALWAYS = 48 << 10  # bytes of shared memory that a block has without asking
SPILLED, ROWS, ALL = range(3)  # as in lstm_sweep.cuh


class Sweep(NamedTuple):
    """A kernel source with `<its name>_forward` and `_backward`, and what a cell reads.

    option: the last argument of both
    slots: places of a wave's line
    reach: how far on this line, at most, a tap looks
    """

    source: Path
    option: int
    slots: int
    reach: int


def forward(x: Array, weight_ih: Array, weight_hh: Array, bias: Array, sweep: Sweep) -> tuple[Array, tuple]:
    """h (N, hidden, H, W) and what `backward` needs, from x (N, C, H, W), weight_ih (4 hidden, C, input taps) and weight_hh
    (4 hidden, hidden, taps)."""
    h, taps = weight_hh.shape[1:]
    (N, C, *size), input_taps = x.shape, weight_ih.shape[2]
    pixels = size[0] * size[1]
    empty = cupy().empty
    seen = empty((N * pixels, input_taps * C), x.dtype)
    _turn("to_rows", _contiguous(x), seen, x.shape, input_taps)
    # Not `@`: CuPy refuses cuBLAS while a stream captures, and steps of training are captured (tinygen/replay.py).
    gates = product(seen, _input_matrix(weight_ih).T)
    cells, read = empty((N, pixels, h), x.dtype), empty((N * pixels, taps * h + QUAD), x.dtype)
    hidden = empty((N, h, *size), x.dtype)
    weight = _contiguous(weight_hh.reshape(4, h, h, taps).transpose(3, 2, 1, 0))
    _sweep(sweep, "forward", hidden.shape, 3 * h, weight, weight, _contiguous(bias), gates, cells, read, hidden)
    return hidden, (seen, gates, cells, read)


def backward(g: Array, weight_ih: Array, weight_hh: Array, residual: tuple, sweep: Sweep) -> tuple[Array, ...]:
    """The gradients of x, weight_ih, weight_hh and bias from that of h (N, hidden, H, W)."""
    seen, gates, cells, read = residual
    (columns, C, input_taps), (N, h, *size) = weight_ih.shape, g.shape
    taps, units = weight_hh.shape[2], -(-h // QUAD) * QUAD
    weight = weight_hh.reshape(4, h, h, taps)
    if units > h:
        weight = cupy().pad(weight, ((0, 0), (0, 0), (0, units - h), (0, 0)))
    weight = _contiguous(weight.reshape(4, h, -1, QUAD, taps).transpose(4, 1, 2, 0, 3))
    g_gates, g_x = cupy().empty(gates.shape, g.dtype), cupy().empty((N, C, *size), g.dtype)
    _sweep(sweep, "backward", g.shape, 9 * h, weight, _contiguous(g), weight, gates, cells, g_gates)
    _turn("from_rows", product(g_gates, _input_matrix(weight_ih)), g_x, g_x.shape, input_taps)
    g_ih = product(g_gates.T, seen).reshape(columns, input_taps, C).swapaxes(1, 2)
    # Each row of `read` ends with a one: the bias is the weight of a state that is always 1.
    g_read = product(g_gates.T, read)
    return g_x, g_ih, g_read[:, :-QUAD].reshape(columns, taps, h).swapaxes(1, 2), g_read[:, -QUAD]


def step(x: Array, hidden: Array, cell: Array, weight_ih: Array, weight_hh: Array, bias: Array) -> tuple[Array, Array]:
    """h and c (N, hidden) of one cell of N images, from what it reads: x (N, C, input taps), hidden (N, hidden, taps), cell."""
    pairs = ((x, weight_ih), (hidden, weight_hh))
    products = (read.reshape(len(read), weight[0].size) @ weight.reshape(len(weight), -1).T for read, weight in pairs)
    return lstm_gate.forward(sum(products) + bias, cell)[:2]


def _sweep(sweep: Sweep, direction: str, shape: tuple[int, ...], rows: int, weight: Array, *arrays: Array) -> None:
    """One block per image of hidden states of `shape`. It keeps so many rows of a wave and the weights in shared memory; where
    that is too small, the rows alone, or neither. `arrays` are in the kernel's order, `weight` among them."""
    (batch, h, *size), dtype = shape, weight.dtype
    if not batch:
        return
    margin, length = (-(-n // QUAD) * QUAD for n in (sweep.reach, sweep.slots))
    pitch = ((2 * margin + length) // QUAD | 1) * QUAD  # rows side by side begin in different banks
    sizes = 0, rows * pitch * dtype.itemsize, (rows * pitch + weight.size) * dtype.itemsize
    mode = max(mode for mode in (SPILLED, ROWS, ALL) if sizes[mode] <= shared_memory())
    cells = 2 if h <= FEW else 4
    function = cuda_function(sweep.source, f"{sweep.source.stem}_{direction}", dtype, CELLS=cells)
    if sizes[mode] > ALWAYS:
        function.max_dynamic_shared_size_bytes = sizes[mode]
    spill = cupy().empty((batch if mode == SPILLED else 0, rows, pitch), dtype)
    units = FEWEST_UNITS if h <= FEWEST_UNITS else min(-(-h // WARP) * WARP, MOST_UNITS)
    options = map(np.int32, (mode, weight.size // QUAD, *size, h, margin, pitch, sweep.option))
    function((batch,), (units, TILE // cells), (*arrays, spill, *options), shared_mem=sizes[mode])


def _turn(name: str, source: Array, target: Array, shape: tuple[int, ...], taps: int) -> None:
    """From maps of `shape` to rows, or back; see rows.cu."""
    batch, channels, height, width = shape
    if batch:
        blocks = (batch, -(-height * width // SIDE), -(-channels // SIDE))
        function = cuda_function(ROWS_SOURCE, name, source.dtype)
        function(blocks, (SIDE, TURNERS), (source, target, *map(np.int32, (channels, height * width, width, taps))))


def _input_matrix(weight_ih: Array) -> Array:
    """(4 hidden, input taps * C)"""
    return weight_ih.swapaxes(1, 2).reshape(len(weight_ih), -1)


def _contiguous(array: Array) -> Array:
    return cupy().ascontiguousarray(array)
