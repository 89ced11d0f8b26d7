"""The masked convolution of PixelCNN and PixelRNN in NumPy: the specification, beside the paper.

Van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", section 3.4. A k x k convolution, k odd, of
stride 1 on the image with zeros around it, that sees only the pixels before its own in raster order,

    y[n, o, i, j] = bias[o] + sum_c (  sum_{a < r, b < k} weight[o, c, a, b] x[n, c, i + a - r, j + b - r]
                                     + sum_{b < r} weight[o, c, r, b] x[n, c, i, j + b - r]
                                     + centre[o, c] weight[o, c, r, r] x[n, c, i, j] ),          r = (k - 1) / 2,

and of its own pixel the features that `centre` (O, C) allows. With features in groups R, G, B, a feature of mask A sees the
groups before its own, one of mask B its own too. Grey images have one group: mask A is centre = None, mask B all True, which
may be written centre = True.
Weights that no term has are never read, and their gradient is 0.

    x (N, C, H, W)    weight (O, C, k, k)    bias (O,)    y (N, O, H, W)
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .layer import Layer, Size


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, centre: np.ndarray | bool | None) -> np.ndarray:
    """y (N, O, H, W)."""
    k = weight.shape[2]
    y, padded = np.zeros((len(x), len(weight), *x.shape[2:]), x.dtype), _pad(x, k)
    for a, b, mask in _taps(k, centre):
        y += np.einsum("oc,ncij->noij", np.where(mask, weight[..., a, b], 0), _window(padded, a, b, k))
    return y if bias is None else y + bias[:, None, None]


def input_gradient(g: np.ndarray, weight: np.ndarray, centre: np.ndarray | bool | None) -> np.ndarray:
    """d sum(g y) / d x, from g (N, O, H, W)."""
    k = weight.shape[2]
    gradient = np.zeros((len(g), weight.shape[1], *g.shape[2:]), g.dtype)
    padded = _pad(gradient, k)
    for a, b, mask in _taps(k, centre):
        _window(padded, a, b, k)[...] += np.einsum("oc,noij->ncij", np.where(mask, weight[..., a, b], 0), g)
    return _window(padded, k // 2, k // 2, k)


def weight_gradient(x: np.ndarray, g: np.ndarray, k: int, centre: np.ndarray | bool | None) -> np.ndarray:
    """d sum(g y) / d weight (O, C, k, k), from g (N, O, H, W)."""
    gradient, padded = np.zeros((g.shape[1], x.shape[1], k, k), x.dtype), _pad(x, k)
    for a, b, mask in _taps(k, centre):
        gradient[..., a, b] = np.where(mask, np.einsum("noij,ncij->oc", g, _window(padded, a, b, k)), 0)
    return gradient


def backward(
    g: np.ndarray, x: np.ndarray, weight: np.ndarray, centre: np.ndarray | bool | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of x, weight and bias from that of y, g (N, O, H, W)."""
    return input_gradient(g, weight, centre), weight_gradient(x, g, weight.shape[2], centre), g.sum(axis=(0, 2, 3))


def _taps(k: int, centre: np.ndarray | bool | None) -> Iterator[tuple[int, int, np.ndarray | bool]]:
    """(a, b, mask): the taps that the mask leaves, and which of their weights."""
    r = k // 2
    for a, b in np.ndindex(r + 1, k):
        if (a, b) < (r, r):
            yield a, b, True
    if centre is not None:
        yield r, r, centre


def _pad(x: np.ndarray, k: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))


def _window(padded: np.ndarray, a: int, b: int, k: int) -> np.ndarray:
    """The part of the padded images that tap (a, b) meets as the kernel moves: a view, (..., H, W)."""
    height, width = padded.shape[2] - k + 1, padded.shape[3] - k + 1
    return padded[..., a : a + height, b : b + width]


class Stepper:
    """A sequence of masked convolutions computed one pixel at a time: what a sampler needs of a PixelCNN.

    All maps start as zeros. For each pixel, in raster order, a sampler calls `step`, draws, and hands what it drew to `put`.
    `step` gives what the whole pass gives there, since the masks let it see only what `put` has set by then.
    """

    def __init__(self, layers: Sequence[Layer], images: int, size: Size):
        self.layers = layers
        dtype = layers[0].weight.dtype
        self._seen = [np.zeros((images, layer.weight.shape[1], *size), dtype) for layer in layers]  # by each layer

    def step(self, row: int, column: int) -> np.ndarray:
        """The last layer's output (N, O) at a pixel. It may be called again after a `put` of more channels of this pixel."""
        outputs: list[np.ndarray] = []
        for index, (layer, seen) in enumerate(zip(self.layers, self._seen)):
            if index:
                seen[:, :, row, column] = _rectified(outputs[-1], layer)
            y = forward(_above(seen, row, column, layer), layer.weight, layer.bias, layer.centre)[..., -1, layer.radius]
            outputs.append(y + outputs[index - layer.skip] if layer.skip else y)
        return outputs[-1]

    def put(self, row: int, column: int, values: np.ndarray) -> None:
        """Set a pixel of the first layer's input, (N, C)."""
        self._seen[0][:, :, row, column] = _rectified(values, self.layers[0])


def _rectified(values: np.ndarray, layer: Layer) -> np.ndarray:
    return np.maximum(values, 0) if layer.rectified else values


def _above(x: np.ndarray, row: int, column: int, layer: Layer) -> np.ndarray:
    """The part of the maps, (N, C, at most r + 1, k), that ends in the pixel's row and is as wide as the kernel."""
    r = layer.radius
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (r, r)))
    return padded[:, :, max(row - r, 0) : row + 1, column : column + 2 * r + 1]
