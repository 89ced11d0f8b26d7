"""Masked dense layers on the CPU, in Numba. The equations are in reference.py.

With the units of both sides sorted by degree the mask is a staircase: output j sees the first `reach[j]` inputs, and reach
never falls. What makes it fast:

* The result of each product is computed in tiles of some units, and the sums of a tile are as long as the longest among them.
  So about half of a square layer is never multiplied.
* A tile's weights are copied to scratch memory, which sorts them and puts zeros where the mask does; the weights themselves
  are neither sorted nor masked. All else is multiplied where it lies, if the units come sorted.
* Early tiles have little to do and late ones much: the threads take them in turns, there and back.

Every sum starts at the bias and runs over the inputs by degree, in the forward pass and in the sampler: so an activation that
the sampler computes from the inputs known so far has the same bits as one from a whole pass, and no draw depends on which.
"""

import numpy as np
from numba import get_num_threads, prange

from ..memory import aligned, padded
from ..product import ROWS, VECTOR_BYTES, product, turn
from ..runtime import jit, pjit, plain
from ..simd import copy, element, fma, lanes, load, splat, store
from ..vectormath import sigmoid
from .plan import DIRECT, HIDDEN, network, staircase

BYTES = 256  # of a row in a tile of y or of the input gradient
TALL = 4 * ROWS  # rows of a tile of the weight gradient


