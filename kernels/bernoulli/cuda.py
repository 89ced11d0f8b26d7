"""Independent pixels on the GPU: a warp for each row, whose sum it adds up in a fixed order, or a thread for each logit."""

from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors

SOURCE = Path(__file__).with_name("bernoulli.cu")
THREADS, LANES = 256, 32
BLOCKS_PER_MULTIPROCESSOR = 8


def log_prob(x, logits):
    """See reference.py."""
    out = cupy().empty(len(logits), logits.dtype)
    _launch("bernoulli_log_prob", out.size * LANES, x, logits, out)
    return out


def gradient(g, x, logits):
    """See reference.py."""
    out = cupy().empty(logits.shape, logits.dtype)
    _launch("bernoulli_gradient", out.size, g, x, logits, out)
    return out


def _launch(name, threads, *arrays):
    *arrays, out = arrays
    if threads:
        x, logits = arrays[-2:]
        blocks = min(-(-threads // THREADS), BLOCKS_PER_MULTIPROCESSOR * multiprocessors())
        ready = [cupy().ascontiguousarray(array) for array in arrays]
        sizes = np.int64(len(logits)), np.int64(len(x)), np.int32(x.shape[1])
        cuda_function(SOURCE, name, out.dtype)((blocks,), (THREADS,), (*ready, out, *sizes))
