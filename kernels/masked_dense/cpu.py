"""Masked dense layers on the CPU, in Numba. The equations are in reference.py.

With the units of both sides sorted by degree the mask is a staircase: output j sees the first `reach[j]` inputs, and reach
never falls. What makes it fast:

* Outputs go by in tiles of a few rows, and the product of a tile ends where the reach of its last row ends. So about half of a
  square layer is never multiplied.
* A tile's weights are copied to scratch memory, in the first-level cache, which sorts them and puts zeros where the mask does;
  the weights themselves are neither sorted nor masked. Activations are turned, so that a row of the product holds a batch.
* Early tiles have little to do and late ones much: a thread takes them in pairs, one from either end.

Every sum starts at the bias and runs over the inputs by degree, in the forward pass and in the sampler: so an activation that
the sampler computes from the inputs known so far has the same bits as one from a whole pass, and no draw depends on which.
"""

import numpy as np
from numba import prange

from ..memory import aligned, padded
from ..product import product
from ..runtime import jit, pjit, plain
from ..simd import element, fma, lanes, load, splat, store
from ..vectormath import sigmoid
from .plan import DIRECT, HIDDEN, network, staircase

TILE = 12  # rows of a product's result; a multiple of product.ROWS
WIDE = 48  # the same for the input gradient, whose weights are read by columns: few would be copied from each row
TURN = 16  # rows of a matrix that is turned at a time: a cache line of the source


