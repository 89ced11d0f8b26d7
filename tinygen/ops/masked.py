"""Masked dense layers as differentiable functions, on the kernel that skips what the mask leaves out.

The three maps are bilinear, and the gradients of each are the other two, so derivatives of every order follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.backend import Array
from tinygen.kernels import masked_dense as kernel
from tinygen.op import differentiable
from tinygen.ops.reduction import sum


def masked_linear(
    x: Any, weight: Any, bias: Any = None, *, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool = False
) -> Any:
    """y = x (weight * mask)^T + bias: x (B, in), weight (out, in), bias (out,) or None -> (B, out). Float32 or float64.

    mask[j, k] = 1 where out_degrees[j] >= in_degrees[k] (> if `strict`), else 0, for degrees that are NumPy integers, (in,) and
    (out,). A weight that the mask leaves out is not used and its gradient is zero. Raises ValueError for shapes that do not
    fit, TypeError for mixed dtypes. Source: Germain et al. 2015, "MADE", equations 8 and 9.
    """
    return _masked_linear(x, weight, 0.0 if bias is None else bias, in_degrees, out_degrees, strict)


@differentiable(
    x=lambda g, weight, in_degrees, out_degrees, strict: _input_gradient(g, weight, in_degrees, out_degrees, strict),
    weight=lambda g, x, in_degrees, out_degrees, strict: _weight_gradient(x, g, in_degrees, out_degrees, strict),
    bias=lambda g: sum(g, 0),
)
def _masked_linear(
    x: Array, weight: Array, bias: Array | float, /, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool
) -> Array:
    return kernel.forward(x, weight, None if isinstance(bias, float) else bias, in_degrees, out_degrees, strict)


@differentiable(
    y_gradient=lambda g, weight, in_degrees, out_degrees, strict: _masked_linear(
        g, weight, 0.0, in_degrees, out_degrees, strict
    ),
    weight=lambda g, y_gradient, in_degrees, out_degrees, strict: _weight_gradient(
        g, y_gradient, in_degrees, out_degrees, strict
    ),
)
def _input_gradient(
    y_gradient: Array, weight: Array, /, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool
) -> Array:
    return kernel.input_gradient(y_gradient, weight, in_degrees, out_degrees, strict)


@differentiable(
    x=lambda g, y_gradient, in_degrees, out_degrees, strict: _input_gradient(y_gradient, g, in_degrees, out_degrees, strict),
    y_gradient=lambda g, x, in_degrees, out_degrees, strict: _masked_linear(x, g, 0.0, in_degrees, out_degrees, strict),
)
def _weight_gradient(x: Array, y_gradient: Array, /, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool) -> Array:
    return kernel.weight_gradient(x, y_gradient, in_degrees, out_degrees, strict)
