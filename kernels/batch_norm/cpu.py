"""Batch normalization in Numba: a channel stays in its core's cache while it is gone through twice.

Each channel is summed by one thread, its rows in float32 or float64 as they come and the rows' sums in float64, so that the
bits do not depend on the number of threads. Where rows are too short to fill vectors, NumPy, which runs along the channels
then, is faster.
"""

import math

import numpy as np
from numba import prange

from ..runtime import jit, pjit, plain
from . import reference

SHORT = 16  # elements of a row
SERIAL_BELOW = 1 << 16  # elements; a parallel call costs more than it saves on fewer


def moments(x):
    """See reference.py."""
    if _short(x):
        return reference.moments(x)
    rows, (mean, variance) = _rows(x), np.empty((2, x.shape[1]), x.dtype)
    _run(_moments, rows, mean, variance)
    return mean, variance


def forward(x, mean, variance, weight, bias, eps, slope):
    """See reference.py."""
    if _short(x):
        return reference.forward(x, mean, variance, weight, bias, eps, slope)
    rows, channels = _rows(x), _channels(mean, variance, weight, bias)
    y = np.empty_like(rows)
    _run(_forward, rows, *channels, eps, slope, y)
    return y.reshape(x.shape)


def backward(g, x, mean, variance, weight, bias, eps, slope):
    """See reference.py."""
    if _short(x):
        return reference.backward(g, x, mean, variance, weight, bias, eps, slope)
    rows, channels = _rows(x), _channels(mean, variance, weight, bias)
    g_x, (g_weight, g_bias) = np.empty_like(rows), np.empty((2, x.shape[1]), x.dtype)
    _run(_backward, rows, _rows(g), *channels, eps, slope, g_x, g_weight, g_bias)
    return g_x.reshape(x.shape), g_weight, g_bias


def _short(x):
    return x.size < SHORT * x.shape[0] * x.shape[1] or not x.size


def _rows(x):
    """x (N, C, ...) as (N, C, L)."""
    return plain(x).reshape(*x.shape[:2], -1)


def _channels(*arrays):
    return [plain(array) for array in arrays]


def _run(loop, rows, *arguments):
    """`loop` over all channels: by several threads if that is worth it."""
    if rows.size < SERIAL_BELOW:
        for c in range(rows.shape[1]):
            loop(c, rows, *arguments)
    else:
        _PARALLEL[loop](rows, *arguments)


@jit
def _moments(c, x, mean, variance):
    count, total = x.shape[0] * x.shape[2], 0.0
    for n in range(len(x)):
        total += _sum(x[n, c])
    mean[c] = total / count
    total = 0.0
    for n in range(len(x)):
        total += _sum_of_squares(x[n, c], mean[c])
    variance[c] = total / count


@jit
def _sum(row):
    total = row.dtype.type(0)
    for i in range(row.size):
        total += row[i]
    return total


@jit
def _sum_of_squares(row, mean):
    total = row.dtype.type(0)
    for i in range(row.size):
        total += (row[i] - mean) * (row[i] - mean)
    return total


@jit
def _forward(c, x, mean, variance, weight, bias, eps, slope, y):
    scale, shift, slope = _line(c, mean, variance, weight, bias, eps), bias[c], x.dtype.type(slope)
    for n in range(len(x)):
        _rectified(x[n, c], mean[c], scale, shift, slope, y[n, c])


@jit
def _line(c, mean, variance, weight, bias, eps):
    """The factor of x - mean in u."""
    return weight.dtype.type(weight[c] / math.sqrt(variance[c] + eps))


@jit
def _rectified(row, mean, scale, shift, slope, y):
    for i in range(row.size):
        u = (row[i] - mean) * scale + shift
        y[i] = u if u > 0 else slope * u


@jit
def _backward(c, x, g, mean, variance, weight, bias, eps, slope, g_x, g_weight, g_bias):
    real = x.dtype.type
    scale, shift, slope = _line(c, mean, variance, weight, bias, eps), bias[c], real(slope)
    count, total, along, deviation = x.shape[0] * x.shape[2], 0.0, 0.0, math.sqrt(variance[c] + eps)
    for n in range(len(x)):
        first, second = _gradient_sums(x[n, c], g[n, c], mean[c], scale, shift, slope)
        total += first
        along += second
    g_bias[c], g_weight[c] = total, along / deviation
    lost, tilt = real(scale * total / count), real(scale * along / (count * deviation * deviation))
    for n in range(len(x)):
        _gradient(x[n, c], g[n, c], mean[c], scale, shift, slope, lost, tilt, g_x[n, c])


@jit
def _gradient_sums(row, g, mean, scale, shift, slope):
    """The sums of g_u and of g_u (x - mean)."""
    total = along = row.dtype.type(0)
    for i in range(row.size):
        centred = row[i] - mean
        passed = g[i] if centred * scale + shift > 0 else slope * g[i]
        total += passed
        along += passed * centred
    return total, along


@jit
def _gradient(row, g, mean, scale, shift, slope, lost, tilt, g_x):
    for i in range(row.size):
        centred = row[i] - mean
        passed = g[i] if centred * scale + shift > 0 else slope * g[i]
        g_x[i] = scale * passed - lost - tilt * centred


@pjit
def _all_moments(x, mean, variance):
    for c in prange(x.shape[1]):
        _moments(c, x, mean, variance)


@pjit
def _all_forward(x, mean, variance, weight, bias, eps, slope, y):
    for c in prange(x.shape[1]):
        _forward(c, x, mean, variance, weight, bias, eps, slope, y)


@pjit
def _all_backward(x, g, mean, variance, weight, bias, eps, slope, g_x, g_weight, g_bias):
    for c in prange(x.shape[1]):
        _backward(c, x, g, mean, variance, weight, bias, eps, slope, g_x, g_weight, g_bias)


_PARALLEL = {_moments: _all_moments, _forward: _all_forward, _backward: _all_backward}
