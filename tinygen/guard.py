"""Noticing that an array was changed in place while the graph still needs it.

Only somebody who holds an array can change it, so the watch costs nothing where nobody does: results of operations are
private to the engine until `Tensor.data` hands one out. What others may hold (an array passed in from outside, a tensor
whose `.data` was taken) gets a fingerprint when the graph saves it; the backward pass compares. Changes that the library
makes itself (an optimizer's step) raise a version number instead, which is exact and free.
"""

from __future__ import annotations

import functools

import numpy as np

from tinygen.backend import Array, is_array, module_of

_BLOCK = 1 << 16  # words that share one draw of weights; on a GPU four times as many, so that a batch is one block


@functools.lru_cache(maxsize=2)
def _weights(xp: object) -> Array:
    size = _BLOCK if xp is np else 4 * _BLOCK
    weights = np.random.default_rng(20110412).integers(0, 2**64, size=size, dtype=np.uint64)
    return xp.asarray(weights | np.uint64(1))  # odd: a changed word can never be multiplied away modulo 2^64


def fingerprint(array: Array) -> int:
    """A 64-bit fingerprint of the array's bytes: sum_i w_i v_i modulo 2^64 over its words, with odd random w.

    Words have 8 bytes, on a GPU 4: there a product more for each costs less than a launch more for all. A change of one word
    always shows; any other, two exchanged words included, is missed with probability 2^-31 at most.
    """
    if array.__class__ is np.ndarray and array.nbytes <= 8192:
        return hash(array.tobytes())
    xp = module_of(array)
    word = np.dtype(np.uint64 if xp is np else np.uint32)
    flat = xp.ascontiguousarray(array).reshape(-1).view(np.uint8)
    end = flat.size - flat.size % word.itemsize
    words, weights = flat[:end].view(word), _weights(xp)
    total = sum(int(byte) << (8 * i) for i, byte in enumerate(flat[end:]))
    for start in range(0, words.size, weights.size):
        part = words[start : start + weights.size]
        if xp is np:
            # Numbers differ mostly in their high bits, where a multiple of 2^52, say, times w_i - w_j may vanish: fold them
            # down. Words of 4 bytes are no such multiples.
            part = part ^ (part >> np.uint64(32))
        # Mixing in the block's number tells two exchanged blocks apart.
        total = (total * 0x9E3779B97F4A7C15 + int(xp.dot(part, weights[: part.size]))) % 2**64
    return total


def owner(array: Array) -> Array:
    """The array that owns the memory `array` is a view of."""
    while (base := array.base) is not None and is_array(base):
        array = base
    return array
