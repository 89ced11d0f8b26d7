"""NADE (Larochelle and Murray 2011): likelihood with its gradient, and sampling. The equations are in reference.py.

Arrays are NumPy's or CuPy's, all float32 or all float64: x (B, D) binary, W and V (D, H), b (D,), c (H,). Pixels come in
the order of x's columns; a model with another order permutes the columns. Every function raises TypeError for other
dtypes and ValueError for shapes that do not fit, or for an x that is not binary; none changes its arguments.
"""

from typing import Any

from ..runtime import implementation

__all__ = ["backward", "complete", "conditionals", "forward", "sample"]

Array = Any  # numpy.ndarray or cupy.ndarray


def forward(x: Array, W: Array, V: Array, b: Array, c: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return ln p(x) (B,) in nats, and the residual that `backward` needs: logits (B, D), last state (B, H)."""
    _check_parameters(W, V, b, c)
    _check_binary("x", x, W)
    return implementation(__name__, x).forward(x, W, V, b, c)


def backward(g: Array, x: Array, W: Array, V: Array, residual: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Return the gradients of sum(g * log_prob) in W, V, b, c: g (B,) any cotangent, the rest as `forward` had it.

    No hidden vector per pixel is kept from the forward pass; they are recomputed by subtraction. x has no gradient.
    """
    _check("g", g, x.shape[:1], W.dtype)
    return implementation(__name__, x).backward(g, x, W, V, residual)


def conditionals(x: Array, W: Array, V: Array, b: Array, c: Array) -> Array:
    """Return the logits (B, D) of p(x_i = 1 | x_1 ... x_{i-1})."""
    return forward(x, W, V, b, c)[1][0]


def sample(uniforms: Array, W: Array, V: Array, b: Array, c: Array) -> Array:
    """Return one exact sample of x for each row of `uniforms` (n, D), numbers drawn from [0, 1): x_i = [u_i < p_i]."""
    return complete(uniforms * 0, 0, uniforms, W, V, b, c)


def complete(x: Array, start: int, uniforms: Array, W: Array, V: Array, b: Array, c: Array) -> Array:
    """Return x (n, D) with x[:, start:] replaced by an exact draw given x[:, :start]: x_i = [u_i < p_i].

    `uniforms` (n, D) holds numbers drawn from [0, 1); those before `start`, and x from `start` on, are not looked at.
    """
    _check_parameters(W, V, b, c)
    if not 0 <= start <= len(W):
        raise ValueError(f"start must be between 0 and the {len(W)} pixels, got {start}")
    _check("uniforms", uniforms, x.shape, W.dtype)
    _check_binary("x", x, W, start)
    return implementation(__name__, x).complete(x, start, uniforms, W, V, b, c)


def _check(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} like W, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def _check_parameters(W: Array, V: Array, b: Array, c: Array) -> None:
    if W.dtype not in ("float32", "float64"):
        raise TypeError(f"W must be float32 or float64, got {W.dtype}")
    if W.ndim != 2 or 0 in W.shape:
        raise ValueError(f"W must have shape (pixels, hidden units), at least one of each, got {W.shape}")
    _check("V", V, W.shape, W.dtype)
    _check("b", b, W.shape[:1], W.dtype)
    _check("c", c, W.shape[1:], W.dtype)


def _check_binary(name: str, x: Array, W: Array, columns: int | None = None) -> None:
    _check(name, x, (*x.shape[:1], len(W)), W.dtype)
    seen = x[:, :columns]
    wrong = seen != (seen == 1)  # NaN and infinity too
    if wrong.any():
        raise ValueError(f"{name} must hold zeros and ones only, got {float(seen[wrong][0])}: binarize it first")
