"""Convolutional networks between noise and images, as Radford, Metz and Chintala (ICLR 2016) build them.

No pooling: strided convolutions halve the side of the maps, transposed ones double it. Batch norm everywhere except at the
generator's output and the discriminator's input; ReLU in the generator and tanh at its end, leaky ReLU of slope 0.2 in the
discriminator, by the layer of batch norm where there is one (`negative_slope`); all weights start from N(0, 0.02). Batch norm
has a shift of its own, so layers before it have no bias.

Images in these networks are (n, C, H, W) with values in [-1, 1]; outside, examples are flat and in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen import Tensor, nn, tanh, transpose

if TYPE_CHECKING:
    from tinygen.data import Split

Shape = tuple[int, int, int]  # (height, width, colours)

SLOPE = 0.2
weights = partial(nn.init.normal, std=0.02)


def to_images(x: Any, shape: Shape) -> Any:
    """Examples (n, height x width x colours) in [0, 1], the colour running fastest, as images (n, C, H, W) in [-1, 1]."""
    return transpose((2 * x - 1).reshape((len(x), *shape)), (0, 3, 1, 2))


def to_examples(images: Any) -> Any:
    """The inverse of `to_images`."""
    return transpose((images + 1) / 2, (0, 2, 3, 1)).reshape((len(images), -1))


def image_shape(train: Split) -> Shape:
    """(H, W, C) of a data set's images (n, H, W) or (n, H, W, C)."""
    return (*train.images.shape[1:], 1)[:3]


def units(shape: Shape, channels: Sequence[int]) -> int:
    """How many numbers the maps have that `halving` ends with."""
    return channels[-1] * math.prod(smallest(shape, len(channels)))


def smallest(shape: Shape, halvings: int) -> tuple[int, int]:
    """The sides of an image after `halvings` halvings. Raises ValueError where a side is not divisible."""
    height, width, _ = shape
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(f"{height} x {width} images cannot be halved {halvings} times: use fewer layers or other images")
    return height >> halvings, width >> halvings


class Generator(nn.Module):
    """z (n, inputs) -> images (n, C, H, W) in (-1, 1).

    Args:
        inputs: numbers in z (noise, codes, the features of a text).
        shape: (H, W, C) of the images.
        channels: of the maps, from the smallest maps to the largest; every layer doubles their side.
        hidden: units of dense layers before the maps.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        channels: Sequence[int] = (128, 64),
        hidden: Sequence[int] = (),
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        options = {"bias": False, "rng": rng, "init": weights, "dtype": dtype}
        self.start = (channels[0], *smallest(shape, len(channels)))
        widths = [inputs, *hidden, math.prod(self.start)]
        self.dense = nn.Sequential()
        for a, b in pairwise(widths[:-1]):
            self.dense.append(nn.Dense(a, b, **options))
            self.dense.append(nn.BatchNorm1d(b, negative_slope=0.0, dtype=dtype))
        self.project = nn.Dense(*widths[-2:], **options)
        self.norm = nn.BatchNorm2d(channels[0], negative_slope=0.0, dtype=dtype)
        self.double = nn.Sequential()
        for a, b in pairwise((*channels, shape[2])):
            self.double.append(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, **options))
            if len(self.double) < 2 * len(channels) - 1:
                self.double.append(nn.BatchNorm2d(b, negative_slope=0.0, dtype=dtype))

    def forward(self, z: Any) -> Tensor:
        maps = self.project(self.dense(z)).reshape((len(z), *self.start))
        return tanh(self.double(self.norm(maps)))


def halving(colours: int, channels: Sequence[int], *, rng: np.random.Generator, dtype: Any = np.float32) -> nn.Sequential:
    """Strided convolutions: images (n, colours, H, W) -> maps (n, channels[-1], H / 2^k, W / 2^k), k = len(channels)."""
    options = {"stride": 2, "padding": 1, "bias": False, "rng": rng, "init": weights, "dtype": dtype}
    layers = nn.Sequential()
    for a, b in pairwise((colours, *channels)):
        layers.append(nn.Conv2d(a, b, 4, **options))
        first = len(layers) == 1
        layers.append(nn.LeakyReLU(SLOPE) if first else nn.BatchNorm2d(b, negative_slope=SLOPE, dtype=dtype))
    return layers
