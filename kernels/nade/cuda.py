"""NADE on the GPU. Warps walk the pixels, lanes own hidden units; nade.cu says how the work is cut."""

import math
from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors

SOURCE = Path(__file__).with_name("nade.cu")
LANES = 32
UNITS, WARPS, EXAMPLES = 2, 8, 2  # as in nade.cu
EXAMPLES_PER_BLOCK = 4  # of nade_dots, that read the same rows
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 4  # more shares of the examples would only be more partial sums


def forward(x, W, V, b, c):
    """See reference.py. The residual also keeps x as bits."""
    x, W, V, b, c = _contiguous(x, W, V, b, c)
    (B, D), H = x.shape, c.size
    words, tiles = -(-D // LANES), -(-H // (LANES * UNITS))
    empty = cupy().empty
    bits, partial = empty((B, words), "uint32"), empty((tiles, B, D), x.dtype)
    last, logits, log_prob = empty((B, H), x.dtype), empty((B, D), x.dtype), empty(B, x.dtype)
    _launch("nade_bits", x, -(-B * words * LANES // THREADS), THREADS, x, bits, B, D, words)
    grid = (-(-B // EXAMPLES_PER_BLOCK), tiles)
    _launch("nade_dots", x, grid, (LANES, EXAMPLES_PER_BLOCK), bits, W, V, c, partial, last, B, D, H, words)
    _launch("nade_log_prob", x, B, THREADS, x, partial, b, logits, log_prob, B, D, tiles)
    return log_prob, (logits, last, bits)


def backward(g, residual, x, W, V):
    """See reference.py. Blocks sum over shares of the examples, and the shares are added up."""
    logits, last, bits = residual
    g, x, W, V = _contiguous(g, x, W, V)
    (B, D), H, tiles = x.shape, W.shape[1], -(-W.shape[1] // LANES)
    d = cupy().empty_like(logits)
    blocks = BLOCKS_PER_MULTIPROCESSOR * multiprocessors()
    _launch("nade_cotangent", x, min(-(-d.size // THREADS), blocks), THREADS, g, x, logits, d, B, D)
    shares = min(-(-B // (WARPS * EXAMPLES)), -(-blocks // tiles))
    partial = cupy().empty((shares, 2 * D + 1, H), x.dtype)
    _launch("nade_backward", x, (tiles, shares), (LANES, WARPS), bits, d, last, W, V, partial, B, D, H, bits.shape[1])
    return partial[:, :D].sum(axis=0), partial[:, D:-1].sum(axis=0), d.sum(axis=0), partial[:, -1].sum(axis=0)


def conditionals(x, W, V, b, c):
    """See reference.py."""
    return forward(x, W, V, b, c)[1][0]


def complete(x, start, uniforms, W, V, b, c):
    """See reference.py. A block draws one example."""
    x = x.copy(order="C")
    uniforms, W, V, b = _contiguous(uniforms, W, V, b)
    a = c + x[:, :start] @ W[:start]
    _launch("nade_complete", x, len(x), THREADS, x, uniforms, W, V, b, a, cupy().empty_like(a), start, *W.shape)
    return x


def sample(uniforms, W, V, b, c):
    """See reference.py."""
    return complete(cupy().zeros_like(uniforms), 0, uniforms, W, V, b, c)


def _contiguous(*arrays):
    return tuple(map(cupy().ascontiguousarray, arrays))


def _launch(name, like, grid, block, *arguments):
    """Run a kernel compiled for the dtype of `like`, unless there is nothing to do. The kernels' integers are C's int."""
    grid, block = (size if isinstance(size, tuple) else (size,) for size in (grid, block))
    if math.prod(grid):
        arguments = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
        cuda_function(SOURCE, name, like.dtype)(grid, block, arguments)
