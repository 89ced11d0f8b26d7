"""Batch normalization over the batch's own statistics, with the leaky ReLU that follows it, and its gradients.

Arrays are NumPy's or CuPy's, float32 or float64: x (N, C, ...), one mean, variance, weight and bias for each of the C
channels. `reference` is the specification. `slope` is the leaky ReLU's below 0: 1 for none, 0 for a ReLU.
"""

from typing import Any

from ..runtime import implementation

__all__ = ["backward", "forward", "moments"]

Array = Any  # numpy.ndarray or cupy.ndarray


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance (C,) of each channel of x (N, C, ...)."""
    return implementation(__name__, x).moments(x)


def forward(x: Array, mean: Array, variance: Array, weight: Array, bias: Array, eps: float, slope: float = 1.0) -> Array:
    """leaky(weight (x - mean) / sqrt(variance + eps) + bias), of x's shape; all arrays of one dtype."""
    return implementation(__name__, x).forward(x, mean, variance, weight, bias, float(eps), float(slope))


def backward(
    g: Array, x: Array, mean: Array, variance: Array, weight: Array, bias: Array, eps: float, slope: float = 1.0
) -> tuple[Array, Array, Array]:
    """Gradients of sum(g y) in x, weight and bias, where mean and variance are those of x: see `reference`."""
    return implementation(__name__, x).backward(g, x, mean, variance, weight, bias, float(eps), float(slope))
