"""The chain rule of probability with a full table for every conditional: no assumption at all, and no way to pay for it.

    p(x) = prod_i p(x_{o_i} | x_{o_1}, ..., x_{o_{i-1}})

The conditional of the pixel visited as number i (from 0) needs a coin for each of the 2^i values of those before it, together
1 + 2 + 4 + ... + 2^(n-1) = 2^n - 1 numbers: as many as the joint table (`full_joint.py`), of which this is only another
writing. By relative frequencies (`counting.py`) it is the same distribution, whatever the order; smoothed, almost the same,
for the prior is now on the conditionals. Every later model of this package replaces the tables by a function with fewer
numbers, and then the order matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.models.counting import OrderedCountingModel
from tinygen.models.orderings import inverse
from tinygen.models.recipe import Recipe
from tinygen.models.states import complete_states, joint_log_prob, levels_of, state_counts


class ChainRule(OrderedCountingModel):
    """Full conditional tables along an order of the pixels (see OrderedCountingModel for the arguments).

    The rows are a binary tree in a heap: the pixels visited so far are the way down from row 0, and a 0 leads from row r to
    row 2r + 1, a 1 to row 2r + 2.
    """

    PARAMETERS = "1 + 2 + 4 + ... + 2^(n-1) = 2^n - 1"
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        # alpha was picked on the validation set.
        "quick": Recipe(
            data="mnist5k-4x4",
            epochs=1,
            lr=0.05,
            binarization="threshold",
            model={"order": "raster", "alpha": 0.3, "fit": "counts"},
        ),
    }

    @staticmethod
    def parameters_needed(n: int, values: int = 2) -> int:
        """sum_i values^i (values - 1), which is values^n - 1."""
        return sum(values**i * (values - 1) for i in range(n))

    def rows(self, x: Array) -> Array:
        xp = module_of(x)
        rows = [xp.zeros(len(x), np.int64)]
        for pixel in self.visited(x).T[:-1]:
            rows.append(2 * rows[-1] + 1 + pixel.astype(np.int64))
        return xp.stack(rows, 1)

    def tally(self, x: Array) -> Array:
        return module_of(x).concatenate(levels_of(state_counts(self.visited(x)), lambda off, on: off + on))

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` with the pixels where `observed` (n,) is False drawn from their exact conditional given all the others."""
        observed = module_of(self.order).asarray(observed)[self.order]
        filled = complete_states(joint_log_prob(self.logits._data), self.visited(x), observed, rng)
        return filled[:, inverse(self.order)]
