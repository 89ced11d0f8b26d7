"""NADE on the GPU: launches of the kernels in nade.cu. The equations are in reference.py."""

from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors

SOURCE = Path(__file__).with_name("nade.cu")
THREADS = 512  # of an example: sixteen rows of V at a time
COLUMNS = 64  # of W and V, in one block of threads going back
STATES = 16  # at most, kept in shared memory at a time
SHARED = 47 * 1024  # bytes; every device gives a block 48 KiB without being asked, static arrays included


def forward(x, W, V, b, c):
    """See reference.py. The bits depend on the device's kind only."""
    x, W, V, b, c = map(cupy().ascontiguousarray, (x, W, V, b, c))
    (B, D), H = x.shape, c.size
    log_prob, logits, a = (cupy().empty(shape, x.dtype) for shape in ((B,), (B, D), (B, H)))
    batch = max(1, min(STATES, (SHARED - 4 * D) // (H * x.itemsize)))
    arguments = (x, W, V, b, c, log_prob, logits, a, np.int32(D), np.int32(H), np.int32(batch))
    _launch("nade_forward", (B,), THREADS, arguments, batch * H * x.itemsize + 4 * D)
    return log_prob, (logits, a)


def backward(g, x, W, V, residual):
    """See reference.py. The examples are shared out so that every multiprocessor has a block of threads."""
    g, x, W, V, logits = map(cupy().ascontiguousarray, (g, x, W, V, residual[0]))
    (B, D), H = x.shape, W.shape[1]
    blocks = -(-H // COLUMNS)
    shares = max(1, min(B, multiprocessors() // blocks))
    a, g_a, g_logits = residual[1].copy(), cupy().empty((B, H), x.dtype), cupy().empty_like(x)
    gW, gV = cupy().empty((shares, D, H), x.dtype), cupy().empty((shares, D, H), x.dtype)
    _launch("nade_g_logits", (-(-x.size // THREADS),), THREADS, (g, x, logits, g_logits, np.int32(B), np.int32(D)))
    sizes = np.int32(B), np.int32(D), np.int32(H)
    _launch("nade_backward", (blocks, shares), COLUMNS, (x, W, V, g_logits, a, g_a, gW, gV, *sizes))
    return gW.sum(0), gV.sum(0), g_logits.sum(0), g_a.sum(0)


def complete(x, start, uniforms, W, V, b, c):
    """See reference.py."""
    uniforms, W, V, b, c = map(cupy().ascontiguousarray, (uniforms, W, V, b, c))
    x = x.copy(order="C")
    D, H = W.shape
    arguments = (x, uniforms, W, V, b, c, np.int32(start), np.int32(D), np.int32(H))
    _launch("nade_complete", (len(x),), THREADS, arguments, 2 * H * x.itemsize)
    return x


def _launch(name, grid, threads, arguments, shared=0):
    function = cuda_function(SOURCE, name, arguments[0].dtype)
    if shared > SHARED:
        function.max_dynamic_shared_size_bytes = shared
    if all(grid):
        function(grid, (threads,), arguments, shared_mem=shared)
