"""What a `Stepper` is made of: the layers of a network of masked convolutions, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray
Size = tuple[int, int]


class Layer(NamedTuple):
    """y = bias + the masked convolution of x, or of relu(x) where `rectified`; x is the output y of the layer before it.

    `skip` = m > 0 adds the output of the layer m places before: m = 3 closes a residual block of three layers.
    """

    weight: Array  # (O, C, k, k), k odd
    bias: Array  # (O,)
    centre: Array | bool | None  # (O, C) bool, True for a centre tap without a mask, or None for no centre tap
    rectified: bool = False
    skip: int = 0

    @property
    def radius(self) -> int:
        return self.weight.shape[2] // 2


@lru_cache(maxsize=64)
def taps(k: int, centre: bool) -> tuple[Size, ...]:
    """The places (row, column) of a k x k kernel that the mask leaves."""
    before = tuple((a, b) for a in range(k // 2 + 1) for b in range(k) if (a, b) < (k // 2, k // 2))
    return (*before, (k // 2, k // 2)) if centre else before


def masked(weight: Array, centre: Array | bool | None) -> Array:
    """The weight (O, C, k, k) with zeros where `centre` masks the tap in the middle; other taps are as they are."""
    if centre is None or centre is True:
        return weight
    weight, r = weight.copy(), weight.shape[2] // 2
    weight[..., r, r] = np.where(centre, weight[..., r, r], 0)  # CuPy's where, for its arrays: one launch, not a dozen
    return weight


def check(name: str, weight: Array, bias: Array | None, centre: Array | bool | None) -> None:
    """Raise ValueError for shapes that do not fit, TypeError for dtypes that do not."""
    outs, channels, k, width = weight.shape if weight.ndim == 4 else (0, 0, 0, 0)
    if k != width or not k % 2:
        raise ValueError(f"{name} takes a weight (O, C, k, k) with k odd, got {weight.shape}")
    if weight.dtype.name not in ("float32", "float64"):
        raise TypeError(f"{name} takes float32 or float64, got a weight of {weight.dtype}: use astype")
    if bias is not None and (bias.shape, bias.dtype) != ((outs,), weight.dtype):
        raise ValueError(f"{name} takes a bias ({outs},) of {weight.dtype} for this weight, got {bias.shape} of {bias.dtype}")
    if centre is None or centre is True:
        return
    if centre is False or (centre.shape, centre.dtype.kind) != ((outs, channels), "b"):
        got = "False" if centre is False else f"{centre.shape} of {centre.dtype}"
        raise ValueError(f"{name} takes as centre True, None or ({outs}, {channels}) of bool for this weight, got {got}")


def check_layers(layers: Sequence[Layer], images: int, size: Size) -> None:
    """Raise ValueError unless each layer takes what the one before it gives, and skips lead to layers of its width."""
    if not layers or images < 0 or min(size) < 1:
        raise ValueError(f"a Stepper takes layers, and images of at least one pixel, got {len(layers)}, {images} and {size}")
    for index, layer in enumerate(layers):
        check(f"layer {index}", *layer[:3])
        if layer.weight.dtype != layers[0].weight.dtype:
            raise TypeError(f"layer {index} is {layer.weight.dtype} and the first one {layers[0].weight.dtype}: use one dtype")
        outs, channels = layer.weight.shape[:2]
        if index and channels != len(layers[index - 1].weight):
            raise ValueError(
                f"layer {index} takes {channels} channels, but the one before it gives {len(layers[index - 1].weight)}"
            )
        if layer.skip and not (0 < layer.skip <= index and len(layers[index - layer.skip].weight) == outs):
            raise ValueError(f"layer {index} has {outs} outputs, which layer {index - layer.skip} (skip {layer.skip}) has not")
