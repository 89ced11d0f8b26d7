"""Convolution and its gradients on the CPU.

There is one loop nest for the forward pass and the input gradient (`_convolve`): the second is the first with the mirrored taps
of `layout`. A block of images is copied once into the padded, shifted-copy form that `layout` describes and stays in cache
while tiles of output channels by pixels are computed in registers (`microkernel`). The weight gradient multiplies the same
copies by the output gradient. No im2col matrix, no BLAS, and the sums run in the same order whatever the number of threads.
"""

from __future__ import annotations

import threading
from math import prod

import numpy as np
from numba import get_num_threads, get_thread_id, prange

from ..runtime import jit, pjit
from .geometry import Pair, output_size
from .layout import Window, backward_axis, forward_axis, layout
from .microkernel import (
    COLUMNS,
    DOTS,
    ROWS,
    TAPS,
    VECTOR_BYTES,
    WIDE,
    convolve_tile,
    copy_in,
    copy_out,
    correlate_tile,
)

_tile = convolve_tile(ROWS, COLUMNS)
_narrow_tile = convolve_tile(ROWS, 1)
_wide_row = convolve_tile(1, WIDE)
_narrow_row = convolve_tile(1, 1)
_dots = correlate_tile(DOTS, TAPS)

BLOCK_PIXELS = 512  # smaller images are computed side by side, so that vectors are full
LONG_BLOCK_PIXELS = (
    1536  # the same for the weight gradient, whose dot products are long, but whose rows stay in the first cache
)
SLICE_BYTES = 1 << 18  # of input that the weight gradient goes through again and again, from the second cache

_pool = threading.local()


