"""A recipe: every choice that decides a training run, except the seed and the machine.

A model offers recipes by name (`quick`, `paper`). What a user changes goes through `override`, which checks names and
types, so that a run's recipe is always a whole and valid one that can be written down.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

# What is done with a data set's values: bits are "fixed"; grey values become bits in two ways, or stay "grey" between 0 and 1;
# "real" numbers are taken as they are.
BINARIZATIONS = ("fixed", "dynamic", "threshold", "grey", "real")


class RecipeError(ValueError):
    """A name or a value that a recipe cannot have; the message says what would be right."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; `model` holds its hyperparameters, every one of them.

    `lr` is the rate at the start, which `schedule` lowers from step to step; `clip` bounds the gradient's Euclidean
    norm; validation comes after every `valid_every` epochs and at the end. With a `target`, a published figure in nats,
    the test figure is recorded at each validation (never used to pick) and the time when it passed the target is told.
    """

    epochs: int
    lr: float
    batch_size: int = 100
    data: str = "mnist5k"
    binarization: str = "dynamic"
    optimizer: str = "adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "constant"
    weight_decay: float = 0.0
    clip: float | None = None
    valid_every: int = 1
    target: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, least in {"epochs": 1, "batch_size": 1, "valid_every": 1, "weight_decay": 0}.items():
            if not least <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} = {getattr(self, name)} is out of range: at least {least}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{name} = {value} is out of range: a positive number")
        for name, choices in self.choices().items():
            if getattr(self, name) not in choices:
                raise RecipeError(f"{name} {getattr(self, name)!r} is unknown: {closest(getattr(self, name), choices)}")
        if ambiguous := set(self.model) & {f.name for f in dataclasses.fields(self)}:
            raise RecipeError(f"hyperparameters named as fields of the recipe: {', '.join(sorted(ambiguous))}")

    @staticmethod
    def choices() -> dict[str, Iterable[str]]:
        """The fields whose value is one of a few names."""
        from tinygen import optim

        return {"binarization": BINARIZATIONS, "optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES}

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `as_dict` described, also when JSON made lists of its tuples."""
        if unknown := set(values) - {f.name for f in dataclasses.fields(cls)}:
            raise RecipeError(f"unknown fields of a recipe: {', '.join(sorted(unknown))}")
        return cls(**{name: _tuples(value) for name, value in values.items()})

    def settings(self) -> dict[str, Any]:
        """Everything that `override` can change, as one flat mapping from name to value."""
        return _options(self.optimizer) | self._written()

    def override(self, assignments: Mapping[str, str]) -> Recipe:
        """This recipe with `assignments`, name to text; each text is read as the type that the name has here.

        The names are the recipe's fields, the optimizer's options and the model's hyperparameters. A new optimizer
        starts from its own options. Raises RecipeError for an unknown name or a text that does not fit.
        """
        recipe = self
        if "optimizer" in assignments and assignments["optimizer"] != self.optimizer:
            recipe = dataclasses.replace(self, optimizer=assignments["optimizer"], optimizer_options={})
        hints = get_type_hints(Recipe)
        settings = recipe.settings()
        fields, options, model = {}, dict(recipe.optimizer_options), dict(recipe.model)
        for name, text in assignments.items():
            if name not in settings:
                raise RecipeError(f"no setting {name!r}: {closest(name, settings)}")
            if name in hints:
                fields[name] = parse(name, text, hints[name])
            else:
                group = model if name in model else options
                group[name] = parse(name, text, settings[name])
        return dataclasses.replace(recipe, **fields, optimizer_options=options, model=model)

    def changes(self, other: Recipe) -> list[str]:
        """What `other` has differently, one "name: before -> after" each."""
        before, after = self._written(), other._written()
        names = dict.fromkeys([*before, *after])
        return [
            f"{name}: {before.get(name, 'default')} -> {after.get(name, 'default')}"
            for name in names
            if before.get(name) != after.get(name)
        ]

    def _written(self) -> dict[str, Any]:
        """What the recipe itself says, flat: without the defaults of its optimizer."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        options, model = fields.pop("optimizer_options"), fields.pop("model")
        return {**fields, **options, **model}


def parse(name: str, text: str, like: Any) -> Any:
    """Read `text` as the type of `like`: a value of that type, the type itself, or `type | None`.

    A tuple is written with commas (500,500) and has the type of its first entry. Raises RecipeError.
    """
    if type(None) in get_args(like):
        if text.lower() == "none":
            return None
        like = next(kind for kind in get_args(like) if kind is not type(None))
    if isinstance(like, tuple):
        return tuple(parse(name, part.strip(), like[0] if like else 0) for part in text.split(",") if part.strip())
    kind = like if isinstance(like, type) else type(like)
    try:
        if kind is bool:
            return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[text.lower()]
        if kind is float and not math.isfinite(float(text)):
            raise ValueError
        if kind in (int, float, str):
            return kind(text)
    except (ValueError, KeyError):
        pass
    else:
        raise RecipeError(f"{name} cannot be set from the command line: it is a {kind.__name__}")
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    raise RecipeError(f"{name}={text!r} does not fit: expected {wanted}")


def closest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: the valid name that `name` was probably meant to be, and all of them."""
    valid = sorted(valid)
    near = difflib.get_close_matches(str(name), valid, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}valid: {', '.join(valid)}"


def _options(optimizer: str) -> dict[str, Any]:
    """The options of an optimizer that are no fields of the recipe, with their defaults."""
    from tinygen import optim

    signature = inspect.signature(optim.OPTIMIZERS[optimizer])
    own = (p for p in signature.parameters.values() if p.default is not inspect.Parameter.empty)
    return {p.name: p.default for p in own if p.name not in ("lr", "weight_decay")}


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
