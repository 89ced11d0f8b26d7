"""Sizes and shape checks of two-dimensional convolution, shared by every implementation.

Pairs are (vertical, horizontal). Images are (N, C, H, W), weights (O, C / groups, kernel_h, kernel_w).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Pair = tuple[int, int]
Taps = tuple[Pair, ...]  # places (row, column) of the kernel, row by row


def output_size(size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """How many places the kernel takes on an image of `size`: floor((size + 2 p - d (k - 1) - 1) / s) + 1 along each axis.

    Raises ValueError when the dilated kernel does not fit, or for a stride or dilation below 1 or a negative padding.
    """
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0 or min(kernel_size) < 1:
        raise ValueError(
            f"expected kernel_size, stride and dilation >= 1 and padding >= 0, got kernel_size {kernel_size}, "
            f"stride {stride}, dilation {dilation}, padding {padding}"
        )
    spare = [n + 2 * p - d * (k - 1) - 1 for n, k, p, d in zip(size, kernel_size, padding, dilation)]
    if min(spare) < 0:
        extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation))
        padded = tuple(n + 2 * p for n, p in zip(size, padding))
        raise ValueError(
            f"a kernel of extent {extent} does not fit the padded image {padded}: pad more or use a smaller kernel"
        )
    return spare[0] // stride[0] + 1, spare[1] // stride[1] + 1


@lru_cache(maxsize=256)
def check_taps(taps: Taps | None, kernel_size: Pair) -> None:
    """Raise ValueError unless the taps are None, for all, or places of the kernel, row by row and each once."""
    if taps is not None and tuple(tap for tap in np.ndindex(*kernel_size) if tap in taps) != taps:
        raise ValueError(f"conv2d taps must be places of the kernel {tuple(kernel_size)}, row by row and each once, got {taps}")


def spread(gradient: Any, channels: int, kernel_size: Pair, taps: Taps | None, xp: Any) -> Any:
    """The gradient of a weight (O, channels, *kernel_size) from that of its taps (O, channels * taps): elsewhere it is zero."""
    rows, area = (len(gradient), channels), tap_count(kernel_size, None)
    if tap_count(kernel_size, taps) == area:
        return gradient.reshape(*rows, *kernel_size)
    whole, places = xp.zeros((*rows, *kernel_size), gradient.dtype), [a * kernel_size[1] + b for a, b in taps]
    first = places == list(range(len(places)))  # as those of a masked convolution: a slice, where an array is slower
    at = slice(len(places)) if first else xp.asarray(places)
    whole.reshape(*rows, area)[:, :, at] = gradient.reshape(*rows, len(places))
    return whole


def tap_count(kernel_size: Pair, taps: Taps | None) -> int:
    """How many taps take part."""
    return kernel_size[0] * kernel_size[1] if taps is None else len(taps)


def check_dtypes(a: Any, b: Any) -> None:
    """Raise TypeError unless both arrays are float32 or both are float64."""
    if a.dtype != b.dtype or a.dtype.char not in "fd":
        raise TypeError(f"conv2d takes two arrays of float32 or two of float64, got {a.dtype} and {b.dtype}: use astype")


def check_weight(weight_shape: tuple[int, ...], groups: int) -> None:
    """Raise ValueError unless the weight has four axes and its output channels split into `groups`."""
    if len(weight_shape) != 4:
        raise ValueError(f"conv2d weight must be (out, in / groups, kernel_h, kernel_w), got shape {weight_shape}")
    if groups < 1 or weight_shape[0] % groups:
        raise ValueError(f"conv2d groups {groups} must divide the weight's first axis, {weight_shape[0]}")


def check_images(name: str, shape: tuple[int, ...], channels: int) -> None:
    """Raise ValueError unless `shape` is (N, channels, H, W)."""
    if len(shape) != 4:
        raise ValueError(f"conv2d {name} must be (N, {channels}, H, W), got shape {shape}")
    if shape[1] != channels:
        raise ValueError(f"conv2d {name} has {shape[1]} channels, expected {channels} for this weight and groups")


def check_bias(bias: Any, dtype: Any, channels: int) -> None:
    """Raise ValueError unless the bias is None or (channels,) of the given dtype."""
    if bias is not None and (bias.shape != (channels,) or bias.dtype != dtype):
        raise ValueError(f"conv2d bias must be ({channels},) of {dtype}, got {bias.shape} of {bias.dtype}")


def check_pairing(x_shape: tuple[int, ...], g_shape: tuple[int, ...], groups: int) -> None:
    """Raise ValueError unless x and the output gradient hold as many images, and both their channels split into `groups`."""
    if len(x_shape) != 4 or len(g_shape) != 4 or x_shape[0] != g_shape[0]:
        raise ValueError(f"conv2d needs input (N, C, H, W) and output gradient (N, O, OH, OW), got {x_shape} and {g_shape}")
    if groups < 1 or x_shape[1] % groups or g_shape[1] % groups:
        raise ValueError(
            f"conv2d groups {groups} must divide the channels, {x_shape[1]} of the input and {g_shape[1]} of the output"
        )


def check_gradient(
    g_shape: tuple[int, ...], size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    """Raise ValueError unless `g_shape` ends with the output size of a convolution of an image of `size`."""
    expected = output_size(size, kernel_size, stride, padding, dilation)
    if tuple(g_shape[2:]) != expected:
        raise ValueError(f"conv2d output gradient is {tuple(g_shape[2:])}, expected {expected} for an image of {tuple(size)}")
