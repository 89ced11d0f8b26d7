"""A discriminator beside the best one, where the law of the data is known: what the theorems on GANs say, computed.

Against a generator of density q the best discriminator is D* = p / (p + q), and the game is worth V(D*) = 2 JSD(p, q) - ln 4
(Goodfellow et al., NIPS 2014, proposition 1 and theorem 1). On the line and the plane both are seen: space is cut into cells;
p is the known density at their middles, q the share of many samples that fall in each.

Cells are a law of their own, with a JSD a little below that of the densities, and on them V(D) <= 2 JSD - ln 4 holds exactly.
That q is counted raises its JSD: 2 JSD by about cells / (4 samples), 0.0003 nats on the line and 0.003 on the plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tinygen import softplus
from tinygen.backend import Array, to_device
from tinygen.data.densities import Density
from tinygen.models.pictures import Lines, Maps, Picture

CELLS = {1: 200, 2: 50}  # along each axis, by the number of dimensions
COUNTED = 200_000  # samples
CHUNK = 10_000  # of them at once
ENOUGH = 10  # examples and samples expected in a cell, of COUNTED each, below which D* is not drawn
MARGIN = 0.1  # of the examples' extent, on each side


def compare(density: Density, x: Array, sample: Callable[[int], Array], logits: Callable[[np.ndarray], Array]) -> Comparison:
    """D beside D* on cells over the examples `x` (n, D), D = 1 or 2, with a margin.

    density: the law of the data. sample(n): fakes (n, D). logits(points): of D at float32 points (m, D), (m,).
    """
    x = to_device(x, "cpu").astype(np.float64)
    low, high = x.min(axis=0), x.max(axis=0)
    margin = MARGIN * (high - low)
    edges = [np.linspace(a, b, CELLS[x.shape[1]] + 1) for a, b in zip(low - margin, high + margin)]
    places = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    middles = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1)
    p = np.exp(density.log_prob(middles))
    fakes = np.concatenate([to_device(sample(CHUNK), "cpu") for _ in range(COUNTED // CHUNK)]).astype(np.float64)
    outside = ((fakes < low - margin) | (fakes > high + margin)).any(axis=1).mean()
    first, last = (np.array([place[i] for place in places]) for i in (0, -1))
    q = np.histogramdd(np.clip(fakes, first, last), edges)[0] / len(fakes)
    found = to_device(logits(middles.reshape(-1, x.shape[1]).astype(np.float32)), "cpu")
    return Comparison(places, p / p.sum(), q, found.astype(np.float64).reshape(p.shape), float(outside))


class Comparison(NamedTuple):
    """D beside the best one, on cells of the line or the plane; all arrays have an axis for each dimension, x first.

    places: the cells' middles along each axis. p, q: the shares of the data and of G(z) in each cell. logits: of D at the
    middles. outside: the share of G(z) beyond the cells, which is counted in those at the rim.
    """

    places: Sequence[np.ndarray]
    p: np.ndarray
    q: np.ndarray
    logits: np.ndarray
    outside: float

    @property
    def best(self) -> np.ndarray:
        """D* = p / (p + q); NaN where there is too little of either to tell."""
        total = self.p + self.q
        return np.divide(self.p, total, out=np.full_like(total, np.nan), where=total * COUNTED >= ENOUGH)

    @property
    def D(self) -> np.ndarray:
        """D = sigma(logits)."""
        return np.exp(-softplus(-self.logits))

    @property
    def jsd(self) -> float:
        """The Jensen-Shannon divergence of p and q, in nats: 0 to ln 2."""
        return jensen_shannon(self.p, self.q)

    @property
    def integrands(self) -> tuple[np.ndarray, np.ndarray]:
        """p ln D + q ln (1 - D) for D itself and for D*: the cells' parts of V and of 2 JSD - ln 4."""
        ours = -self.p * softplus(-self.logits) - self.q * softplus(self.logits)
        return ours, _x_log_share(self.p, self.q) + _x_log_share(self.q, self.p)

    def figures(self) -> dict[str, float]:
        """ "value": V(D, G) and "optimum": 2 JSD - ln 4, in nats, the former never more than the latter; "jsd"; "d_error": the
        mean of |D - D*| over data and samples, half of each; "outside"."""
        value = float(self.integrands[0].sum())
        total = self.p + self.q
        best = np.divide(self.p, total, out=np.zeros_like(total), where=total > 0)
        error = float((total / 2 * np.abs(self.D - best)).sum())
        jsd = self.jsd
        return {"value": value, "optimum": 2 * jsd - math.log(4), "jsd": jsd, "d_error": error, "outside": self.outside}

    def picture(self) -> Picture:
        """The densities, D beside D*, and on the line what V and its optimum are integrals of."""
        figures = self.figures()
        told = f"V = {figures['value']:.4f}, 2 JSD - ln 4 = {figures['optimum']:.4f}"
        width = [place[1] - place[0] for place in self.places]
        p, q, *integrands = (part / math.prod(width) for part in (self.p, self.q, *self.integrands))
        if self.p.ndim == 1:
            panels = {
                "densities": {"p, the data": p, "q, the generator": q},
                "discriminator": {"D": self.D, "D* = p/(p + q)": self.best},
                told: {"p ln D + q ln (1 - D)": integrands[0], "the same with D*": integrands[1]},
            }
            return Lines(self.places[0], panels)
        corners = [edge for place, w in zip(self.places, width) for edge in (place[0] - w / 2, place[-1] + w / 2)]
        panels = {"p, the data": p.T, "q, the generator": q.T, "D* = p/(p + q)": self.best.T, f"D: {told}": self.D.T}
        return Maps(panels, tuple(map(float, corners)))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """JSD of two laws on the same cells, in nats: (sum p ln (p/m) + sum q ln (q/m)) / 2 with m = (p + q) / 2."""
    return float((_x_log_share(p, q) + _x_log_share(q, p)).sum()) / 2 + math.log(2)


def _x_log_share(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x ln (x / (x + y)), 0 where x is 0."""
    return x * np.log(np.divide(x, x + y, out=np.ones_like(x), where=x > 0))
