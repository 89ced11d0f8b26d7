"""Batch normalization on the GPU: one block sums a channel, one thread standardizes an element; see batch_norm.cu."""

import math
from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors

SOURCE = Path(__file__).with_name("batch_norm.cu")
THREADS = 256  # as in batch_norm.cu
BLOCKS_PER_MULTIPROCESSOR = 8  # fills one with threads; what is left over is the loop's


def moments(x):
    """See reference.py."""
    N, C, L = _sizes(x)
    mean, variance = (cupy().empty((C,), x.dtype) for _ in range(2))
    _launch("moments", C, x.dtype, *_contiguous(x), mean, variance, N, C, L)
    return mean, variance


def forward(x, mean, variance, weight, bias, eps, slope):
    """See reference.py."""
    _, C, L = _sizes(x)
    y = cupy().empty(x.shape, x.dtype)
    arrays = _contiguous(x, mean, variance, weight, bias)
    _launch("forward", _blocks(x), x.dtype, *arrays, y, np.int64(x.size), C, L, eps, slope)
    return y


def backward(g, x, mean, variance, weight, bias, eps, slope):
    """See reference.py."""
    N, C, L = _sizes(x)
    g_x = cupy().empty(x.shape, x.dtype)
    sums = [cupy().empty((C,), x.dtype) for _ in range(2)]
    arrays = _contiguous(g, x, mean, variance, weight, bias)
    _launch("parameter_gradients", C, x.dtype, *arrays, *sums, N, C, L, eps, slope)
    _launch("input_gradient", _blocks(x), x.dtype, *arrays, *sums, g_x, np.int64(x.size), C, L, eps, slope)
    return g_x, *sums


def _sizes(x):
    """N, C, L of x (N, C, ...)."""
    return *x.shape[:2], math.prod(x.shape[2:])


def _contiguous(*arrays):
    return tuple(map(cupy().ascontiguousarray, arrays))


def _blocks(x):
    return min(-(-x.size // THREADS), BLOCKS_PER_MULTIPROCESSOR * multiprocessors())


def _launch(name, blocks, dtype, *arguments):
    """Run a kernel unless there is nothing to do. Its integers are C's int where they are Python's; its floats are REAL."""
    kinds = {int: np.int32, float: dtype.type}
    if blocks:
        arguments = tuple(kinds.get(type(value), lambda value: value)(value) for value in arguments)
        cuda_function(SOURCE, f"batch_norm_{name}", dtype)((blocks,), (THREADS,), arguments)
