"""The product of two matrices on the GPU without cuBLAS, which CuPy refuses to call while a stream captures a CUDA graph."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .parts import WARPS, added, most_parts, split
from .runtime import cuda_function, cupy, multiprocessors
from .tiles import Tile, quickest

Array = Any  # cupy.ndarray

SOURCE = Path(__file__).with_name("product.cu")
TILES = (Tile(64, 64, 4), Tile(32, 32, 1))


def product(a: Array, b: Array) -> Array:
    """a @ b, C-contiguous, from matrices of one dtype, float32 or float64, with fewer than 2^31 numbers.

    Each is best C-contiguous or the transpose of such a one: others are copied. Sums run in an order that depends on the shapes
    and the device only.
    """
    (rows, depth), columns = a.shape, b.shape[1]
    if not a.size or not b.size:
        return cupy().zeros((rows, columns), a.dtype)
    (left, left_crosses), (right, right_is_along) = _in_memory(a), _in_memory(b)
    tile, parts, part_size = _split(rows, columns, depth, multiprocessors())
    sums = cupy().empty((parts, rows, columns), a.dtype)
    sides = "across" if left_crosses else "along", "along" if right_is_along else "across"
    function = cuda_function(SOURCE, "_".join(("product", str(tile.rows), *sides)), a.dtype)
    numbers = map(np.int32, (rows, columns, depth))
    function((prod(tile.count(rows, columns)), parts), (tile.threads,), (left, right, *numbers, sums, np.int32(part_size)))
    return added(sums, SOURCE)


def _in_memory(factor: Array) -> tuple[Array, bool]:
    """The factor or its transpose, whichever is C-contiguous, and whether it is the transpose."""
    if factor.flags.c_contiguous:
        return factor, False
    return cupy().ascontiguousarray(factor.T), True


@lru_cache(maxsize=256)
def _split(rows: int, columns: int, depth: int, processors: int) -> tuple[Tile, int, int]:
    """The tile for sums of so many products, into how many parts to split them, and their size.

    One part where whole sums give half of the multiprocessors' warps work: further ones would take longer to add up.
    """
    tile = quickest(TILES, rows, columns, most_parts(depth), processors)
    warps = prod(tile.count(rows, columns)) * tile.warps
    return tile, *(split(depth, warps, processors) if 2 * warps <= WARPS * processors else (1, depth))
