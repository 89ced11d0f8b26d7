"""Independent pixels in Numba: one pass over the logits."""

import numpy as np
from numba import prange

from ..runtime import jit, pjit, plain
from ..vectormath import sigmoid, softplus

SERIAL_BELOW = 16_384  # logits; a parallel call costs more than it saves on fewer
CHUNKS = 64  # of the rows; their number does not depend on that of the threads


def log_prob(x, logits):
    """See reference.py."""
    out = np.empty(len(logits), logits.dtype)
    run = _log_probs if logits.size < SERIAL_BELOW else _parallel_log_probs
    run(plain(x), plain(logits), 0, out)
    return out


def gradient(g, x, logits):
    """See reference.py."""
    out = np.empty(logits.shape, logits.dtype)
    run = _gradients if logits.size < SERIAL_BELOW else _parallel_gradients
    run(plain(g), plain(x), plain(logits), 0, out)
    return out


@jit
def _log_probs(x, logits, start, out):
    for r in range(len(logits)):
        bits, row = x[(start + r) % len(x)], logits[r]
        total = out.dtype.type(0)
        for i in range(len(row)):
            total += bits[i] * row[i] - softplus(row[i])
        out[r] = total


@jit
def _gradients(g, x, logits, start, out):
    for r in range(len(logits)):
        bits, row, target, weight = x[(start + r) % len(x)], logits[r], out[r], g[r]
        for i in range(len(row)):
            target[i] = weight * (bits[i] - sigmoid(row[i]))


@pjit
def _parallel_log_probs(x, logits, start, out):
    for chunk in prange(CHUNKS):
        first, last = chunk * len(logits) // CHUNKS, (chunk + 1) * len(logits) // CHUNKS
        _log_probs(x, logits[first:last], first, out[first:last])


@pjit
def _parallel_gradients(g, x, logits, start, out):
    for chunk in prange(CHUNKS):
        first, last = chunk * len(logits) // CHUNKS, (chunk + 1) * len(logits) // CHUNKS
        _gradients(g[first:last], x, logits[first:last], first, out[first:last])
