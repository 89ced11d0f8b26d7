"""Orders in which an autoregressive model visits the pixels of an image.

The chain rule p(x) = prod_i p(x_{o_i} | x_{o_1}, ..., x_{o_{i-1}}) holds for every permutation o, so an ordering is free to
choose; a model of limited capacity makes some orderings better than others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.models.recipe import RecipeError, closest


def raster(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Row by row from the top left."""
    return np.arange(height * width)


def column(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Column by column from the top left."""
    return np.arange(height * width).reshape(height, width).T.reshape(-1)


def spiral(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """From the centre outwards, along a square spiral."""
    grid = np.arange(height * width).reshape(height, width)
    inwards = []
    while grid.size:
        inwards.append(grid[0])
        grid = np.rot90(grid[1:])  # the next side to peel off becomes the top row
    return np.concatenate(inwards)[::-1].copy()


def random(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation drawn from `rng`."""
    return rng.permutation(height * width)


ORDERINGS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "raster": raster,
    "column": column,
    "spiral": spiral,
    "random": random,
}


def ordering(name: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """The ordering `name` as a permutation o (height * width,) of raster indices: o[i] is the pixel visited as number i.

    Raises RecipeError for an unknown name.
    """
    if name not in ORDERINGS:
        raise RecipeError(f"ordering {name!r} is unknown: {closest(name, ORDERINGS)}")
    return ORDERINGS[name](height, width, rng)


def inverse(order: Array) -> Array:
    """The permutation that undoes `order`: x[order][inverse(order)] is x."""
    xp = module_of(order)
    places = xp.empty_like(order)
    places[order] = xp.arange(len(order))
    return places


def permutation(order: Array | None, dimensions: int) -> np.ndarray:
    """`order` as int64 (dimensions,), or 0, 1, ... for None. Raises ValueError unless it holds each of these numbers once."""
    order = np.arange(dimensions) if order is None else np.asarray(order)
    if sorted(order.tolist()) != list(range(dimensions)):
        raise ValueError(f"order must be a permutation of 0 to {dimensions - 1}, got {order!r:.60}")
    return order.astype(np.int64)
