"""Laws that one can draw codes from, for models that need no more of a prior than draws.

A sampler is any function of (n, rng) that gives n codes (n, latent). `prior` finds one by name: those below, or a function of
the user's own, "package.module:function", which takes (n, rng) as well.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import numpy as np

from tinygen.models.recipe import RecipeError, closest

Sampler = Callable[[int, np.random.Generator], np.ndarray]

COMPONENTS = 10
RADIUS, ALONG, ACROSS = 4.0, 1.0, 0.25  # of the mixture: its Gaussians are long, and point to the middle
TURNS = 1.5  # of the roll
THICKNESS = 0.1  # standard deviation across the roll


def gaussian(latent: int) -> Sampler:
    """N(0, I)."""
    return lambda n, rng: rng.standard_normal((n, latent))


def mixture(latent: int) -> Sampler:
    """Ten long Gaussians in the plane, arranged like the spokes of a wheel (Makhzani et al. 2015, figure 4a)."""
    _plane("mixture", latent)

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        angle = 2 * math.pi / COMPONENTS * rng.integers(COMPONENTS, size=n)
        along, across = RADIUS + ALONG * rng.standard_normal(n), ACROSS * rng.standard_normal(n)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * along - sin * across, sin * along + cos * across], axis=1)

    return sample


def swiss_roll(latent: int) -> Sampler:
    """A spiral in the plane of one and a half turns and some thickness, all of its length alike (figure 4b)."""
    _plane("swiss-roll", latent)

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        # The length up to the angle t grows almost as t^2, so t is the root of a uniform number.
        t = 2 * math.pi * np.sqrt(rng.uniform(0.25, TURNS**2, n))
        roll = (t / math.pi)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
        return roll + THICKNESS * rng.standard_normal((n, 2))

    return sample


PRIORS: dict[str, Callable[[int], Sampler]] = {"gaussian": gaussian, "mixture": mixture, "swiss-roll": swiss_roll}


def prior(name: str, latent: int) -> Sampler:
    """The sampler `name` of codes of `latent` dimensions. Raises RecipeError for a name that means nothing."""
    if name in PRIORS:
        return PRIORS[name](latent)
    module, colon, function = name.partition(":")
    if not colon:
        raise RecipeError(f"no prior {name!r}: {closest(name, PRIORS)}, or a sampler of your own, package.module:function")
    try:
        sampler = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"prior {name!r} cannot be imported: {error}") from error
    if not callable(sampler):
        raise RecipeError(f"prior {name!r} is no function of (n, rng) but a {type(sampler).__name__}")
    return sampler


def _plane(name: str, latent: int) -> None:
    if latent != 2:
        raise RecipeError(f"the prior {name!r} lies in the plane, latent is {latent}: it must be 2")
