"""GAN, generative adversarial nets (Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio, NIPS 2014).

A generator G makes examples from noise z of a known law; a discriminator D tells them from the data (models/adversarial.py has
the game, and the step in which both move). Let p be the density of the data and q that of G(z). What the paper proves:

    the best D against a G          D*(x) = p(x) / (p(x) + q(x))                                           (proposition 1)
    what the game is worth then     V(D*, G) = 2 JSD(p, q) - ln 4, least, -ln 4, where q = p               (theorem 1)
    JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2,  between 0 and ln 2 nats

For points of the line or the plane whose density p is known both sides are computed (models/optimum.py): many samples, counted
in cells, give q, and D and V are put beside D* and 2 JSD - ln 4.

The networks are dense: G has ReLUs, and sigmoids at the end where examples lie in [0, 1]; D has maxout units,
h_i = max_j (W_j x + b_j)_i, (Goodfellow et al., "Maxout networks", ICML 2013) and dropout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinygen import Tensor, dropout, max, nn
from tinygen.backend import Array, to_device
from tinygen.data.densities import DENSITIES, Density
from tinygen.models.adversarial import GAMES, Adversarial, perceptron
from tinygen.models.base import pixel_log_odds
from tinygen.models.optimum import Comparison, compare
from tinygen.models.pictures import Images, Picture, between
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split

LOSSES = ("saturating", "non-saturating")  # the paper's; with least squares V is not what D climbs
ENDS, STEPS = 8, 10  # rows and columns of the picture of interpolations


class Maxout(nn.Module):
    """h_i = max_j (W_j x + b_j)_i over j = 1 .. pieces: x (B, in_features) -> (B, out_features)."""

    def __init__(self, in_features: int, out_features: int, pieces: int, *, rng: np.random.Generator, dtype: Any = np.float32):
        self.pieces = pieces
        self.affine = nn.Dense(in_features, pieces * out_features, rng=rng, dtype=dtype)

    def forward(self, x: Any) -> Any:
        return max(self.affine(x).reshape((len(x), self.pieces, -1)), axis=1)


class Discriminator(nn.Module):
    """Layers of maxout units and one logit. The share dropout[0] of the inputs is dropped, dropout[1] of the hidden units."""

    def __init__(
        self,
        dimensions: int,
        hidden: Sequence[int],
        pieces: int,
        dropout: tuple[float, float],
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        self.dropout = dropout
        self.hidden = [Maxout(a, b, pieces, rng=rng, dtype=dtype) for a, b in pairwise((dimensions, *hidden))]
        self.logit = nn.Dense((dimensions, *hidden)[-1], 1, rng=rng, dtype=dtype)

    def forward(self, x: Any, rng: np.random.Generator) -> Any:
        h = dropout(x, self.dropout[0], rng, self.training)
        for layer in self.hidden:
            h = dropout(layer(h), self.dropout[1], rng, self.training)
        return self.logit(h).reshape((-1,))


QUICK = Recipe(
    data="mnist5k",
    binarization="grey",
    epochs=500,
    batch_size=100,
    optimizer="adam",
    optimizer_options={"betas": (0.5, 0.999)},
    lr=5e-4,
    valid_every=25,
    model={
        "noise": 50,
        "prior": "uniform",
        "generator": (400, 400),
        "discriminator": (150, 150),
        "pieces": 3,
        "dropout": (0.2, 0.5),
        "loss": "non-saturating",
        "d_steps": 1,
    },
)


class GAN(Adversarial):
    """GAN over D dimensions.

    Args:
        dimensions: D.
        noise: dimensions of z.
        prior: the law of each, "uniform" on [-sqrt(3), sqrt(3)] or "normal"; the variance is 1 in both.
        generator, discriminator: units of the hidden layers; of none, G is affine.
        pieces: affine functions of which each unit of the discriminator takes the largest.
        dropout: the shares of inputs and of hidden units that the discriminator drops in training.
        loss: what the generator goes down, "saturating" or "non-saturating".
        d_steps: how often the discriminator moves before the generator does.
        sigmoid: whether examples lie in [0, 1].
        bias: start of G's output biases (D,); None for draws.
        density: the law of the data, where it is known and of one or two dimensions.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": QUICK,
        # The law of the data is known: D against D*, V against 2 JSD - ln 4. On the plane: --data gaussians, rings, moons.
        "density": replace(
            QUICK,
            data="peaks",
            binarization="real",
            epochs=20,
            batch_size=500,
            lr=1e-3,
            schedule="cosine",
            valid_every=1,
            model=QUICK.model
            | {
                "noise": 2,
                "prior": "normal",
                "generator": (64, 64),
                "discriminator": (128, 128),
                "dropout": (0.0, 0.0),
                "d_steps": 5,
            },
        ),
        # The paper's networks, noise and momentum.
        "paper": replace(
            QUICK,
            data="mnist",
            epochs=100,
            optimizer="sgd",
            optimizer_options={"momentum": 0.5},
            lr=0.1,
            schedule="cosine",
            valid_every=10,
            model=QUICK.model | {"noise": 100, "generator": (1200, 1200), "discriminator": (240, 240), "pieces": 5},
        ),
    }

    def __init__(
        self,
        dimensions: int,
        noise: int,
        prior: str,
        generator: Sequence[int],
        discriminator: Sequence[int],
        pieces: int,
        dropout: tuple[float, float],
        loss: str,
        d_steps: int,
        rng: np.random.Generator,
        sigmoid: bool = True,
        bias: Array | None = None,
        density: Density | None = None,
        dtype: type = np.float32,
    ):
        if prior not in ("uniform", "normal") or loss not in LOSSES or d_steps < 1 or noise < 1 or pieces < 1:
            raise ValueError(
                f"prior = {prior!r}, loss = {loss!r}, d_steps = {d_steps}, noise = {noise}, pieces = {pieces}: "
                f"expected uniform or normal, {' or '.join(LOSSES)}, and numbers from 1 up"
            )
        end = [nn.Sigmoid()] if sigmoid else []
        self.G = perceptron((noise, *generator, dimensions), *end, bias=bias, rng=rng, dtype=dtype)
        self.D = Discriminator(dimensions, discriminator, pieces, dropout, rng=rng, dtype=dtype)
        self.noise, self.prior, self.game, self.d_steps, self.density = noise, prior, GAMES[loss], d_steps, density

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        dimensions = math.prod(train.images.shape[1:])
        if recipe.binarization == "real":
            return cls(dimensions, rng=rng, sigmoid=False, density=DENSITIES.get(recipe.data), **recipe.model)
        return cls(dimensions, rng=rng, bias=pixel_log_odds(train), **recipe.model)

    def draw_noise(self, n: int, rng: np.random.Generator) -> Array:
        """`n` draws of z, (n, noise), on the model's device."""
        shape, edge = (n, self.noise), math.sqrt(3)
        return self.own(rng.standard_normal(shape) if self.prior == "normal" else rng.uniform(-edge, edge, shape))

    def generate(self, n: int, rng: np.random.Generator) -> Tensor:
        return self.G(self.draw_noise(n, rng))

    def discriminate(self, x: Array | Tensor, rng: np.random.Generator) -> Tensor:
        return self.D(x, rng)

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """ "d_real" and "d_fake", and where the law of the data is known the figures of `Comparison`."""
        figures = super().evaluate(x, rng)
        return figures if self.density is None else figures | self.compare(x, rng).figures()

    def compare(self, x: Array, rng: np.random.Generator) -> Comparison:
        """D against D* over the examples `x` (n, D), D = 1 or 2; see models/optimum.py."""
        with self.evaluating():
            logits = lambda points: self.discriminate(to_device(points, self.device), rng)._data
            return compare(self.density, x, lambda n: self.sample(n, rng), logits)

    def pictures(self, x: Array, rng: np.random.Generator) -> dict[str, Picture]:
        """ "optimum": D against D*, where the law of the data is known; else "interpolations" between values of z."""
        if self.density is not None:
            return {"optimum": self.compare(x, rng).picture()}
        z = between(self.draw_noise(ENDS, rng), self.draw_noise(ENDS, rng), STEPS)
        with self.evaluating():
            found = self.G(z.reshape(-1, self.noise)).numpy()
        return {"interpolations": Images(found.reshape(ENDS, STEPS, -1))}
