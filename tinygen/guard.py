"""Noticing that an array was changed in place while the graph still needs it.

Only somebody who holds an array can change it, so the watch costs nothing where nobody does: results of operations are
private to the engine until `Tensor.data` hands one out. What others may hold (an array passed in from outside, a tensor
whose `.data` was taken) gets a fingerprint when the graph saves it; the backward pass compares. Changes that the library
makes itself (an optimizer's step) raise a version number instead, which is exact and free. On a GPU a look at an array waits
for all that is computed before it: there fingerprints are taken in anomaly mode only.
"""

from __future__ import annotations

import functools

import numpy as np

from tinygen import anomaly
from tinygen.backend import Array, is_array, module_of

_BLOCK = 1 << 16  # words that share one draw of weights


@functools.lru_cache(maxsize=2)
def _weights(xp: object) -> Array:
    weights = np.random.default_rng(20110412).integers(0, 2**64, size=_BLOCK, dtype=np.uint64)
    return xp.asarray(weights | np.uint64(1))  # odd: a changed word can never be multiplied away modulo 2^64


def fingerprint(array: Array) -> int | None:
    """A 64-bit fingerprint of the array's bytes: sum_i w_i v_i modulo 2^64 over its 8-byte words, with odd random w.

    None for an array on a GPU, outside of anomaly mode.

    A change of one word always shows; any other, two exchanged words included, is missed with probability 2^-31 at most.
    """
    if array.__class__ is np.ndarray and array.nbytes <= 8192:
        return hash(array.tobytes())
    xp = module_of(array)
    if xp is not np and not anomaly.active:
        return None
    flat = xp.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = flat.size // 8
    words = flat[: whole * 8].view(np.uint64)
    weights = _weights(xp)
    total = sum(int(flat[whole * 8 + i]) << (8 * i) for i in range(flat.size % 8))
    for start in range(0, whole, _BLOCK):
        part = words[start : start + _BLOCK]
        # Numbers differ mostly in their high bits, where a multiple of 2^52, say, times w_i - w_j may vanish: fold them down.
        part = part ^ (part >> np.uint64(32))
        # Mixing in the block's number tells two exchanged blocks apart.
        total = (total * 0x9E3779B97F4A7C15 + int(xp.dot(part, weights[: part.size]))) % 2**64
    return total


def changed_since(array: Array, stamp: int) -> bool:
    """Whether the array's fingerprint is another now; False where none is taken."""
    now = fingerprint(array)
    return now is not None and now != stamp


def owner(array: Array) -> Array:
    """The array that owns the memory `array` is a view of."""
    while (base := array.base) is not None and is_array(base):
        array = base
    return array
