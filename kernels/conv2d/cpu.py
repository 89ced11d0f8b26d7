"""Convolution and its gradients on the CPU.

There is one loop nest for the forward pass and the input gradient (`_convolve`): the second is the first with the mirrored taps
of `layout`. A block of images is copied once into the padded, shifted-copy form that `layout` describes and stays in cache
while tiles of output channels by pixels are computed in registers (`microkernel`). The weight gradient multiplies the same
copies by the output gradient. No im2col matrix, no BLAS, and the sums run in the same order whatever the number of threads.
A 1 x 1 kernel needs no zeros around an image: where channels fill whole vectors, images are read where they are.
"""

from __future__ import annotations

import threading
from math import prod

import numpy as np
from numba import get_num_threads, prange

from ..runtime import jit, pjit, plain
from .geometry import Pair, Taps, output_size, spread, tap_count
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
LONG_BLOCK_PIXELS = 1024  # the same for the weight gradient: dot products are long, but their rows stay in the first cache
SERIAL_BELOW = 1 << 21  # multiplications: about as long as it takes to wake the other threads
SLICE_BYTES = 1 << 18  # of input that the weight gradient goes through again and again, from the second cache
POOL_BYTES = 1 << 28  # as much is kept for the next call

_pool = threading.local()


def forward(
    x: np.ndarray,
    weight: np.ndarray,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
    taps: Taps | None = None,
) -> np.ndarray:
    """y (N, O, OH, OW) from x (N, C, H, W), weight (O, C / groups, kernel_h, kernel_w) and bias (O,)."""
    outs, channels, *kernel_size = weight.shape
    kernel_size, area = tuple(kernel_size), kernel_size[0] * kernel_size[1]
    size = output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    window = Window(x.shape[2:], size, kernel_size, stride, padding, dilation, taps)
    return _run(x, weight, forward_axis, window, (len(x), outs, *size), groups, channels * area, area, bias)


def input_gradient(
    g: np.ndarray,
    weight: np.ndarray,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
    taps: Taps | None = None,
) -> np.ndarray:
    """d sum(g y) / d x (N, C, *size) from g (N, O, OH, OW). With a bias (C,) added: the transposed convolution of g."""
    channels, *kernel_size = weight.shape[1:]
    kernel_size, area = tuple(kernel_size), kernel_size[0] * kernel_size[1]
    window = Window(size, g.shape[2:], kernel_size, stride, padding, dilation, taps)
    return _run(g, weight, backward_axis, window, (len(g), channels * groups, *size), groups, area, channels * area, bias)


