"""Convolution and its gradients on the CPU.

There is one loop nest for the forward pass and the input gradient (`_convolve`): the second is the first with the mirrored taps
of `layout`. A block of images is copied once into the padded, shifted-copy form that `layout` describes and stays in cache
while tiles of output channels by pixels are computed in registers (`microkernel`). The weight gradient multiplies the same
copies by the output gradient. No im2col matrix, no BLAS, and the sums run in the same order whatever the number of threads.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import get_num_threads, get_thread_id, prange

from ..runtime import jit, pjit
from .geometry import Pair, output_size
from .layout import backward_axis, forward_axis, layout
from .microkernel import COLUMNS, DOTS, ROWS, TAPS, VECTOR_BYTES, WIDE, convolve_tile, correlate_tile

_tile = convolve_tile(ROWS, COLUMNS)
_narrow_tile = convolve_tile(ROWS, 1)
_wide_row = convolve_tile(1, WIDE)
_narrow_row = convolve_tile(1, 1)
_dots = correlate_tile(DOTS, TAPS)

# Images smaller than this are joined: the forward pass wants full vectors, the weight gradient long dot products.
BLOCK_PIXELS, LONG_BLOCK_PIXELS = 256, 2048

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
    size = output_size(x.shape[2:], tuple(kernel_size), stride, padding, dilation)
    axes = map(forward_axis, x.shape[2:], size, kernel_size, stride, padding, dilation)
    taps = kernel_size[0] * kernel_size[1]
    plan = layout(*axes, len(x), groups, channels, taps, VECTOR_BYTES, BLOCK_PIXELS)
    return _run(x, weight, plan, (len(x), outs, *size), groups, channels * taps, bias)


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
    outs, channels, *kernel_size = weight.shape
    axes = map(backward_axis, size, g.shape[2:], kernel_size, stride, padding, dilation)
    taps = kernel_size[0] * kernel_size[1]
    plan = layout(*axes, len(g), groups, outs // groups, channels * taps, VECTOR_BYTES, BLOCK_PIXELS)
    return _run(g, weight, plan, (len(g), channels * groups, *size), groups, taps, bias)


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
    outs, channels = g.shape[1], x.shape[1] // groups
    axes = map(forward_axis, x.shape[2:], g.shape[2:], kernel_size, stride, padding, dilation)
    plan = layout(*axes, len(x), groups, channels, kernel_size[0] * kernel_size[1], VECTOR_BYTES, LONG_BLOCK_PIXELS)
    gradient = np.zeros((outs, channels * kernel_size[0] * kernel_size[1]), x.dtype)
    if len(x):
        x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
        lanes = VECTOR_BYTES // x.itemsize
        rows, width = outs + DOTS - 1, -(-plan.plane // lanes) * lanes  # the last tile may read past the last row
        images, gradients = _buffers(x.dtype, -(-len(x) // plan.images), plan.size, rows * width)
        _correlate(get_num_threads(), x, g, plan, groups, images, gradients.reshape(len(images), rows, width), gradient)
    return gradient.reshape(outs, channels, *kernel_size)


def _run(x, weight, plan, shape, groups, row_step, bias):
    out = np.empty(shape, x.dtype)
    if out.size:
        x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight, x.dtype)
        lanes = VECTOR_BYTES // x.itemsize
        images, tiles = _buffers(x.dtype, get_num_threads(), plan.size, ROWS * (plan.plane + lanes))
        panels = np.empty(weight.size, x.dtype)
        bias = np.zeros(shape[1], x.dtype) if bias is None else np.ascontiguousarray(bias)
        _convolve(get_num_threads(), x, weight.reshape(-1), plan, groups, row_step, bias, panels, images, tiles, out)
    return out


def _buffers(dtype: np.dtype, rows: int, *widths: int) -> list[np.ndarray]:
    """Uninitialized (rows, width) arrays, one for each width, in memory that this thread's next call uses again.

    Fresh memory of this size costs more than filling it, since the system maps and clears every page.
    """
    size = rows * sum(widths)
    held = getattr(_pool, "memory", None)
    if held is None or held.nbytes < size * dtype.itemsize:
        held = _pool.memory = np.empty(size * dtype.itemsize, np.uint8)
    flat = held[: size * dtype.itemsize].view(dtype)
    return [part.reshape(rows, -1) for part in np.split(flat, rows * np.cumsum(widths)[:-1])]


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
            at = plan.start + group * (x.shape[1] // groups) * plan.phases_h * plan.phases_w * plan.plane
            row += group * channels
            for grid in plan.grids:
                panel = row * plan.sources.size + grid[0] * rows
                _compute(panels, panel, rows, images[thread], at, plan, grid, len(out[some]), tiles[thread])
                _copy_out(tiles[thread], plan, grid, bias[row : row + rows], out[some, row : row + rows])


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
    image[: plan.start] = 0
    row = plan.start
    for c in range(x.shape[1]):
        for top in range(plan.phases_h):
            for left in range(plan.phases_w):
                for n in range(plan.images):
                    for i in range(plan.rows):
                        h, width = i * plan.phases_h + top, 0
                        if n < len(x) and h < x.shape[2]:
                            width = (x.shape[3] - left + plan.phases_w - 1) // plan.phases_w
                            line = x[n, c, h]
                            if plan.phases_w == 1:
                                for j in range(width):
                                    image[row + j] = line[j]
                            else:
                                for j in range(width):
                                    image[row + j] = line[left + j * plan.phases_w]
                        for j in range(width, plan.pitch):
                            image[row + j] = 0
                        row += plan.pitch
    image[row:] = 0


@jit
def _compute(panels, panel, rows, image, at, plan, grid, count, tile):
    """tile (rows, pixels) = the sum over the grid's terms at every place of the flat block."""
    lanes = VECTOR_BYTES // image.itemsize
    pitch = len(tile) // ROWS
    begin, terms = grid[0], grid[1] - grid[0]
    vectors = -(-(((count - 1) * plan.rows + grid[4] - 1) * plan.pitch + grid[5]) // lanes)
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
def _copy_out(tile, plan, grid, bias, out):
    """Copy the outputs of a grid from the flat tile to their places in out (n, rows, H, W)."""
    pitch = len(tile) // ROWS
    top, left, height, width = grid[2], grid[3], grid[4], grid[5]
    for n in range(len(out)):
        for m in range(out.shape[1]):
            shift = bias[m]
            for i in range(height):
                line = out[n, m, top + i * plan.step_h]
                source = m * pitch + (n * plan.rows + i) * plan.pitch
                if plan.step_w == 1:
                    for j in range(width):
                        line[j] = tile[source + j] + shift
                else:
                    for j in range(width):
                        line[left + j * plan.step_w] = tile[source + j] + shift


@pjit
def _correlate(threads, x, g, plan, groups, images, gradients, gradient):
    """Add to gradient (O, terms) the products of g with x at the terms' offsets, summed over images and pixels."""
    for b in prange(len(images)):
        block = slice(b * plan.images, (b + 1) * plan.images)
        _lay_out(x[block], plan, images[b])
        _lay_out_gradient(g[block], plan, gradients[b])

    outs, terms = len(gradient) // groups, plan.sources.size
    row_tiles, term_tiles = -(-outs // DOTS), -(-terms // TAPS)
    parts = min(groups * row_tiles, threads)
    slices = min(term_tiles, -(-threads // parts))
    for q in prange(parts * slices):
        part, piece = divmod(np.int64(q), slices)
        begin, end = piece * term_tiles // slices * TAPS, min((piece + 1) * term_tiles // slices * TAPS, terms)
        dots = np.empty(DOTS * TAPS, x.dtype)
        for b in range(len(images)):
            count = min(plan.images, len(x) - b * plan.images)
            for t in range(part * groups * row_tiles // parts, (part + 1) * groups * row_tiles // parts):
                group, row = t // row_tiles, t % row_tiles * DOTS
                first, rows = group * outs + row, min(DOTS, outs - row)
                at = plan.start + group * (x.shape[1] // groups) * plan.phases_h * plan.phases_w * plan.plane
                some = gradient[first : first + rows, begin:end]
                _correlate_rows(gradients[b], first, images[b], at, plan, begin, count, dots, some)


@jit
def _lay_out_gradient(g, plan, rows):
    """Copy a block of output gradients (n, O, OH, OW) to the places of the outputs in the flat form, with zeros between."""
    for o in range(g.shape[1]):
        row, p = rows[o], 0
        for n in range(len(g)):
            for i in range(g.shape[2]):
                line = g[n, o, i]
                p = (n * plan.rows + i) * plan.pitch
                for j in range(len(line)):
                    row[p + j] = line[j]
                row[p + len(line) : p + plan.pitch] = 0
            row[p + plan.pitch : (n + 1) * plan.rows * plan.pitch] = 0
        row[len(g) * plan.rows * plan.pitch :] = 0


@jit
def _correlate_rows(g, first, image, at, plan, begin, count, dots, gradient):
    """Add the block's share to gradient (rows, terms): that of rows from `first` and terms from `begin` on."""
    width = g.shape[1]
    vectors = -(-count * plan.rows * plan.pitch * g.itemsize // VECTOR_BYTES)
    flat = g.reshape(-1)
    for k in range(0, gradient.shape[1], TAPS):
        _dots(flat, first * width, width, image, at, plan.offsets, begin + k, vectors, dots)
        for m in range(len(gradient)):
            for i in range(min(TAPS, gradient.shape[1] - k)):
                gradient[m, k + i] += dots[m * TAPS + i]