def forward(x, weight, bias, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    mask = staircase(in_degrees, out_degrees, strict)
    x, weight = plain(x), plain(weight)
    bias = np.zeros(len(weight), x.dtype) if bias is None else plain(bias)
    turned = aligned((x.shape[1], padded(max(len(x), 1), x.dtype)), x.dtype)
    y = aligned((len(x), len(weight)), x.dtype)
    _forward(x, weight, bias, *mask, turned, y)
    return y


def input_gradient(g, weight, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    mask = staircase(in_degrees, out_degrees, strict)
    g, weight = plain(g), plain(weight)
    turned = aligned((g.shape[1], padded(max(len(g), 1), g.dtype)), g.dtype)
    g_x = aligned((len(g), weight.shape[1]), g.dtype)
    _input_gradient(g, weight, *mask, turned, g_x)
    return g_x


def weight_gradient(x, g, in_degrees, out_degrees, strict=False):
    """See reference.py."""
    mask = staircase(in_degrees, out_degrees, strict)
    x, g = plain(x), plain(g)
    turned = aligned((g.shape[1], padded(max(len(g), 1), g.dtype)), g.dtype)
    by_degree = aligned((len(x), padded(max(x.shape[1], 1), x.dtype)), x.dtype)
    g_weight = aligned((g.shape[1], x.shape[1]), x.dtype)
    _weight_gradient(x, g, *mask, turned, by_degree, g_weight)
    return g_weight


# ---- Products ----


@pjit
def _forward(x, weight, bias, columns, rows, reach, first, turned, y):
    in_order = _in_order(columns)
    _turn(x, columns, turned)
    tiles = (len(rows) + TILE - 1) // TILE
    for pair in prange((tiles + 1) // 2):
        _forward_tile(pair, weight, bias, columns, rows, reach, turned, y, in_order)
        if tiles - 1 - pair != pair:
            _forward_tile(tiles - 1 - pair, weight, bias, columns, rows, reach, turned, y, in_order)


@jit
def _forward_tile(tile, weight, bias, columns, rows, reach, turned, y, in_order):
    start, stop = tile * TILE, min((tile + 1) * TILE, len(rows))
    depth = reach[stop - 1]
    scratch = np.empty((stop - start, depth), y.dtype)
    out = np.empty((stop - start, turned.shape[1]), y.dtype)
    for r in range(stop - start):
        source, target, seen = weight[rows[start + r]], scratch[r], reach[start + r]
        _take(source, columns, 0, seen, target, in_order)
        target[seen:] = 0
        out[r] = bias[rows[start + r]]
    product(scratch, turned[:depth], out, out)
    for b in range(len(y)):
        for r in range(stop - start):
            y[b, rows[start + r]] = out[r, b]


@pjit
def _input_gradient(g, weight, columns, rows, reach, first, turned, g_x):
    in_order = _in_order(columns)
    _turn(g, rows, turned)
    tiles = (len(columns) + WIDE - 1) // WIDE
    for pair in prange((tiles + 1) // 2):
        _input_gradient_tile(pair, weight, columns, rows, reach, first, turned, g_x, in_order)
        if tiles - 1 - pair != pair:
            _input_gradient_tile(tiles - 1 - pair, weight, columns, rows, reach, first, turned, g_x, in_order)


@jit
def _input_gradient_tile(tile, weight, columns, rows, reach, first, turned, g_x, in_order):
    start, stop = tile * WIDE, min((tile + 1) * WIDE, len(columns))
    begin = first[start]
    scratch = np.empty((len(rows) - begin, stop - start), g_x.dtype)
    out = np.empty((stop - start, turned.shape[1]), g_x.dtype)
    for j in range(begin, len(rows)):
        source, target, seen = weight[rows[j]], scratch[j - begin], min(stop, reach[j]) - start
        _take(source, columns, start, seen, target, in_order)
        target[max(seen, 0) :] = 0
    product(scratch.T, turned[begin:], np.zeros((1, turned.shape[1]), g_x.dtype), out)
    for b in range(len(g_x)):
        for r in range(stop - start):
            g_x[b, columns[start + r]] = out[r, b]


@pjit
def _weight_gradient(x, g, columns, rows, reach, first, turned, by_degree, g_weight):
    in_order = _in_order(columns)
    _turn(g, rows, turned)
    for b in prange(len(x)):
        _take(x[b], columns, 0, len(columns), by_degree[b], in_order)
        by_degree[b, len(columns) :] = 0
    tiles = (len(rows) + TILE - 1) // TILE
    for pair in prange((tiles + 1) // 2):
        _weight_gradient_tile(pair, columns, rows, reach, turned, by_degree, g_weight, in_order)
        if tiles - 1 - pair != pair:
            _weight_gradient_tile(tiles - 1 - pair, columns, rows, reach, turned, by_degree, g_weight, in_order)


@jit
def _weight_gradient_tile(tile, columns, rows, reach, turned, by_degree, g_weight, in_order):
    start, stop = tile * TILE, min((tile + 1) * TILE, len(rows))
    line = 64 // g_weight.itemsize
    wide = (reach[stop - 1] + line - 1) // line * line
    out = np.empty((stop - start, wide), g_weight.dtype)
    product(turned[start:stop, : len(by_degree)], by_degree[:, :wide], np.zeros((1, wide), g_weight.dtype), out)
    for r in range(stop - start):
        source, target, seen = out[r], g_weight[rows[start + r]], reach[start + r]
        if in_order:
            target[:seen] = source[:seen]
            target[seen:] = 0
        else:
            for k in range(len(columns)):
                target[columns[k]] = source[k] if k < seen else 0


@jit
def _take(source, columns, start, count, target, in_order):
    """target[:count] = source[columns[start : start + count]]; a plain copy where the columns are in order already."""
    if in_order:
        for k in range(count):
            target[k] = source[start + k]
    else:
        for k in range(count):
            target[k] = source[columns[start + k]]


@jit
def _in_order(columns):
    return np.all(columns == np.arange(len(columns)))


@jit(parallel=True)
def _turn(source, order, target):
    """target (units, B or more) = source[:, order]^T for source (B, units), padded with zeros."""
    for part in prange((len(order) + TURN - 1) // TURN):
        start, stop = part * TURN, min((part + 1) * TURN, len(order))
        for b in range(len(source)):
            for k in range(start, stop):
                target[k, b] = source[b, order[k]]
        target[start:stop, len(source) :] = 0


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
