"""Memory for large arrays that kernels make again and again, kept from one call to the next.

A fresh array of some megabytes costs more than filling it: the system maps, clears and takes back every page, with all
threads waiting in line. An array of `aligned` gives its memory to the next one when nothing refers to it any more.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable

import numpy as np

LINE = 64  # bytes in a cache line; a wide load that crosses two takes twice as long
KEPT = 256 << 20  # bytes that are kept at most
WORTH_KEEPING = 64 << 10  # smaller arrays cost no page faults: malloc has their memory at hand

# mallopt's parameters in glibc's malloc.h, and values above what an array of training takes (32 MB is the most for the second).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER_TRIMMED, NEVER_MAPPED = 1 << 30, 32 << 20

_free: list[np.ndarray] = []
_taking = threading.Lock()


def keep_freed() -> bool:
    """Have the C library keep what NumPy's freed arrays held, for the next ones; False where it is not glibc.

    A training step frees every activation, and the next one makes them all again. By default each of more than some hundred
    kilobytes goes back to the system and comes again in cleared pages: a quarter of the processor time of a PixelCNN's step.
    The process then stays as large as it has once been.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(M_TRIM_THRESHOLD, NEVER_TRIMMED), mallopt(M_MMAP_THRESHOLD, NEVER_MAPPED)])


def padded(size: int, dtype: np.dtype) -> int:
    """The smallest number of elements that is at least `size` and fills whole cache lines."""
    return -(-size * dtype.itemsize // LINE) * LINE // dtype.itemsize


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialized array that starts on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    kept = size >= WORTH_KEEPING
    block = _take(size + LINE) if kept else np.empty(size + LINE, np.uint8)
    return np.asarray((_Borrowed if kept else _Aligned)(block, shape, dtype))


class _Aligned:
    """What NumPy takes for the owner of an array in a block."""

    def __init__(self, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype):
        address = block.__array_interface__["data"][0]
        place = (address + -address % LINE, False)  # False: may be written to
        self.block = block
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": place, "version": 3}


class _Borrowed(_Aligned):
    """The same for a kept block. It goes when the last view of the array has gone, and gives the block back."""

    def __del__(self, give_back: Callable = _free.append):  # bound here, since at exit a module's names may be gone
        give_back(self.block)


def _take(size: int) -> np.ndarray:
    """The smallest free block that holds `size` bytes and is not twice too large; else a new one, and old ones are let go.

    `_free` may grow meanwhile, at its end: blocks are given back without the lock, perhaps by the garbage collector in here.
    """
    with _taking:
        sizes = [block.nbytes for block in _free]
        best = min((k for k, n in enumerate(sizes) if size <= n <= 2 * size), key=sizes.__getitem__, default=None)
        if best is not None:
            return _free.pop(best)
        while sum(sizes) > KEPT:
            del _free[0], sizes[0]
    return np.empty(size, np.uint8)
