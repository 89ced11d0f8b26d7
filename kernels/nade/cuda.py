"""NADE on the GPU. Warps walk the pixels, lanes own hidden units; nade.cu says how the work is cut."""

import math
from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors

SOURCE = Path(__file__).with_name("nade.cu")
LANES = 32
UNITS, WARPS, EXAMPLES = 1, 8, 2  # as in nade.cu
EXAMPLES_PER_BLOCK = 4  # of nade_dots, that read the same rows
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 4  # more shares of the examples would only be more partial sums


def forward(x, W, V, b, c):
    """See reference.py."""
    x, W, V, b, c = _contiguous(x, W, V, b, c)
    (B, D), H = x.shape, c.size
    tiles = -(-H // (LANES * UNITS))
    shapes = ((tiles, B, D), (B, H), (B, D), (B,))
    partial, last, logits, log_prob = (cupy().empty(shape, x.dtype) for shape in shapes)
    bits = _bits(x)
    grid = (-(-B // EXAMPLES_PER_BLOCK), tiles)
    _launch("nade_dots", x, grid, (LANES, EXAMPLES_PER_BLOCK), bits, W, V, c, partial, last, B, D, H, bits.shape[1])
    _launch("nade_log_prob", x, B, THREADS, x, partial, b, logits, log_prob, B, D, tiles)
    return log_prob, (logits, last)


def backward(g, x, W, V, residual):
    """See reference.py. Blocks sum over shares of the examples, and the shares are added up."""
    g, x, W, V, logits, last = _contiguous(g, x, W, V, *residual)
    (B, D), H, tiles = x.shape, W.shape[1], -(-W.shape[1] // LANES)
    d, bits = cupy().empty_like(logits), _bits(x)
    blocks = BLOCKS_PER_MULTIPROCESSOR * multiprocessors()
    _launch("nade_cotangent", x, min(-(-d.size // THREADS), blocks), THREADS, g, x, logits, d, B, D)
    shares = min(-(-B // (WARPS * EXAMPLES)), -(-blocks // tiles))
    partial = cupy().empty((shares, 2 * D + 1, H), x.dtype)
    _launch("nade_backward", x, (tiles, shares), (LANES, WARPS), bits, d, last, W, V, partial, B, D, H, bits.shape[1])
    return partial[:, :D].sum(axis=0), partial[:, D:-1].sum(axis=0), d.sum(axis=0), partial[:, -1].sum(axis=0)


def complete(x, start, uniforms, W, V, b, c):
    """See reference.py. A block draws one example."""
    x = x.copy(order="C")
    uniforms, W, V, b = _contiguous(uniforms, W, V, b)
    a = c + x[:, :start] @ W[:start]
    _launch("nade_complete", x, len(x), THREADS, x, uniforms, W, V, b, a, cupy().empty_like(a), start, *W.shape)
    return x


def _bits(x):
    """x (B, D) as bits, in words of 32 pixels."""
    B, D = x.shape
    bits = cupy().empty((B, -(-D // LANES)), "uint32")
    _launch("nade_bits", x, -(-bits.size * LANES // THREADS), THREADS, x, bits, B, D, bits.shape[1])
    return bits


def _contiguous(*arrays):
    return tuple(map(cupy().ascontiguousarray, arrays))


def _launch(name, like, grid, block, *arguments):
    """Run a kernel compiled for the dtype of `like`, unless there is nothing to do. The kernels' integers are C's int."""
    grid, block = (size if isinstance(size, tuple) else (size,) for size in (grid, block))
    if math.prod(grid):
        arguments = tuple(np.int32(value) if isinstance(value, (int, np.integer)) else value for value in arguments)
        cuda_function(SOURCE, name, like.dtype)(grid, block, arguments)
