"""PixelCNN (van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016, sections 3.4 to 3.6).

Every conditional of an image, pixel by pixel (see `pixels.py`), from one stack of masked convolutions (table 1 and figure 5):

    u   = 7 x 7 convolution, mask A, of the image                      2 h features
    u  <- u + 1x1(relu(kxk(relu(1x1(relu(u))))))   for each block      2 h -> h -> h -> 2 h, mask B
    logits = 1x1(relu(1x1(relu(u))))                                   mask B

A pixel is so predicted from a bounded neighbourhood, which grows by k // 2 pixels with each block, and not from all pixels
before it. What lies to the right above it is seen only through a chain of windows: the first reaches 3 columns to the right of
its centre even in the row above, and each block goes on k // 2 more, but a row up at least. What is further to the right is
PixelCNN's blind spot, the price for computing all pixels at once.

The paper has k = 3. On two cores a few blocks with k = 7 reach as far as many with k = 3, learn faster and take less time: the
passes over the 2 h features cost more than the products (the recipes say which is used).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn, relu
from tinygen.backend import Array
from tinygen.kernels.masked_conv import Layer, Stepper
from tinygen.models.pixels import Head, MaskedConv2d, PixelModel, draw, sizes
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split


class Block(nn.Module):
    """u + 1x1(relu(kxk(relu(1x1(relu(u)))))), (B, 2 h, H, W) -> the same shape; the last weights start with `gain`."""

    def __init__(self, h: int, k: int, colours: int, gain: float, *, rng: np.random.Generator, dtype: Any = np.float32):
        self.down = MaskedConv2d(2 * h, h, 1, "B", colours, rng=rng, dtype=dtype)
        self.conv = MaskedConv2d(h, h, k, "B", colours, rng=rng, dtype=dtype)
        self.up = MaskedConv2d(h, 2 * h, 1, "B", colours, gain, rng=rng, dtype=dtype)

    def forward(self, u: Any) -> Any:
        return u + self.up(relu(self.conv(relu(self.down(relu(u))))))


QUICK = Recipe(
    data="mnist5k",
    binarization="dynamic",
    epochs=20,
    batch_size=16,
    optimizer="adamw",
    lr=4e-3,
    schedule="cosine",
    weight_decay=1e-2,
    model={"hidden": 16, "blocks": 5, "kernel_size": 7, "head": 32, "levels": 2},
)
GREY = replace(QUICK, binarization="grey", epochs=10, lr=3e-3, model=QUICK.model | {"levels": 256})


class PixelCNN(PixelModel):
    """PixelCNN over images of `shape` (height, width, colours).

    Args:
        shape, levels: see PixelModel.
        hidden: h; the blocks carry 2 h features.
        blocks: how many.
        kernel_size: k of the blocks, odd.
        head: features between the two output layers.
        rng: draws the starting weights.
    """

    # A pixel sees 3 + blocks (kernel_size // 2) rows up, and a digit is 20 pixels high.
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": QUICK,
        # Grey values as they are, each a choice among 256.
        "grey": GREY,
        # The same three times a pixel: red, then green given red, then blue given both.
        "rgb": replace(GREY, data="mnist5k-rgb", epochs=8, model=GREY.model | {"hidden": 24, "head": 48}),
        # The paper names no sizes for MNIST, and trained with RMSProp.
        "paper": replace(
            QUICK, data="binarized-mnist", binarization="fixed", epochs=8, target=81.30, model=QUICK.model | {"blocks": 6}
        ),
    }

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        hidden: int,
        blocks: int,
        head: int,
        rng: np.random.Generator,
        kernel_size: int = 3,
        dtype: Any = np.float32,
    ):
        super().__init__(shape, levels)
        h, colours = hidden, self.colours
        for name, value in {"hidden": hidden, "head": head}.items():
            if value < 1:
                raise ValueError(f"{name} = {value} is out of range: at least 1")
        self.first = MaskedConv2d(colours, 2 * h, 7, "A", colours, rng=rng, dtype=dtype)
        # The blocks together start by adding about as much as the first layer gives.
        gain = (2 / max(blocks, 1)) ** 0.5
        self.blocks = [Block(h, kernel_size, colours, gain, rng=rng, dtype=dtype) for _ in range(blocks)]
        self.head = Head(2 * h, head, levels, colours, rng=rng, dtype=dtype)

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        shape, levels = sizes(recipe, train)
        return cls(shape, **{**recipe.model, "levels": levels}, rng=rng)

    def logits(self, images: Array) -> Tensor:
        u = self.first(images)
        for block in self.blocks:
            u = block(u)
        return self.head(u)

    def fill(self, images: Array, observed: np.ndarray, uniforms: Array) -> Array:
        """As PixelModel.fill; each layer computes a pixel once, from what the kernel kept of earlier ones."""
        images = images.copy()
        stepper = Stepper(self.layers(), len(images), (self.height, self.width))
        for row, column, colour in np.ndindex(self.shape):
            drawn = not observed[colour, row, column]
            if drawn or colour == self.colours - 1:  # then all is known that the features of this pixel see
                logits = stepper.step(row, column).reshape(len(images), -1, self.colours)
            if drawn:
                images[:, colour, row, column] = draw(logits[:, :, colour], uniforms[:, colour, row, column])
            stepper.put(row, column, images[:, :, row, column])
        return images

    def layers(self) -> list[Layer]:
        """The network as a sequence, as the kernel takes it."""
        layers = [_layer(self.first)]
        for block in self.blocks:
            layers += [_layer(block.down, True), _layer(block.conv, True), _layer(block.up, True, skip=3)]
        return [*layers, _layer(self.head.inner, True), _layer(self.head.outer, True)]


def _layer(conv: MaskedConv2d, rectified: bool = False, skip: int = 0) -> Layer:
    return Layer(conv.weight._data, conv.bias._data, conv.seen, rectified, skip)
