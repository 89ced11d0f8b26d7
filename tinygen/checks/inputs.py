"""How cases draw their inputs, and the short way to write one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.checks.registry import Case

Sampler = Callable[[np.random.Generator], Any]


def normal(*shape: int) -> Sampler:
    """Standard normal entries."""
    return lambda rng: rng.standard_normal(shape)


def between(low: float, high: float, *shape: int) -> Sampler:
    """Uniform entries."""
    return lambda rng: rng.uniform(low, high, shape)


def positive(*shape: int) -> Sampler:
    """Entries away from zero on the right: for logarithms, roots and denominators."""
    return between(0.5, 2.0, *shape)


def bits(*shape: int) -> Sampler:
    """Zeros and ones, as integers."""
    return lambda rng: rng.integers(0, 2, shape)


def integers(high: int, *shape: int) -> Sampler:
    """Integers in [0, high)."""
    return lambda rng: rng.integers(0, high, shape)


def check(name: str, fn: Callable, kind: str = "op", order: int = 2, **samplers: Any) -> Case:
    """A case of `fn` at inputs drawn by `samplers` (anything that is not callable is passed as it is)."""

    def make(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
        return fn, {name: sampler(rng) if callable(sampler) else sampler for name, sampler in samplers.items()}

    return Case(name, kind, make, order)
