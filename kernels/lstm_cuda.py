"""An LSTM that sweeps over images on the GPU: what the diagonal and the row LSTM have in common, as `lstm_waves` on the CPU.

The recurrence is one launch (lstm.cuh). All that does not wait for it is a large matrix product of CuPy: the inputs' part of
the gates before, the gradients of inputs and weights after. Between them maps are stored as rows, (N, H, W, channels).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .lstm_gate import cuda as lstm_gate
from .runtime import cuda_function, cupy

Array = Any  # cupy.ndarray
GROUPS, MOST_UNITS, WARP = 8, 64, 32  # as in lstm.cuh


class Sweep(NamedTuple):
    """A kernel source with `<its name>_forward` and `_backward`, its last argument, and what a cell reads.

    taps: for each tap of weight_hh, the steps (up, left) from a cell to the hidden state that it reads
    """

    source: Path
    option: int
    taps: list[tuple[int, int]]


def forward(x: Array, weight_ih: Array, weight_hh: Array, bias: Array, sweep: Sweep) -> tuple[Array, tuple]:
    """h (N, hidden, H, W) and what `backward` needs, from x (N, C, H, W), weight_ih (4 hidden, C, input taps) and weight_hh
    (4 hidden, hidden, taps)."""
    columns, hidden = weight_hh.shape[:2]
    rows = _rows(x)
    seen = cupy().concatenate([_moved(rows, 0, left) for left in _reach(weight_ih)], axis=3)
    gates = seen.reshape(-1, seen.shape[3]) @ _input_matrix(weight_ih).T + bias
    states, cells = (cupy().empty((*rows.shape[:3], hidden), x.dtype) for _ in range(2))
    weight = cupy().ascontiguousarray(weight_hh.transpose(2, 1, 0))
    _launch(sweep, "forward", states, weight, gates, cells, states)
    return _maps(states), (seen, gates.reshape(*rows.shape[:3], columns), cells, states)


def backward(g: Array, weight_ih: Array, weight_hh: Array, residual: tuple, sweep: Sweep) -> tuple[Array, ...]:
    """The gradients of x, weight_ih, weight_hh and bias from that of h (N, hidden, H, W)."""
    seen, gates, cells, states = residual
    columns, channels, input_taps = weight_ih.shape
    g_gates, g_cells = (cupy().empty(like.shape, g.dtype) for like in (gates, cells))
    weight = cupy().ascontiguousarray(weight_hh.transpose(2, 0, 1))
    _launch(sweep, "backward", states, _rows(g), weight, gates, cells, g_gates, g_cells)
    flat = g_gates.reshape(-1, columns)
    g_seen = (flat @ _input_matrix(weight_ih)).reshape(seen.shape)
    parts = cupy().split(g_seen, input_taps, axis=3)
    g_x = sum(_moved(part, 0, -left) for part, left in zip(parts, _reach(weight_ih)))
    g_ih = (flat.T @ seen.reshape(-1, seen.shape[3])).reshape(columns, input_taps, channels).swapaxes(1, 2)
    read = [_moved(states, *tap).reshape(-1, states.shape[3]) for tap in sweep.taps]
    g_hh = cupy().stack([flat.T @ rows for rows in read], axis=2)
    return _maps(g_x), g_ih, g_hh, flat.sum(axis=0)


def step(x: Array, hidden: Array, cell: Array, weight_ih: Array, weight_hh: Array, bias: Array) -> tuple[Array, Array]:
    """h and c (N, hidden) of one cell of N images, from what it reads: x (N, C, input taps), hidden (N, hidden, taps), cell."""
    pairs = ((x, weight_ih), (hidden, weight_hh))
    products = (read.reshape(len(read), weight[0].size) @ weight.reshape(len(weight), -1).T for read, weight in pairs)
    return lstm_gate.forward(sum(products) + bias, cell)[:2]


def _launch(sweep: Sweep, direction: str, states: Array, *arrays: Array):
    batch, height, width, hidden = states.shape
    if batch:
        function = cuda_function(sweep.source, f"{sweep.source.stem}_{direction}", states.dtype)
        units = min(-(-hidden // WARP) * WARP, MOST_UNITS)
        function((batch,), (units, GROUPS), (*arrays, *map(np.int32, (height, width, hidden, sweep.option))))


def _reach(weight_ih: Array) -> range:
    """How many columns to the left each input tap looks."""
    return range(weight_ih.shape[2] - 1, -1, -1)


def _input_matrix(weight_ih: Array) -> Array:
    """(4 hidden, input taps * C)"""
    return weight_ih.swapaxes(1, 2).reshape(len(weight_ih), -1)


def _moved(rows: Array, up: int, left: int) -> Array:
    """At each pixel, what stands `up` rows above it and `left` columns to its left; zeros outside the image."""
    if up == left == 0:
        return rows
    moved = cupy().zeros(rows.shape, rows.dtype)
    moved[:, _overlap(up), _overlap(left)] = rows[:, _overlap(-up), _overlap(-left)]
    return moved


def _overlap(step: int) -> slice:
    return slice(step, None) if step >= 0 else slice(None, step)


def _rows(maps: Array) -> Array:
    """(N, C, H, W) -> (N, H, W, C), contiguous."""
    return cupy().ascontiguousarray(maps.transpose(0, 2, 3, 1))


def _maps(rows: Array) -> Array:
    return cupy().ascontiguousarray(rows.transpose(0, 3, 1, 2))
