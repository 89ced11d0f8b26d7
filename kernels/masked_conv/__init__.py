"""The masked convolution of PixelCNN and PixelRNN: forward, gradients, and networks of it one pixel at a time.

Arrays are NumPy's or CuPy's, of one dtype, float32 or float64: x (N, C, H, W), weight (O, C, k, k) with k odd, bias (O,) or
None, and centre, which says which output feature sees which input feature of its own pixel: (O, C) of bool, True where each
sees every one, or None where none sees any. reference.py has the formula. A masked convolution is a convolution with fewer
taps, and only these are computed, by the kernels of `conv2d`. Weights at masked places are never read. ValueError for shapes
that do not fit, TypeError for other dtypes.

A sampler computes a whole network at one pixel, from maps that it keeps:

    layers = [Layer(weight, bias, None), Layer(weight, bias, centre, rectified=True), ...]
    stepper = Stepper(layers, images=64, size=(28, 28))
    for row, column in np.ndindex(28, 28):                # this order, every pixel
        logits = stepper.step(row, column)                # (64, O), the bits that the whole pass gives there
        stepper.put(row, column, values)                  # (64, C): what was drawn, or is known, at this pixel
"""

from collections.abc import Sequence
from typing import Any

from .. import conv2d
from ..runtime import implementation
from .layer import Layer, Size, check, check_layers, masked, taps

__all__ = ["Layer", "Stepper", "backward", "forward", "input_gradient", "weight_gradient"]

Array = Any  # numpy.ndarray or cupy.ndarray


def forward(x: Array, weight: Array, bias: Array | None, centre: Array | bool | None) -> Array:
    """y (N, O, H, W)."""
    check("masked_conv", weight, bias, centre)
    k = weight.shape[2]
    return conv2d.forward(x, masked(weight, centre), padding=(k // 2, k // 2), bias=bias, taps=taps(k, centre is not None))


def input_gradient(g: Array, weight: Array, centre: Array | bool | None) -> Array:
    """d sum(g y) / d x (N, C, H, W), from the gradient of y, g (N, O, H, W)."""
    check("masked_conv", weight, None, centre)
    k = weight.shape[2]
    options = {"padding": (k // 2, k // 2), "taps": taps(k, centre is not None)}
    return conv2d.input_gradient(g, masked(weight, centre), g.shape[2:], **options)


def weight_gradient(x: Array, g: Array, k: int, centre: Array | bool | None) -> Array:
    """d sum(g y) / d weight (O, C, k, k), from g (N, O, H, W); exactly 0 at masked places."""
    gradient = conv2d.weight_gradient(x, g, (k, k), padding=(k // 2, k // 2), taps=taps(k, centre is not None))
    check("masked_conv", gradient, None, centre)
    return masked(gradient, centre)


def backward(g: Array, x: Array, weight: Array, centre: Array | bool | None) -> tuple[Array, Array, Array]:
    """The gradients of x, weight and bias from that of y, g (N, O, H, W)."""
    return input_gradient(g, weight, centre), weight_gradient(x, g, weight.shape[2], centre), g.sum(axis=(2, 3)).sum(axis=0)


class Stepper:
    """A network of masked convolutions, one pixel of `images` images of `size` (H, W) at a time. All maps start as zeros.

    Pixels are visited in raster order. `step` sees what `put` has set, and the masks let the result depend on no other pixel.
    """

    def __init__(self, layers: Sequence[Layer], images: int, size: Size):
        check_layers(layers, images, size)
        self._images, self._size, self._channels = images, size, layers[0].weight.shape[1]
        self._dtype = layers[0].weight.dtype
        self._stepper = implementation(__name__, layers[0].weight).Stepper(layers, images, size)

    def step(self, row: int, column: int) -> Array:
        """The last layer's output (images, O) at a pixel, bit for bit that of the whole pass.

        It may be asked for again after a `put` of this very pixel, when its first channels are known.
        """
        self._check_place(row, column)
        return self._stepper.step(row, column)

    def put(self, row: int, column: int, values: Array) -> None:
        """Set a pixel of the first layer's input, (images, C)."""
        self._check_place(row, column)
        if (values.shape, values.dtype) != ((self._images, self._channels), self._dtype):
            raise ValueError(
                f"put takes values ({self._images}, {self._channels}) of {self._dtype}, got {values.shape} of {values.dtype}"
            )
        self._stepper.put(row, column, values)

    def _check_place(self, row: int, column: int) -> None:
        if not (0 <= row < self._size[0] and 0 <= column < self._size[1]):
            raise ValueError(f"pixel ({row}, {column}) is outside of the image, {self._size}")
