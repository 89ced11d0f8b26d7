"""Elementwise functions. Two arguments broadcast as in NumPy; the engine sums the gradients back to the arguments' shapes."""

from __future__ import annotations

import math
from typing import Any

from tinygen.backend import SCALARS, Array, module_of
from tinygen.op import differentiable
from tinygen.tensor import Tensor, array_of


@differentiable(a=lambda g: g, b=lambda g: g)
def add(a: Array, b: Array, /) -> Array:
    """a + b."""
    return a + b


@differentiable(a=lambda g: g, b=lambda g: -g)
def subtract(a: Array, b: Array, /) -> Array:
    """a - b."""
    return a - b


@differentiable(a=lambda g, b: g * b, b=lambda g, a: g * a)
def multiply(a: Array, b: Array, /) -> Array:
    """a b."""
    return a * b


@differentiable(a=lambda g, b: g / b, b=lambda g, y, b: -g * y / b)
def divide(a: Array, b: Array, /) -> Array:
    """a / b, true division."""
    return a / b


@differentiable(a=lambda g: 0.0 * g, b=lambda g: 0.0 * g)
def floor_divide(a: Array, b: Array, /) -> Array:
    """floor(a / b); its gradient is 0."""
    return a // b


@differentiable(a=lambda g: g, b=lambda g, a, b: -g * floor_divide(a, b))
def remainder(a: Array, b: Array, /) -> Array:
    """a - b floor(a / b), of b's sign; gradients 1 and -floor(a / b)."""
    return a % b


@differentiable(a=lambda g: -g)
def negative(a: Array, /) -> Array:
    """-a."""
    return -a


def _power_slope(a: Any, b: Any) -> Any:
    # b a^(b-1), where b = 0 must give 0 at a = 0 too, not 0 * inf.
    if type(b) in SCALARS:
        return 0.0 * a if b == 0 else 1.0 if b == 1 else b * a if b == 2 else b * a ** (b - 1)
    return b * a ** where(b == 0, 1.0, b - 1)


def _power_log(a: Any, y: Any) -> Any:
    # y ln a, whose limit at a = 0 is 0 for a positive exponent.
    if type(a) in SCALARS:
        return y * (math.log(a) if a > 0 else 0.0 if a == 0 else math.nan)
    return y * log(where(a == 0, 1.0, a))


@differentiable(a=lambda g, a, b: g * _power_slope(a, b), b=lambda g, a, y: g * _power_log(a, y))
def power(a: Array, b: Array, /) -> Array:
    """a^b; gradients b a^(b-1) and a^b ln a (taken as 0 at a = 0)."""
    return a**b


@differentiable(x=lambda g, y: g * y)
def exp(x: Array, /) -> Array:
    """e^x."""
    return module_of(x).exp(x)


@differentiable(x=lambda g, x: g / x)
def log(x: Array, /) -> Array:
    """Natural logarithm (nats); -inf at 0, NaN below."""
    return module_of(x).log(x)


@differentiable(x=lambda g, x: g / (1.0 + x))
def log1p(x: Array, /) -> Array:
    """ln(1 + x), accurate near 0."""
    return module_of(x).log1p(x)


@differentiable(x=lambda g, y: g / (2.0 * y))
def sqrt(x: Array, /) -> Array:
    """Square root; the gradient at 0 is infinite."""
    return module_of(x).sqrt(x)


@differentiable(x=lambda g, x: g * sign(x))
def abs(x: Array, /) -> Array:
    """|x|; gradient sign(x), which is 0 at 0."""
    return module_of(x).abs(x)


@differentiable(x=lambda g: 0.0 * g)
def sign(x: Array, /) -> Array:
    """-1, 0 or 1; its gradient is 0."""
    return module_of(x).sign(x)


@differentiable(x=lambda g, x: g * cos(x))
def sin(x: Array, /) -> Array:
    """Sine of radians."""
    return module_of(x).sin(x)


@differentiable(x=lambda g, x: -g * sin(x))
def cos(x: Array, /) -> Array:
    """Cosine of radians."""
    return module_of(x).cos(x)


@differentiable(x=lambda g, y: g * (1.0 - y * y))
def tanh(x: Array, /) -> Array:
    """Hyperbolic tangent; gradient 1 - y^2."""
    return module_of(x).tanh(x)


@differentiable(x=lambda g, y: g * (y * (1.0 - y)))
def sigmoid(x: Array, /) -> Array:
    """1 / (1 + e^-x), without overflow and accurate in both tails; gradient y (1 - y)."""
    xp = module_of(x)
    z = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, xp.ones_like(z), z) / (1.0 + z)


