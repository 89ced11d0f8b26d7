"""PixelRNN (van den Oord, Kalchbrenner and Kavukcuoglu, ICML 2016): what the Row LSTM and the Diagonal BiLSTM share.

Pixels in raster order, and within a pixel the colours R, G, B; each value given all that come before it (table 1):

    7 x 7 convolution, mask A      2 h feature maps; a pixel does not see itself (in colour: its G sees R, its B sees R and G)
    LSTM layers                    x <- x + up(LSTM(x)): h units, a 1 x 1 convolution back to 2 h maps (mask B), and the
                                   residual connection, added once (section 3.3)
    ReLU, 1 x 1 convolution, twice mask B, then a sigmoid or a softmax over the levels

A layer is a module with two faces. `forward` takes all pixels of a map at once, for training. `cache` gives an object that
takes one pixel after the other, in raster order, and keeps the states that later pixels need: with it a sample costs about as
much arithmetic as one pass over the image, and not one pass per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from tinygen import Tensor, nn, pad
from tinygen.backend import Array, module_of
from tinygen.models.pixels import Head, MaskedConv2d, PixelModel, draw, sees, sizes
from tinygen.models.recipe import Recipe
from tinygen.nn import init
from tinygen.tensor import array_of

if TYPE_CHECKING:
    from tinygen.data import Split

# What both train with; each adds its own recipes' length and target.
QUICK = Recipe(
    data="mnist5k",
    binarization="dynamic",
    epochs=20,
    batch_size=32,
    optimizer="adam",
    lr=8e-3,
    schedule="cosine",
    clip=10.0,
    model={"hidden": 32, "layers": 1, "head": 32, "levels": 2},
)
PAPER = replace(QUICK, data="binarized-mnist", binarization="fixed", epochs=8, lr=6e-3, valid_every=2)


class Gates(nn.Module):
    """The weights of an LSTM's gates, in PyTorch's order i, f, g, o.

    weight_ih (4 h, in_features, *input_taps), weight_hh (4 h, h, taps), bias (4 h,). With `masked`, the last input tap is the
    pixel itself, and gates of a colour see no feature of a later one there (mask B); within each gate the colours take turns.
    Weights are drawn from U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)); biases start at 0, those of the forget gates at 1, so that a
    state is kept over many pixels from the start.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        input_taps: tuple[int, ...],
        taps: int,
        colours: int,
        masked: bool = True,
        *,
        rng: np.random.Generator,
        dtype: Any,
    ):
        bias = np.zeros((4, hidden), dtype)
        bias[1] = 1
        self.weight_ih = nn.Parameter(init.fan_in_uniform(rng, (4 * hidden, in_features, *input_taps), dtype))
        self.weight_hh = nn.Parameter(init.fan_in_uniform(rng, (4 * hidden, hidden, taps), dtype))
        self.bias = nn.Parameter(bias.reshape(-1))
        self.masked = masked and (seen := sees("B", hidden, in_features, colours)) is not None
        if self.masked:
            mask = np.ones(self.weight_ih.shape, dtype)
            mask.reshape(4, hidden, in_features, -1)[..., -1] = seen
            self.register_buffer("mask", mask)

    def weights(self) -> tuple[Any, Any, Any]:
        """weight_ih with what the mask leaves of it, weight_hh and bias."""
        return self.weight_ih * self.mask if self.masked else self.weight_ih, self.weight_hh, self.bias


class Cache(Protocol):
    """The states of one layer while images are filled in, pixel after pixel."""

    def step(self, x: Array, column: int) -> Array:
        """The states (N, h) at the next pixel of the current row from the layer's input there, (N, 2 h). Called again for the
        same pixel, it forgets the first call: in colour, a pixel's features change as its colours become known."""

    def end_row(self) -> None:
        """Called when all pixels of the row are known."""


