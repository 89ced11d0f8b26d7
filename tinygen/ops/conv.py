"""Convolution, pooling and nearest-neighbour enlargement of images (N, C, H, W), with torch.nn.functional's signatures.

Sizes, strides, paddings and dilations are an int for both directions or a pair (vertical, horizontal). All these maps are
linear, or bilinear, so their gradients are maps of the same family: three convolution ops and two pairs of pooling ops name
each other in their rules, and derivatives of every order follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.kernels import conv2d as kernels
from tinygen.op import differentiable
from tinygen.ops.reduction import channel_sums
from tinygen.tensor import array_of

Size = int | tuple[int, int]
Pair = tuple[int, int]


def _pair(name: str, value: Size) -> Pair:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, (int, np.integer)) for n in pair):
        raise ValueError(f"{name} {value!r} is neither an int nor a pair of ints (vertical, horizontal)")
    return pair


def _check_images(name: str, x: Any) -> None:
    if np.ndim(array_of(x)) != 4:
        raise ValueError(f"{name} takes images (N, C, H, W), got shape {x.shape}")


def _check_floating(name: str, x: Any) -> None:
    if x.dtype.kind not in "fc":
        raise TypeError(f"{name} takes floating-point images, not {x.dtype}: use astype")


# ---- Convolution ----


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Any:
    """y[n, o, i, j] = bias[o] + sum_{c, a, b} weight[o, c, a, b] x[n, c, i s - p + a d, j s - p + b d]; x is 0 outside.

    x (N, C, H, W), weight (O, C / groups, kernel_h, kernel_w), bias (O,) -> (N, O, H', W') with
    H' = floor((H + 2 padding - dilation (kernel_h - 1) - 1) / stride) + 1. Float32 or float64.
    Raises ValueError for shapes that do not fit. Source: Dumoulin and Visin 2016, "A guide to convolution arithmetic".
    """
    return _conv2d(x, weight, 0.0 if bias is None else bias, **_settings(stride, padding, dilation, groups))


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """The adjoint of `conv2d` with the same weight and settings, plus bias: every pixel of x paints the kernel, scaled by it.

    x (N, C, H, W), weight (C, O / groups, kernel_h, kernel_w), bias (O,) -> (N, O, H', W') with
    H' = (H - 1) stride - 2 padding + dilation (kernel_h - 1) + output_padding + 1. Float32 or float64.
    Raises ValueError for shapes that do not fit, and unless 0 <= output_padding < stride.
    """
    _check_images("conv_transpose2d", x)
    if np.ndim(array_of(weight)) != 4:
        raise ValueError(f"conv_transpose2d weight must be (in, out / groups, kernel_h, kernel_w), got shape {weight.shape}")
    settings = _settings(stride, padding, dilation, groups)
    extra = _pair("output_padding", output_padding)
    if any(not 0 <= e < s for e, s in zip(extra, settings["stride"])):
        raise ValueError(f"output_padding {extra} must be at least 0 and smaller than stride {settings['stride']}")
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, e, s, p, d in zip(
            x.shape[2:], weight.shape[2:], extra, settings["stride"], settings["padding"], settings["dilation"]
        )
    )
    if min(size) < 1:
        raise ValueError(f"conv_transpose2d of {tuple(x.shape[2:])} gives an image of {size}: use less padding")
    return _conv_transpose2d(x, weight, 0.0 if bias is None else bias, size=size, **settings)


def _settings(stride: Size, padding: Size, dilation: Size, groups: int) -> dict[str, Any]:
    pairs = {"stride": stride, "padding": padding, "dilation": dilation}
    return {name: _pair(name, value) for name, value in pairs.items()} | {"groups": groups}


def _same_dtype(a: Array, b: Array) -> tuple[Array, Array]:
    dtype = np.result_type(a.dtype, b.dtype)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def _bias(bias: Array | float, dtype: np.dtype) -> Array | None:
    return None if isinstance(bias, float) else bias.astype(dtype, copy=False)


@differentiable(
    x=lambda g, weight, x_shape, stride, padding, dilation, groups: _conv_transpose2d(
        g, weight, 0.0, x_shape[2:], stride, padding, dilation, groups
    ),
    weight=lambda g, x, weight_shape, stride, padding, dilation, groups: conv2d_weight_gradient(
        x, g, weight_shape[2:], stride, padding, dilation, groups
    ),
    bias=channel_sums,
)
def _conv2d(x: Array, weight: Array, bias: Array | float, /, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    x, weight = _same_dtype(x, weight)
    return kernels.forward(x, weight, stride, padding, dilation, groups, _bias(bias, x.dtype))


@differentiable(
    x=lambda g, weight, stride, padding, dilation, groups: _conv2d(g, weight, 0.0, stride, padding, dilation, groups),
    weight=lambda g, x, weight_shape, stride, padding, dilation, groups: conv2d_weight_gradient(
        g, x, weight_shape[2:], stride, padding, dilation, groups
    ),
    bias=channel_sums,
)
def _conv_transpose2d(
    x: Array, weight: Array, bias: Array | float, /, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    x, weight = _same_dtype(x, weight)
    return kernels.input_gradient(x, weight, size, stride, padding, dilation, groups, _bias(bias, x.dtype))


@differentiable(
    x=lambda g, y_gradient, x_shape, stride, padding, dilation, groups: _conv_transpose2d(
        y_gradient, g, 0.0, x_shape[2:], stride, padding, dilation, groups
    ),
    y_gradient=lambda g, x, stride, padding, dilation, groups: _conv2d(x, g, 0.0, stride, padding, dilation, groups),
)
def conv2d_weight_gradient(
    x: Array, y_gradient: Array, /, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """The gradient of sum(y_gradient * conv2d(x, weight)) in weight: x (N, C, H, W), y_gradient (N, O, H', W') ->
    (O, C / groups, *kernel_size). Bilinear: its own gradients are a transposed convolution and a convolution.
    """
    x, y_gradient = _same_dtype(x, y_gradient)
    return kernels.weight_gradient(x, y_gradient, kernel_size, stride, padding, dilation, groups)


# ---- Pooling ----


def max_pool2d(x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Any:
    """The largest value of each window of x (N, C, H, W); the gradient goes to the first of equal ones. NaN counts as largest.

    The stride is by default the window's size. Padding, at most half of the window, is never chosen. ValueError for sizes that
    do not fit, TypeError for integers.
    """
    _check_images("max_pool2d", x)
    _check_floating("max_pool2d", x)
    window = _window(kernel_size, stride, padding)
    return _largest(x, **window)


def avg_pool2d(x: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Any:
    """The mean of each window of x (N, C, H, W), padded zeros counted; stride, padding and errors as in `max_pool2d`."""
    _check_images("avg_pool2d", x)
    _check_floating("avg_pool2d", x)
    window = _window(kernel_size, stride, padding)
    return _gather(x, scale=1.0 / (window["kernel_size"][0] * window["kernel_size"][1]), **window)


def interpolate(x: Any, scale_factor: Size) -> Any:
    """x (N, C, H, W) enlarged to (N, C, H scale_factor, W scale_factor) by repeating pixels (mode "nearest"); any dtype.

    `scale_factor` is a positive int, or a pair of them; ValueError otherwise.
    """
    _check_images("interpolate", x)
    factor = _pair("scale_factor", scale_factor)
    if min(factor) < 1:
        raise ValueError(f"interpolate needs scale_factor >= 1, got {scale_factor}")
    size = (x.shape[2] * factor[0], x.shape[3] * factor[1])
    return _scatter(x, size=size, scale=1.0, kernel_size=factor, stride=factor, padding=(0, 0))


def _window(kernel_size: Size, stride: Size | None, padding: Size) -> dict[str, Pair]:
    kernel = _pair("kernel_size", kernel_size)
    step = kernel if stride is None else _pair("stride", stride)
    edge = _pair("padding", padding)
    if any(2 * p > k for p, k in zip(edge, kernel)):
        raise ValueError(f"pooling needs padding of at most half of kernel_size {kernel}, got {edge}")
    return {"kernel_size": kernel, "stride": step, "padding": edge}


def _taps(padded: Array, kernel_size: Pair, stride: Pair) -> list[Array]:
    """For each place in the window, what it meets as the window moves: views of the padded images."""
    rows, columns = (range(0, n - k + 1, s) for n, k, s in zip(padded.shape[2:], kernel_size, stride))
    return [
        padded[:, :, a : a + rows[-1] + 1 : stride[0], b : b + columns[-1] + 1 : stride[1]]
        for a in range(kernel_size[0])
        for b in range(kernel_size[1])
    ]


def _padded(x: Array, value: float, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    kernels.output_size(x.shape[2:], kernel_size, stride, padding, (1, 1))  # raises where the window does not fit
    (top, left) = padding
    edges = ((0, 0), (0, 0), (top, top), (left, left))
    return module_of(x).pad(x, edges, constant_values=value) if top or left else x


@differentiable(
    x=lambda g, x, y, kernel_size, stride, padding: _place(
        g, _winners(array_of(x), array_of(y), kernel_size, stride, padding), x.shape[2:], kernel_size, stride, padding
    )
)
def _largest(x: Array, /, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The largest value of each window; which one it was is looked for when a gradient asks."""
    xp = module_of(x)
    first, *others = _taps(_padded(x, -np.inf, kernel_size, stride, padding), kernel_size, stride)
    y = first.copy()
    for tap in others:
        xp.maximum(y, tap, out=y)
    return y


