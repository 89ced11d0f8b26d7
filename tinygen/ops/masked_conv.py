"""The masked convolution of PixelCNN and PixelRNN, on the kernel that computes only the taps that its mask leaves.

It is bilinear in x and weight, so three ops name each other in their rules, as those of `conv2d`, and every derivative follows.
"""

from __future__ import annotations

from tinygen.backend import Array
from tinygen.kernels import masked_conv as kernels
from tinygen.op import differentiable
from tinygen.ops.reduction import channel_sums


@differentiable(
    x=lambda g, weight, centre: _input_gradient(g, weight, centre),
    weight=lambda g, x, weight_shape, centre: _weight_gradient(x, g, weight_shape[2], centre),
    bias=channel_sums,
)
def masked_conv2d(x: Array, weight: Array, bias: Array | float, /, centre: Array | bool | None = None) -> Array:
    """bias + the convolution of x, stride 1 and same padding, with the taps of weight before the pixel in raster order.

    x (N, C, H, W), weight (O, C, k, k) with k odd, bias (O,) or 0.0 -> (N, O, H, W); all float32 or all float64. `centre`
    (O, C) of bool says which output feature sees which input feature of its own pixel: None for mask A on grey images, True for
    mask B on them, else see van den Oord et al. 2016, "Pixel Recurrent Neural Networks", section 3.4. Masked weights are not
    read.
    Raises ValueError for shapes that do not fit, TypeError for other dtypes.
    """
    return kernels.forward(x, weight, None if isinstance(bias, float) else bias, centre)


@differentiable(
    g_y=lambda g, weight, centre: masked_conv2d(g, weight, 0.0, centre),
    weight=lambda g, g_y, weight_shape, centre: _weight_gradient(g, g_y, weight_shape[2], centre),
)
def _input_gradient(g_y: Array, weight: Array, /, centre: Array | bool | None) -> Array:
    return kernels.input_gradient(g_y, weight, centre)


@differentiable(
    x=lambda g, g_y, centre: _input_gradient(g_y, g, centre),
    g_y=lambda g, x, centre: masked_conv2d(x, g, 0.0, centre),
)
def _weight_gradient(x: Array, g_y: Array, /, k: int, centre: Array | bool | None) -> Array:
    return kernels.weight_gradient(x, g_y, k, centre)
