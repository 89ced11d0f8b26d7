"""Convolution and its gradients on the GPU: products of matrices whose entries are fetched as they are needed.

As on the CPU, one kernel serves the forward pass and the input gradient: a list of terms says which weight meets which pixel,
and a stride splits the outputs of the gradient into grids that each have their own terms (see layout.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..parts import added, split
from ..runtime import cuda_function, cupy, multiprocessors
from ..tiles import Tile, quickest
from .geometry import Pair, Taps, output_size, spread, tap_count
from .layout import Axis, Window, backward_axis, forward_axis

Array = Any  # cupy.ndarray

SOURCE = Path(__file__).with_name("conv2d.cu")
TILES = (Tile(64, 64, 4), Tile(32, 32, 1), Tile(16, 32, 1), Tile(8, 32, 1))


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
    terms, device = channels * tap_count(kernel_size, taps), xp.cuda.Device().id
    shape = (g.shape[1], terms)
    if not g.size or not terms:
        return spread(xp.zeros(shape, x.dtype), channels, kernel_size, taps, xp)
    x, g = xp.ascontiguousarray(x), xp.ascontiguousarray(g)
    window = Window(x.shape[2:], g.shape[2:], kernel_size, stride, padding, dilation, taps)
    plan = _plan(forward_axis, window, x.shape, g.shape, groups, channels * area, area, device)
    tile, parts, part_size = _split(g.shape[1] // groups, terms, groups, plan.pixels, multiprocessors())
    sums = xp.empty((parts, *shape), x.dtype)
    correlate = cuda_function(SOURCE, f"correlate_{tile.rows}", x.dtype)
    grid = (*tile.count(g.shape[1] // groups, terms), parts * groups)
    correlate(grid, (tile.threads,), (x, g, plan.terms, plan.shape, sums, np.int32(part_size)))
    return spread(added(sums, SOURCE), channels, kernel_size, taps, xp)


def _convolve(x, weight, axis, window, shape, groups, row_step, term_step, bias):
    """The convolution along axes made by `axis`; a step leads from one output (or input) channel's weights to the next's."""
    xp = cupy()
    out = xp.empty(shape, x.dtype)
    if not out.size:
        return out
    x, weight = xp.ascontiguousarray(x), xp.ascontiguousarray(weight)
    device, outs = xp.cuda.Device().id, shape[1] // groups
    plan = _plan(axis, window, x.shape, shape, groups, row_step, term_step, device)
    slabs = groups * len(plan.grids)
    tile = quickest(TILES, outs, plan.pixels, slabs, multiprocessors())
    shift = weight if bias is None else xp.ascontiguousarray(bias)
    arrays = (x, weight, shift, np.int32(bias is not None), plan.terms, plan.grids, plan.shape, out)
    convolve = cuda_function(SOURCE, f"convolve_{tile.rows}", x.dtype)
    convolve((*tile.count(outs, plan.pixels), slabs), (tile.threads,), arrays)
    return out


@lru_cache(maxsize=256)
def _split(rows: int, columns: int, groups: int, pixels: int, processors: int) -> tuple[Tile, int, int]:
    """The tile of least work for matrices of sums over all pixels, into how many parts to split the pixels, and their size."""
    tile = min(TILES, key=lambda tile: prod(tile.count(rows, columns)) * tile.warps * tile.work)
    return tile, *split(pixels, prod(tile.count(rows, columns)) * groups * tile.warps, processors)


@cache  # without bounds: a CUDA graph reads the plans that it was captured with long after the last call
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
