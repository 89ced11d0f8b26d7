"""Convolutions, pooling and resizing of images (N, C, H, W)."""

import math
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.nn import init as initialisers
from tinygen.nn.init import Initializer
from tinygen.nn.linear import bias_like_weight
from tinygen.nn.module import Module, Parameter

Size = int | tuple[int, int]
"""One number for both directions, or (vertical, horizontal)."""


def _pair(value: Size) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Conv(Module):
    """What both convolutions share: the settings, as pairs, and the parameters."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
    ):
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups do not divide {in_channels} input and {out_channels} output channels")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups

    def _add_parameters(self, channels: tuple[int, int], bias: bool, rng: np.random.Generator, init: Any, dtype: Any) -> None:
        self.weight = Parameter(init(rng, (*channels, *self.kernel_size), dtype))
        self.bias = bias_like_weight(rng, self.weight, self.out_channels) if bias else None

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}


class Conv2d(_Conv):
    """Cross-correlation of x (N, in_channels, H, W) with weight -> (N, out_channels, H', W').

    H' = floor((H + 2 padding - dilation (kernel - 1) - 1) / stride) + 1. weight (out_channels, in_channels / groups,
    height, width) is drawn by `init`, by default U(-b, b) with b = 1 / sqrt(fan_in); so is bias (out_channels,).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: np.random.Generator,
        init: Initializer = initialisers.fan_in_uniform,
        dtype: Any = np.float32,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self._add_parameters((out_channels, in_channels // groups), bias, rng, init, dtype)

    def forward(self, x: Any) -> Any:
        return ops.conv2d(x, self.weight, self.bias, **self._options())


class ConvTranspose2d(_Conv):
    """The adjoint of Conv2d with the same settings: x (N, in_channels, H, W) -> (N, out_channels, H', W').

    H' = (H - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1. weight (in_channels, out_channels /
    groups, height, width) and bias are drawn as in Conv2d, fan_in counted, as in PyTorch, from the second axis on.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        *,
        rng: np.random.Generator,
        init: Initializer = initialisers.fan_in_uniform,
        dtype: Any = np.float32,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.output_padding = _pair(output_padding)
        self._add_parameters((in_channels, out_channels // groups), bias, rng, init, dtype)

    def forward(self, x: Any) -> Any:
        return ops.conv_transpose2d(x, self.weight, self.bias, output_padding=self.output_padding, **self._options())


class _Pool(Module):
    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0):
        self.kernel_size = _pair(kernel_size)
        self.stride = self.kernel_size if stride is None else _pair(stride)
        self.padding = _pair(padding)


class MaxPool2d(_Pool):
    """The largest value of each window of x (N, C, H, W); `stride` is by default the window's size."""

    def forward(self, x: Any) -> Any:
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool):
    """The mean of each window of x (N, C, H, W), padded zeros included; `stride` is by default the window's size."""

    def forward(self, x: Any) -> Any:
        return ops.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class Upsample(Module):
    """Nearest-neighbour enlargement of x (N, C, H, W) by the integer `scale_factor`."""

    def __init__(self, scale_factor: int):
        self.scale_factor = scale_factor

    def forward(self, x: Any) -> Any:
        return ops.interpolate(x, scale_factor=self.scale_factor)


class Flatten(Module):
    """x with the axes from `start_dim` on made one."""

    def __init__(self, start_dim: int = 1):
        self.start_dim = start_dim

    def forward(self, x: Any) -> Any:
        return x.reshape((*x.shape[: self.start_dim], math.prod(x.shape[self.start_dim :])))
