"""Batch normalization in NumPy (Ioffe and Szegedy 2015, algorithm 1): the specification of the kernels.

With M numbers in a channel, m and v their mean and biased variance, s = sqrt(v + eps):

    z = (x - m) / s        u = weight z + bias        y = u where u > 0, slope u elsewhere

    g_u = g where u > 0, slope g elsewhere            g_bias = sum g_u        g_weight = sum g_u z
    g_x = weight / s (g_u - g_bias / M - z g_weight / M)

The last two terms are what m and v, which depend on x, send back: they take from g_u its mean and its component along z,
so that g_x sums to zero in every channel, and so does its product with z (but for eps).
"""

import numpy as np


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """m and v (C,) of x (N, C, ...)."""
    axes = _axes(x)
    return x.mean(axes), x.var(axes)


def forward(
    x: np.ndarray, mean: np.ndarray, variance: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, slope: float
) -> np.ndarray:
    """y, of x's shape."""
    z, _ = _standardized(x, mean, variance, eps)
    u = _spread(weight, x) * z + _spread(bias, x)
    return np.where(u > 0, u, slope * u)


def backward(
    g: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float,
    slope: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """g_x, of x's shape, g_weight and g_bias (C,)."""
    axes = _axes(x)
    z, s = _standardized(x, mean, variance, eps)
    g = np.where(_spread(weight, x) * z + _spread(bias, x) > 0, g, slope * g)
    g_bias, g_weight = g.sum(axes), (g * z).sum(axes)
    count = x.size // x.shape[1]
    g_x = _spread(weight, x) / s * (g - _spread(g_bias / count, x) - z * _spread(g_weight / count, x))
    return g_x, g_weight, g_bias


def _axes(x: np.ndarray) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _spread(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One value a channel, in a shape that broadcasts against x."""
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def _standardized(x: np.ndarray, mean: np.ndarray, variance: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    s = np.sqrt(_spread(variance, x) + eps)
    return (x - _spread(mean, x)) / s, s
