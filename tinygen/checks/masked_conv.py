"""Cases of the masked convolution: the op's derivatives, and the kernel against its reference, alone and in a network."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from tinygen.checks.inputs import check, normal
from tinygen.checks.kernels import Run, agreement
from tinygen.checks.registry import Case
from tinygen.kernels.masked_conv import Layer
from tinygen.ops.masked_conv import masked_conv2d

# Name -> (N, C, O, k, H, W, mask): "A" and "B" of grey images, "A3" and "B3" of features in three groups; "all" is B, said
# without a matrix.
CASES_BY_NAME = {
    "": (2, 2, 3, 3, 4, 5, "B"),
    "no mask": (2, 2, 3, 3, 4, 5, "all"),
    "mask A": (2, 1, 4, 7, 5, 6, "A"),
    "mask A, groups": (2, 3, 6, 5, 4, 3, "A3"),
    "mask B, groups": (1, 6, 6, 3, 3, 7, "B3"),
    "1 x 1": (2, 5, 3, 1, 3, 3, "B"),
    "1 x 1, groups": (2, 6, 3, 1, 2, 3, "B3"),
    "one pixel": (3, 2, 2, 3, 1, 1, "B"),
    "no tap at all": (2, 1, 2, 1, 3, 2, "A"),
    "empty batch": (0, 2, 3, 3, 4, 4, "B"),
    "large": (5, 20, 33, 3, 17, 19, "B"),
}


def centre(outs: int, channels: int, mask: str) -> np.ndarray | bool | None:
    """The matrix (O, C) of a mask; "3" behind its letter says that features come in groups R, G, B."""
    if mask in ("A", "all"):
        return None if mask == "A" else True
    groups = 3 if mask.endswith("3") else 1
    out, of = np.arange(outs)[:, None] * groups // outs, np.arange(channels) * groups // channels
    return of < out if mask.startswith("A") else of <= out


def _layer(N: int, C: int, O: int, k: int, H: int, W: int, mask: str) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        x, weight, bias, g = (rng.standard_normal(s).astype(dtype) for s in ((N, C, H, W), (O, C, k, k), (O,), (N, O, H, W)))
        matrix = centre(O, C, mask)
        y = module.forward(x, weight, bias, matrix)
        return {"forward": y, **dict(zip(("g_x", "g_weight", "g_bias"), module.backward(g, x, weight, matrix)))}

    return run


def network(rng: np.random.Generator, dtype: type, channels: int, features: int, outs: int, grouped: bool) -> list[Layer]:
    """A PixelCNN: a 7 x 7 layer of mask A, a residual block and a 1 x 1 layer of mask B."""

    def layer(O: int, C: int, k: int, letter: str, rectified: bool = True, skip: int = 0) -> Layer:
        weight, bias = rng.standard_normal((O, C, k, k)) / np.sqrt(C * k), rng.standard_normal(O)
        mask = f"{letter}3" if grouped else {"A": "A", "B": "all"}[letter]
        return Layer(weight.astype(dtype), bias.astype(dtype), centre(O, C, mask), rectified, skip)

    return [
        layer(2 * features, channels, 7, "A", rectified=False),
        layer(features, 2 * features, 1, "B"),
        layer(features, features, 3, "B"),
        layer(2 * features, features, 1, "B", skip=3),
        layer(outs, 2 * features, 1, "B"),
    ]


def _steps(images: int, channels: int, features: int, grouped: bool) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        x = rng.standard_normal((images, channels, 4, 5)).astype(dtype)
        stepper = module.Stepper(network(rng, dtype, channels, features, 6, grouped), images, x.shape[2:])
        outputs = []
        for row, column in np.ndindex(x.shape[2:]):
            for known in range(channels):
                outputs.append(stepper.step(row, column))
                stepper.put(row, column, np.where(np.arange(channels) <= known, x[:, :, row, column], 0).astype(dtype))
        return {"steps": np.array(outputs)}

    return run


def _cases() -> Iterator[Case]:
    for name, (N, C, O, k, H, W, mask) in CASES_BY_NAME.items():
        if name != "large":
            arrays = {"x": normal(N, C, H, W), "weight": normal(O, C, k, k), "bias": normal(O)}
            yield check(
                f"masked_conv2d[{name}]" if name else "masked_conv2d", masked_conv2d, **arrays, centre=centre(O, C, mask)
            )
        yield from agreement("masked_conv", _layer(N, C, O, k, H, W, mask), name)
    yield from agreement("masked_conv", _steps(3, 1, 9, False), "steps")
    yield from agreement("masked_conv", _steps(20, 3, 6, True), "steps, groups")


CASES = list(_cases())
