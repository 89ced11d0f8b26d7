"""Long sums on the GPU in parts that are added up in a fixed order, as in parts.cuh: few sums would leave it idle otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .runtime import cuda_function, cupy
from .tiles import WARP

Array = Any  # cupy.ndarray

DEPTH = 8  # a part's length is a multiple of it, as it is multiplied in slices: ALONG in tiles.cuh
RUNS = 8  # as in parts.cuh
WARPS = 8  # of a multiprocessor, among which sums are split: two on a scheduler hide each other's waiting
LEAST = 64  # products of a part, at least: the parts must be added up afterwards


def most_parts(length: int) -> int:
    """How many parts sums of so many products may have."""
    return -(-length // LEAST)


def split(length: int, warps: int, processors: int) -> tuple[int, int]:
    """Into how many parts to split sums of so many products, which take so many warps while they are whole; their length."""
    parts = min(-(-WARPS * processors // warps), most_parts(length))
    size = -(-length // (parts * DEPTH)) * DEPTH
    return -(-length // size), size


def added(parts: Array, source: Path) -> Array:
    """parts[0] + parts[1] + ...; `source` is a kernel source that includes parts.cuh."""
    if len(parts) == 1:
        return parts[0]
    total = cupy().empty(parts.shape[1:], parts.dtype)
    function = cuda_function(source, "add_parts", parts.dtype)
    function((-(-total.size // WARP),), (WARP, RUNS), (parts, total, np.int64(total.size), np.int32(len(parts))))
    return total
