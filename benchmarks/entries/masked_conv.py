"""PixelCNN (van den Oord et al. 2016): masked convolutions with all gradients, and sampling, at the size of MNIST."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

import tinygen
from benchmarks.attempts import Attempts, captured, compiled
from benchmarks.device import on_gpu, ours
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen.backend import module_of
from tinygen.kernels import masked_conv as kernel
from tinygen.kernels.masked_conv import Layer, reference
from tinygen.kernels.masked_conv.layer import taps
from tinygen.ops.masked_conv import masked_conv2d

Shape = tuple[int, int, int]  # channels, outputs, k

LAYERS: dict[str, list[Shape]] = {
    "7 x 7 mask A": [(1, 64, 7)],
    "7 x 7 mask B": [(16, 16, 7)],  # on which the model of h = 16 spends most
    "3 x 3 mask B": [(32, 32, 3)],
    "1 x 1": [(64, 32, 1)],
    "residual block": [(64, 32, 1), (32, 32, 3), (32, 64, 1)],
}
LARGE = ("7 x 7 mask B", "residual block")  # with 128 images as well on a GPU, most of which 16 leave idle
MARGIN = 1e-3  # between a uniform number and the probability it is compared with: a rounding error changes no pixel


@benchmark(name="masked-conv")
def masked_conv(quick: bool) -> Iterator[Case]:
    """PixelCNN's layers and its residual block with all gradients: 28 x 28, batch 16, h = 32 and 16; on a GPU batch 128 too."""
    batch = 2 if quick else 16
    for name in LAYERS:
        yield _case(name, batch, quick)
    for name in LARGE if on_gpu() and not quick else ():
        yield _case(name, 128, quick)


