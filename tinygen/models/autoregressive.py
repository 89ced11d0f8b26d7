"""What the autoregressive models of binary pixels have in common.

They factor p(x) = prod_i p(x_{o_i} | x_{o_<i}) in an order o of the pixels. Training lowers the mean negative
log-likelihood, in nats, which is exact: no bound, no sampling. Samples are exact too, each pixel drawn given those before it;
and pixels that come first in the order can be given instead of drawn.
"""

from __future__ import annotations

import numpy as np

from tinygen import Tensor
from tinygen.backend import Array, to_device
from tinygen.models.base import Model
from tinygen.models.orderings import inverse, permutation


class Autoregressive(Model):
    """Base class of models over binary x (B, D) with an order: a subclass has `log_prob` and `complete`."""

    def __init__(self, dimensions: int, order: Array | None = None):
        """`order` is a permutation of range(dimensions), the pixels as they are visited; None for 0, 1, ..., D - 1."""
        super().__init__()
        self.register_buffer("order", permutation(order, dimensions))

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """Mean negative log-likelihood of the batch, in nats per example."""
        return -self.log_prob(x).mean()

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` exact samples (n, D), by ancestral sampling: each pixel given those before it."""
        D = len(self.order)
        return self.complete(np.zeros((n, D)), np.zeros(D, bool), rng)

    def first_half(self, dimensions: int) -> np.ndarray:
        """Boolean mask (D,) of the half of the pixels that is visited first."""
        mask = np.zeros(dimensions, bool)
        mask[self.on_host("order")[: dimensions // 2]] = True
        return mask

    def places(self) -> np.ndarray:
        """The number (D,) of each pixel in the order."""
        return inverse(self.on_host("order"))


def observed_prefix(observed: Array, order: Array) -> int:
    """How many pixels the boolean mask `observed` (D,) holds, if they come first in the order; else raises ValueError."""
    order = to_device(order, "cpu")
    seen = to_device(observed, "cpu")[order]
    start = int(seen.sum())
    if seen[start:].any():
        raise ValueError(
            "complete needs the observed pixels to come first in the model's order: "
            f"pixel {int(order[start:][seen[start:]][0])} is observed but pixel {int(order[~seen][0])}, before it, is not"
        )
    return start
