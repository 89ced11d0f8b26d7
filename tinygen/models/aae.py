"""AAE, the adversarial autoencoder (Makhzani, Shlens, Jaitly, Goodfellow and Frey, 2015).

An autoencoder whose codes follow a law that one chooses, because a discriminator D compares them with draws from it. With
the encoder z = E(x), the decoder x' = R(z), the prior p(z) and q(z) the law of E(x) over the data, a step has three phases:

    reconstruction   E and R go down   E_x |x - R(E(x))|^2
    discriminator    D goes up         V = E_{z ~ p} ln D(z) + E_x ln (1 - D(E(x)))          draws are 1, codes are 0
    encoder          E goes down       -E_x ln D(E(x))                                       the non-saturating loss

The best D has the logit ln p(z) - ln q(z), and nothing pulls at the codes any more where q = p. Samples are R(z), z ~ p.

Only draws of p are needed, never its density: any sampler will do (models/priors.py). E is deterministic, as in the paper's
experiments; the data alone make q(z) spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn
from tinygen.backend import Array, module_of, to_device
from tinygen.evaluation import mmd
from tinygen.models.adversarial import GAMES, Adversarial, frozen, perceptron
from tinygen.models.base import Optimizers, optim_from, pixel_log_odds
from tinygen.models.pictures import Images, Picture, Points
from tinygen.models.priors import Sampler, prior
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split

COMPARED = 500  # codes, and draws of the prior, whose discrepancy is told
RECONSTRUCTED, SIDE = 10, 20  # digits in a row; rows and columns of the manifold
DRAWN = 2000  # draws of the prior of which the manifold's quantiles are taken, and which are shown


QUICK = Recipe(
    data="mnist5k",
    binarization="grey",
    epochs=100,
    batch_size=100,
    optimizer="adam",
    lr=1e-3,
    schedule="cosine",
    valid_every=5,
    model={
        "latent": 8,
        "hidden": (400, 400),
        "discriminator": (300, 300),
        "prior": "gaussian",
        "scale": 1.0,
        "adversarial_lr": 5e-4,
    },
)


class AAE(Adversarial):
    """AAE over D dimensions.

    Args:
        dimensions: D.
        latent: dimensions of the code.
        hidden: units of the encoder's hidden layers; the decoder has the same ones in reverse.
        discriminator: units of D's hidden layers.
        prior: a sampler: a function of (n, rng) that gives n codes (n, latent).
        scale: what the prior's draws are multiplied by.
        adversarial_lr: the rate of the second and third phase; the recipe's is that of the first.
        rng: draws the starting weights.
        sigmoid: whether examples lie in [0, 1].
        bias: start of the decoder's output biases (D,); None for draws.
    """

    shows_labels: ClassVar[bool] = True

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": QUICK,
        # Codes in the plane, which can be looked at: --set prior=gaussian, mixture or swiss-roll.
        "plane": replace(QUICK, epochs=150, model=QUICK.model | {"latent": 2, "prior": "mixture"}),
        # The networks and the prior of the paper's likelihoods (appendix A.1), which has SGD with momentum.
        "paper": replace(
            QUICK,
            data="mnist",
            valid_every=10,
            model=QUICK.model | {"hidden": (1000, 1000), "discriminator": (1000, 1000), "scale": 5.0, "adversarial_lr": 2e-4},
        ),
    }

    def __init__(
        self,
        dimensions: int,
        latent: int,
        hidden: Sequence[int],
        discriminator: Sequence[int],
        prior: Sampler,
        scale: float,
        adversarial_lr: float,
        rng: np.random.Generator,
        sigmoid: bool = True,
        bias: Array | None = None,
        dtype: type = np.float32,
    ):
        if latent < 1 or not scale > 0 or not adversarial_lr > 0:
            raise ValueError(
                f"latent = {latent}, scale = {scale}, adversarial_lr = {adversarial_lr}: expected at least 1, positive numbers"
            )
        self.encoder = perceptron((dimensions, *hidden, latent), rng=rng, dtype=dtype)
        end = [nn.Sigmoid()] if sigmoid else []
        self.decoder = perceptron((latent, *hidden[::-1], dimensions), *end, bias=bias, rng=rng, dtype=dtype)
        self.D = perceptron((latent, *discriminator, 1), rng=rng, dtype=dtype)
        self.prior, self.scale, self.latent, self.adversarial_lr = prior, scale, latent, adversarial_lr
        self.game = GAMES["non-saturating"]

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        options = dict(recipe.model)
        sampler = prior(options.pop("prior"), options["latent"])
        bits_or_grey = recipe.binarization != "real"
        bias = pixel_log_odds(train) if bits_or_grey else None
        dimensions = math.prod(train.images.shape[1:])
        return cls(dimensions, prior=sampler, rng=rng, sigmoid=bits_or_grey, bias=bias, **options)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """`n` codes of the prior, (n, latent), on the model's device."""
        z = np.asarray(self.prior(n, rng))
        if z.shape != (n, self.latent):
            raise ValueError(f"the prior drew codes of shape {z.shape}, expected {(n, self.latent)}")
        return self.own(self.scale * z)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """R(z) of `n` draws of the prior, (n, D)."""
        return self.decoder(self.draw(n, rng))._data

    def reconstruction(self, x: Array) -> Tensor:
        """|x - R(E(x))|^2 of each example, (B,)."""
        return ((self.decoder(self.encoder(x)) - x) ** 2).sum(axis=1)

    def optimizers(self, recipe: Recipe) -> Optimizers:
        autoencoder = [*self.encoder.parameters(), *self.decoder.parameters()]
        made = {"autoencoder": optim_from(recipe, autoencoder)}
        for name, player in {"discriminator": self.D, "encoder": self.encoder}.items():
            made[name] = optim_from(recipe, player.parameters(), lr=self.adversarial_lr)
        return Optimizers(made, recipe.clip)

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator) -> dict[str, float]:
        """The three phases. Figures: those of `Adversarial`, with D(z) of draws as d_real and of codes as d_fake, and
        "reconstruction", the squared error of an example."""
        reconstruction = self.reconstruction(x).mean()
        optimizers.minimize(reconstruction, "autoencoder")

        code = self.encoder(x)
        real, fake = self.D(self.draw(len(x), rng)), self.D(code._data)
        d_loss = self.game.discriminator(real, fake)
        d_norm = optimizers.minimize(d_loss, "discriminator")
        with frozen(self.D):
            g_loss = self.game.generator(self.D(code))
            g_norm = optimizers.minimize(g_loss, "encoder")
        return {"reconstruction": reconstruction.item()} | self.figures(d_loss, g_loss, real, fake, d_norm, g_norm)

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """On held-out `x`: "reconstruction", the squared error of an example; "d_real" and "d_fake"; the squared discrepancy
        "mmd" of codes and as many draws of the prior, and "mmd_chance", which draws alone would exceed one time in twenty."""
        sums = np.zeros(3)
        codes = []
        with self.evaluating():
            for batch in self.batches(x):
                codes.append(self.encoder(batch)._data)
                logits = self.D(self.draw(len(batch), rng)), self.D(codes[-1])
                means = [float(self.game.output(l._data).mean()) for l in logits]
                sums += [float(self.reconstruction(batch)._data.sum()), *(mean * len(batch) for mean in means)]
            codes = module_of(codes[0]).concatenate(codes)[:COMPARED]
            found = mmd(codes, self.draw(len(codes), rng), rng)
        figures = dict(zip(("reconstruction", "d_real", "d_fake"), (sums / len(x)).tolist()))
        return figures | {"mmd": found.mmd, "mmd_chance": found.threshold}

    def pictures(self, x: Array, rng: np.random.Generator, labels: Array | None = None) -> dict[str, Picture]:
        """ "codes": E(x) beside as many draws of the prior, of a long code the first two dimensions; "reconstructions"; of a
        code in the plane "manifold": what is decoded where the quantiles of the two coordinates cross."""
        with self.evaluating():
            codes = np.concatenate([to_device(self.encoder(batch)._data, "cpu") for batch in self.batches(x)])
            draws = to_device(self.draw(DRAWN, rng), "cpu")
            shown = to_device(x[:RECONSTRUCTED], self.device)
            pairs = np.stack([to_device(part, "cpu") for part in (shown, self.decoder(self.encoder(shown))._data)])
            found: dict[str, Picture] = {"reconstructions": Images(pairs)}
            if self.latent == 1:
                return found
            groups = {"codes": codes[:, :2]}
            if labels is not None:
                labels = to_device(labels, "cpu")
                groups = {str(label): codes[labels == label, :2] for label in np.unique(labels)}
            found["codes"] = Points({"codes q(z)": groups, "prior p(z)": {"draws": draws[: len(codes), :2]}})
            if self.latent == 2:
                across, up = np.quantile(draws, (np.arange(SIDE) + 0.5) / SIDE, axis=0).astype(draws.dtype).T
                places = np.stack(np.meshgrid(across, up[::-1]), axis=-1).reshape(-1, 2)  # the first row is at the top
                images = to_device(self.decoder(to_device(places, self.device))._data, "cpu")
                found["manifold"] = Images(images.reshape(SIDE, SIDE, -1))
        return found
