"""Convolution and its gradients on the GPU: products of matrices whose entries are fetched as they are needed.

As on the CPU, one kernel serves the forward pass and the input gradient: a list of terms says which weight meets which pixel,
and a stride splits the outputs of the gradient into grids that each have their own terms (see layout.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors
from .geometry import Pair, Taps, output_size, spread, tap_count
from .layout import Axis, Window, backward_axis, forward_axis

Array = Any  # cupy.ndarray

SOURCE = Path(__file__).with_name("conv2d.cu")
THREADS, COLUMNS, DEPTH = 128, 128, 8  # as in conv2d.cu
MANY, FEW = 64, 8  # rows of a tile
BLOCKS_PER_MULTIPROCESSOR = 4


class Plan(NamedTuple):
    """What the kernels read besides the arrays, on the device, and how many outputs the largest grid has."""

    terms: Array  # (terms, 4) int32: the struct Term of conv2d.cu
    grids: Array  # (grids, 6) int32: range of terms, first output row and column, rows and columns of outputs
    shape: Array  # the struct Shape
    pixels: int


def forward(
    x: Array,
    weight: Array,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: Array | None = None,
    taps: Taps | None = None,
) -> Array:
    """y (N, O, OH, OW) from x (N, C, H, W), weight (O, C / groups, kernel_h, kernel_w) and bias (O,)."""
    outs, channels, *kernel_size = weight.shape
    kernel_size, area = tuple(kernel_size), kernel_size[0] * kernel_size[1]
    size = output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    window = Window(x.shape[2:], size, kernel_size, stride, padding, dilation, taps)
    return _convolve(x, weight, forward_axis, window, (len(x), outs, *size), groups, channels * area, area, bias)


def input_gradient(
    g: Array,
    weight: Array,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: Array | None = None,
    taps: Taps | None = None,
) -> Array:
    """d sum(g y) / d x (N, C, *size) from g (N, O, OH, OW). With a bias (C,) added: the transposed convolution of g."""
    channels, *kernel_size = weight.shape[1:]
    kernel_size, area = tuple(kernel_size), kernel_size[0] * kernel_size[1]
    window = Window(size, g.shape[2:], kernel_size, stride, padding, dilation, taps)
    return _convolve(g, weight, backward_axis, window, (len(g), channels * groups, *size), groups, area, channels * area, bias)


def weight_gradient(
    x: Array,
    g: Array,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    taps: Taps | None = None,
) -> Array:
    """d sum(g y) / d weight (O, C / groups, kernel_h, kernel_w) from x (N, C, H, W) and g (N, O, OH, OW)."""
    xp = cupy()
    channels, area = x.shape[1] // groups, kernel_size[0] * kernel_size[1]
    terms = channels * tap_count(kernel_size, taps)
    gradient = xp.zeros((g.shape[1], terms), x.dtype)
    if not gradient.size or not g.size:
        return spread(gradient, channels, kernel_size, taps, xp)
    x, g = xp.ascontiguousarray(x), xp.ascontiguousarray(g)
    window = Window(x.shape[2:], g.shape[2:], kernel_size, stride, padding, dilation, taps)
    plan = _plan(forward_axis, window, x.shape, g.shape, groups, channels * area, area, xp.cuda.Device().id)
    tiles = (-(-terms // COLUMNS), -(-(g.shape[1] // groups) // MANY))
    # Few tiles of the result would leave the GPU idle: the pixels are split, and the parts added up afterwards.
    blocks = BLOCKS_PER_MULTIPROCESSOR * multiprocessors()
    parts = min(-(-blocks // (tiles[0] * tiles[1] * groups)), -(-plan.pixels // COLUMNS))
    part_size = -(-plan.pixels // (parts * DEPTH)) * DEPTH
    parts = -(-plan.pixels // part_size)
    sums = gradient if parts == 1 else xp.empty((parts, *gradient.shape), x.dtype)
    correlate = cuda_function(SOURCE, "correlate", x.dtype)
    correlate((*tiles, parts * groups), (THREADS,), (x, g, plan.terms, plan.shape, sums, np.int64(part_size)))
    if parts > 1:
        add_parts = cuda_function(SOURCE, "add_parts", x.dtype)
        grid = (min(-(-gradient.size // THREADS), blocks),)
        add_parts(grid, (THREADS,), (sums, gradient, np.int64(gradient.size), np.int32(parts)))
    return spread(gradient, channels, kernel_size, taps, xp)


def _convolve(x, weight, axis, window, shape, groups, row_step, term_step, bias):
    """The convolution along axes made by `axis`; a step leads from one output (or input) channel's weights to the next's."""
    xp = cupy()
    out = xp.empty(shape, x.dtype)
    if not out.size:
        return out
    x, weight = xp.ascontiguousarray(x), xp.ascontiguousarray(weight)
    plan = _plan(axis, window, x.shape, shape, groups, row_step, term_step, xp.cuda.Device().id)
    outs = shape[1] // groups
    rows, name = (MANY, "convolve_many") if outs > FEW else (FEW, "convolve_few")
    blocks = (-(-plan.pixels // COLUMNS), -(-outs // rows), groups * len(plan.grids))
    shift = weight if bias is None else xp.ascontiguousarray(bias)
    arrays = (plan.terms, plan.grids, plan.shape, out)
    cuda_function(SOURCE, name, x.dtype)(blocks, (THREADS,), (x, weight, shift, np.int32(bias is not None), *arrays))
    return out


@lru_cache(maxsize=256)
def _plan(
    axis: Callable[..., Axis],
    window: Window,
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    groups: int,
    row_step: int,
    term_step: int,
    device: int,
) -> Plan:
    """The plan for images of `shape`, along axes made by `axis`; steps as in `_convolve`."""
    vertical, horizontal = window.axes(axis)
    (images, channels, height, width), outs = shape, out_shape[1] // groups
    scales, steps = (vertical.phases, horizontal.phases), (len(vertical.grids), len(horizontal.grids))
    channel = np.arange(channels // groups)[:, None]
    blocks, grids, count = [np.zeros((0, 4), np.int32)], [], 0
    for top, rows, downs in vertical.grids:
        for left, columns, rights in horizontal.grids:
            taps = [
                (a * horizontal.kernel + b, i * scales[0] + p, j * scales[1] + q)
                for a, p, i in downs
                for b, q, j in rights
                if window.has(a, b)
            ]
            tap, down, right = np.array(taps, np.int64).reshape(-1, 3).T
            offset = (channel * height + down) * width + right
            block = np.stack(np.broadcast_arrays(channel * term_step + tap, offset, down, right), axis=-1).reshape(-1, 4)
            grids.append((count, count + len(block), top, left, rows, columns))
            blocks.append(block)
            count += len(block)
    weights = outs * (channels // groups) * vertical.kernel * horizontal.kernel
    numbers = (images, groups, channels // groups, outs, count, len(grids), row_step, weights)
    numbers += (height, width, *out_shape[2:], *scales, *steps)
    arrays = (np.concatenate(blocks), np.array(grids), np.array(numbers))
    pixels = images * max(rows * columns for *_, rows, columns in grids)
    return Plan(*(cupy().asarray(array.astype(np.int32)) for array in arrays), pixels)
