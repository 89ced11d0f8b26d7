"""NADE on the CPU: each distinct hidden state once, blocks of pixels that stay in the cache, a share of the work a thread.

A pixel that is 0 leaves the state as it is, so the sigmoids are worked out once for a run of pixels that ends with a 1, and
the run's rows of V are multiplied with them. Pixels are taken in blocks of `BLOCK`, all examples of a thread in turn, so that
a block's rows of V and W are read from memory once. The forward pass splits the examples between the threads, the backward
pass the hidden units, because then no two threads add to the same gradient: sums are formed in the same order, and have the
same bits, whatever the number of threads.
"""

import numpy as np
from tinygen.kernels.runtime import configured_numba, jit, pjit
from tinygen.kernels.simd import LINE, element, fma, lanes, load, splat, store
from tinygen.kernels.vectormath import sigmoid, softplus

prange = configured_numba().prange

BLOCK = 16  # pixels: their rows of V, W and both gradients, 500 units wide, fill about half of a 256 KB cache
UNROLL = 4  # vectors side by side in the backward pass: enough independent sums to hide the latency of an addition
TILE = 512  # the most hidden units that one piece of the backward pass takes


@jit
def _aligned(rows, columns, like):
    """A matrix of zeros whose rows start on cache lines (a load across two is slow), padded to whole steps of the loops."""
    step = UNROLL * LINE // like.itemsize
    width = (columns + step - 1) // step * step
    buffer = np.zeros(rows * width + step, like.dtype)
    start = -(buffer.ctypes.data // like.itemsize) % step
    return buffer[start : start + rows * width].reshape(rows, width)


@jit
def _copy(target, i, j, source, k, l, width):
    to, values = target[i, j : j + width], source[k, l : l + width]
    for m in range(width):
        to[m] = values[m]


@jit
def _activate(a, h, e):
    for j in range(h.shape[1]):
        h[e, j] = sigmoid(a[e, j])


@jit
def _add(x, e, y, i, scale):
    for j in range(y.shape[1]):
        x[e, j] += scale * y[i, j]


@jit
def _dot(V, i, h, e):
    total = h.dtype.type(0)
    for j in range(h.shape[1]):
        total += V[i, j] * h[e, j]
    return total


@jit
def _run_logits(begin, end, V, start, h, e, logits, row):
    """logits[row, begin:end] = V h for a block's rows of V from `start` on, four at a time: h is read a quarter as often."""
    i = begin
    while i + 4 <= end:
        k = i - start
        s0 = s1 = s2 = s3 = h.dtype.type(0)
        for j in range(h.shape[1]):
            s0 += V[k, j] * h[e, j]
            s1 += V[k + 1, j] * h[e, j]
            s2 += V[k + 2, j] * h[e, j]
            s3 += V[k + 3, j] * h[e, j]
        logits[row, i], logits[row, i + 1], logits[row, i + 2], logits[row, i + 3] = s0, s1, s2, s3
        i += 4
    while i < end:
        logits[row, i] = _dot(V, i - start, h, e)
        i += 1


@jit
def _log_prob(x, logits, b, e):
    total = x.dtype.type(0)
    for i in range(x.shape[1]):
        logits[e, i] += b[i]
        total += x[e, i] * logits[e, i] - softplus(logits[e, i])
    return total


@jit
def _forward_share(e0, e1, x, W, V, b, c, last, logits, log_prob):
    """The examples e0 to e1."""
    D, H = W.shape
    one = W.dtype.type(1)
    a, h, block = _aligned(e1 - e0, H, W), _aligned(e1 - e0, H, W), _aligned(BLOCK, H, W)
    for e in range(e1 - e0):
        _copy(a, e, 0, c, 0, 0, H)
        _activate(a, h, e)
    for start in range(0, D, BLOCK):
        stop = min(start + BLOCK, D)
        for i in range(start, stop):
            _copy(block, i - start, 0, V, i, 0, H)
        for e in range(e1 - e0):
            begin = start
            for i in range(start, stop):
                if x[e0 + e, i] != 0:
                    _run_logits(begin, i + 1, block, start, h, e, logits, e0 + e)
                    _add(a, e, W, i, one)
                    _activate(a, h, e)
                    begin = i + 1
            _run_logits(begin, stop, block, start, h, e, logits, e0 + e)
    for e in range(e1 - e0):
        log_prob[e0 + e] = _log_prob(x, logits, b, e0 + e)
        _copy(last, e0 + e, 0, a, e, 0, H)


@pjit
def _forward(x, W, V, b, c, share, last, logits, log_prob):
    n = x.shape[0]
    for k in prange((n + share - 1) // share):
        _forward_share(k * share, min(n, (k + 1) * share), x, W, V, b, c, last, logits, log_prob)


@jit
def _run_back(begin, end, V, gV, start, d, e, h, A):
    """For the run's pixels: gV_i += d_i h, and A += (sum_i d_i V_i) h (1 - h), with h and the sums in registers."""
    one = splat(h.dtype.type(1))
    L = lanes(h)
    for j in range(0, h.shape[1], UNROLL * L):
        h0, h1, h2, h3 = load(h, e, j), load(h, e, j + L), load(h, e, j + 2 * L), load(h, e, j + 3 * L)
        s0 = s1 = s2 = s3 = splat(h.dtype.type(0))
        for i in range(begin, end):
            k = i - start
            t = splat(element(d, e, i))
            s0 = fma(t, load(V, k, j), s0)
            s1 = fma(t, load(V, k, j + L), s1)
            s2 = fma(t, load(V, k, j + 2 * L), s2)
            s3 = fma(t, load(V, k, j + 3 * L), s3)
            store(gV, k, j, fma(t, h0, load(gV, k, j)))
            store(gV, k, j + L, fma(t, h1, load(gV, k, j + L)))
            store(gV, k, j + 2 * L, fma(t, h2, load(gV, k, j + 2 * L)))
            store(gV, k, j + 3 * L, fma(t, h3, load(gV, k, j + 3 * L)))
        store(A, e, j, fma(s0, h0 * (one - h0), load(A, e, j)))
        store(A, e, j + L, fma(s1, h1 * (one - h1), load(A, e, j + L)))
        store(A, e, j + 2 * L, fma(s2, h2 * (one - h2), load(A, e, j + 2 * L)))
        store(A, e, j + 3 * L, fma(s3, h3 * (one - h3), load(A, e, j + 3 * L)))


@jit
def _backward_block(start, stop, x, d, a, h, A, block_V, block_W, gV, gW):
    """The pixels of one block, last first: undo the additions to a, gather gV and gW."""
    one = h.dtype.type(1)
    for e in range(x.shape[0]):
        end = stop
        for i in range(stop - 1, start - 1, -1):
            if x[e, i] != 0:
                _run_back(i + 1, end, block_V, gV, start, d, e, h, A)
                end = i + 1
                _add(gW, i - start, A, e, one)
                _add(a, e, block_W, i - start, -one)
                _activate(a, h, e)
        _run_back(start, end, block_V, gV, start, d, e, h, A)


@jit
def _backward_tile(x, d, W, V, last, gW, gV, gc, j0, j1):
    """The hidden units j0 to j1."""
    n, D = x.shape
    width = j1 - j0
    a, h, A = _aligned(n, width, W), _aligned(n, width, W), _aligned(n, width, W)
    block_V, block_W = _aligned(BLOCK, width, W), _aligned(BLOCK, width, W)
    for e in range(n):
        _copy(a, e, 0, last, e, j0, width)
        _activate(a, h, e)
    for start in range((D - 1) // BLOCK * BLOCK, -1, -BLOCK):
        stop = min(start + BLOCK, D)
        block_gV, block_gW = _aligned(BLOCK, width, W), _aligned(BLOCK, width, W)
        for i in range(start, stop):
            _copy(block_V, i - start, 0, V, i, j0, width)
            _copy(block_W, i - start, 0, W, i, j0, width)
        _backward_block(start, stop, x, d, a, h, A, block_V, block_W, block_gV, block_gW)
        for i in range(start, stop):
            _copy(gV, i, j0, block_gV, i - start, 0, width)
            _copy(gW, i, j0, block_gW, i - start, 0, width)
    total = _aligned(1, width, W)
    for e in range(n):
        _add(total, 0, A, e, W.dtype.type(1))
    _copy(gc, 0, j0, total, 0, 0, width)


@jit
def _logit_cotangent(g, x, logits, d, e):
    for i in range(x.shape[1]):
        d[e, i] = g[e] * (x[e, i] - sigmoid(logits[e, i]))


@pjit
def _backward(g, x, logits, d, W, V, tile, last, gW, gV, gc):
    H = W.shape[1]
    for e in prange(x.shape[0]):
        _logit_cotangent(g, x, logits, d, e)
    for k in prange((H + tile - 1) // tile):
        _backward_tile(x, d, W, V, last, gW, gV, gc, k * tile, min(H, (k + 1) * tile))


@jit
def _complete_share(e0, e1, x, first, uniforms, W, V, b, c):
    """The examples e0 to e1, all of them at one pixel before the next: a row of V serves them while it is in the cache."""
    D, H = W.shape
    one = W.dtype.type(1)
    a, h, row = _aligned(e1 - e0, H, W), _aligned(e1 - e0, H, W), _aligned(1, H, W)
    for e in range(e1 - e0):
        _copy(a, e, 0, c, 0, 0, H)
        for i in range(first):
            if x[e0 + e, i] != 0:
                _add(a, e, W, i, one)
        _activate(a, h, e)
    for i in range(first, D):
        _copy(row, 0, 0, V, i, 0, H)
        for e in range(e1 - e0):
            x[e0 + e, i] = uniforms[e0 + e, i] < sigmoid(b[i] + _dot(row, 0, h, e))
            if x[e0 + e, i] != 0:
                _add(a, e, W, i, one)
                _activate(a, h, e)


@pjit
def _complete(x, first, uniforms, W, V, b, c, share):
    n = x.shape[0]
    for k in prange((n + share - 1) // share):
        _complete_share(k * share, min(n, (k + 1) * share), x, first, uniforms, W, V, b, c)


def _contiguous(*arrays):
    return tuple(map(np.ascontiguousarray, arrays))


def _share(work: int) -> int:
    """Pieces of `work` items so that every thread has one."""
    return max(1, -(-work // configured_numba().get_num_threads()))


def forward(x, W, V, b, c):
    """See reference.py."""
    x, W, V, b, c = _contiguous(x, W, V, b, c)
    log_prob, logits, last = np.empty(len(x), W.dtype), np.empty(x.shape, W.dtype), np.empty((len(x), c.size), W.dtype)
    _forward(x, W, V, b, c[None], _share(len(x)), last, logits, log_prob)
    return log_prob, (logits, last)


def backward(g, residual, x, W, V):
    """See reference.py."""
    g, x, W, V = _contiguous(g, x, W, V)
    logits, last = residual
    d, gW, gV, gc = np.empty_like(logits), np.empty_like(W), np.empty_like(V), np.empty(W.shape[1], W.dtype)
    step = UNROLL * LINE // W.itemsize
    tile = min(TILE, -(-_share(W.shape[1]) // step) * step)
    _backward(g, x, logits, d, W, V, tile, last, gW, gV, gc[None])
    return gW, gV, d.sum(axis=0), gc


def conditionals(x, W, V, b, c):
    """See reference.py."""
    return forward(x, W, V, b, c)[1][0]


def complete(x, start, uniforms, W, V, b, c):
    """See reference.py."""
    x = np.array(x, dtype=W.dtype, order="C")
    uniforms, W, V, b, c = _contiguous(uniforms, W, V, b, c)
    _complete(x, start, uniforms, W, V, b, c[None], _share(len(x)))
    return x


def sample(uniforms, W, V, b, c):
    """See reference.py."""
    return complete(np.zeros_like(uniforms), 0, uniforms, W, V, b, c)
