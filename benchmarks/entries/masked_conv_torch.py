"""PixelCNN's layers in PyTorch, the usual way: a convolution with all taps, whose weight is multiplied by a mask of 0 and 1."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.device import theirs
from benchmarks.registry import Results
from tinygen.kernels.masked_conv import Layer


def mask(layer: Layer) -> Tensor | None:
    """What the weight is multiplied by; None where nothing is masked."""
    k = layer.weight.shape[2]
    if k == 1:
        return None
    taps = np.zeros(k * k, layer.weight.dtype)
    taps[: k * k // 2 + (layer.centre is not None)] = 1
    return theirs(taps.reshape(1, 1, k, k))


def convolve(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor | None) -> Tensor:
    """The masked convolution with zero padding."""
    return conv2d(x, weight if taps is None else weight * taps, bias, padding=weight.shape[2] // 2)


def gradients(
    layers: Sequence[Layer],
    x: np.ndarray,
    g: np.ndarray,
    channels_last: bool = False,
    transform: Callable[[Callable], Callable] = lambda forward: forward,
) -> Callable[[], Results]:
    """A run of the layers, or of the residual block that layers which rectify are, and of its gradients.

    `transform` takes the function of the image and all parameters that is run, and may compile it.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format
    image = theirs(x).contiguous(memory_format=memory).requires_grad_(layers[0].centre is not None)
    cotangent = theirs(g).contiguous(memory_format=memory)
    parameters = [
        (theirs(l.weight).contiguous(memory_format=memory).requires_grad_(), theirs(l.bias, requires_grad=True)) for l in layers
    ]
    flat = [tensor for pair in parameters for tensor in pair]
    masks, rectified = [mask(layer) for layer in layers], [layer.rectified for layer in layers]

    @transform
    def forward(image: Tensor, *flat: Tensor) -> Tensor:
        y = image
        for rectify, weight, bias, taps in zip(rectified, flat[::2], flat[1::2], masks):
            y = convolve(torch.relu(y) if rectify else y, weight, bias, taps)
        return y + image if rectified[0] else y

    def run() -> Results:
        for tensor in (image, *flat):
            tensor.grad = None
        y = forward(image, *flat)
        y.backward(cotangent)
        results = {"y": y} | ({} if image.grad is None else {"gradient x": image.grad})
        for index, (weight, bias) in enumerate(parameters):
            results |= {f"gradient weight {index}": weight.grad, f"gradient bias {index}": bias.grad}
        return results

    return run


def naive_sampler(layers: Sequence[Layer], uniforms: np.ndarray, count: int) -> Callable[[], Results]:
    """The first `count` pixels of images (N, H, W), a full pass for each; weights are masked once, beforehand."""
    masks = [mask(layer) for layer in layers]
    weights = [theirs(l.weight) * (1 if taps is None else taps) for l, taps in zip(layers, masks)]
    biases = [theirs(layer.bias) for layer in layers]
    thresholds = theirs(uniforms)

    @torch.inference_mode()
    def run() -> Results:
        x = torch.zeros_like(thresholds)[:, None]
        for row, column in list(np.ndindex(uniforms.shape[1:]))[:count]:
            outputs, y = [], x
            for layer, weight, bias in zip(layers, weights, biases):
                y = convolve(torch.relu(y) if layer.rectified else y, weight, bias, None)
                y = y + outputs[-layer.skip] if layer.skip else y
                outputs.append(y)
            x[:, 0, row, column] = (thresholds[:, row, column] < torch.sigmoid(y[:, 0, row, column])).float()
        return {"x": x[:, 0]}

    return run
