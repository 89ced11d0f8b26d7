"""Maximum mean discrepancy: whether two sets of points come from one law (Gretton et al., JMLR 13, 2012)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinygen.backend import Array, to_device

LEVEL = 0.05
ROUNDS = 200
WIDTHS = (0.5, 1.0, 2.0)  # of the Gaussian kernels that are added up, times the median distance


class Discrepancy(NamedTuple):
    """mmd: the squared maximum mean discrepancy. threshold: what sets of one law exceed with probability LEVEL."""

    mmd: float
    threshold: float


def mmd(a: Array, b: Array, rng: np.random.Generator, rounds: int = ROUNDS) -> Discrepancy:
    """MMD^2 of two sets of n points each, (n, D), with its threshold from `rounds` random divisions of all points.

    MMD^2 = mean of k(a, a') + k(b, b') - 2 k(a, b) over all pairs, a = a' included (equation 5, above 0 therefore, also for
    sets of one law), with k(x, y) = sum_s exp(-|x - y|^2 / (2 s^2)). Raises ValueError for sets of two sizes.
    """
    if a.shape != b.shape:
        raise ValueError(f"sets of shapes {a.shape} and {b.shape}: expected the same number of points and dimensions")
    points = np.concatenate([to_device(part, "cpu").astype(np.float64) for part in (a, b)])
    norms = (points**2).sum(axis=1)
    distances = np.maximum(norms[:, None] + norms - 2 * points @ points.T, 0)
    scale = np.median(distances[np.triu_indices(len(points), 1)])
    kernel = sum(np.exp(-distances / (2 * width**2 * scale)) for width in WIDTHS)
    # A division into halves is a vector of signs, s' K s / n^2 its MMD^2.
    first = np.repeat([1.0, -1.0], len(a))
    signs = np.stack([first, *(rng.permutation(first) for _ in range(rounds))], axis=1)
    found = (signs * (kernel @ signs)).sum(axis=0) / len(a) ** 2
    return Discrepancy(float(found[0]), float(np.quantile(found[1:], 1 - LEVEL)))