def _case(name: str, batch: int, quick: bool) -> Case:
    from benchmarks.entries import masked_conv_torch as theirs

    side, shapes, rng = 5 if quick else 28, LAYERS[name], np.random.default_rng(0)
    layers = [_layer(rng, *shape, rectified=len(shapes) > 1) for shape in shapes]
    # More than 16 images are those 16 again: among so many inputs of a ReLU some would be so close to 0 that rounding decides.
    count = min(batch, 16)
    x = np.tile(rng.standard_normal((count, shapes[0][0], side, side)).astype(np.float32), (batch // count, 1, 1, 1))
    g = rng.standard_normal((batch, shapes[-1][1], side, side)).astype(np.float32)
    passes = 2 if layers[0].centre is None else 3  # the gradient of the image is not wanted
    attempts, usual = Attempts(quick), "PyTorch: conv2d, weight * mask"
    if name in LARGE:
        attempts.add_replayed(lambda: _tinygen(layers, x, g))
        attempts.add_on_gpu(f"{usual}, CUDA graph", lambda: captured(theirs.gradients(layers, x, g)))
        attempts.add_on_gpu(f"{usual}, compiled", lambda: theirs.gradients(layers, x, g, transform=compiled))
    wide = _in_double(layers), x.astype(np.float64), g.astype(np.float64)
    return Case(
        f"masked-conv {name}" + (f", batch {batch}" if batch == 128 else ""),
        sides=(
            Side("tinygen", "ours", _tinygen(layers, x, g)),
            Side(usual, "theirs", theirs.gradients(layers, x, g)),
            Side("PyTorch: the same, channels last", "theirs", theirs.gradients(layers, x, g, channels_last=True)),
            *attempts.sides,
            Side("reference (NumPy)", "reference", partial(_reference, layers, x, g)),
        ),
        # The reference takes too long for the large batch; at batch 16 it is compared with PyTorch too.
        exact=partial(_reference, *wide) if batch < 128 else theirs.gradients(*wide),
        tolerance=2e-5,
        work=Work(
            flops=passes * 2 * batch * side * side * _products(layers),
            bytes=4 * 2 * (x.size + g.size + sum(layer.weight.size for layer in layers)),
        ),
        settings={"images": f"{side} x {side}", "batch": batch, "channels": _widths(shapes), "dtype": "float32"},
        notes=attempts.notes if name in LARGE else (),
    )


@benchmark(name="pixelcnn-sample")
def pixelcnn_sample(quick: bool) -> Iterator[Case]:
    """Sampling 64 images from PixelCNN by cached activations, against a full pass of the network for each pixel."""
    from benchmarks.entries import masked_conv_torch as theirs

    images, side, first = (2, 5, 3) if quick else (64, 28, 14)
    for hidden, blocks in ((2, 1),) if quick else ((16, 5), (32, 7)):
        layers = _network(hidden, blocks)
        uniforms, drawn = _uniforms_and_draws(layers, images, side)
        for count in (first, side * side):
            sides = [Side("tinygen", "ours", partial(_cached, kernel, _moved(layers), ours(uniforms), count))]
            if count == first:
                sides += [
                    Side("tinygen: a full pass per pixel", "reference", partial(_naive, layers, uniforms, count)),
                    Side("PyTorch: a full pass per pixel", "theirs", theirs.naive_sampler(layers, uniforms, count)),
                ]
            name = f"the first {count} pixels" if count == first else "whole images"
            yield Case(
                f"pixelcnn-sample h={hidden}, {name}",
                sides=tuple(sides),
                exact=lambda drawn=drawn, count=count: {"x": _only(drawn, count)},
                tolerance=0.0,
                work=Work(flops=2 * images * count * _products(layers), transcendentals={"sigmoid": images * count}),
                settings={"images": images, "size": f"{side} x {side}", "pixels": count, "h": hidden, "blocks": blocks},
                notes=()
                if count == first
                else ("full passes are timed above for the first pixels only: here they take minutes",),
            )


def _layer(rng: np.random.Generator, channels: int, outs: int, k: int, rectified: bool, skip: int = 0) -> Layer:
    """A layer for grey images: mask A where the image goes in, else mask B."""
    weight = rng.standard_normal((outs, channels, k, k)) * np.sqrt((4 if k > 1 else 2) / (channels * k * k))
    centre = None if channels == 1 else True
    return Layer(weight.astype(np.float32), np.zeros(outs, np.float32), centre, rectified, skip)


def _network(hidden: int, blocks: int) -> list[Layer]:
    """PixelCNN for binary images, as the model `pixelcnn` has it."""
    rng, h = np.random.default_rng(0), hidden
    layers = [_layer(rng, 1, 2 * h, 7, rectified=False)]
    for _ in range(blocks):
        shapes = (2 * h, h, 1), (h, h, 3), (h, 2 * h, 1)
        layers += [_layer(rng, *shape, rectified=True, skip=3 * (shape[0] < shape[1])) for shape in shapes]
    return [*layers, _layer(rng, 2 * h, 32, 1, rectified=True), _layer(rng, 32, 1, 1, rectified=True)]


def _products(layers: Sequence[Layer]) -> int:
    """Multiplications for a pixel, with the taps that the masks leave."""
    return sum(len(taps(l.weight.shape[2], l.centre is not None)) * l.weight[..., 0, 0].size for l in layers)


def _widths(shapes: list[Shape]) -> str:
    return " - ".join(str(n) for n in (shapes[0][0], *(outs for _, outs, _ in shapes)))


def _moved(layers: Sequence[Layer]) -> list[Layer]:
    """The layers where tinygen is to compute."""
    return [Layer(*(ours(part) if isinstance(part, np.ndarray) else part for part in layer)) for layer in layers]


def _in_double(layers: Sequence[Layer]) -> list[Layer]:
    return [l._replace(weight=l.weight.astype(np.float64), bias=l.bias.astype(np.float64)) for l in layers]


def _reference(layers: Sequence[Layer], x: np.ndarray, g: np.ndarray) -> Results:
    """y and all gradients; layers that rectify are a residual block's."""
    y, seen = x, []
    for layer in layers:
        seen.append(np.maximum(y, 0) if layer.rectified else y)
        y = reference.forward(seen[-1], layer.weight, layer.bias, layer.centre)
    results = {"y": y + x if layers[0].rectified else y}
    g_y = g
    for index, layer in reversed(list(enumerate(layers))):
        g_y, g_weight, g_bias = reference.backward(g_y, seen[index], layer.weight, layer.centre)
        g_y = g_y * (seen[index] > 0) if layer.rectified else g_y
        results |= {f"gradient weight {index}": g_weight, f"gradient bias {index}": g_bias}
    if layers[0].centre is not None:
        results["gradient x"] = g_y + g if layers[0].rectified else g_y
    return results


def _tinygen(layers: Sequence[Layer], x: np.ndarray, g: np.ndarray) -> Callable[[], Results]:
    wanted = layers[0].centre is not None
    image, g = tinygen.Tensor(ours(x), requires_grad=wanted), ours(g)
    parameters = [[tinygen.Tensor(ours(array), requires_grad=True) for array in layer[:2]] for layer in layers]

    def run() -> Results:
        for tensor in (*[image] * wanted, *(tensor for pair in parameters for tensor in pair)):
            tensor.grad = None
        y = image
        for layer, (weight, bias) in zip(layers, parameters):
            y = masked_conv2d(tinygen.relu(y) if layer.rectified else y, weight, bias, layer.centre)
        y = y + image if layers[0].rectified else y
        y.backward(g)
        results = {"y": y} | ({"gradient x": image.grad} if wanted else {})
        for index, (weight, bias) in enumerate(parameters):
            results |= {f"gradient weight {index}": weight.grad, f"gradient bias {index}": bias.grad}
        return results

    return run


# ---- Sampling ----


def _cached(module: object, layers: Sequence[Layer], uniforms: np.ndarray, count: int) -> Results:
    """The first `count` pixels of images (N, H, W), drawn by steps."""
    x = module_of(uniforms).zeros_like(uniforms)
    stepper = module.Stepper(layers, len(x), x.shape[1:])
    for row, column in list(np.ndindex(x.shape[1:]))[:count]:
        p = tinygen.sigmoid(stepper.step(row, column))
        x[:, row, column] = uniforms[:, row, column] < p[:, 0]
        stepper.put(row, column, x[:, row, column, None])
    return {"x": x}


def _naive(layers: Sequence[Layer], uniforms: np.ndarray, count: int) -> Results:
    """The same by a full pass for each pixel."""
    x = np.zeros_like(uniforms)
    for row, column in list(np.ndindex(x.shape[1:]))[:count]:
        outputs, y = [], x[:, None]
        for layer in layers:
            y = kernel.forward(tinygen.relu(y) if layer.rectified else y, layer.weight, layer.bias, layer.centre)
            y = y + outputs[-layer.skip] if layer.skip else y
            outputs.append(y)
        x[:, row, column] = uniforms[:, row, column] < tinygen.sigmoid(y[:, 0, row, column])
    return {"x": x}


def _uniforms_and_draws(layers: Sequence[Layer], images: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform numbers (N, H, W) that stay `MARGIN` away from the probabilities, and the pixels that they draw."""
    uniforms = np.random.default_rng(1).random((images, side, side))
    drawn, stepper = np.empty_like(uniforms), kernel.Stepper(_in_double(layers), images, (side, side))
    for row, column in np.ndindex(side, side):
        p, u = tinygen.sigmoid(stepper.step(row, column))[:, 0], uniforms[:, row, column]
        drawn[:, row, column] = u < p
        uniforms[:, row, column] = np.where(u < p, np.minimum(u, p - MARGIN), np.maximum(u, p + MARGIN))
        stepper.put(row, column, drawn[:, row, column, None])
    return uniforms.astype(np.float32), drawn


def _only(drawn: np.ndarray, count: int) -> np.ndarray:
    """The first `count` pixels of images, and zeros."""
    return np.where(np.arange(drawn[0].size).reshape(drawn[0].shape) < count, drawn, 0)
