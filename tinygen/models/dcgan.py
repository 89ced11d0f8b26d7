"""DCGAN, the deep convolutional generative adversarial network (Radford, Metz and Chintala, ICLR 2016).

The game of `adversarial`, played by convolutional networks that train stably (`convnets` has the rules that make them so):

    G: z ~ U(-1, 1)^100 -> dense -> maps 7 x 7 -> 14 x 14 -> image 28 x 28      transposed convolutions 4 x 4 of stride 2
    D: image -> maps 14 x 14 -> 7 x 7 -> one logit                             convolutions 4 x 4 of stride 2

    D goes up    E_x ln D(x) + E_z ln (1 - D(G(z)))
    G goes up    E_z ln D(G(z))

Both by Adam with rate 2e-4 and beta_1 = 0.5: with the usual 0.9 the two oscillate. D meets examples and fakes in batches
of their own, so that its batch norm standardizes each kind by itself.

What G has learnt, and not learnt by heart, shows along a line between two points z: every image on the way is a digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn
from tinygen.backend import Array
from tinygen.models.adversarial import Adversarial
from tinygen.models.convnets import Generator, Shape, halving, image_shape, to_examples, to_images, units, weights
from tinygen.models.pictures import Images, Picture, between
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split

WALKS, STEPS = 8, 12  # rows and columns of the picture


PAPER = Recipe(
    data="mnist",
    binarization="grey",
    epochs=25,
    batch_size=128,
    lr=2e-4,
    optimizer_options={"betas": (0.5, 0.999)},
    model={"latent": 100, "channels": (64, 128), "generator_lr": 2e-4},
)


class DCGAN(Adversarial):
    """DCGAN for images of `shape` (H, W, C), whose sides divide by 2^len(channels).

    Args:
        shape: (H, W, C).
        latent: numbers in z.
        channels: of the maps, from the largest maps (those next to the image) to the smallest; G has them the other way round.
        rng: draws the starting weights.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        # Of few images D soon knows which ones are real: G keeps up when it moves faster.
        "quick": replace(
            PAPER,
            data="mnist5k",
            epochs=60,
            batch_size=64,
            model={"latent": 100, "channels": (32, 64), "generator_lr": 1e-3},
        ),
        "paper": PAPER,
    }

    def __init__(
        self,
        shape: Shape,
        latent: int,
        channels: Sequence[int],
        rng: np.random.Generator,
        dtype: type = np.float32,
    ):
        self.shape, self.latent = shape, latent
        self.G = Generator(latent, shape, channels[::-1], rng=rng, dtype=dtype)
        logit = nn.Dense(units(shape, channels), 1, bias=False, init=weights, rng=rng, dtype=dtype)
        self.D = nn.Sequential(*halving(shape[2], channels, rng=rng, dtype=dtype), nn.Flatten(), logit)

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        return cls(image_shape(train), recipe.model["latent"], recipe.model["channels"], rng)

    def noise(self, n: int, rng: np.random.Generator) -> Array:
        """z ~ U(-1, 1), (n, latent)."""
        return self.own(rng.uniform(-1, 1, (n, self.latent)))

    def generate(self, n: int, rng: np.random.Generator) -> Tensor:
        return to_examples(self.G(self.noise(n, rng)))

    def discriminate(self, x: Array | Tensor, rng: np.random.Generator) -> Tensor:
        return self.D(to_images(x, self.shape))

    def pictures(self, x: Array, rng: np.random.Generator) -> dict[str, Picture]:
        """walks: in each row the images on a straight line between two draws of z."""
        z = between(*self.noise(2 * WALKS, rng).reshape(2, WALKS, self.latent), STEPS)
        with self.evaluating():
            walks = to_examples(self.G(z.reshape(-1, self.latent))).numpy()
        return {"walks": Images(walks.reshape(WALKS, STEPS, -1))}
