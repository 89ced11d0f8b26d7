"""Networks of masked convolutions at one pixel on the CPU. Whole maps are the CPU kernels of `conv2d`.

A vector holds one feature of many images, so a pixel of all images is to the convolution's inner loop what a row of pixels is:
`microkernel` of conv2d computes it too, in the same order of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import get_num_threads, prange

from ..conv2d.microkernel import ROWS, VECTOR_BYTES, convolve_tile
from ..runtime import jit, pjit
from .cache import Cache
from .layer import Layer, Size

SERIAL_BELOW = 1 << 20  # multiplications: about as long as it takes to wake the other threads

_tile = convolve_tile(ROWS, 2)
_narrow_tile = convolve_tile(ROWS, 1)
_row = convolve_tile(1, 4)
_narrow_row = convolve_tile(1, 1)


class Stepper:
    """See reference.py."""

    def __init__(self, layers: Sequence[Layer], images: int, size: Size):
        lanes = VECTOR_BYTES // layers[0].weight.itemsize
        work = images * sum(layer.weight.size for layer in layers)
        parts = 1 if work < SERIAL_BELOW else get_num_threads()
        width = max(1, -(-images // (parts * lanes))) * lanes
        self._width, self._cache = width, Cache(np, layers, images, size, width, ROWS)

    def step(self, row: int, column: int) -> np.ndarray:
        """The last layer's output (N, O) at a pixel."""
        cache = self._cache
        cache.enter(row, column)
        arguments = (cache.table, cache.offsets, cache.panels, cache.biases, row, column, self._width)
        if len(cache.blocks) > 1:
            _step_blocks(cache.blocks, *arguments)
        elif len(cache.blocks):
            _step(cache.blocks[0], *arguments)
        return cache.output()

    def put(self, row: int, column: int, values: np.ndarray) -> None:
        """Set a pixel of the first layer's input, (N, C)."""
        self._cache.put(row, column, values)


@pjit
def _step_blocks(blocks, table, offsets, panels, biases, row, column, width):
    for b in prange(len(blocks)):
        _step(blocks[b], table, offsets, panels, biases, row, column, width)


@jit(fastmath=False)  # sums must have the bits that they have elsewhere
def _step(cache, table, offsets, panels, biases, row, column, width):
    """All layers at one pixel of a block of images."""
    for index in range(len(table)):
        begin, out, channels, outs, terms, ring, line, pixel, panel, offset, bias, rectified, skip = table[index]
        if index:
            source, to = table[index - 1, 1], begin + row % ring * line + (column + ring - 1) * pixel
            for i in range(channels * width):
                value = cache[source + i]
                cache[to + i] = 0 if rectified and value < 0 else value
        at, first = begin + column * pixel, offset + row % ring * terms
        whole = outs // ROWS * ROWS
        for o in range(0, whole, ROWS):
            _sums(ROWS, panels, panel + o * terms, cache, at, offsets, first, terms, out + o * width, width)
        for o in range(whole, outs):
            _sums(1, panels, panel + o * terms, cache, at, offsets, first, terms, out + o * width, width)
        for o in range(outs):
            for i in range(o * width, (o + 1) * width):
                cache[out + i] += biases[bias + o]
        if skip >= 0:
            for i in range(outs * width):
                cache[out + i] += cache[skip + i]


@jit
def _sums(rows, panels, panel, cache, at, offsets, first, terms, out, width):
    """The sums of one panel, of ROWS output channels or of one, to `out` in the cache."""
    lanes = VECTOR_BYTES // cache.itemsize
    v = 0
    while v < width:
        if rows == ROWS and v + 2 * lanes <= width:
            _tile(panels, panel, cache, at + v, offsets, first, terms, cache, out + v, width)
            v += 2 * lanes
        elif rows == ROWS:
            _narrow_tile(panels, panel, cache, at + v, offsets, first, terms, cache, out + v, width)
            v += lanes
        elif v + 4 * lanes <= width:
            _row(panels, panel, cache, at + v, offsets, first, terms, cache, out + v, width)
            v += 4 * lanes
        else:
            _narrow_row(panels, panel, cache, at + v, offsets, first, terms, cache, out + v, width)
            v += lanes
