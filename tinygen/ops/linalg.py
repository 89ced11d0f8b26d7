"""Products of matrices and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.op import differentiable
from tinygen.ops.shape import broadcast_to, expand_dims, squeeze, swapaxes
from tinygen.tensor import array_of


@differentiable(a=lambda g, b: g @ b.swapaxes(-1, -2), b=lambda g, a: a.swapaxes(-1, -2) @ g)
def _matmul(a: Array, b: Array, /) -> Array:
    return module_of(a, b).matmul(a, b)


def matmul(a: Any, b: Any) -> Any:
    """Matrix product over the last two axes; the others broadcast. A 1-d argument is a row (left) or a column (right).

    Gradients: g b^T and a^T g. Raises ValueError where the inner lengths differ.
    """
    a, b = (x if hasattr(x, "ndim") else np.asarray(array_of(x)) for x in (a, b))
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul needs at least one axis on each side: use * for a scalar")
    inner = (a.shape[-1], b.shape[-2] if b.ndim > 1 else b.shape[0])
    if inner[0] != inner[1]:
        raise ValueError(f"matmul of shapes {a.shape} and {b.shape}: the inner lengths {inner[0]} and {inner[1]} differ")
    row, column = a.ndim == 1, b.ndim == 1
    y = _matmul(expand_dims(a, 0) if row else a, expand_dims(b, 1) if column else b)
    drop = tuple(axis for axis, is_vector in ((-2, row), (-1, column)) if is_vector)
    return squeeze(y, drop) if drop else y


def _flat(x: Any) -> Any:
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


@differentiable(
    x=lambda g, weight: g @ weight,
    weight=lambda g, x: _flat(g).T @ _flat(x),
    bias=lambda g: g,
)
def _linear(x: Array, weight: Array, bias: Array, /) -> Array:
    y = x @ weight.T
    if y.dtype != bias.dtype:
        return y + bias
    y += bias
    return y


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x weight^T + bias: x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"linear: x of shape {x.shape} has last axis {x.shape[-1:]}, the weight {weight.shape} takes {weight.shape[1:]}"
        )
    if x.ndim < 2:
        return squeeze(linear(expand_dims(x, 0), weight, bias), 0)
    if bias is None:
        return matmul(x, swapaxes(weight, 0, 1))
    return _linear(x, weight, bias)


def _einsum_gradients(g: Any, operands: tuple, subscripts: str, needs: tuple[bool, ...]) -> tuple:
    """d/d(operand k): contract the cotangent with all the others; an index that only k has was summed, so it is repeated."""
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    gradients: list[Any] = [None] * len(terms)
    for k, term in enumerate(terms):
        if not needs[k]:
            continue
        others = [(t, x) for j, (t, x) in enumerate(zip(terms, operands)) if j != k]
        known = set(output).union(*(t for t, _ in others))
        kept = "".join(c for c in term if c in known)
        share = _einsum(g, *(x for _, x in others), subscripts=",".join([output, *(t for t, _ in others)]) + "->" + kept)
        share = expand_dims(share, tuple(i for i, c in enumerate(term) if c not in known)) if kept != term else share
        shape = np.broadcast_shapes(share.shape, operands[k].shape)  # an axis of length 1 may have met a longer one
        gradients[k] = share if share.shape == shape else broadcast_to(share, shape)
    return tuple(gradients)


@differentiable(joint=_einsum_gradients)
def _einsum(*operands: Array, subscripts: str) -> Array:
    return module_of(*operands).einsum(subscripts, *operands, optimize=len(operands) > 1)


def einsum(subscripts: str, *operands: Any) -> Any:
    """Sum of products in Einstein's notation, as numpy.einsum, ellipses included.

    Raises ValueError for an index repeated within one operand (take that diagonal by indexing first).
    """
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum {subscripts!r} names {len(terms)} operands, got {len(operands)}")
    operands = tuple(x if hasattr(x, "ndim") else array_of(x) for x in operands)
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in subscripts]
    ranks = [x.ndim - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, operands)]
    dots = "".join(free[: max(ranks, default=0)])
    terms = [t.replace("...", dots[len(dots) - r :]) for t, r in zip(terms, ranks)]
    if arrow:
        output = output.replace("...", dots)
    else:
        letters = "".join(terms)
        output = dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    for term, x in zip(terms, operands):
        if len(set(term)) != len(term):
            raise ValueError(f"einsum {subscripts!r} repeats an index within one operand: take the diagonal by indexing first")
        if len(term) != x.ndim:
            raise ValueError(f"einsum {subscripts!r}: an operand of shape {x.shape} is given {len(term)} indices")
    return _einsum(*operands, subscripts=",".join(terms) + "->" + output)
