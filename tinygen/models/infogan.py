"""InfoGAN (Chen, Duan, Houthooft, Schulman, Sutskever and Abbeel, NIPS 2016).

A GAN whose generator also gets codes c, and is made to use them: the mutual information of c and G(z, c) is part of the game.

    min_{G, Q} max_D   V(D, G) - lambda L_I(G, Q)

    L_I = H(c) + E_{c, z} ln Q(c | G(z, c))   <=   I(c; G(z, c))   <=   H(c)

The bound is tight where Q is the posterior of c given the image, and L_I is 0 or less when G ignores c. Q shares the body of
D, and one part of it for each kind of code makes up ln Q(c | x):

    c_1 ~ Cat(10)                 logits l         ln Q = l[c_1] - ln sum_k e^l[k]
    c_2, c_3 ~ U(-1, 1)           mean m           ln Q = -(c - m)^2 / (2 sigma^2) - ln sigma - ln(2 pi) / 2,  sigma fixed

H(c) = ln 10 + 2 ln 2. The categorical part of L_I is logged as "info": it climbs to ln 10 = 2.303. It takes logits: a
softmax before the cross entropy would stop it at 0.84, since no probability is larger than 1 (see the tests).

No label is used in training. Whether c_1 came to mean the digit is measured afterwards: Q, as a classifier of real images,
with the codes given to the digits as best they can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np

from tinygen import Tensor, cross_entropy, nn
from tinygen.backend import Array, module_of, to_device
from tinygen.distributions import Normal
from tinygen.models.adversarial import Adversarial, frozen
from tinygen.models.base import Optimizers
from tinygen.models.convnets import SLOPE, Generator, Shape, halving, image_shape, to_examples, to_images, units, weights
from tinygen.models.pictures import Images, Picture
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split

COLUMNS = 10  # of a picture
WIDEST = 2.0  # how far the pictures vary a continuous code: beyond its range in training


class Codes(NamedTuple):
    """What Q is to find out: categories, integers (n,), and continuous codes, (n, continuous)."""

    category: Array
    continuous: Array


class Discriminator(nn.Module):
    """D and Q: one body for both, images (n, C, H, W) -> features (n, dense), and a head for each question.

    logit: D's. category: logits of the categorical code. means: of Q's Gaussians. The last two are asked of `inner`, Q's own
    layer, of the features.
    """

    def __init__(
        self,
        shape: Shape,
        categories: int,
        continuous: int,
        channels: Sequence[int],
        dense: int,
        hidden: int,
        *,
        rng: np.random.Generator,
        dtype: type,
    ):
        options = {"rng": rng, "init": weights, "dtype": dtype}

        def layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
            return nn.Dense(inputs, outputs, bias=False, **options), nn.BatchNorm1d(outputs, negative_slope=SLOPE, dtype=dtype)

        maps = halving(shape[2], channels, rng=rng, dtype=dtype)
        self.body = nn.Sequential(*maps, nn.Flatten(), *layer(units(shape, channels), dense))
        self.logit = nn.Dense(dense, 1, bias=False, **options)
        self.inner = nn.Sequential(*layer(dense, hidden))
        self.category = nn.Dense(hidden, categories, **options)
        self.means = nn.Dense(hidden, continuous, **options)


QUICK = Recipe(
    data="mnist5k",
    binarization="grey",
    epochs=60,
    batch_size=64,
    lr=2e-4,
    optimizer_options={"betas": (0.5, 0.999)},
    model={
        "latent": 62,
        "categories": 10,
        "continuous": 2,
        "channels": (32, 64),
        "dense": 256,
        "hidden": 64,
        "weight": 1.0,
        "sigma": 1.0,
        "generator_lr": 1e-3,
    },
)


class InfoGAN(Adversarial):
    """InfoGAN for images of `shape` (H, W, C), whose sides divide by 2^len(channels).

    Args:
        shape: (H, W, C).
        latent: numbers in z ~ U(-1, 1), the noise that no code explains.
        categories: K of the categorical code.
        continuous: how many codes ~ U(-1, 1).
        channels: of D's maps, from the largest to the smallest; G has them the other way round.
        dense: units of the dense layer above D's maps, and of the one below G's.
        hidden: units of Q's own layer.
        weight: lambda.
        sigma: of Q's Gaussians.
        rng: draws the starting weights.
    """

    uses_labels: ClassVar[bool] = True
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": QUICK,
        # The set-up of the paper, appendix C.1.
        "paper": replace(
            QUICK,
            data="mnist",
            epochs=50,
            batch_size=128,
            model=QUICK.model | {"channels": (64, 128), "dense": 1024, "hidden": 128},
        ),
    }

    def __init__(
        self,
        shape: Shape,
        latent: int,
        categories: int,
        continuous: int,
        channels: Sequence[int],
        dense: int,
        hidden: int,
        weight: float,
        sigma: float,
        rng: np.random.Generator,
        dtype: type = np.float32,
    ):
        if categories < 2:
            raise ValueError(f"categories = {categories} is out of range: at least 2, or there is nothing to tell apart")
        self.shape, self.latent, self.categories, self.continuous = shape, latent, categories, continuous
        self.weight, self.sigma = weight, sigma
        options = {"rng": rng, "dtype": dtype}
        self.G = Generator(latent + categories + continuous, shape, channels[::-1], (dense,), **options)
        self.D = Discriminator(shape, categories, continuous, channels, dense, hidden, **options)

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        settings = {name: value for name, value in recipe.model.items() if name != "generator_lr"}
        return cls(image_shape(train), **settings, rng=rng)

    # ---- The generator's inputs ----

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Codes]:
        """Noise z (n, latent) and codes, from their priors."""
        noise, continuous = (self.own(rng.uniform(-1, 1, (n, size))) for size in (self.latent, self.continuous))
        return noise, Codes(to_device(rng.integers(self.categories, size=n), self.device), continuous)

    def fakes(self, noise: Array, codes: Codes) -> Tensor:
        """G(z, c), (n, dimensions)."""
        xp = module_of(noise)
        one_hot = xp.eye(self.categories, dtype=noise.dtype)[codes.category]
        return to_examples(self.G(xp.concatenate([noise, one_hot, codes.continuous], axis=1)))

    def generate(self, n: int, rng: np.random.Generator) -> Tensor:
        return self.fakes(*self.draw(n, rng))

    # ---- What D and Q say ----

    def features(self, x: Array | Tensor) -> Tensor:
        """What D and Q share: of x (n, dimensions), (n, dense)."""
        return self.D.body(to_images(x, self.shape))

    def discriminate(self, x: Array | Tensor, rng: np.random.Generator) -> Tensor:
        return self.D.logit(self.features(x))

    def information(self, features: Tensor, codes: Codes) -> tuple[Tensor, Tensor]:
        """L_I in nats, of the categorical code and of the continuous ones together, from the features of images G(z, c)."""
        h = self.D.inner(features)
        category = math.log(self.categories) - cross_entropy(self.D.category(h), codes.category)
        log_q = Normal(self.D.means(h), self.sigma).log_prob(codes.continuous)
        return category, self.continuous * math.log(2) + log_q.sum(1).mean()

    # ---- Training ----

    def train_step(
        self, x: Array, optimizers: Optimizers, rng: np.random.Generator, labels: Array | None = None
    ) -> dict[str, float]:
        """A move of D and Q, then one of G on the same fakes, both with - lambda L_I added. `labels` are not looked at.

        Figures: those of all adversarial models, without L_I; info and info_continuous, the two parts of L_I in G's move.
        """
        noise, codes = self.draw(len(x), rng)
        fake = self.fakes(noise, codes)
        real, seen = self.discriminate(x, rng), self.features(fake._data)
        drawn, (category, continuous) = self.D.logit(seen), self.information(seen, codes)
        d_loss = self.game.discriminator(real, drawn)
        d_norm = optimizers.minimize(d_loss - self.weight * (category + continuous), "discriminator")
        with frozen(self.D):
            seen = self.features(fake)
            g_loss, (category, continuous) = self.game.generator(self.D.logit(seen)), self.information(seen, codes)
            g_norm = optimizers.minimize(g_loss - self.weight * (category + continuous), "generator")
        figures = self.figures(d_loss, g_loss, real, drawn, d_norm, g_norm)
        return figures | {"info": category.item(), "info_continuous": continuous.item()}

    # ---- Judging ----

    def categories_of(self, x: Array) -> np.ndarray:
        """The most likely category of each example by Q, int64 (n,), on the CPU."""
        with self.evaluating():
            found = [self.D.category(self.D.inner(self.features(batch)))._data for batch in self.batches(x)]
        return np.concatenate([to_device(logits, "cpu").argmax(axis=1) for logits in found])

    def evaluate(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, float]:
        """Beside D(x) and D(G(z)): "code_error", the share of the examples `x` whose class `labels` (n,) Q gets wrong."""
        error = code_error(self.categories_of(x), to_device(labels, "cpu"))
        return super().evaluate(x, rng) | {"code_error": error}

    def pictures(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, Picture]:
        """One code varied along each row, everything else kept.

        category: the categorical code; continuous_1, ...: a continuous code from -2 to 2, each row of another category.
        """
        found: dict[str, Picture] = {"category": self._varied(*self.draw(COLUMNS, rng))}
        for k in range(self.continuous):
            noise, codes = self.draw(self.categories, rng)
            categories = module_of(noise).arange(self.categories)
            found[f"continuous_{k + 1}"] = self._varied(noise, Codes(categories, codes.continuous), k)
        return found

    def _varied(self, noise: Array, codes: Codes, k: int | None = None) -> Images:
        """A row for each of the given inputs: all categories, or continuous code number k from -WIDEST to WIDEST."""
        columns = self.categories if k is None else COLUMNS
        xp = module_of(noise)
        noise, category, continuous = (xp.repeat(array, columns, axis=0) for array in (noise, *codes))
        rows = len(noise) // columns
        if k is None:
            category = xp.tile(xp.arange(columns), rows)
        else:
            continuous[:, k] = xp.tile(xp.linspace(-WIDEST, WIDEST, columns), rows)
        with self.evaluating():
            drawn = self.fakes(noise, Codes(category, continuous)).numpy()
        return Images(drawn.reshape(rows, columns, -1))


def code_error(codes: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose class is not that of their code, integers (n,), under the best of all assignments.

    Each code is given to at most one class and each class to at most one code, by the Hungarian method (Kuhn 1955). The
    assignment is picked on these very examples, as in the paper: with few of them the error is a little flattered.
    """
    from scipy.optimize import linear_sum_assignment

    together = np.zeros((codes.max(initial=0) + 1, labels.max(initial=0) + 1), np.int64)
    np.add.at(together, (codes, labels), 1)
    return float(1 - together[linear_sum_assignment(together, maximize=True)].sum() / len(labels))
