"""Dense layers whose mask follows from the degrees of their units (Germain et al. 2015). The equations are in reference.py.

Arrays are NumPy's or CuPy's, all float32 or all float64: x (B, in), weight (out, in), bias (out,). Degrees are NumPy integers
in any order, in_degrees (in,) and out_degrees (out,): the weight from k to j counts if out_degrees[j] >= in_degrees[k], or > if
`strict`. Weights that do not count are never used, and their gradient is zero. Every function raises TypeError for other dtypes
and ValueError for shapes that do not fit; none changes its arguments.
"""

from typing import Any

import numpy as np

from ..runtime import implementation

__all__ = ["complete", "forward", "input_gradient", "weight_gradient"]

Array = Any  # numpy.ndarray or cupy.ndarray


def forward(
    x: Array, weight: Array, bias: Array | None, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool = False
) -> Array:
    """Return y (B, out) = x (weight * mask)^T + bias; None for no bias."""
    _check_degrees(weight, in_degrees, out_degrees)
    _check("x", x, (*x.shape[:1], weight.shape[1]), weight.dtype)
    if bias is not None:
        _check("bias", bias, weight.shape[:1], weight.dtype)
    return implementation(__name__, x).forward(x, weight, bias, in_degrees, out_degrees, strict)


def input_gradient(g: Array, weight: Array, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool = False) -> Array:
    """Return the gradient of sum(g * y) in x, (B, in), for a cotangent g (B, out)."""
    _check_degrees(weight, in_degrees, out_degrees)
    _check("g", g, (*g.shape[:1], weight.shape[0]), weight.dtype)
    return implementation(__name__, g).input_gradient(g, weight, in_degrees, out_degrees, strict)


def weight_gradient(x: Array, g: Array, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool = False) -> Array:
    """Return the gradient of sum(g * y) in weight, (out, in): zero where the mask is."""
    _check("x", x, (*x.shape[:1], len(in_degrees)), x.dtype)
    _check("g", g, (*x.shape[:1], len(out_degrees)), x.dtype)
    return implementation(__name__, g).weight_gradient(x, g, in_degrees, out_degrees, strict)


def complete(
    x: Array,
    start: int,
    uniforms: Array,
    weights: list[Array],
    biases: list[Array],
    degrees: list[np.ndarray],
    direct: Array | None = None,
) -> Array:
    """Return x (n, D) with all but its first `start` pixels replaced by an exact draw given those: x_j = [u_j < p_j].

    p_j = sigmoid(logit_j) for the logits of a network of masked layers with ReLUs between them: weights[l] and biases[l], into
    units of degrees[l + 1] from units of degrees[l]. degrees[0] is a permutation of range(D), the place of each pixel in the
    order; the last layer, strict, leads back to the pixels, as does direct (D, D), or None. Entries of `uniforms` (n, D), drawn
    from [0, 1), and of x that are not needed are not looked at.
    """
    D = len(degrees[0])
    if not len(weights) == len(biases) == len(degrees) >= 1:
        raise ValueError(
            f"as many weights, biases and degrees as layers, at least 1: got {len(weights)}, {len(biases)}, {len(degrees)}"
        )
    for weight, bias, before, after in zip(weights, biases, degrees, [*degrees[1:], degrees[0]]):
        _check_degrees(weight, before, after)
        _check("weight", weight, weight.shape, x.dtype)
        _check("bias", bias, weight.shape[:1], x.dtype)
    if direct is not None:
        _check("direct", direct, (D, D), x.dtype)
    if not 0 <= start <= D:
        raise ValueError(f"start must be between 0 and the {D} pixels, got {start}")
    _check("x", x, (*x.shape[:1], D), x.dtype)
    _check("uniforms", uniforms, x.shape, x.dtype)
    return implementation(__name__, x).complete(x, start, uniforms, weights, biases, degrees, direct)


def _check(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
    if dtype not in ("float32", "float64"):
        raise TypeError(f"masked layers are float32 or float64, got {dtype}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} like the other arrays, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def _check_degrees(weight: Array, in_degrees: np.ndarray, out_degrees: np.ndarray) -> None:
    expected = (len(out_degrees), len(in_degrees))
    if weight.shape != expected:
        raise ValueError(f"weight must have shape {expected}, one row and column for each degree, got {weight.shape}")
