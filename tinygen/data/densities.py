"""Real-valued data: points of the line and the plane from six known densities, and 8 x 8 patches of handwritten digits.

A density here is a law from which one can draw exactly and whose logarithm is known in closed form, so that a model's
likelihood has a yardstick: no model's expected -ln p(x) is below the density's own, its entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .dataset import Dataset, Split

SEED = 1307  # of the data sets: the same points for everybody
SIZES = (20_000, 5_000, 5_000)
PATCH = 8
PATCH_SIZES = (20_000, 2_500, 2_500)
INK = 64  # least mean grey value of a patch: most squares of 8 x 8 pixels are all black


class Density(NamedTuple):
    """draw(n, rng): n independent points, float64 (n, dimensions). log_prob(x): ln p(x) in nats of points (..., dimensions).

    centres (modes, dimensions): where the modes are, if these are separate spots; a point belongs to the nearest one if that
    is within the distance `reach`. dimensions: 1 for points of the line, 2 for those of the plane.
    """

    draw: Callable[[int, np.random.Generator], np.ndarray]
    log_prob: Callable[[np.ndarray], np.ndarray]
    centres: np.ndarray | None = None
    reach: float = 0.0
    dimensions: int = 2


def points(name: str) -> Dataset:
    """Points drawn from the density `name`: float32 (n, dimensions) in three splits, always the same ones."""
    rng = np.random.default_rng(SEED)
    return Dataset(name, *(Split(DENSITIES[name].draw(n, rng).astype(np.float32)) for n in SIZES))


def patches(digits: Dataset, name: str) -> Dataset:
    """Squares of 8 x 8 pixels of grey `digits`, float32 (n, 8, 8) in [0, 1], each split from digits of the same split.

    Places are drawn at random, but those with a mean grey value below INK are not taken. Grey values, whole numbers v, are
    spread out to (v + u) / 256 with uniform u: a density of whole numbers would have no bound (Uria, Murray and Larochelle,
    "RNADE", NIPS 2013). Each patch keeps its mean, which that paper takes away: so there are 64 free numbers, and an image.
    """
    rng = np.random.default_rng(SEED)
    splits = zip((digits.train, digits.valid, digits.test), PATCH_SIZES)
    return Dataset(name, *(Split(_patches(split.images, n, rng)) for split, n in splits))


def _patches(images: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    squares = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
    images, rows, columns = np.nonzero(squares.mean(axis=(3, 4)) >= INK)
    chosen = rng.choice(len(images), n, replace=False)
    grey = squares[images[chosen], rows[chosen], columns[chosen]]
    return ((grey + rng.random(grey.shape)) / 256).astype(np.float32)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _log_normal(z: np.ndarray, scale: float) -> np.ndarray:
    return -0.5 * (z / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def _peaks() -> Density:
    """Three Gaussians on the line, of different widths."""
    shares, centres, scales = np.array([0.35, 0.3, 0.35]), np.array([-2.0, 0.0, 2.0]), np.array([0.5, 0.25, 0.35])

    def draw(n, rng):
        peak = rng.choice(3, n, p=shares)
        return (centres[peak] + scales[peak] * rng.standard_normal(n))[:, None]

    def log_prob(x):
        z = (x - centres) / scales
        return np.logaddexp.reduce(_log_normal(z, 1.0) + np.log(shares / scales), axis=-1)

    return Density(draw, log_prob, centres[:, None], reach=1.0, dimensions=1)


def _gaussians() -> Density:
    """Eight round Gaussians, their centres on a circle."""
    scale, centres = 0.2, _polar(np.full(8, 2.0), np.arange(8) * math.pi / 4)

    def draw(n, rng):
        return centres[rng.integers(8, size=n)] + scale * rng.standard_normal((n, 2))

    def log_prob(x):
        parts = _log_normal(x[..., None, :] - centres, scale).sum(axis=-1)
        return np.logaddexp.reduce(parts, axis=-1) - math.log(8)

    return Density(draw, log_prob, centres, 3 * scale)


def _rings() -> Density:
    """Two circles about the origin whose radius is Gaussian; the density is p(r) / (2 pi r), with 1 / r from polar coordinates.

    The smaller radius is 10 standard deviations from 0: none is ever negative.
    """
    radii, scale = np.array([1.0, 2.0]), 0.1

    def draw(n, rng):
        radius = radii[rng.integers(2, size=n)] + scale * rng.standard_normal(n)
        return _polar(radius, rng.uniform(0, 2 * math.pi, n))

    def log_prob(x):
        r = np.hypot(x[..., 0], x[..., 1])
        parts = np.logaddexp.reduce(_log_normal(r[..., None] - radii, scale), axis=-1)
        return parts - math.log(2) - np.log(2 * math.pi * np.maximum(r, 1e-300))

    return Density(draw, log_prob)


def _moons() -> Density:
    """Two halves of a circle, one about each of two centres, that reach into each other; the radius is Gaussian."""
    scale, centres = 0.1, np.array([[-0.5, -0.25], [0.5, 0.25]])

    def draw(n, rng):
        moon = rng.integers(2, size=n)
        half = _polar(1 + scale * rng.standard_normal(n), math.pi * (moon + rng.random(n)))
        return centres[moon] + half

    def log_prob(x):
        parts = []
        for centre, sign in zip(centres, (1, -1)):
            z = x - centre
            r = np.hypot(z[..., 0], z[..., 1])
            inside = _log_normal(r - 1, scale) - np.log(math.pi * np.maximum(r, 1e-300))
            parts.append(np.where(sign * z[..., 1] >= 0, inside, -np.inf))
        return np.logaddexp(*parts) - math.log(2)

    return Density(draw, log_prob)


def _pinwheel() -> Density:
    """Five long Gaussian blades, twisted: each point is turned by an angle that grows with its radius.

    Such a turn moves every circle about the origin in itself, so it leaves areas, and hence densities, as they are.
    """
    centre, scales, twist = np.array([1.5, 0.0]), (0.45, 0.12), 1.2

    def turned(x, angle):
        a, b = x[..., 0], x[..., 1]
        return np.stack([np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b], axis=-1)

    def draw(n, rng):
        blade = centre + scales * rng.standard_normal((n, 2))
        radius = np.hypot(blade[:, 0], blade[:, 1])
        return turned(blade, twist * radius + 2 * math.pi / 5 * rng.integers(5, size=n))

    def log_prob(x):
        angle = twist * np.hypot(x[..., 0], x[..., 1])
        straight = [turned(x, -angle - 2 * math.pi / 5 * k) - centre for k in range(5)]
        parts = [_log_normal(z[..., 0], scales[0]) + _log_normal(z[..., 1], scales[1]) for z in straight]
        return np.logaddexp.reduce(parts, axis=0) - math.log(5)

    return Density(draw, log_prob)


def _checkerboard() -> Density:
    """Uniform on the 8 dark squares, of side 1, of a board of 4 x 4."""

    def draw(n, rng):
        row, half = rng.integers(4, size=n), rng.integers(2, size=n)
        corner = np.stack([2 * half + row % 2, row], axis=1) - 2
        return corner + rng.random((n, 2))

    def log_prob(x):
        square = np.floor(x)
        dark = (square.sum(axis=-1) % 2 == 0) & (np.abs(square + 0.5) < 2).all(axis=-1)
        return np.where(dark, -math.log(8), -np.inf)

    return Density(draw, log_prob)


DENSITIES: dict[str, Density] = {
    "peaks": _peaks(),
    "gaussians": _gaussians(),
    "rings": _rings(),
    "moons": _moons(),
    "pinwheel": _pinwheel(),
    "checkerboard": _checkerboard(),
}