def forward(
    x: np.ndarray,
    weight: np.ndarray,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """y (N, O, OH, OW) from x (N, C, H, W), weight (O, C / groups, kernel_h, kernel_w) and bias (O,)."""
    outs, channels, *kernel_size = weight.shape
    kernel_size, taps = tuple(kernel_size), kernel_size[0] * kernel_size[1]
    size = output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    window = Window(x.shape[2:], size, kernel_size, stride, padding, dilation)
    return _run(x, weight, forward_axis, window, (len(x), outs, *size), groups, channels * taps, taps, bias)


def input_gradient(
    g: np.ndarray,
    weight: np.ndarray,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """d sum(g y) / d x (N, C, *size) from g (N, O, OH, OW). With a bias (C,) added: the transposed convolution of g."""
    channels, *kernel_size = weight.shape[1:]
    kernel_size, taps = tuple(kernel_size), kernel_size[0] * kernel_size[1]
    window = Window(size, g.shape[2:], kernel_size, stride, padding, dilation)
    return _run(g, weight, backward_axis, window, (len(g), channels * groups, *size), groups, taps, channels * taps, bias)


def weight_gradient(
    x: np.ndarray,
    g: np.ndarray,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """d sum(g y) / d weight (O, C / groups, kernel_h, kernel_w) from x (N, C, H, W) and g (N, O, OH, OW)."""
    outs, channels, taps = g.shape[1], x.shape[1] // groups, kernel_size[0] * kernel_size[1]
    gradient = np.zeros((outs, channels * taps), x.dtype)
    if len(x) and gradient.size:
        x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
        window = Window(x.shape[2:], g.shape[2:], kernel_size, stride, padding, dilation)
        plan = layout(forward_axis, window, len(x), LONG_BLOCK_PIXELS, 1, groups, channels, taps, VECTOR_BYTES)
        lanes = VECTOR_BYTES // x.itemsize
        rows, width = outs + DOTS - 1, -(-g.shape[2] * plan.line // lanes) * lanes  # the last tile may read past the last row
        blocks = -(-len(x) // plan.images)
        images, gradients = _buffers(x.dtype, (blocks, plan.size), (blocks, rows, width))
        _correlate(get_num_threads(), x, g, plan, groups, images, gradients, gradient)
    return gradient.reshape(outs, channels, *kernel_size)


def _run(x, weight, axis, window, shape, groups, row_step, term_step, bias):
    """The convolution along axes made by `axis`; a step leads from one output (or input) channel's weights to the next's."""
    out = np.empty(shape, x.dtype)
    if out.size:
        x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
        bias = np.zeros(shape[1], x.dtype) if bias is None else np.ascontiguousarray(bias)
        lanes = VECTOR_BYTES // x.itemsize
        plan = layout(
            axis, window, len(x), BLOCK_PIXELS, COLUMNS * lanes, groups, x.shape[1] // groups, term_step, VECTOR_BYTES
        )
        threads = get_num_threads()
        tile = (threads, plan.step_w, ROWS * (plan.plane + lanes))
        panels, images, tiles = _buffers(x.dtype, (weight.size,), (threads, plan.size), tile)
        _convolve(threads, x, weight.reshape(-1), plan, groups, row_step, bias, panels, images, tiles, out)
    return out


def _buffers(dtype: np.dtype, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Uninitialized arrays, in memory that this thread's next call uses again.

    Fresh memory of this size costs more than filling it, since the system maps and clears every page.
    """
    sizes = [prod(shape) for shape in shapes]
    held = getattr(_pool, "memory", None)
    if held is None or held.nbytes < sum(sizes) * dtype.itemsize:
        held = _pool.memory = np.empty(-(-sum(sizes) * dtype.itemsize // 8), np.float64)
    flat, start, buffers = held.view(dtype), 0, []
    for shape, size in zip(shapes, sizes):
        buffers.append(flat[start : start + size].reshape(shape))
        start += size
    return buffers


@pjit
def _convolve(threads, x, weight, plan, groups, row_step, bias, panels, images, tiles, out):
    """out = the grids of `plan`, for every group and image; neighbouring output channels are `row_step` apart in weight."""
    channels = out.shape[1] // groups
    count = channels // ROWS + channels % ROWS  # tiles in a group: first of ROWS output channels, then of one
    for q in prange(groups * count):
        group, tile = divmod(np.int64(q), count)
        _pack_panel(weight, plan, group, groups, tile, channels, row_step, panels)

    blocks = -(-len(x) // plan.images)
    parts = min(groups * count, max(1, -(-4 * threads // blocks)))
    for q in prange(blocks * parts):
        block, part = divmod(np.int64(q), parts)
        thread = get_thread_id()
        some = slice(block * plan.images, (block + 1) * plan.images)
        _lay_out(x[some], plan, images[thread])
        for t in range(part * groups * count // parts, (part + 1) * groups * count // parts):
            group, tile = divmod(t, count)
            row, rows = _rows(tile, channels)
            at = plan.start + group * plan.group
            row += group * channels
            for i in range(len(plan.grids)):
                panel = row * plan.sources.size + plan.grids[i, 0] * rows
                tile = tiles[thread, i % plan.step_w]
                _compute(panels, panel, rows, images[thread], at, plan, plan.grids[i], len(out[some]), tile)
                if i % plan.step_w == plan.step_w - 1:
                    top = plan.grids[i, 2]
                    _unpack(tiles[thread], rows, plan, top, plan.grids[i, 4], bias, row, out[some])


@jit
def _pack_panel(weight, plan, group, groups, tile, channels, row_step, panels):
    """Gather the weights of a tile in the order in which they are used: by term, then by output channel."""
    row, rows = _rows(tile, channels)
    first = group * (weight.size // groups) + row * row_step
    to = (group * channels + row) * plan.sources.size
    for k in range(plan.sources.size):
        for m in range(rows):
            panels[to + k * rows + m] = weight[first + m * row_step + plan.sources[k]]


@jit
def _rows(tile, channels):
    """The first output channel of a tile and how many it has."""
    whole = channels // ROWS
    return (tile * ROWS, ROWS) if tile < whole else (whole * (ROWS - 1) + tile, 1)


@jit
def _lay_out(x, plan, image):
    """Copy a block of images (n, C, H, W) into the form of `layout`, zeros included."""
    flat = x.reshape(-1)
    image[: plan.start if len(x) == plan.images else len(image)] = 0
    channels, height, width = x.shape[1:]
    to = plan.start
    for c in range(channels):
        for top in range(plan.phases_h):
            rows = (height - top + plan.phases_h - 1) // plan.phases_h
            for left in range(plan.phases_w):
                columns = (width - left + plan.phases_w - 1) // plan.phases_w
                for n in range(len(x)):
                    at = ((n * channels + c) * height + top) * width + left
                    across = plan.phases_h * width
                    copy_in(flat, at, across, plan.phases_w, columns, image, to + n * plan.pitch, plan.line, plan.pitch, rows)
                image[to + rows * plan.line : to + plan.plane] = 0
                to += plan.plane
    image[to:] = 0


@jit
def _compute(panels, panel, rows, image, at, plan, grid, count, tile):
    """tile (rows, pixels) = the sum over the grid's terms at every place of the flat block."""
    lanes = VECTOR_BYTES // image.itemsize
    pitch = len(tile) // ROWS
    begin, terms = grid[0], grid[1] - grid[0]
    vectors = -(-((grid[4] - 1) * plan.line + (count - 1) * plan.pitch + grid[5]) // lanes)
    v = 0
    while v < vectors:
        p = v * lanes
        if rows == ROWS and v + COLUMNS <= vectors:
            _tile(panels, panel, image, at + p, plan.offsets, begin, terms, tile, p, pitch)
            v += COLUMNS
        elif rows == ROWS:
            _narrow_tile(panels, panel, image, at + p, plan.offsets, begin, terms, tile, p, pitch)
            v += 1
        elif v + WIDE <= vectors:
            _wide_row(panels, panel, image, at + p, plan.offsets, begin, terms, tile, p, pitch)
            v += WIDE
        else:
            _narrow_row(panels, panel, image, at + p, plan.offsets, begin, terms, tile, p, pitch)
            v += 1


@jit
def _unpack(tiles, rows, plan, top, height, bias, row, out):
    """Copy the outputs of the grids that share their rows, bias added, to channels from `row` on of out (n, O, H, W)."""
    flat, source = out.reshape(-1), tiles.reshape(-1)
    pitch, width = tiles.shape[1] // ROWS, out.shape[3]
    for n in range(len(out)):
        for m in range(rows):
            at = m * pitch + n * plan.pitch
            to = ((n * out.shape[1] + row + m) * out.shape[2] + top) * width
            across, columns = plan.step_h * width, plan.step_w
            copy_out(source, at, tiles.shape[1], plan.line, bias[row + m], flat, to, across, columns, width, height)


@pjit
def _correlate(threads, x, g, plan, groups, images, gradients, gradient):
    """gradient (O, terms) = the products of g with x at the terms' offsets, summed over images and pixels."""
    for b in prange(len(images)):
        block = slice(b * plan.images, (b + 1) * plan.images)
        _lay_out(x[block], plan, images[b])
        _lay_out_gradient(g[block], plan, gradients[b])

    # Threads share out the tiles of the result, not the images, so that every sum runs in the same order.
    row_tiles, term_tiles = -(-(len(gradient) // groups) // DOTS), -(-plan.sources.size // TAPS)
    parts = min(groups * row_tiles, threads)
    pieces = min(term_tiles, -(-threads // parts))
    for q in prange(parts * pieces):
        part, piece = divmod(np.int64(q), pieces)
        rows = (part * groups * row_tiles // parts, (part + 1) * groups * row_tiles // parts)
        terms = (piece * term_tiles // pieces, (piece + 1) * term_tiles // pieces)
        _correlate_tiles(rows, terms, row_tiles, groups, plan, images, gradients, gradient)


@jit
def _lay_out_gradient(g, plan, rows):
    """Copy a block of output gradients (n, O, OH, OW) to the places of the outputs in the flat form, with zeros between."""
    flat, target = g.reshape(-1), rows.reshape(-1)
    outs, height, width = g.shape[1:]
    if len(g) < plan.images:
        target[:] = 0
    for o in range(outs):
        to = o * rows.shape[1]
        for n in range(len(g)):
            at = (n * outs + o) * height * width
            copy_in(flat, at, width, 1, width, target, to + n * plan.pitch, plan.line, plan.pitch, height)
        target[to + height * plan.line : to + rows.shape[1]] = 0


@jit
def _correlate_tiles(rows, terms, row_tiles, groups, plan, images, gradients, gradient):
    """Compute the tiles of the result whose numbers lie in the ranges `rows` and `terms`."""
    lanes = VECTOR_BYTES // images.itemsize
    outs, width = len(gradient) // groups, gradients.shape[2]
    sums = np.zeros((rows[1] - rows[0], terms[1] - terms[0], -(-DOTS * TAPS // lanes) * lanes), gradient.dtype)
    flat = sums.reshape(-1)
    tiles_in_slice = max(1, plan.sources.size * SLICE_BYTES // (plan.group * images.itemsize * TAPS))
    for b in range(len(images)):
        g = gradients[b].reshape(-1)
        for begin in range(terms[0], terms[1], tiles_in_slice):
            for t in range(rows[0], rows[1]):
                group, row = t // row_tiles, t % row_tiles * DOTS
                at, first = plan.start + group * plan.group, (group * outs + row) * width
                for k in range(begin, min(begin + tiles_in_slice, terms[1])):
                    to = ((t - rows[0]) * sums.shape[1] + k - terms[0]) * sums.shape[2]
                    _dots(g, first, width, images[b], at, plan.offsets, k * TAPS, width // lanes, flat, to)
    for t in range(rows[0], rows[1]):
        row, end = t // row_tiles * outs + t % row_tiles * DOTS, (t // row_tiles + 1) * outs
        for k in range(terms[0], terms[1]):
            for m in range(min(DOTS, end - row)):
                for i in range(min(TAPS, plan.sources.size - k * TAPS)):
                    gradient[row + m, k * TAPS + i] = sums[t - rows[0], k - terms[0], m * TAPS + i]