def weight_gradient(
    x: np.ndarray,
    g: np.ndarray,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    taps: Taps | None = None,
) -> np.ndarray:
    """d sum(g y) / d weight (O, C / groups, kernel_h, kernel_w) from x (N, C, H, W) and g (N, O, OH, OW)."""
    outs, channels = g.shape[1], x.shape[1] // groups
    gradient = np.zeros((outs, channels * tap_count(kernel_size, taps)), x.dtype)
    if len(x) and gradient.size:
        x, g = plain(x), plain(g)
        window = Window(x.shape[2:], g.shape[2:], kernel_size, stride, padding, dilation, taps)
        plan = layout(forward_axis, window, len(x), LONG_BLOCK_PIXELS, 1, groups, channels, 1, VECTOR_BYTES)
        lanes = VECTOR_BYTES // x.itemsize
        rows, width = outs + DOTS - 1, -(-g.shape[2] * plan.line // lanes) * lanes  # the last tile may read past the last row
        blocks = -(-len(x) // plan.images)
        direct = _reads_in_place(plan, x, kernel_size) and outs // groups % DOTS == 0
        if direct:
            images, gradients = x.reshape(len(x), -1), g.reshape(len(g), outs, width)
        else:
            images, gradients = _buffers(x.dtype, (blocks, plan.size), (blocks, rows, width))
        if g.size * gradient.shape[1] < SERIAL_BELOW:
            _correlate_alone(x, g, plan, groups, direct, images, gradients, gradient)
        else:
            _correlate(get_num_threads(), x, g, plan, groups, direct, images, gradients, gradient)
    return spread(gradient, channels, kernel_size, taps, np)


def _run(x, weight, axis, window, shape, groups, row_step, term_step, bias):
    """The convolution along axes made by `axis`; a step leads from one output (or input) channel's weights to the next's."""
    out = np.empty(shape, x.dtype)
    if out.size:
        x, weight = plain(x), plain(weight)
        bias = np.zeros(shape[1], x.dtype) if bias is None else np.ascontiguousarray(bias)
        lanes = VECTOR_BYTES // x.itemsize
        plan = layout(
            axis, window, len(x), BLOCK_PIXELS, COLUMNS * lanes, groups, x.shape[1] // groups, term_step, VECTOR_BYTES
        )
        alone = out.size * weight.size // shape[1] < SERIAL_BELOW
        threads = 1 if alone else get_num_threads()
        tile = (threads, plan.step_w, ROWS * (plan.plane + lanes))
        panels, images, tiles = _buffers(x.dtype, (weight.size,), (threads, plan.size), tile)
        direct = _reads_in_place(plan, x, window.kernel_size)
        arguments = (x, weight.reshape(-1), plan, groups, row_step, bias, direct, panels, images, tiles, out)
        if alone:
            _convolve_alone(*arguments)
        else:
            _convolve(threads, *arguments)
    return out


def _reads_in_place(plan, x, kernel_size):
    """Whether the images (N, C, H, W) have the form of `layout` themselves, and nothing past a channel is read."""
    pixels = x.shape[2] * x.shape[3]
    same = plan.images * plan.phases_h * plan.phases_w == 1 and (plan.start, plan.plane) == (0, pixels)
    return same and kernel_size == (1, 1) and pixels * x.itemsize % VECTOR_BYTES == 0


def _buffers(dtype: np.dtype, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Uninitialized arrays, in memory that this thread's next call uses again.

    Fresh memory of this size costs more than filling it, since the system maps and clears every page.
    """
    sizes = [prod(shape) for shape in shapes]
    memory = getattr(_pool, "memory", None)
    if memory is None or memory.nbytes < sum(sizes) * dtype.itemsize:
        memory = np.empty(-(-sum(sizes) * dtype.itemsize // 8), np.float64)
        if memory.nbytes <= POOL_BYTES:
            _pool.memory = memory
    flat, start, buffers = memory.view(dtype), 0, []
    for shape, size in zip(shapes, sizes):
        buffers.append(flat[start : start + size].reshape(shape))
        start += size
    return buffers


@pjit
def _convolve(threads, x, weight, plan, groups, row_step, bias, direct, panels, images, tiles, out):
    """out = the grids of `plan`, for every group and image; neighbouring output channels are `row_step` apart in weight."""
    for part in prange(threads):
        _pack_panels(np.int64(part), threads, weight, plan, groups, row_step, out.shape[1] // groups, panels)
    for part in prange(threads):
        part = np.int64(part)
        _convolve_part(part, threads, x, plan, groups, bias, direct, panels, images[part], tiles[part], out)


def _convolve_alone(x, weight, plan, groups, row_step, bias, direct, panels, images, tiles, out):
    """The same in this thread, for what is done sooner than other threads are woken."""
    _pack_panels(0, 1, weight, plan, groups, row_step, out.shape[1] // groups, panels)
    _convolve_part(0, 1, x, plan, groups, bias, direct, panels, images[0], tiles[0], out)


@jit
def _pack_panels(part, parts, weight, plan, groups, row_step, channels, panels):
    """Gather the weights of each tile in the order in which they are used: by term, then by output channel."""
    count = _tiles(channels)
    for t in range(part * groups * count // parts, (part + 1) * groups * count // parts):
        group, tile = divmod(t, count)
        row, rows = _rows(tile, channels)
        first = group * (weight.size // groups) + row * row_step
        to = (group * channels + row) * plan.sources.size
        for k in range(plan.sources.size):
            for m in range(rows):
                panels[to + k * rows + m] = weight[first + m * row_step + plan.sources[k]]


@jit
def _convolve_part(part, parts, x, plan, groups, bias, direct, panels, image, tiles, out):
    """One of `parts` equal shares of the blocks of images; few blocks are split by output channels too."""
    channels = out.shape[1] // groups
    count = _tiles(channels)
    blocks = -(-len(x) // plan.images)
    shares = min(groups * count, max(1, -(-4 * parts // blocks)))
    for q in range(part * blocks * shares // parts, (part + 1) * blocks * shares // parts):
        block, share = divmod(q, shares)
        some = out[block * plan.images : (block + 1) * plan.images]
        if direct:
            image = x[block].reshape(-1)
        elif share == 0 or q == part * blocks * shares // parts:
            _lay_out(x[block * plan.images : (block + 1) * plan.images], plan, image)
        for t in range(share * groups * count // shares, (share + 1) * groups * count // shares):
            group, tile = divmod(t, count)
            row, rows = _rows(tile, channels)
            row += group * channels
            for i in range(len(plan.grids)):
                panel, at = row * plan.sources.size + plan.grids[i, 0] * rows, plan.start + group * plan.group
                _compute(panels, panel, rows, image, at, plan, plan.grids[i], len(some), tiles[i % plan.step_w])
                if i % plan.step_w == plan.step_w - 1:
                    _unpack(tiles, rows, plan, plan.grids[i, 2], plan.grids[i, 4], bias, row, some)


@jit
def _tiles(channels):
    """How many tiles a group's output channels make: first of ROWS channels, then of one."""
    return channels // ROWS + channels % ROWS


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
def _correlate(threads, x, g, plan, groups, direct, images, gradients, gradient):
    """gradient (O, terms) = the products of g with x at the terms' offsets, summed over images and pixels."""
    if not direct:
        for part in prange(threads):
            _lay_out_blocks(np.int64(part), threads, x, g, plan, images, gradients)
    for part in prange(threads):
        _correlate_part(np.int64(part), threads, plan, groups, images, gradients, gradient)


def _correlate_alone(x, g, plan, groups, direct, images, gradients, gradient):
    """The same in this thread, for what is done sooner than other threads are woken."""
    if not direct:
        _lay_out_blocks(0, 1, x, g, plan, images, gradients)
    _correlate_part(0, 1, plan, groups, images, gradients, gradient)


@jit
def _lay_out_blocks(part, parts, x, g, plan, images, gradients):
    """One of `parts` equal shares of the blocks of images and of their output gradients, copied into buffers."""
    for b in range(part * len(images) // parts, (part + 1) * len(images) // parts):
        _lay_out(x[b * plan.images : (b + 1) * plan.images], plan, images[b])
        _lay_out_gradient(g[b * plan.images : (b + 1) * plan.images], plan, gradients[b])


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
def _correlate_part(part, parts, plan, groups, images, gradients, gradient):
    """One of `parts` shares of the result: of its rows, and of its terms too where there are few rows.

    All images are summed here and in their order, so that the bits do not depend on the number of parts.
    """
    lanes = VECTOR_BYTES // images.itemsize
    outs, width = len(gradient) // groups, gradients.shape[2]
    row_tiles, term_tiles = -(-outs // DOTS), -(-plan.sources.size // TAPS)
    shares = min(groups * row_tiles, parts)
    pieces = parts // shares
    share, piece = divmod(part, pieces)
    if share >= shares:
        return
    first_row, last_row = share * groups * row_tiles // shares, (share + 1) * groups * row_tiles // shares
    first_term, last_term = piece * term_tiles // pieces, (piece + 1) * term_tiles // pieces
    sums = np.zeros((last_row - first_row, last_term - first_term, -(-DOTS * TAPS // lanes) * lanes), gradient.dtype)
    flat = sums.reshape(-1)
    tiles_in_slice = max(1, plan.sources.size * SLICE_BYTES // (plan.group * images.itemsize * TAPS))
    for b in range(len(images)):
        g = gradients[b].reshape(-1)
        for begin in range(first_term, last_term, tiles_in_slice):
            for t in range(first_row, last_row):
                group, row = t // row_tiles, t % row_tiles * DOTS
                at, first = plan.start + group * plan.group, (group * outs + row) * width
                for k in range(begin, min(begin + tiles_in_slice, last_term)):
                    to = ((t - first_row) * sums.shape[1] + k - first_term) * sums.shape[2]
                    _dots(g, first, width, images[b], at, plan.offsets, k * TAPS, width // lanes, flat, to)
    for t in range(first_row, last_row):
        row, end = t // row_tiles * outs + t % row_tiles * DOTS, (t // row_tiles + 1) * outs
        for k in range(first_term, last_term):
            for m in range(min(DOTS, end - row)):
                for i in range(min(TAPS, plan.sources.size - k * TAPS)):
                    gradient[row + m, k * TAPS + i] = sums[t - first_row, k - first_term, m * TAPS + i]
