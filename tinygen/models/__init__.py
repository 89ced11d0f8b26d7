"""The registry of models: name, where its class is, a line about it, its paper. Classes are imported when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from tinygen.models.recipe import Recipe, RecipeError, closest

if TYPE_CHECKING:
    from tinygen.models.base import Model

__all__ = ["MODELS", "Entry", "Recipe", "RecipeError", "model_class"]


class Entry(NamedTuple):
    """One model of the registry; `location` is "module:class" inside this package."""

    location: str
    description: str
    paper: str


MODELS = {
    "nade": Entry(
        "nade:NADE",
        "Neural autoregressive distribution estimator: p(x) exactly, one pixel after the other, weights tied",
        "Larochelle and Murray 2011",
    ),
}


def model_class(name: str) -> type[Model]:
    """The class of the model `name`. Raises RecipeError, with the names that exist, for an unknown one."""
    if name not in MODELS:
        raise RecipeError(f"no model {name!r}: {closest(name, MODELS)}")
    module, _, attribute = MODELS[name].location.partition(":")
    return getattr(importlib.import_module(f".{module}", __name__), attribute)