@differentiable(x=lambda g, x: g * sigmoid(x))
def softplus(x: Array, /) -> Array:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), without overflow; gradient sigmoid(x)."""
    xp = module_of(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@differentiable(x=lambda g, y: g * (y > 0))
def relu(x: Array, /) -> Array:
    """max(x, 0); gradient 0 at 0."""
    return module_of(x).maximum(x, 0)


def _leaky_slope(x: Any, slope: float) -> Array:
    # 1 where x > 0, slope elsewhere. Passes without a branch: a `where` that nobody can predict takes seven times as long.
    x = array_of(x)
    rise = (x > 0).astype(x.dtype)
    return module_of(x).maximum(rise, slope) if 0 <= slope <= 1 else rise + slope * (1 - rise)


@differentiable(x=lambda g, x, slope: g * _leaky_slope(x, slope))
def leaky_relu(x: Array, /, slope: float = 0.01) -> Array:
    """x where x > 0, slope * x elsewhere (gradient slope at 0)."""
    xp = module_of(x)
    return xp.maximum(x, x * slope) if 0 <= slope <= 1 else xp.where(x > 0, x, x * slope)


@differentiable(x=lambda g, x, alpha: g * where(x > 0, 1.0, alpha * exp(minimum(x, 0.0))))
def elu(x: Array, /, alpha: float = 1.0) -> Array:
    """x where x > 0, alpha (e^x - 1) elsewhere (Clevert et al. 2016)."""
    xp = module_of(x)
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


def _share(a: Any, b: Any, g: Any) -> Any:
    # The winner takes the gradient; equal values share it, so that maximum(x, x) has gradient 1.
    half = 0.5 * g
    return half * (a >= b) + half * (a > b)


@differentiable(a=lambda g, a, b: _share(a, b, g), b=lambda g, a, b: _share(b, a, g))
def maximum(a: Array, b: Array, /) -> Array:
    """The larger of a and b; where they are equal each gets half the gradient."""
    return module_of(a, b).maximum(a, b)


@differentiable(a=lambda g, a, b: _share(b, a, g), b=lambda g, a, b: _share(a, b, g))
def minimum(a: Array, b: Array, /) -> Array:
    """The smaller of a and b; where they are equal each gets half the gradient."""
    return module_of(a, b).minimum(a, b)


@differentiable(a=lambda g, condition: where(condition, g, 0.0), b=lambda g, condition: where(condition, 0.0, g))
def _where(condition: Array, a: Array, b: Array, /) -> Array:
    xp = module_of(condition, a, b)
    scalars = [type(v) in SCALARS for v in (a, b)]
    if all(scalars):
        dtype = xp.result_type(type(a), type(b))
        a, b = (xp.asarray(v, dtype=xp.float32 if dtype == xp.float64 else dtype) for v in (a, b))
    elif any(scalars):  # a scalar is weak: it takes the array's dtype
        dtype = xp.result_type(a, b)
        a, b = (xp.asarray(v, dtype=dtype) for v in (a, b))
    return xp.where(condition, a, b)


def where(condition: Tensor | Array, a: Tensor | Array, b: Tensor | Array) -> Tensor | Array:
    """a where condition (boolean) holds, else b; the three broadcast. A gradient flows only to the one taken."""
    return _where(array_of(condition), a, b)


@differentiable(x=lambda g, x, low, high: g * _inside(x, low, high))
def clip(x: Array, /, low: float | None = None, high: float | None = None) -> Array:
    """x limited to [low, high] (None: no limit); gradient 1 inside and on the limits, 0 outside. TypeError for other limits."""
    for limit in (low, high):
        if limit is not None and type(limit) not in SCALARS:
            raise TypeError(f"clip takes numbers as limits, not {type(limit).__name__}: use maximum and minimum for arrays")
    return module_of(x).clip(x, low, high)


def _inside(x: Any, low: float | None, high: float | None) -> Any:
    x = array_of(x)
    inside = module_of(x).ones(x.shape, dtype=bool)
    if low is not None:
        inside = inside & (x >= low)
    if high is not None:
        inside = inside & (x <= high)
    return inside


@differentiable(x=lambda g, x_dtype: g.astype(x_dtype))
def astype(x: Array, /, dtype: Any) -> Array:
    """x in another dtype (always a copy); the gradient comes back in x's own."""
    return x.astype(dtype)
