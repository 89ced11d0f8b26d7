"""Weight initialisers: functions of a generator and a shape that return a new NumPy array.

A weight's shape is read as PyTorch reads it: `(out, in)` for a dense layer, `(out, in, height, width)` for a
convolution, so that fan_in = in * height * width and fan_out = out * height * width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Initializer = Callable[..., np.ndarray]
"""`initializer(rng, shape, dtype) -> array of that shape and dtype`."""


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight: how many values feed one output, and how many one input feeds."""
    if len(shape) < 2:
        raise ValueError(f"a weight of shape {tuple(shape)} has no fan-in and fan-out; it needs two dimensions or more")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def zeros(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """All zeros. The generator is accepted, and not used, so that this is an initialiser like the others."""
    return np.zeros(shape, dtype)


def normal(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, std: float = 0.01) -> np.ndarray:
    """Independent draws of N(0, std^2)."""
    return (std * rng.standard_normal(shape)).astype(dtype)


def uniform(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, bound: float = 0.01) -> np.ndarray:
    """Independent draws of U(-bound, bound)."""
    return rng.uniform(-bound, bound, shape).astype(dtype)


def fan_in_uniform(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """U(-b, b) with b = 1 / sqrt(fan_in): PyTorch's default for dense and convolutional weights."""
    return uniform(rng, shape, dtype, bound=1 / math.sqrt(max(fans(shape)[0], 1)))


def glorot_uniform(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, gain: float = 1.0) -> np.ndarray:
    """U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16)."""
    return uniform(rng, shape, dtype, bound=gain * math.sqrt(6 / sum(fans(shape))))


def glorot_normal(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, gain: float = 1.0) -> np.ndarray:
    """N(0, gain^2 2 / (fan_in + fan_out)): the variance of Glorot and Bengio 2010, equation 12."""
    return normal(rng, shape, dtype, std=gain * math.sqrt(2 / sum(fans(shape))))


def he_uniform(
    rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, gain: float = math.sqrt(2)
) -> np.ndarray:
    """U(-b, b) with b = gain sqrt(3 / fan_in); the default gain is that of ReLU (He et al. 2015, equation 10)."""
    return uniform(rng, shape, dtype, bound=gain * math.sqrt(3 / fans(shape)[0]))


def he_normal(
    rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, gain: float = math.sqrt(2)
) -> np.ndarray:
    """N(0, gain^2 / fan_in); the default gain is that of ReLU (He et al. 2015, equation 10)."""
    return normal(rng, shape, dtype, std=gain / math.sqrt(fans(shape)[0]))


def orthogonal(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float32, *, gain: float = 1.0) -> np.ndarray:
    """gain times a uniformly drawn matrix with orthonormal rows (or columns, when there are fewer of those).

    The weight is read as the matrix `(shape[0], prod(shape[1:]))` (Saxe et al. 2014). The factor Q of a Gaussian
    matrix is uniform over the orthogonal matrices once the signs of R's diagonal are moved into it (Mezzadri 2007).
    """
    fans(shape)
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(gain * (q if rows >= columns else q.T), dtype).reshape(shape)
