"""What two sets of features, of real and of generated examples, have in common, and how classes are balanced.

Features are arrays (n, d), one row for each example. Everything is computed in float64 and on the features' device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.evaluation.distances import BLOCK, squared_distances

MODE = 0.01  # the share of the samples from which a class counts as drawn


def frechet_distance(a: Array, b: Array) -> float:
    """The squared Frechet distance between Gaussians with the means and covariances of the features a (n, d) and b (m, d).

    Heusel et al., "GANs trained by a two time-scale update rule" (NIPS 2017), with features of an Inception network. Figures of
    different networks, or of different numbers of examples (the estimate is biased upwards, less with more), cannot be
    compared. Raises ValueError below 2 examples.
    """
    return frechet_of_moments(*moments(a), *moments(b))


def moments(features: Array) -> tuple[Array, Array]:
    """Mean (d,) and unbiased covariance (d, d) of features (n, d), n >= 2, in float64."""
    if len(features) < 2:
        raise ValueError(f"{len(features)} examples have no covariance: expected at least 2")
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_of_moments(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) for covariances A and B (d, d).

    AB has the eigenvalues of the symmetric A^1/2 B A^1/2, so that no root of a matrix that is not symmetric is needed, which
    may come out complex; eigenvalues that rounding takes below 0 count as 0.
    """
    xp = module_of(cov_a)
    values, vectors = xp.linalg.eigh(cov_a)
    root = vectors * xp.sqrt(xp.maximum(values, 0)) @ vectors.T
    product = root @ cov_b @ root
    common = xp.sqrt(xp.maximum(xp.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
    shift = mean_a - mean_b
    return float(max(shift @ shift + xp.trace(cov_a) + xp.trace(cov_b) - 2 * common, 0.0))


def precision_recall(real: Array, fake: Array, k: int = 5, block: int = BLOCK) -> dict[str, float]:
    """ "precision", "recall", "density" and "coverage" of the features `fake` (m, d) as an image of `real` (n, d).

    The ball of a point reaches to its k-th nearest other point of the same set, edge included.

    * precision: the share of the fakes that lie in the ball of some real point; recall: the share of the real points that lie
      in the ball of some fake (Kynkaanniemi et al., "Improved precision and recall metric", NeurIPS 2019; k = 3 there).
    * density: in how many real balls a fake lies, over k; it can exceed 1. coverage: the share of the real balls that hold a
      fake (Naeem et al., "Reliable fidelity and diversity metrics", ICML 2020; k = 5).

    When both sets come from one law and n = m, density is 1 and coverage 1 - 2^-k on average. All four depend on n and m.
    Raises ValueError unless both sets have more than k points.
    """
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k = {k} needs more than k points on each side, but there are {len(real)} and {len(fake)}")
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    xp = module_of(real)
    real_radius, fake_radius = _radii(real, k, block), _radii(fake, k, block)
    balls = xp.zeros(len(fake))  # how many real balls each fake lies in
    recalled = covered = 0
    for rows, d in squared_distances(real, fake, block):
        inside = d <= real_radius[rows, None]
        balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((d <= fake_radius).any(axis=1).sum())
    return {
        "precision": float((balls > 0).mean()),
        "recall": recalled / len(real),
        "density": float(balls.mean()) / k,
        "coverage": covered / len(real),
    }


def _radii(points: Array, k: int, block: int) -> Array:
    """The squared distance of each point to its k-th nearest other, (n,)."""
    xp = module_of(points)
    found = xp.empty(len(points))
    for rows, d in squared_distances(points, points, block):
        d[xp.arange(len(d)), xp.arange(rows.start, rows.stop)] = xp.inf  # the point itself
        found[rows] = xp.partition(d, k - 1, axis=1)[:, k - 1]
    return found


class Balance(NamedTuple):
    """How samples are spread over classes.

    shares (classes,): of the samples; they sum to less than 1 where some belong to no class. entropy: of the classes of those
    that have one, in nats, at most ln(classes). modes: the number of classes that have at least the share asked for.
    """

    shares: np.ndarray
    entropy: float
    modes: int

    def figures(self) -> Mapping[str, float]:
        """What a table shows: "classified", the share of the samples that have a class, "modes" and "class_entropy"."""
        return {"classified": float(self.shares.sum()), "modes": self.modes, "class_entropy": self.entropy}


def class_balance(labels: np.ndarray, classes: int = 10, least: float = MODE) -> Balance:
    """The balance of class numbers (n,), integers below `classes`; those below 0 stand for none.

    A class is a mode that is drawn when it has at least the share `least` of the samples, and one sample.
    """
    shares = np.bincount(labels[labels >= 0], minlength=classes) / max(len(labels), 1)
    seen = shares[shares > 0]
    among = seen / seen.sum()
    return Balance(shares, float(-(among * np.log(among)).sum()), int((seen >= least).sum()))
