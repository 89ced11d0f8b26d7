"""NADE on the CPU, in Numba. The equations are in reference.py.

What makes it fast:

* A hidden state changes only after a pixel that is 1. Each distinct state costs one sigmoid vector, and a whole run of
  pixels is computed from it.
* Forward, threads share out the examples. Backward, given the gradient in the logits, the columns of W and V have
  nothing to do with each other, so that threads share out the columns: no gradient is summed across threads, and the
  bits of every result are the same for any number of threads.
* Pixels go by in blocks, and every example visits a block before the next one begins. The block's rows stand in scratch
  matrices that stay in the first-level cache, aligned and padded with zeros to whole vectors.
* Backward, a thread takes as many columns as fill one vector (see simd.py). States are recomputed by subtraction: that
  takes no memory, and its rounding errors are those of the forward sums over again.
"""

import numpy as np
from numba import prange

from ..runtime import jit, pjit, plain, share
from ..simd import element, fma, lanes, load, splat, store
from ..vectormath import sigmoid, softplus

GROUP = 64  # examples, at most, that one thread takes through the pixels together
BLOCK = 16  # pixels whose rows of V are worked on together
BACKWARD_BLOCK = 28  # the same going back, where a row is one vector


def forward(x, W, V, b, c):
    """See reference.py."""
    x, W, V, b, c = map(plain, (x, W, V, b, c))
    log_prob, logits, a = np.empty(len(x), x.dtype), np.empty_like(x), np.empty((len(x), c.size), x.dtype)
    _forward(min(GROUP, share(len(x))), x, W, V, b, c[None], log_prob, logits, a)
    return log_prob, (logits, a)


def backward(g, x, W, V, residual):
    """See reference.py."""
    g, x, W, V, logits, a = map(plain, (g, x, W, V, *residual))
    g_logits, gW, gV, gc = np.empty_like(x), np.empty_like(W), np.empty_like(V), np.empty((1, W.shape[1]), W.dtype)
    _backward(g, x, W, V, logits, a, g_logits, gW, gV, gc)
    return gW, gV, g_logits.sum(0), gc[0]


def complete(x, start, uniforms, W, V, b, c):
    """See reference.py."""
    uniforms, W, V, b, c = map(plain, (uniforms, W, V, b, c))
    x = x.copy(order="C")
    _complete(min(GROUP, share(len(x))), x, start, uniforms, W, V, b, c[None])
    return x


# ---- Forward, over examples ----


