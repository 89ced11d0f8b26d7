"""What the models of images pixel by pixel share: PixelCNN, Row LSTM and Diagonal BiLSTM (van den Oord et al., ICML 2016).

An image is a sequence of D = height x width x colours numbers in raster order, row by row, from left to right, and within a
pixel red, green, blue; the chain rule gives its probability (section 2 of the paper):

    p(x) = prod_i p(x_{i,R} | x_{<i}) p(x_{i,G} | x_{<i}, x_{i,R}) p(x_{i,B} | x_{<i}, x_{i,R}, x_{i,G})

One network computes all conditionals at once. Each is a Bernoulli (2 levels: a sigmoid) or a categorical distribution over
grey values (256 levels: a softmax). What makes it a likelihood is only that no logit depends on its own number or on a later
one. Masks see to that. The features of every layer are divided among the colours, and at the pixel itself (the centre of a
convolution)

    mask A    features of a colour see the earlier colours only: for the first layer, whose input is the image
    mask B    they see their own colour too: for all layers after it

while pixels above and to the left are seen whole (section 3.4 and figure 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen import Tensor, binary_cross_entropy_with_logits, cross_entropy, nn, no_grad, relu, sigmoid, softmax
from tinygen.backend import Array, module_of, to_device
from tinygen.models.base import Model
from tinygen.models.recipe import Recipe, RecipeError
from tinygen.nn.init import uniform
from tinygen.ops.masked_conv import masked_conv2d
from tinygen.tensor import array_of

if TYPE_CHECKING:
    from tinygen.data import Split

EVALUATED = 1 << 24  # logits held at once while a likelihood is evaluated


class PixelModel(Model):
    """A model of images of `shape` (height, width, colours), each number one of `levels` values k / (levels - 1).

    A subclass defines `logits`. Examples x are flat, (B, height x width x colours), the colour running fastest.
    """

    def __init__(self, shape: tuple[int, int, int], levels: int):
        if levels < 2:
            raise ValueError(f"levels = {levels} is out of range: 2 (bits) or more (grey values)")
        self.height, self.width, self.colours = shape
        self.levels = levels

    def logits(self, images: Array) -> Tensor:
        """The conditionals of images (B, colours, H, W) in [0, 1]: (B, K, colours, H, W).

        K = 1 for 2 levels (the log-odds of 1), else K = levels (log-probabilities but for a constant). None depends on its own
        number or on a later one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define logits(images)")

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x), (B,) in nats, of x (B, D) with values k / (levels - 1)."""
        images = self.images(x)
        logits = self.logits(images)
        if self.levels == 2:
            losses = binary_cross_entropy_with_logits(logits[:, 0], images, reduction="none")
        else:
            losses = cross_entropy(logits, module_of(images).rint(images * (self.levels - 1)).astype(int), reduction="none")
        return -losses.sum((1, 2, 3))

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """Mean negative log-likelihood of the batch, in nats per example."""
        return -self.log_prob(x).mean()

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` exact samples (n, D), by ancestral sampling: each number given those before it."""
        D = self.height * self.width * self.colours
        return self.complete(np.zeros((n, D)), np.zeros(D, bool), rng)

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the unobserved numbers drawn from their exact conditional given the observed ones.

        `observed` (D,) is a boolean mask. The conditional is at hand only if the observed numbers come first in raster order
        (the upper part of the image); otherwise raises ValueError.
        """
        mask = np.asarray(to_device(observed, "cpu"), bool)
        start = int(mask.sum())
        if mask[start:].any():
            raise ValueError(
                "complete needs the observed numbers to come first in raster order: "
                f"number {start + int(mask[start:].argmax())} is observed but {int(mask.argmin())}, before it, is not"
            )
        xp = module_of(next(iter(self.parameters()))._data)
        images = self.images(xp.where(xp.asarray(mask), xp.asarray(x), 0))
        uniforms = rng.random((len(images), *mask.shape)).astype(images.dtype)
        with no_grad():
            filled = self.fill(images, to_images(mask[None], self.shape)[0], to_images(xp.asarray(uniforms), self.shape))
        return filled.transpose(0, 2, 3, 1).reshape(len(filled), -1)

    def fill(self, images: Array, observed: np.ndarray, uniforms: Array) -> Array:
        """Images (B, colours, H, W) with the numbers drawn where `observed` (colours, H, W) is False, by `uniforms` in [0, 1).

        One number after the other; this is the naive sampler, one full pass of `logits` for each. A model that can keep what it
        computed for earlier pixels overrides it, with the same result.
        """
        images = images.copy()
        for row, column, colour in np.ndindex(self.shape):
            if not observed[colour, row, column]:
                logits = array_of(self.logits(images))[:, :, colour, row, column]
                images[:, colour, row, column] = draw(logits, uniforms[:, colour, row, column])
        return images

    def images(self, x: Array) -> Array:
        """x (B, D) as images (B, colours, H, W), in the parameters' dtype."""
        return to_images(x.astype(next(iter(self.parameters())).dtype, copy=False), self.shape)

    @property
    def replayed(self) -> bool:
        return self.levels == 2  # cross_entropy reads its targets, to refuse those that are no level

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, colours)."""
        return self.height, self.width, self.colours

    def batches(self, x: Array, size: int | None = None) -> Iterator[Array]:
        """As for every model, in parts whose logits fit into memory."""
        return super().batches(x, size or min(100, max(1, EVALUATED // (self.levels * x.shape[1]))))


def sizes(recipe: Recipe, train: Split) -> tuple[tuple[int, int, int], int]:
    """The shape (height, width, colours) and the levels of a model of the images `train`, for `build`.

    Raises RecipeError unless the recipe's `levels` fit its binarization: 2 for bits, more (256, say) for grey values.
    """
    levels = recipe.model["levels"]
    if (levels == 2) == (recipe.binarization == "grey"):
        fitting = "256 levels" if levels == 2 else "levels=2, or binarization=grey"
        raise RecipeError(f"levels = {levels} does not fit binarization {recipe.binarization!r}: it needs {fitting}")
    height, width, *colours = train.images.shape[1:]
    return (height, width, *(colours or (1,))), levels


def to_images(x: Array, shape: tuple[int, int, int]) -> Array:
    """x (B, height x width x colours), the colour running fastest, as (B, colours, height, width), C-ordered."""
    return module_of(x).ascontiguousarray(x.reshape(-1, *shape).transpose(0, 3, 1, 2))


def draw(logits: Array, uniforms: Array) -> Array:
    """Values in [0, 1] (B,) from logits (B, K), by inversion: the first level whose cumulative probability exceeds the uniform.

    K = 1: a bit, 1 where u < sigmoid(logit); else a level k / (K - 1).
    """
    if logits.shape[1] == 1:
        return (uniforms < sigmoid(logits[:, 0])).astype(logits.dtype)
    last = logits.shape[1] - 1
    cumulative = softmax(logits, 1)[:, :last].cumsum(1)
    return ((cumulative <= uniforms[:, None]).sum(1) / last).astype(logits.dtype)


# ---- Masks and layers ----


def colour_of(features: int, colours: int) -> np.ndarray:
    """Which colour (0, 1, 2 for R, G, B) each feature belongs to, (features,): they take turns, so that every colour has its
    share of any number of them, and the channels of an image, or of logits (K, colours), are their own colours."""
    return np.arange(features) % colours


def sees(kind: str, out_features: int, in_features: int, colours: int) -> np.ndarray | None:
    """Which input features each output feature sees at its own pixel: boolean (out, in), or None where it is all of them.

    kind "A": those of earlier colours; "B": those of its own colour too. Raises ValueError for another kind.
    """
    if kind not in ("A", "B"):
        raise ValueError(f"mask {kind!r} is unknown: expected 'A' or 'B'")
    mine, theirs = colour_of(out_features, colours)[:, None], colour_of(in_features, colours)
    seen = theirs < mine if kind == "A" else theirs <= mine
    return None if seen.all() else seen


class MaskedConv2d(nn.Module):
    """A convolution (B, in, H, W) -> (B, out, H, W) that sees pixels above and to the left only, and the centre by its mask.

    kernel_size k is odd, kind "A" or "B" (see `sees`). weight (out, in, k, k), of which only the seen taps are used, is drawn
    from U(-b, b) with b = gain sqrt(3 / the mean number of inputs seen), He's with the default gain; bias (out,) starts at 0.
    centre: what is seen at the pixel itself, boolean (out, in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        kind: str,
        colours: int = 1,
        gain: float = math.sqrt(2),
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size = {kernel_size} has no centre: it must be odd")
        seen = sees(kind, out_channels, in_channels, colours)
        self._whole = seen is None
        seen = np.ones((out_channels, in_channels), bool) if self._whole else seen
        fan_in = in_channels * (kernel_size**2 // 2) + seen.sum() / out_channels
        bound = gain * math.sqrt(3 / max(fan_in, 1))
        self.weight = nn.Parameter(uniform(rng, (out_channels, in_channels, kernel_size, kernel_size), dtype, bound=bound))
        self.bias = nn.Parameter(np.zeros(out_channels, dtype))
        self.register_buffer("centre", seen)

    @property
    def seen(self) -> Array | bool:
        """`centre` as the convolution takes it: True where it has no hole, so that no weight need be masked."""
        return True if self._whole else self.centre

    @property
    def mask(self) -> Array:
        """The taps that are used, boolean (out, in, k, k): all before the centre, and there what `centre` says."""
        k = self.weight.shape[2]
        tap = module_of(self.centre).arange(k * k).reshape(k, k)
        return (tap < k * k // 2) | (tap == k * k // 2) & self.centre[:, :, None, None]

    def forward(self, x: Any) -> Any:
        return masked_conv2d(x, self.weight, self.bias, self.seen)


class Head(nn.Module):
    """From features (B, in_channels, H, W) to logits (B, K, colours, H, W): ReLU, 1x1, ReLU, 1x1, both with mask B.

    hidden: features between the two. K = 1 for 2 levels, else levels.
    """

    def __init__(self, in_channels: int, hidden: int, levels: int, colours: int, *, rng: np.random.Generator, dtype: Any):
        self.K, self.colours = 1 if levels == 2 else levels, colours
        self.inner = MaskedConv2d(in_channels, hidden, 1, "B", colours, rng=rng, dtype=dtype)
        self.outer = MaskedConv2d(hidden, self.K * colours, 1, "B", colours, rng=rng, dtype=dtype)

    def forward(self, features: Any) -> Any:
        y = self.outer(relu(self.inner(relu(features))))
        return y.reshape((len(y), self.K, self.colours, *y.shape[2:]))
