"""The full joint distribution: one die with a side for every image there is.

    p(x) = softmax(l)[s(x)],     s(x) the image read as a binary number of n digits

Any distribution over n binary pixels can be written so, and nothing can be left out: 2^n probabilities that sum to 1 are 2^n
- 1 numbers. That is possible for 4 x 4 pixels (65,535 numbers) and for nothing larger: an image of 28 x 28 would need about
10^236. And one RGB pixel of 8 bits a channel, as a joint distribution of three variables, needs 256^3 - 1 = 16,777,215.

The table is fitted by the relative frequencies of whole images (`counting.py`), so that it knows nothing of an image that it
has not seen: on new digits it is worse than far smaller models. That generalization is not to be had by counting is why the
course goes on.

The logits are 2^n, one more than needed, for softmax(l + c) = softmax(l).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tinygen import Tensor, log_softmax, nn
from tinygen.backend import Array, module_of
from tinygen.models.counting import CountingModel
from tinygen.models.recipe import Recipe
from tinygen.models.states import complete_states, state_counts, state_of


class FullJoint(CountingModel):
    """A Categorical variable over all images of n binary pixels (see CountingModel for the arguments).

    Parameter: logits (2^n,). Buffer: counts (2^n,).
    """

    PARAMETERS = "2^n - 1"
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        # alpha was picked on the validation set.
        "quick": Recipe(
            data="mnist5k-4x4", epochs=1, lr=0.05, binarization="threshold", model={"alpha": 0.01, "fit": "counts"}
        ),
    }

    @staticmethod
    def parameters_needed(n: int, values: int = 2) -> int:
        """values^n - 1: one number for each state but the last."""
        return values**n - 1

    def make_table(self, needed: int, dtype: type) -> None:
        self.logits = nn.Parameter(np.zeros(needed + 1, dtype))
        self.register_buffer("counts", np.zeros(needed + 1))

    def log_table(self) -> Tensor:
        return log_softmax(self.logits)

    def logits_of(self, counts: Array) -> Array:
        with np.errstate(divide="ignore"):
            return module_of(counts).log(counts / counts.sum())

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x), (B,) in nats, of bits x (B, n)."""
        return self.log_table()[state_of(x)]

    def tally(self, x: Array) -> Array:
        return state_counts(x)

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` with the pixels where `observed` (n,) is False drawn from their exact conditional given all the others."""
        return complete_states(self.log_table()._data.astype(np.float64), x, observed, rng)