@pjit
def _forward(group, x, W, V, b, c, log_prob, logits, a):
    for part in prange((len(x) + group - 1) // group):
        first = part * group
        _forward_examples(first, min(len(x), first + group), x, W, V, b, c, log_prob, logits, a)


@jit
def _forward_examples(first, last, x, W, V, b, c, log_prob, logits, last_a):
    D, H = W.shape
    a, h, rows = _matrix(last - first, H, W), _matrix(last - first, H, W), _matrix(BLOCK, H, W)
    for e in range(last - first):
        _copy(c, 0, 0, a, e, 0, H)
        _activate(a, e, h)
    for start in range(0, D, BLOCK):
        stop = min(start + BLOCK, D)
        for i in range(start, stop):
            _copy(V, i, 0, rows, i - start, 0, H)
        for e in range(last - first):
            begin = start
            for i in range(start, stop):
                if x[first + e, i] != 0:
                    _run_of_logits(begin, i + 1, start, rows, h, e, logits, first + e)
                    begin = i + 1
                    _add(W, i, a, e)
                    _activate(a, e, h)
            _run_of_logits(begin, stop, start, rows, h, e, logits, first + e)
    for e in range(first, last):
        log_prob[e] = _log_prob(x, e, b, logits)
        _copy(a, e - first, 0, last_a, e, 0, H)


@jit
def _run_of_logits(begin, end, start, V, h, e, logits, row):
    """Dot the state h[e] with V's rows for the pixels from `begin` to `end`; row 0 of V belongs to pixel `start`."""
    for i in range(begin, end - 3, 4):
        _four_dots(V, i - start, h, e, logits, row, i)
    for i in range(end - (end - begin) % 4, end):
        logits[row, i] = _dot(V, i - start, h, e)


@jit
def _four_dots(V, k, h, e, logits, row, i):
    s0 = s1 = s2 = s3 = h.dtype.type(0)
    for j in range(h.shape[1]):
        s0 += V[k, j] * h[e, j]
        s1 += V[k + 1, j] * h[e, j]
        s2 += V[k + 2, j] * h[e, j]
        s3 += V[k + 3, j] * h[e, j]
    logits[row, i] = s0
    logits[row, i + 1] = s1
    logits[row, i + 2] = s2
    logits[row, i + 3] = s3


@jit
def _log_prob(x, e, b, logits):
    """Add the biases to the logits of example e; return its log-likelihood."""
    total = x.dtype.type(0)
    for i in range(b.size):
        logits[e, i] += b[i]
        total += x[e, i] * logits[e, i] - softplus(logits[e, i])
    return total


# ---- Backward, over columns ----


@pjit
def _backward(g, x, W, V, logits, a, g_logits, gW, gV, gc):
    for e in prange(len(x)):
        _g_logits(e, g, x, logits, g_logits)
    for part in prange((W.shape[1] + lanes(W) - 1) // lanes(W)):
        _backward_columns(part * lanes(W), x, W, V, a, g_logits, gW, gV, gc)


@jit
def _g_logits(e, g, x, logits, g_logits):
    for i in range(x.shape[1]):
        g_logits[e, i] = g[e] * (x[e, i] - sigmoid(logits[e, i]))


@jit
def _backward_columns(left, x, W, V, last_a, g_logits, gW, gV, gc):
    """The gradients in the columns of one vector, from `left` on."""
    (B, D), width = x.shape, min(lanes(W), W.shape[1] - left)
    a, h, g_a = _matrix(B, width, W), _matrix(B, width, W), _matrix(B, width, W)
    total, scratch = _matrix(1, width, W), _matrix(1, width, W)
    w, v = _matrix(BACKWARD_BLOCK, width, W), _matrix(BACKWARD_BLOCK, width, W)
    gw, gv = _matrix(BACKWARD_BLOCK, width, W), _matrix(BACKWARD_BLOCK, width, W)
    for e in range(B):
        _copy(last_a, e, left, a, e, 0, width)
        _activate(a, e, h)
    for start in range((D - 1) // BACKWARD_BLOCK * BACKWARD_BLOCK, -1, -BACKWARD_BLOCK):
        rows = min(BACKWARD_BLOCK, D - start)
        for k in range(rows):
            _copy(W, start + k, left, w, k, 0, width)
            _copy(V, start + k, left, v, k, 0, width)
        gw[:] = 0
        gv[:] = 0
        for e in range(B):
            _back_through_block(start, rows, e, x, g_logits, w, v, a, h, g_a, gw, gv, scratch)
        for k in range(rows):
            _copy(gw, k, 0, gW, start + k, left, width)
            _copy(gv, k, 0, gV, start + k, left, width)
    for e in range(B):
        _add(g_a, e, total, 0)
    _copy(total, 0, 0, gc, 0, left, width)


@jit
def _back_through_block(start, rows, e, x, g_logits, w, v, a, h, g_a, gw, gv, scratch):
    """Add to gw, gv and g_a what a block of pixels gives in example e, its state and the gradient in that in registers."""
    zero, one = splat(v.dtype.type(0)), splat(v.dtype.type(1))
    state, g_state = load(h, e, 0), zero
    for k in range(rows - 1, -1, -1):
        if element(x, e, start + k) != 0:  # where the state of the pixels behind this one began
            g_sum = fma(g_state, state * (one - state), load(g_a, e, 0))
            store(g_a, e, 0, g_sum)
            store(gw, k, 0, load(gw, k, 0) + g_sum)
            before = load(a, e, 0) - load(w, k, 0)
            store(a, e, 0, before)
            store(scratch, 0, 0, before)
            for lane in range(lanes(scratch)):
                scratch[0, lane] = sigmoid(scratch[0, lane])
            state, g_state = load(scratch, 0, 0), zero
        g_logit = splat(element(g_logits, e, start + k))
        g_state = fma(g_logit, load(v, k, 0), g_state)
        store(gv, k, 0, fma(g_logit, state, load(gv, k, 0)))
    store(g_a, e, 0, fma(g_state, state * (one - state), load(g_a, e, 0)))
    store(h, e, 0, state)


# ---- Sampling, over examples ----


@pjit
def _complete(group, x, start, uniforms, W, V, b, c):
    for part in prange((len(x) + group - 1) // group):
        first = part * group
        _complete_examples(first, min(len(x), first + group), x, start, uniforms, W, V, b, c)


@jit
def _complete_examples(first, last, x, observed, uniforms, W, V, b, c):
    D, H = W.shape
    a, h, rows = _matrix(last - first, H, W), _matrix(last - first, H, W), _matrix(BLOCK, H, W)
    for e in range(last - first):
        _copy(c, 0, 0, a, e, 0, H)
        for i in range(observed):
            if x[first + e, i] != 0:
                _add(W, i, a, e)
        _activate(a, e, h)
    for start in range(observed, D, BLOCK):
        stop = min(start + BLOCK, D)
        for i in range(start, stop):
            _copy(V, i, 0, rows, i - start, 0, H)
        for e in range(last - first):
            for i in range(start, stop):
                p = sigmoid(b[i] + _dot(rows, i - start, h, e))
                x[first + e, i] = uniforms[first + e, i] < p
                if x[first + e, i] != 0:
                    _add(W, i, a, e)
                    _activate(a, e, h)


# ---- Rows of matrices ----
# A row is named by its matrix and its number: a slice per row would cost more than the row, and Numba would count
# references to it.


@jit
def _matrix(rows, columns, like):
    """Return zeros (rows, columns or more), padded to whole vectors; each row starts on a cache line.

    A load that crosses the border of two lines takes twice as long.
    """
    wide, line = lanes(like), 64 // like.itemsize
    width = (columns + wide - 1) // wide * wide
    memory = np.zeros(rows * width + line, like.dtype)
    start = -(memory.ctypes.data // like.itemsize) % line
    return memory[start : start + rows * width].reshape(rows, width)


@jit
def _copy(source, i, left, target, k, to, width):
    """target[k, to : to + width] = source[i, left : left + width]."""
    if width == lanes(source):
        store(target, k, to, load(source, i, left))
    else:
        s, t = source[i, left : left + width], target[k, to : to + width]
        for j in range(width):
            t[j] = s[j]


@jit
def _add(source, i, target, k):
    """target[k] += source[i], as far as both go."""
    for j in range(min(source.shape[1], target.shape[1])):
        target[k, j] += source[i, j]


@jit
def _activate(a, e, h):
    """h[e] = sigmoid(a[e])."""
    for j in range(h.shape[1]):
        h[e, j] = sigmoid(a[e, j])


@jit
def _dot(V, k, h, e):
    total = h.dtype.type(0)
    for j in range(h.shape[1]):
        total += V[k, j] * h[e, j]
    return total
