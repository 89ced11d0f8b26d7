"""Cases of the adversarial models: each network's loss as a function of every parameter, the noise held fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.backend import to_device
from tinygen.checks.modules import Functional
from tinygen.checks.registry import Case
from tinygen.models.base import Model
from tinygen.tensor import Tensor


def player(
    name: str,
    build: Callable[[np.random.Generator], Model],
    loss: Callable[..., Tensor],
    order: int = 2,
    dimensions: int = 6,
) -> Case:
    """A case of one player's `loss(model, x, rng)` of the model that `build(rng)` makes, at 5 grey examples of 3 x 2 pixels."""

    def make(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
        small = build(rng)
        x = rng.random((5, dimensions))
        given = lambda: to_device(x.astype(next(small.parameters()).dtype), small.device)
        function = Functional(small, lambda: loss(small, given(), np.random.default_rng(11)))
        return function, function.values({})

    return Case(f"models.{name}", "model", make, order, {"complex_step": False})


def _discriminator(model: Model, x: Any, rng: np.random.Generator) -> Tensor:
    """What D goes down, here as a function of both players' parameters."""
    return model.game.discriminator(model.discriminate(x, rng), model.discriminate(model.generate(len(x), rng), rng))


def _generator(model: Model, x: Any, rng: np.random.Generator) -> Tensor:
    return model.game.generator(model.discriminate(model.generate(len(x), rng), rng))


def _gan(loss: str) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        from tinygen.models.gan import GAN

        return GAN(6, 2, "normal", (3,), (3,), 2, (0.2, 0.5), loss, 1, rng, dtype=np.float64)

    return build


def _aae(rng: np.random.Generator) -> Model:
    from tinygen.models.aae import AAE
    from tinygen.models.priors import gaussian

    return AAE(6, 2, (3,), (3,), gaussian(2), 1.5, 1e-3, rng, dtype=np.float64)


def _stirred(model: Model, rng: np.random.Generator) -> Model:
    """The model with weights far from N(0, 0.02), under which all units look alike."""
    for parameter in model.parameters():
        parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
    return model


def _dcgan(colours: int) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        from tinygen.models.dcgan import DCGAN

        return _stirred(DCGAN((4, 4, colours), 3, (2, 3), rng, dtype=np.float64), rng)

    return build


def _infogan(rng: np.random.Generator) -> Model:
    from tinygen.models.infogan import InfoGAN

    return _stirred(InfoGAN((4, 4, 1), 2, 3, 2, (2, 3), 4, 3, 0.7, 0.5, rng, dtype=np.float64), rng)


def _infogan_generator(infogan: Model, x: Any, rng: np.random.Generator) -> Tensor:
    noise, codes = infogan.draw(len(x), rng)
    features = infogan.features(infogan.fakes(noise, codes))
    category, continuous = infogan.information(features, codes)
    return infogan.game.generator(infogan.D.logit(features)) - infogan.weight * (category + continuous)


def _infogan_discriminator(infogan: Model, x: Any, rng: np.random.Generator) -> Tensor:
    _, codes = infogan.draw(len(x), rng)  # of the examples, in the place of fakes
    features = infogan.features(x)
    category, continuous = infogan.information(features, codes)
    players = infogan.game.discriminator(infogan.D.logit(features[::2]), infogan.D.logit(features[1::2]))
    return players - infogan.weight * (category + continuous)


CASES = [
    player("gan[discriminator]", _gan("saturating"), _discriminator),
    player("gan[generator, saturating]", _gan("saturating"), _generator),
    player("gan[generator, non-saturating]", _gan("non-saturating"), _generator),
    player("aae[reconstruction]", _aae, lambda aae, x, rng: aae.reconstruction(x).mean()),
    player(
        "aae[discriminator]", _aae, lambda aae, x, rng: aae.game.discriminator(aae.D(aae.draw(5, rng)), aae.D(aae.encoder(x)))
    ),
    player("aae[encoder]", _aae, lambda aae, x, rng: aae.game.generator(aae.D(aae.encoder(x)))),
    player("dcgan[discriminator]", _dcgan(1), _discriminator, dimensions=16),
    player("dcgan[generator]", _dcgan(1), _generator, dimensions=16),
    player("dcgan[generator, colour]", _dcgan(2), _generator, order=1, dimensions=32),
    player("infogan[discriminator]", _infogan, _infogan_discriminator, order=1, dimensions=16),
    player("infogan[generator]", _infogan, _infogan_generator, order=1, dimensions=16),
]
