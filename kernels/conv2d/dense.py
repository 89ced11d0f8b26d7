"""Convolution with a kernel as large as the image: nothing slides, so all three operations are one matrix product each.

Images become rows and columns of matrices, one pair for each group: x (groups, N, terms), weight (groups, outs, terms),
y (groups, N, outs). The functions work on NumPy and CuPy arrays; sizes, strides, paddings and taps play no part.
"""

from __future__ import annotations

from typing import Any

from .geometry import Pair

Array = Any  # numpy.ndarray or cupy.ndarray


def forward(
    x: Array,
    weight: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    bias: Array | None = None,
    taps: None = None,
) -> Array:
    """y (N, O, 1, 1) = x weight^T + bias."""
    y = (_rows(x, groups) @ _split(weight, groups).swapaxes(1, 2)).swapaxes(0, 1).reshape(len(x), len(weight), 1, 1)
    return y if bias is None else y + bias[:, None, None]


def input_gradient(
    g: Array,
    weight: Array,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    bias: Array | None = None,
    taps: None = None,
) -> Array:
    """d sum(g y) / d x (N, C, *size) = g weight; plus bias (C,)."""
    channels = weight.shape[1] * groups
    x = (_rows(g, groups) @ _split(weight, groups)).swapaxes(0, 1).reshape(len(g), channels, *size)
    return x if bias is None else x + bias[:, None, None]


def weight_gradient(
    x: Array, g: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int, taps: None = None
) -> Array:
    """d sum(g y) / d weight (O, C / groups, *kernel_size) = g^T x."""
    product = _rows(g, groups).swapaxes(1, 2) @ _rows(x, groups)
    return product.reshape(g.shape[1], x.shape[1] // groups, *kernel_size)


def _rows(x: Array, groups: int) -> Array:
    """(N, C, H, W) -> (groups, N, C / groups * H * W)."""
    return x.reshape(len(x), groups, x.shape[1] // groups * x.shape[2] * x.shape[3]).swapaxes(0, 1)


def _split(weight: Array, groups: int) -> Array:
    """(O, C / groups, kernel_h, kernel_w) -> (groups, O / groups, C / groups * kernel_h * kernel_w)."""
    return weight.reshape(groups, len(weight) // groups, weight.shape[1] * weight.shape[2] * weight.shape[3])