def forward(x, weight, bias, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    mask = staircase(in_degrees, out_degrees, strict)
    x, weight = plain(x), plain(weight)
    bias = np.zeros(len(weight), x.dtype) if bias is None else plain(bias)
    y = aligned((len(x), len(weight)), x.dtype)
    _forward(get_num_threads(), _sorted(x, mask.columns), weight, bias, *mask, y)
    return y


def input_gradient(g, weight, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    mask = staircase(in_degrees, out_degrees, strict)
    g, weight = plain(g), plain(weight)
    g_x = aligned((len(g), weight.shape[1]), g.dtype)
    _input_gradient(get_num_threads(), _sorted(g, mask.rows), weight, *mask, g_x)
    return g_x


def weight_gradient(x, g, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    mask = staircase(in_degrees, out_degrees, strict)
    x, g = plain(x), plain(g)
    by_degree = aligned((len(x), padded(max(x.shape[1], 1), x.dtype)), x.dtype)
    g_weight = aligned((g.shape[1], x.shape[1]), x.dtype)
    _weight_gradient(get_num_threads(), x, _sorted(g, mask.rows), *mask, by_degree, g_weight)
    return g_weight


def _sorted(x, order):
    return x if _in_order(order) else x.take(order, axis=1)


# ---- Products ----


@pjit
def _forward(threads, x, weight, bias, columns, rows, reach, first, y):
    wide, in_order = BYTES // y.itemsize, (_in_order(columns), _in_order(rows))
    tiles = (len(rows) + wide - 1) // wide
    for part in prange(threads):
        for tile in range(tiles):
            if _taker(tile, threads) == part:
                _forward_tile(tile, x, weight, bias, columns, rows, reach, y, in_order)


@jit
def _forward_tile(tile, x, weight, bias, columns, rows, reach, y, in_order):
    wide, vector = BYTES // y.itemsize, VECTOR_BYTES // y.itemsize
    start, stop = tile * wide, min((tile + 1) * wide, len(rows))
    depth = reach[stop - 1]
    scratch = np.zeros((wide, (depth + vector - 1) // vector * vector), y.dtype)
    turned = np.empty((scratch.shape[1], wide), y.dtype)
    begin, out = np.zeros((1, wide), y.dtype), np.empty((len(x), wide), y.dtype)
    for r in range(stop - start):
        _take(weight, rows[start + r], columns, 0, reach[start + r], scratch, r, in_order[0])
        begin[0, r] = bias[rows[start + r]]
    turn(scratch, turned)
    product(x[:, :depth], turned[:depth], begin, out)
    for b in range(len(y)):
        _put(out, b, rows, start, stop - start, y, b, in_order[1])


@pjit
def _input_gradient(threads, g, weight, columns, rows, reach, first, g_x):
    in_order, wide = _in_order(columns), BYTES // g_x.itemsize
    tiles = (len(columns) + wide - 1) // wide
    for part in prange(threads):
        for tile in range(tiles):
            if _taker(tile, threads) == part:
                _input_gradient_tile(tile, g, weight, columns, rows, reach, first, g_x, in_order)


@jit
def _input_gradient_tile(tile, g, weight, columns, rows, reach, first, g_x, in_order):
    wide = BYTES // g_x.itemsize
    start, stop = tile * wide, min((tile + 1) * wide, len(columns))
    begin = first[start]
    scratch = np.empty((len(rows) - begin, wide), g_x.dtype)
    out = np.empty((len(g), wide), g_x.dtype)
    for j in range(begin, len(rows)):
        seen = min(stop, reach[j]) - start
        _take(weight, rows[j], columns, start, seen, scratch, j - begin, in_order)
        for k in range(seen, wide):
            scratch[j - begin, k] = 0
    product(g[:, begin:], scratch, np.zeros((1, wide), g_x.dtype), out)
    for b in range(len(g_x)):
        _put(out, b, columns, start, stop - start, g_x, b, in_order)


@pjit
def _weight_gradient(threads, x, g, columns, rows, reach, first, by_degree, g_weight):
    in_order = _in_order(columns)
    for b in prange(len(x)):
        _take(x, b, columns, 0, len(columns), by_degree, b, in_order)
        by_degree[b, len(columns) :] = 0
    tiles = (len(rows) + TALL - 1) // TALL
    for part in prange(threads):
        for tile in range(tiles):
            if _taker(tile, threads) == part:
                _weight_gradient_tile(tile, g, columns, rows, reach, by_degree, g_weight, in_order)


@jit
def _weight_gradient_tile(tile, g, columns, rows, reach, by_degree, g_weight, in_order):
    vector = VECTOR_BYTES // g_weight.itemsize
    start, stop = tile * TALL, min((tile + 1) * TALL, len(rows))
    wide = (reach[stop - 1] + vector - 1) // vector * vector
    out = np.empty((stop - start, wide), g_weight.dtype)
    product(g[:, start:stop].T, by_degree[:, :wide], np.zeros((1, wide), g_weight.dtype), out)
    for r in range(stop - start):
        row, seen = rows[start + r], reach[start + r]
        g_weight[row, seen if in_order else 0 :] = 0
        _put(out, r, columns, 0, seen, g_weight, row, in_order)


@jit
def _taker(tile, threads):
    """The thread that computes a tile: in the order 0, 1, ..., 1, 0, 0, 1, ..., since each tile has a little more to do."""
    lap, place = divmod(tile, threads)
    return threads - 1 - place if lap % 2 else place


@jit
def _take(source, i, columns, start, count, target, j, in_order):
    """target[j, :count] = source[i, columns[start : start + count]]; a plain copy where the columns are in order already."""
    if in_order:
        copy(source, i, start, target, j, 0, count)
    else:
        for k in range(count):
            target[j, k] = source[i, columns[start + k]]


@jit
def _put(source, i, columns, start, count, target, j, in_order):
    """target[j, columns[start : start + count]] = source[i, :count]."""
    if in_order:
        copy(source, i, 0, target, j, start, count)
    else:
        for k in range(count):
            target[j, columns[start + k]] = source[i, k]


@jit
def _in_order(columns):
    return np.all(columns == np.arange(len(columns)))


# ---- Sampling, unit after unit ----


def complete(x, start, uniforms, weights, biases, degrees, direct=None):
    """See reference.py. Each unit is computed once, when the inputs that it depends on are known."""
    plan = network(degrees, direct is not None)
    layers = zip([*weights, *([] if direct is None else [direct])], plan.masks)
    flat = np.concatenate([np.ravel(w if m.in_order else w[m.rows][:, m.columns]) for w, m in layers])
    drawn, uniforms = np.ascontiguousarray(x[:, plan.order]), np.ascontiguousarray(uniforms[:, plan.order])
    bias = np.concatenate([*(b[m.rows] for b, m in zip(biases, plan.masks)), np.zeros_like(drawn, shape=drawn.shape[1])])
    _complete(plan.units, flat[None], bias, plan.rows, start, uniforms, drawn)
    completed = np.empty_like(drawn)
    completed[:, plan.order] = drawn
    return completed


@pjit
def _complete(units, weights, biases, rows, start, uniforms, x):
    for part in prange((len(x) + lanes(x) - 1) // lanes(x)):
        _complete_examples(part * lanes(x), units, weights, biases, rows, start, uniforms, x)


@jit
def _complete_examples(left, units, weights, biases, rows, start, uniforms, x):
    """Draw the pixels of as many examples as fill a vector, from number `left` on."""
    count = min(lanes(x), len(x) - left)
    state = np.zeros((rows, lanes(x)), x.dtype)  # pixels and activations, one column for each example
    extra, logit = np.zeros((1, lanes(x)), x.dtype), np.zeros((1, lanes(x)), x.dtype)
    for i in range(start):
        for b in range(count):
            state[i, b] = x[left + b, i]
    for kind, weight, first, seen, place, number in units:
        if kind != HIDDEN and place < start:
            continue
        total = splat(biases[number])
        for k in range(seen):
            total = fma(splat(element(weights, 0, weight + k)), load(state, first + k, 0), total)
        if kind == HIDDEN:
            store(state, place, 0, total)
            for b in range(lanes(x)):
                state[place, b] = max(state[place, b], 0)
        elif kind == DIRECT:
            store(extra, 0, 0, total)
        else:
            store(logit, 0, 0, total)
            for b in range(count):
                drawn = uniforms[left + b, place] < sigmoid(logit[0, b] + extra[0, b])
                state[place, b] = drawn
                x[left + b, place] = drawn
