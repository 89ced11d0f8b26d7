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
from .microkernel import COLUMNS, DOTS, ROWS, TAPS, VECTOR_BYTES, WIDE, convolve_tile, copy_in, copy_out, correlate_tile

_tile = convolve_tile(ROWS, COLUMNS)
_narrow_tile = convolve_tile(ROWS, 1)
_wide_row = convolve_tile(1, WIDE)
_narrow_row = convolve_tile(1, 1)
_dots = correlate_tile(DOTS, TAPS)
_copy_in, _copy_in_2 = copy_in(1), copy_in(2)
_copy_out, _copy_out_2 = copy_out(1), copy_out(2)

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
        columns = ROWS * (plan.plane + lanes)
        images, tiles = _buffers(x.dtype, get_num_threads(), plan.size, plan.step_w * columns)
        tiles = tiles.reshape(-1, plan.step_w, columns)
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
    image[: plan.start] = 0
    to = plan.start
    for c in range(x.shape[1]):
        for top in range(plan.phases_h):
            for left in range(plan.phases_w):
                width = (x.shape[3] - left + plan.phases_w - 1) // plan.phases_w
                for n in range(plan.images):
                    height = max(0, (x.shape[2] - top + plan.phases_h - 1) // plan.phases_h) if n < len(x) else 0
                    at = ((n * x.shape[1] + c) * x.shape[2] + top) * x.shape[3] + left
                    for _ in range(height):
                        _copy_line(flat, at, plan.phases_w, width, image, to)
                        for j in range(width, plan.pitch):
                            image[to + j] = 0
                        at += plan.phases_h * x.shape[3]
                        to += plan.pitch
                    rest = (plan.rows - height) * plan.pitch
                    image[to : to + rest] = 0
                    to += rest
    image[to:] = 0


@jit
def _copy_line(source, at, step, count, target, to):
    """target[to + j] = source[at + j step] for j < count."""
    if step == 1:
        _copy_in(source, at, count, target, to)
    elif step == 2:
        _copy_in_2(source, at, count, target, to)
    else:
        for j in range(count):
            target[to + j] = source[at + j * step]


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
def _unpack(tiles, rows, plan, top, height, bias, row, out):
    """Copy the outputs of the grids that share their rows, bias added, to channels from `row` on of out (n, O, H, W)."""
    flat, source = out.reshape(-1), tiles.reshape(-1)
    pitch = tiles.shape[1] // ROWS
    width = out.shape[3]
    for n in range(len(out)):
        for m in range(rows):
            at = m * pitch + n * plan.rows * plan.pitch
            to = ((n * out.shape[1] + row + m) * out.shape[2] + top) * width
            for _ in range(height):
                _copy_back(source, at, tiles.shape[1], bias[row + m], flat, to, plan.step_w, width)
                at += plan.pitch
                to += plan.step_h * width


@jit
def _copy_back(source, at, pitch, shift, target, to, step, width):
    """target[to + j step + q] = source[at + q pitch + j] + shift for the entries of a line of `width`."""
    if step == 1:
        _copy_out(source, at, pitch, shift, target, to, width)
    elif step == 2:
        _copy_out_2(source, at, pitch, shift, target, to, width // 2)
        if width % 2:
            target[to + width - 1] = source[at + width // 2] + shift
    else:
        for q in range(step):
            for j in range((width - q + step - 1) // step):
                target[to + j * step + q] = source[at + q * pitch + j] + shift


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
        dots = np.empty(DOTS * TAPS + VECTOR_BYTES // x.itemsize, x.dtype)
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
    flat, width = g.reshape(-1), g.shape[3]
    for o in range(g.shape[1]):
        row = rows[o]
        for n in range(len(g)):
            at, to = (n * g.shape[1] + o) * g.shape[2] * width, n * plan.rows * plan.pitch
            for _ in range(g.shape[2]):
                _copy_in(flat, at, width, row, to)
                for j in range(width, plan.pitch):
                    row[to + j] = 0
                at += width
                to += plan.pitch
            row[to : (n + 1) * plan.rows * plan.pitch] = 0
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
