"""What a model has to show besides its samples: pictures described by their numbers, which the gallery draws.

A model's `pictures` returns them by name. Nothing here knows how to draw, so that no model needs a plotting library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tinygen.backend import Array, module_of


@dataclass(frozen=True, eq=False)
class Images:
    """A table of examples: a latent code varied along each row, say, or inputs beside what became of them.

    examples: (rows, columns, dimensions), values in [0, 1], drawn as images of the data's shape.
    """

    examples: np.ndarray


@dataclass(frozen=True, eq=False)
class Points:
    """Groups of points in the plane, one panel for each: {panel: {group: (n, 2)}}. All panels have the same axes."""

    panels: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Lines:
    """Curves over one axis, one panel for each: {panel: {line: (n,)}}, all at the places x (n,)."""

    x: np.ndarray
    panels: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Maps:
    """Functions on a rectangle of the plane, one panel for each: {panel: (height, width)}.

    Row 0 is at the bottom. extent: (left, right, bottom, top). points: {group: (n, 2)}, drawn over every panel.
    """

    panels: Mapping[str, np.ndarray]
    extent: tuple[float, float, float, float]
    points: Mapping[str, np.ndarray] = field(default_factory=dict)


Picture = Images | Points | Lines | Maps


def between(start: Array, end: Array, steps: int) -> Array:
    """Codes on the straight way from each row of `start` to that of `end` (n, latent), both included: (n, steps, latent)."""
    t = module_of(start).linspace(0, 1, steps, dtype=start.dtype)[:, None]
    return (1 - t) * start[:, None] + t * end[:, None]