class Layer(nn.Module):
    """x (N, features, H, W) -> x + up(states(x)), of the same shape; `states` is what a subclass adds."""

    def __init__(self, features: int, hidden: int, colours: int, *, rng: np.random.Generator, dtype: Any = np.float32):
        self.up = MaskedConv2d(hidden, features, 1, "B", colours, rng=rng, dtype=dtype)

    def states(self, x: Any) -> Any:
        """Hidden states (N, hidden, H, W) of all pixels."""
        raise NotImplementedError(f"{type(self).__name__} must define states(x)")

    def cache(self, images: int, width: int) -> Cache:
        """The same for a sampler, pixel after pixel, of so many images at once."""
        raise NotImplementedError(f"{type(self).__name__} must define cache(images, width)")

    def forward(self, x: Any) -> Any:
        return x + self.up(self.states(x))


Product = Callable[[Array], Array]


def _product(conv: MaskedConv2d) -> Product:
    """What the convolution does at one pixel, as a function of what it sees there, (N, in k k) -> (N, out)."""
    weight, bias = array_of(conv.weight * conv.mask), array_of(conv.bias)
    weight = weight.reshape(len(weight), -1).T.copy()
    return lambda seen: seen @ weight + bias


class PixelRNN(PixelModel):
    """A PixelRNN over images of `shape` (height, width, colours); subclasses name their layer.

    Args:
        shape, levels: as in PixelModel.
        hidden: h, the units of each LSTM layer; between the layers there are 2 h feature maps.
        layers: how many LSTM layers.
        head: feature maps of the output layers.
        rng: draws the starting weights.
    """

    LAYER: ClassVar[type[Layer]]

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        hidden: int,
        layers: int,
        head: int,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        super().__init__(shape, levels)
        if min(hidden, layers, head) < 1:
            raise ValueError(f"hidden, layers and head must be at least 1, got {hidden}, {layers} and {head}")
        self.input = MaskedConv2d(self.colours, 2 * hidden, 7, "A", self.colours, rng=rng, dtype=dtype)
        self.layers = nn.Sequential(
            *(self.LAYER(2 * hidden, hidden, self.colours, rng=rng, dtype=dtype) for _ in range(layers))
        )
        self.head = Head(2 * hidden, head, levels, self.colours, rng=rng, dtype=dtype)

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        shape, levels = sizes(recipe, train)
        return cls(shape, levels, recipe.model["hidden"], recipe.model["layers"], recipe.model["head"], rng)

    def logits(self, images: Array) -> Tensor:
        return self.head(self.layers(self.input(images)))

    def fill(self, images: Array, observed: np.ndarray, uniforms: Array) -> Array:
        """As PixelModel.fill, from the states that were kept of earlier pixels instead of a full pass for each number."""
        reach = self.input.weight.shape[2] // 2
        padded = array_of(pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach))))
        layers = [(layer.cache(len(images), self.width), _product(layer.up)) for layer in self.layers]
        ends = [_product(conv) for conv in (self.input, self.head.inner, self.head.outer)]
        for row in range(self.height):
            for column in range(self.width):
                window = padded[:, :, row : row + 2 * reach + 1, column : column + 2 * reach + 1]
                for colour in range(self.colours):
                    drawn = not observed[colour, row, column]
                    if drawn or colour == self.colours - 1:
                        logits = self._at_pixel(window, column, layers, *ends)
                    if drawn:
                        window[:, colour, reach, reach] = draw(logits[:, :, colour], uniforms[:, colour, row, column])
            for cache, _ in layers:
                cache.end_row()
        return padded[:, :, reach:-reach, reach:-reach].copy()

    def _at_pixel(
        self,
        window: Array,
        column: int,
        layers: list[tuple[Cache, Product]],
        first: Product,
        inner: Product,
        outer: Product,
    ) -> Array:
        """Logits (N, K, colours) at one pixel, from what the first convolution sees there and the states of earlier pixels."""
        xp = module_of(window)
        x = first(window.reshape(len(window), -1))
        for cache, up in layers:
            x = x + up(cache.step(x, column))
        y = outer(xp.maximum(inner(xp.maximum(x, 0)), 0))
        return y.reshape(len(y), -1, self.colours)
