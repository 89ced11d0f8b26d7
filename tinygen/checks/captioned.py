"""Cases of Text2Image: what D and the text encoder go down, and what G does, as functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen.backend import device_of, to_device
from tinygen.checks.modules import Functional
from tinygen.checks.registry import Case
from tinygen.nn import Sequential
from tinygen.tensor import Tensor

if TYPE_CHECKING:
    from tinygen.models.text2image import Text2Image

SHAPE, DIGITS = (4, 4, 1), np.array([7, 0, 3])
PIXELS, LATENT, HIDDEN = 16, 3, 4


def small(rng: np.random.Generator, interpolation: bool = True) -> Text2Image:
    """A model of 4 x 4 pixels, its weights away from where the units of a norm all come out alike."""
    from tinygen.models.text2image import Text2Image

    model = Text2Image(SHAPE, LATENT, (2, 3), 3, HIDDEN, 3, rng, interpolation, dtype=np.float64)
    for parameter in model.parameters():
        parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
    return model


def players(
    variant: str, networks: tuple[str, ...], widths: tuple[int, int], loss: Callable[..., Tensor], interpolation: bool = True
) -> Case:
    """A case of `loss(model, a, b)` of the `networks`, by name, at two given arrays of these widths, every draw held fixed."""

    def make(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
        model = small(rng, interpolation)
        arrays = [rng.random((len(DIGITS), width)) for width in widths]
        players = Sequential(*(getattr(model, network) for network in networks))

        def call() -> Tensor:
            like = next(players.parameters())._data
            for bystander in {"G", "D"}.difference(networks):
                getattr(model, bystander).to(device_of(like))
            return loss(model, *(to_device(array.astype(like.dtype), device_of(like)) for array in arrays))

        function = Functional(players, call)
        return function, function.values({})

    return Case(f"models.text2image[{variant}]", "model", make, 1, {"complex_step": False})


def _discriminator(model: Any, x: Any, fake: Any) -> Tensor:
    return model.discriminator_loss(x, fake, *model.describe(x, DIGITS, np.random.default_rng(11)))[0]


def _generator(model: Any, z: Any, t: Any) -> Tensor:
    return model.generator_loss(model.G(z, t), z, t)


CASES = [
    players("discriminator and text encoder", ("D",), (PIXELS, PIXELS), _discriminator),
    players("generator", ("G", "D"), (LATENT, HIDDEN), _generator),
    players("generator, no interpolation", ("G", "D"), (LATENT, HIDDEN), _generator, interpolation=False),
]
