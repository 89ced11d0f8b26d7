"""Masked dense layers on the GPU. The mask is a staircase, as on the CPU; masked_dense.cu says how the work is cut."""

import functools
import math
from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors
from ..tiles import Tile, quickest
from .plan import Staircase, network, staircase

SOURCE = Path(__file__).with_name("masked_dense.cu")
TILES = (Tile(64, 64, 4), Tile(32, 32, 4), Tile(16, 32, 4))  # as in masked_dense.cu
EXAMPLES = 32  # that a block draws


def forward(x, weight, bias, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    x, weight = _contiguous(x, weight)
    bias = cupy().zeros(len(weight), x.dtype) if bias is None else cupy().ascontiguousarray(bias)
    columns, rows, reach, _ = _there(staircase(in_degrees, out_degrees, strict))
    y = cupy().empty((len(x), len(weight)), x.dtype)
    _launch("masked_dense_forward", x, y.shape, x, weight, bias, columns, rows, reach, y, len(x), *weight.shape[::-1])
    return y


def input_gradient(g, weight, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    g, weight = _contiguous(g, weight)
    mask = _there(staircase(in_degrees, out_degrees, strict))
    g_x = cupy().empty((len(g), weight.shape[1]), g.dtype)
    _launch("masked_dense_input_gradient", g, g_x.shape, g, weight, *mask, g_x, len(g), *weight.shape[::-1])
    return g_x


def weight_gradient(x, g, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    x, g = _contiguous(x, g)
    columns, rows, reach, _ = _there(staircase(in_degrees, out_degrees, strict))
    g_weight = cupy().empty((g.shape[1], x.shape[1]), x.dtype)
    arguments = x, g, columns, rows, reach, g_weight, len(x), x.shape[1], g.shape[1]
    _launch("masked_dense_weight_gradient", x, g_weight.shape, *arguments)
    return g_weight


def complete(x, start, uniforms, weights, biases, degrees, direct=None):
    """See reference.py. Each unit is computed once, when the inputs that it depends on are known."""
    plan = network(degrees, direct is not None)
    xp = cupy()
    masks = [_there(mask) for mask in plan.masks]
    layers = zip([*weights, *([] if direct is None else [direct])], masks)
    flat = xp.concatenate([xp.ravel(w[m.rows][:, m.columns]) for w, m in layers])
    bias = xp.concatenate([*(b[m.rows] for b, m in zip(biases, masks)), xp.zeros(x.shape[1], x.dtype)])
    order = xp.asarray(plan.order)
    state = xp.empty((plan.rows, len(x)), x.dtype)
    state[: len(order)] = x[:, order].T
    if x.size:
        arguments = xp.asarray(plan.units), flat, bias, xp.ascontiguousarray(uniforms[:, order].T), state
        run = cuda_function(SOURCE, "masked_dense_complete", x.dtype)
        run((-(-len(x) // EXAMPLES),), (EXAMPLES,), (*arguments, *map(np.int32, (len(plan.units), start, len(x)))))
    completed = xp.empty(x.shape, x.dtype)
    completed[:, order] = state[: len(order)].T
    return completed


def _there(mask: Staircase) -> Staircase:
    """The plan on the current device."""
    return _moved(tuple(map(np.ndarray.tobytes, mask)), cupy().cuda.Device().id)


@functools.lru_cache(maxsize=256)
def _moved(mask: tuple[bytes, ...], device: int) -> Staircase:
    return Staircase(*(cupy().asarray(np.frombuffer(numbers, np.int64).astype(np.int32)) for numbers in mask))


def _contiguous(*arrays):
    return tuple(map(cupy().ascontiguousarray, arrays))


def _launch(name, like, shape, *arguments):
    """Run a kernel, a block for each tile of a result of that shape, unless there is nothing to do."""
    if math.prod(shape):
        tile = quickest(TILES, *shape, 1, multiprocessors())
        arguments = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
        cuda_function(SOURCE, f"{name}_{tile.rows}", like.dtype)(tile.count(*shape), (tile.threads,), arguments)
