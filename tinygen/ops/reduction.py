"""Reductions and scans. `axis` is None (all), an int or a tuple, as in NumPy."""

from __future__ import annotations

import math
from typing import Any

from tinygen.backend import Array, module_of
from tinygen.op import differentiable
from tinygen.ops.elementwise import exp, where
from tinygen.ops.shape import broadcast_to, expand_dims, flip
from tinygen.tensor import array_of

Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return tuple(sorted(a % ndim for a in axes))


def _restore(value: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    """Give a reduced value its axes of length 1 back, so that it broadcasts against `shape`."""
    return value if keepdims or axis is None else expand_dims(value, _axes(axis, len(shape)))


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    return math.prod(shape) if axis is None else math.prod(shape[a] for a in _axes(axis, len(shape)))


def _spread(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    return broadcast_to(_restore(g, shape, axis, keepdims), shape)


@differentiable(x=lambda g, x_shape, axis, keepdims: _spread(g, x_shape, axis, keepdims))
def sum(x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum over `axis`; the gradient is the cotangent, repeated."""
    return x.sum(axis=axis, keepdims=keepdims)


def channel_sums(g: Any) -> Any:
    """The sum of each channel of g (N, C, H, W), (C,): the gradient rule of a bias."""
    return sum(sum(g, (2, 3)), 0)  # over all three axes at once CuPy takes five times as long


@differentiable(x=lambda g, x_shape, axis, keepdims: _spread(g / _count(x_shape, axis), x_shape, axis, keepdims))
def mean(x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Arithmetic mean over `axis`."""
    return x.sum(axis=axis, keepdims=keepdims) / _count(x.shape, axis)


def _var_gradient(g: Any, x: Any, axis: Axis, ddof: int, keepdims: bool) -> Any:
    freedom = _count(x.shape, axis) - ddof
    scale = 2.0 / freedom if freedom > 0 else math.nan
    return _restore(g, x.shape, axis, keepdims) * scale * (x - mean(x, axis=axis, keepdims=True))


@differentiable(x=_var_gradient)
def var(x: Array, /, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Array:
    """Variance sum (x - mean)^2 / (n - ddof) over `axis`."""
    return module_of(x).var(x, axis=axis, ddof=ddof, keepdims=keepdims)


def _std_gradient(g: Any, y: Any, x: Any, axis: Axis, ddof: int, keepdims: bool) -> Any:
    # The slope at std = 0 is a kink; 0 is its subgradient of least norm.
    slope = where(y == 0, 0.0, 0.5 / where(y == 0, 1.0, y))
    return _var_gradient(g * slope, x, axis, ddof, keepdims)


@differentiable(x=_std_gradient)
def std(x: Array, /, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Array:
    """Standard deviation, the root of `var`; its gradient where all values are equal is taken as 0."""
    return module_of(x).std(x, axis=axis, ddof=ddof, keepdims=keepdims)


def _extremum_gradient(g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    x_array, y_array = array_of(x), array_of(_restore(y, x.shape, axis, keepdims))
    hit = (x_array == y_array).astype(g.dtype)
    return _restore(g, x.shape, axis, keepdims) * (hit / hit.sum(axis=axis, keepdims=True))


@differentiable(x=_extremum_gradient)
def max(x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Largest value over `axis`; equal largest values share the gradient evenly."""
    return module_of(x).max(x, axis=axis, keepdims=keepdims)


@differentiable(x=_extremum_gradient)
def min(x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Smallest value over `axis`; equal smallest values share the gradient evenly."""
    return module_of(x).min(x, axis=axis, keepdims=keepdims)


def _finite_or_zero(x: Array) -> Array:
    xp = module_of(x)
    return xp.where(xp.isfinite(x), x, xp.zeros_like(x))


def _logsumexp_gradient(g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    # Where every x is -inf, y is too, and x - y would be NaN; e^x = 0 is the gradient there.
    y = _restore(y, x.shape, axis, keepdims)
    lost = array_of(y) == -math.inf
    return _restore(g, x.shape, axis, keepdims) * exp(x - where(lost, 0.0, y))


@differentiable(x=_logsumexp_gradient)
def logsumexp(x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """ln sum e^x over `axis`, without overflow; -inf where every x is -inf. The gradient is softmax(x)."""
    xp = module_of(x)
    shift = _finite_or_zero(xp.max(x, axis=axis, keepdims=True))
    total = xp.sum(xp.exp(x - shift), axis=axis, keepdims=True)
    empty = total == 0  # every x is -inf
    y = xp.where(empty, xp.full_like(total, -math.inf), xp.log(total + empty) + shift)
    return y if keepdims else xp.squeeze(y, _axes(axis, x.ndim))


@differentiable(x=lambda g, y, axis: y * (g - sum(g * y, axis=axis, keepdims=True)))
def softmax(x: Array, /, axis: int = -1) -> Array:
    """e^x / sum e^x over `axis`, without overflow."""
    xp = module_of(x)
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


@differentiable(x=lambda g, y, axis: g - exp(y) * sum(g, axis=axis, keepdims=True))
def log_softmax(x: Array, /, axis: int = -1) -> Array:
    """x - ln sum e^x over `axis`, in nats."""
    xp = module_of(x)
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@differentiable(x=lambda g, axis: flip(cumsum(flip(g, axis), axis), axis))
def _cumsum(x: Array, /, axis: int) -> Array:
    return module_of(x).cumsum(x, axis=axis)


def cumsum(x: Any, axis: int | None = None) -> Any:
    """Cumulative sum along `axis` (None: of the flattened array, as NumPy); the gradient accumulates from the other end."""
    return _cumsum(x.reshape(-1), 0) if axis is None else _cumsum(x, axis)
