"""Two-dimensional convolution (cross-correlation) and its two gradients in NumPy: the specification.

    y[n, o, i, j] = sum_{c, a, b} weight[o, c, a, b] x[n, c, i s - p + a d, j s - p + b d]

with x taken as zero outside the image, s the stride, p the padding and d the dilation. With groups, output channels split
into as many equal runs, each of which sees its own run of input channels. y is bilinear in x and weight, so each gradient is
the same sum read in another direction: for a kernel tap (a, b) all three multiply the image window that the tap sees,
the weights of the tap, and the output. `taps` names the (a, b) that take part: all, by default. Dumoulin and Visin 2016,
"A guide to convolution arithmetic for deep learning".
"""

from __future__ import annotations

import numpy as np

from .geometry import Pair, Taps, output_size


def forward(
    x: np.ndarray,
    weight: np.ndarray,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
    taps: Taps | None = None,
) -> np.ndarray:
    """y (N, O, OH, OW) from x (N, C, H, W), weight (O, C / groups, kernel_h, kernel_w) and bias (O,)."""
    kernel_size = weight.shape[2:]
    out = output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    weight = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    padded = _split_channels(_pad(x, padding), groups)
    y = np.zeros((len(x), groups, weight.shape[1], *out), x.dtype)
    for a, b in np.ndindex(*kernel_size) if taps is None else taps:
        y += np.einsum("goc,ngcij->ngoij", weight[..., a, b], _window(padded, a, b, out, stride, dilation))
    return _add_bias(y.reshape(len(x), groups * weight.shape[1], *out), bias)


def input_gradient(
    g: np.ndarray,
    weight: np.ndarray,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
    taps: Taps | None = None,
) -> np.ndarray:
    """d sum(g y) / d x (N, C, *size) from g (N, O, OH, OW). With a bias (C,) added: the transposed convolution of g."""
    kernel_size, channels = weight.shape[2:], weight.shape[1] * groups
    padded = np.zeros((len(g), channels, size[0] + 2 * padding[0], size[1] + 2 * padding[1]), g.dtype)
    windows = _split_channels(padded, groups)
    weight = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    for a, b in np.ndindex(*kernel_size) if taps is None else taps:
        window = _window(windows, a, b, g.shape[2:], stride, dilation)
        window += np.einsum("goc,ngoij->ngcij", weight[..., a, b], _split_channels(g, groups))
    inside = padded[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return _add_bias(inside, bias)


def weight_gradient(
    x: np.ndarray,
    g: np.ndarray,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    taps: Taps | None = None,
) -> np.ndarray:
    """d sum(g y) / d weight (O, C / groups, kernel_h, kernel_w) from x (N, C, H, W) and g (N, O, OH, OW)."""
    padded, g = _split_channels(_pad(x, padding), groups), _split_channels(g, groups)
    gradient = np.zeros((groups, g.shape[2], padded.shape[2], *kernel_size), x.dtype)
    for a, b in np.ndindex(*kernel_size) if taps is None else taps:
        gradient[..., a, b] = np.einsum("ngoij,ngcij->goc", g, _window(padded, a, b, g.shape[3:], stride, dilation))
    return gradient.reshape(groups * g.shape[2], *gradient.shape[2:])


def _add_bias(y: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return y if bias is None else y + bias[:, None, None]


def _pad(x: np.ndarray, padding: Pair) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))


def _split_channels(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _window(padded: np.ndarray, a: int, b: int, out: Pair, stride: Pair, dilation: Pair) -> np.ndarray:
    """The part of the padded images that tap (a, b) meets as the kernel moves: a view, (..., *out)."""
    top, left = a * dilation[0], b * dilation[1]
    return padded[..., top : top + out[0] * stride[0] : stride[0], left : left + out[1] * stride[1] : stride[1]]
