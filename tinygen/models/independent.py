"""Independent pixels: one coin a pixel, the first model of a course on generative models.

    p(x) = prod_i p(x_i),     p(x_i = 1) = sigmoid(l_i)

n numbers describe a distribution over 2^n images, at a price: no pixel knows of another, so that a sample is a mean image with
noise. The coin of a pixel is fitted as every coin is, by its relative frequency (`counting.py`):

    p_i = (n_i1 + alpha) / (n_i1 + n_i0 + 2 alpha)

What it loses against the joint distribution of the data is their total correlation, sum_i H(x_i) - H(x), in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tinygen.backend import Array, module_of, to_device
from tinygen.distributions import Bernoulli
from tinygen.models.counting import CountingModel
from tinygen.models.recipe import Recipe


class Independent(CountingModel):
    """n independent Bernoulli variables; row i of the table is the coin of pixel i (see CountingModel for the arguments)."""

    PARAMETERS = "n"
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(epochs=1, lr=0.2, binarization="dynamic", model={"alpha": 1.0, "fit": "counts"}),
    }

    @staticmethod
    def parameters_needed(n: int, values: int = 2) -> int:
        """n (values - 1): one number less than values, for they sum to 1."""
        return n * (values - 1)

    def rows(self, x: Array) -> Array:
        xp = module_of(x)
        return xp.broadcast_to(xp.arange(self.dimensions), x.shape)

    def tally(self, x: Array) -> Array:
        return module_of(x).stack([(1 - x).sum(0), x.sum(0)], -1)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` images (n, dimensions), every coin tossed once for each."""
        return Bernoulli(self.logits._data).sample(rng, (n,))

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` with the pixels where `observed` (n,) is False drawn; what is observed tells nothing about them."""
        observed = to_device(observed, self.device)
        return module_of(observed).where(observed, x, self.sample(len(x), rng))
