"""What adversarial models share: the losses of the game, as functions of logits, and the step in which both players move.

A discriminator D tells examples x of the data from G(z), what a generator makes of noise z. Its output here is a logit l,
D(x) = sigma(l), so that ln D = -softplus(-l) and ln (1 - D) = -softplus(l) are exact however sure it is. The game is

    min_G max_D V(D, G) = E_x ln D(x) + E_z ln (1 - D(G(z)))          (Goodfellow et al., NIPS 2014, equation 1)

D climbs V. What G goes down has three forms, here with the derivative in the logit l of a fake:

    saturating        E ln (1 - D(G(z)))   -sigma(l)         V itself; nothing is left of it where D is sure
    non-saturating   -E ln D(G(z))         -(1 - sigma(l))   the same fixed point, strongest where D is sure
    least squares     E (l - 1)^2           2 (l - 1)        D's output is l itself, drawn to 1 and 0 (Mao et al., ICCV 2017)

For each of them the best D against a generator of density q is D* = p / (p + q).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinygen import Tensor, nn, sigmoid, softplus
from tinygen.backend import Array, module_of
from tinygen.models.base import Model, Optimizers, optim_from
from tinygen.models.recipe import Recipe


def value(real: Any, fake: Any) -> Any:
    """V = E ln D(x) + E ln (1 - D(G(z))), in nats, from the logits of examples and of fakes: arrays or Tensors of any shape."""
    return -(softplus(-real).mean() + softplus(fake).mean())


def saturating(fake: Any) -> Any:
    """E ln (1 - D(G(z))) from the logits of fakes, in nats."""
    return -softplus(fake).mean()


def non_saturating(fake: Any) -> Any:
    """-E ln D(G(z)) from the logits of fakes, in nats."""
    return softplus(-fake).mean()


def squared_errors(real: Any, fake: Any) -> Any:
    """(E (D(x) - 1)^2 + E D(G(z))^2) / 2 (Mao et al. 2017, equation 9)."""
    return (((real - 1) ** 2).mean() + (fake**2).mean()) / 2


def least_squares(fake: Any) -> Any:
    """E (D(G(z)) - 1)^2; without the half that Mao et al. give it, as in CycleGAN, which weighs it against other terms."""
    return ((fake - 1) ** 2).mean()


class Game(NamedTuple):
    """discriminator(real, fake) and generator(fake): what each player goes down, scalars from logits. output: logits to D."""

    discriminator: Callable[[Any, Any], Any]
    generator: Callable[[Any], Any]
    output: Callable[[Any], Any]


GAMES: Mapping[str, Game] = {
    "saturating": Game(lambda real, fake: -value(real, fake), saturating, sigmoid),
    "non-saturating": Game(lambda real, fake: -value(real, fake), non_saturating, sigmoid),
    "least-squares": Game(squared_errors, least_squares, lambda logits: logits),
}


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within it gradients flow through the modules but not into their parameters, which also saves computing them."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    nodes = [parameter._node for parameter in parameters]
    for parameter in parameters:
        parameter._node = None
    try:
        yield
    finally:
        for parameter, node in zip(parameters, nodes, strict=True):
            parameter._node = node


def perceptron(
    sizes: Sequence[int], *end: nn.Module, bias: Array | None = None, rng: np.random.Generator, dtype: Any = np.float32
) -> nn.Sequential:
    """Dense layers of these sizes, the inputs' first, with ReLUs between them and the modules `end` behind.

    bias: start of the last layer's bias (sizes[-1],); None for draws.
    """
    layers = [nn.Dense(a, b, rng=rng, dtype=dtype) for a, b in pairwise(sizes)]
    if bias is not None:
        layers[-1].bias = nn.Parameter(np.asarray(bias, dtype))
    return nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())), layers[-1], *end)


class Adversarial(Model):
    """A model of two players, the modules G and D, that play `game`.

    A subclass assigns G, D and `game`, and defines `generate`; `discriminate`, if D needs more than the examples.
    """

    adversarial: ClassVar[bool] = True
    selected_by: ClassVar[str | None] = None
    game: Game = GAMES["non-saturating"]
    d_steps: int = 1  # k of algorithm 1: how often D moves before G does

    def generate(self, n: int, rng: np.random.Generator) -> Tensor:
        """`n` fakes G(z), (n, dimensions), with their graph, from noise z of `rng`."""
        raise NotImplementedError(f"{type(self).__name__} must define generate(n, rng)")

    def discriminate(self, x: Array | Tensor, rng: np.random.Generator) -> Tensor:
        """The logits of `x` (n, dimensions), with the graph; `rng` serves a D that drops units while it is trained."""
        return self.D(x)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` examples drawn from the model, (n, dimensions)."""
        return self.generate(n, rng)._data

    def optimizers(self, recipe: Recipe) -> Optimizers:
        """The recipe's optimizer twice, as "discriminator" and "generator"; the latter with the rate `generator_lr`, where the
        recipe has one."""
        rates = {"discriminator": recipe.lr, "generator": recipe.model.get("generator_lr", recipe.lr)}
        players = {"discriminator": self.D, "generator": self.G}
        made = {name: optim_from(recipe, player.parameters(), lr=rates[name]) for name, player in players.items()}
        return Optimizers(made, recipe.clip)

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator) -> dict[str, float]:
        """Algorithm 1: `d_steps` moves of D, each on its part of the batch, then one of G, on the last fakes.

        Figures: d_loss and g_loss; d_real = E D(x) and d_fake = E D(G(z)), before D moved; d_norm and g_norm, the gradients'.
        """
        for part in module_of(x).array_split(x, self.d_steps):
            fake = self.generate(len(part), rng)
            # The fakes' array has no graph: D's gradient stops there.
            real, drawn = self.discriminate(part, rng), self.discriminate(fake._data, rng)
            d_loss = self.game.discriminator(real, drawn)
            d_norm = optimizers.minimize(d_loss, "discriminator")
        with frozen(self.D):
            g_loss = self.game.generator(self.discriminate(fake, rng))
            g_norm = optimizers.minimize(g_loss, "generator")
        return self.figures(d_loss, g_loss, real, drawn, d_norm, g_norm)

    def figures(
        self, d_loss: Tensor, g_loss: Tensor, real: Tensor, fake: Tensor, d_norm: float, g_norm: float
    ) -> dict[str, float]:
        """What every adversarial model logs of a step; real and fake are the logits, from which D(x) and D(G(z)) come."""
        d_real, d_fake = (float(self.game.output(logits._data).mean()) for logits in (real, fake))
        losses = {"d_loss": d_loss.item(), "g_loss": g_loss.item()}
        return losses | {"d_real": d_real, "d_fake": d_fake, "d_norm": d_norm, "g_norm": g_norm}

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """On held-out examples `x` and as many samples, without dropout: "d_real" = E D(x) and "d_fake" = E D(G(z))."""
        sums = np.zeros(2)
        with self.evaluating():
            for batch in self.batches(x):
                for i, drawn in enumerate((batch, self.sample(len(batch), rng))):
                    logits = self.discriminate(drawn, rng)._data
                    sums[i] += float(self.game.output(logits).mean(dtype=np.float64)) * len(batch)
        return dict(zip(("d_real", "d_fake"), (sums / len(x)).tolist()))
