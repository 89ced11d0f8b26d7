"""Two-dimensional convolution: forward, gradient of the input (transposed convolution), gradient of the weight.

Arrays are NumPy's or CuPy's, float32 or float64, in PyTorch's layout. `reference` is the specification. Of the kernel's
places (row, column) only `taps` take part, if they are given: the other weights are not read, and their gradient is 0.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ..runtime import implementation
from . import dense, geometry
from .geometry import Pair, Taps, output_size

__all__ = ["forward", "input_gradient", "output_size", "weight_gradient"]

Array = Any  # numpy.ndarray or cupy.ndarray


def forward(
    x: Array,
    weight: Array,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: Array | None = None,
    taps: Taps | None = None,
) -> Array:
    """y (N, O, OH, OW) from x (N, C, H, W), weight (O, C / groups, kernel_h, kernel_w) and bias (O,): the convolution.

    Float32 or float64, all of one dtype; the formula is in `reference`. Raises ValueError for shapes that do not fit,
    TypeError for other dtypes.
    """
    geometry.check_dtypes(x, weight)
    geometry.check_weight(weight.shape, groups)
    geometry.check_images("input", x.shape, weight.shape[1] * groups)
    geometry.output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    geometry.check_bias(bias, x.dtype, weight.shape[0])
    geometry.check_taps(taps, weight.shape[2:])
    chosen = _chosen(x, x.shape[2:], weight.shape[2:], padding, taps)
    return chosen.forward(x, weight, stride, padding, dilation, groups, bias, taps)


def input_gradient(
    g: Array,
    weight: Array,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: Array | None = None,
    taps: Taps | None = None,
) -> Array:
    """d sum(g y) / d x, (N, C, *size), from the output's gradient g (N, O, OH, OW); plus bias (C,): transposed convolution.

    Dtypes and errors as `forward`; `size` must be one that a convolution takes to (OH, OW).
    """
    geometry.check_dtypes(g, weight)
    geometry.check_weight(weight.shape, groups)
    geometry.check_images("output gradient", g.shape, weight.shape[0])
    geometry.check_gradient(g.shape, size, weight.shape[2:], stride, padding, dilation)
    geometry.check_bias(bias, g.dtype, weight.shape[1] * groups)
    geometry.check_taps(taps, weight.shape[2:])
    size = tuple(size)
    chosen = _chosen(g, size, weight.shape[2:], padding, taps)
    return chosen.input_gradient(g, weight, size, stride, padding, dilation, groups, bias, taps)


def weight_gradient(
    x: Array,
    g: Array,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    taps: Taps | None = None,
) -> Array:
    """d sum(g y) / d weight, (O, C / groups, *kernel_size), from x (N, C, H, W) and the output's gradient g (N, O, OH, OW).

    Dtypes and errors as `forward`.
    """
    geometry.check_dtypes(x, g)
    geometry.check_pairing(x.shape, g.shape, groups)
    geometry.check_gradient(g.shape, x.shape[2:], kernel_size, stride, padding, dilation)
    kernel_size = tuple(kernel_size)
    geometry.check_taps(taps, kernel_size)
    chosen = _chosen(x, x.shape[2:], kernel_size, padding, taps)
    return chosen.weight_gradient(x, g, kernel_size, stride, padding, dilation, groups, taps)


def _chosen(array: Array, size: Pair, kernel_size: Pair, padding: Pair, taps: Taps | None) -> ModuleType:
    """The implementation for arrays of this type, or `dense` where all of the kernel covers the image."""
    covered = size == kernel_size and padding == (0, 0) and taps is None
    return dense if covered else implementation(__name__, array)