def _winners(x: Array, y: Array, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The first place in each window that holds the largest value y; NaN is found where it is."""
    xp = module_of(x)
    winners = xp.zeros(y.shape, xp.uint8 if kernel_size[0] * kernel_size[1] <= 256 else xp.uint32)
    found = xp.zeros(y.shape, bool)
    lost = bool((y != y).any())
    for t, tap in enumerate(_taps(_padded(x, -np.inf, kernel_size, stride, padding), kernel_size, stride)):
        new = ((tap == y) | (tap != tap) if lost else tap == y) & ~found
        winners += new * winners.dtype.type(t)
        found |= new
    return winners


def _only(mask: Array, x: Array) -> Array:
    """x where the mask holds, 0 elsewhere. On the bits, which costs a tenth of `where` and turns no inf into a NaN."""
    bits = f"i{x.itemsize}"
    return (x.view(bits) & -mask.astype(bits)).view(x.dtype)


def _spread(g: Array, shares: Any, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """Add shares(t) to what place t of each window meets, in zeros of `size`."""
    (top, left), (height, width) = padding, size
    padded = module_of(g).zeros((*g.shape[:2], height + 2 * top, width + 2 * left), g.dtype)
    for t, tap in enumerate(_taps(padded, kernel_size, stride)):
        tap += shares(t)
    return padded[:, :, top : top + height, left : left + width]


@differentiable(
    x=lambda g, x_shape, winners, kernel_size, stride, padding: _place(g, winners, x_shape[2:], kernel_size, stride, padding)
)
def _pick(x: Array, /, winners: Array, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The value at the winner's place of each window."""
    taps = _taps(_padded(x, 0.0, kernel_size, stride, padding), kernel_size, stride)
    y = _only(winners == 0, taps[0])
    for t, tap in enumerate(taps[1:], 1):
        y += _only(winners == t, tap)
    return y


@differentiable(x=lambda g, winners, kernel_size, stride, padding: _pick(g, winners, kernel_size, stride, padding))
def _place(x: Array, /, winners: Array, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The adjoint of `_pick`: x is added to the winner's place of each window."""
    return _spread(x, lambda t: _only(winners == t, x), size, kernel_size, stride, padding)


@differentiable(
    x=lambda g, x_shape, scale, kernel_size, stride, padding: _scatter(g, x_shape[2:], scale, kernel_size, stride, padding)
)
def _gather(x: Array, /, scale: float, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The sum of each window, times `scale`."""
    first, *others = _taps(_padded(x, 0.0, kernel_size, stride, padding), kernel_size, stride)
    y = first.copy()
    for tap in others:
        y += tap
    y *= scale
    return y


@differentiable(x=lambda g, scale, kernel_size, stride, padding: _gather(g, scale, kernel_size, stride, padding))
def _scatter(x: Array, /, size: Pair, scale: float, kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The adjoint of `_gather`: x times `scale` is added to every place of each window."""
    scaled = x if scale == 1 else x * scale
    return _spread(x, lambda t: scaled, size, kernel_size, stride, padding)
