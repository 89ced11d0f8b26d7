"""Networks of masked convolutions at one pixel on the GPU. Whole maps are the GPU kernels of `conv2d`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy
from .cache import Cache
from .layer import Array, Layer, Size

SOURCE = Path(__file__).with_name("masked_conv.cu")
WARP, MOST_THREADS = 32, 256


class Stepper:
    """See reference.py."""

    def __init__(self, layers: Sequence[Layer], images: int, size: Size):
        self._cache = Cache(cupy(), layers, images, size, width=1, rows=None)
        widest = max(len(layer.weight) for layer in layers)
        self._threads = min(-(-widest // WARP) * WARP, MOST_THREADS)

    def step(self, row: int, column: int) -> Array:
        """The last layer's output (N, O) at a pixel."""
        cache = self._cache
        cache.enter(row, column)
        if len(cache.blocks):
            numbers = (np.int64(cache.size), *map(np.int32, (len(cache.table), row, column)))
            arguments = (cache.table, cache.offsets, cache.panels, cache.biases, cache.blocks, *numbers)
            cuda_function(SOURCE, "step", cache.blocks.dtype)((len(cache.blocks),), (self._threads,), arguments)
        return cache.output()

    def put(self, row: int, column: int, values: Array) -> None:
        """Set a pixel of the first layer's input, (N, C)."""
        self._cache.put(row, column, values)
