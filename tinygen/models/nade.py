"""NADE, the neural autoregressive distribution estimator (Larochelle and Murray, AISTATS 2011).

A distribution over binary vectors x of D dimensions by the chain rule, in an order o of the dimensions:

    p(x) = prod_i p(x_{o_i} | x_{o_<i})

Every conditional is a network with one hidden layer of H units, and all of them share their weights W:

    h_i                       = sigmoid(c + sum_{j<i} W_{.,j} x_{o_j})        the hidden units before pixel o_i is seen
    p(x_{o_i} = 1 | x_{o_<i}) = sigmoid(b_i + V_{i,.} h_i)

Sharing is what makes it cheap. The sums a_i inside h_i differ by one term, a_{i+1} = a_i + W_{.,i} x_{o_i}, so all D
conditionals cost O(D H) and not O(D^2 H); and where x_{o_i} = 0 nothing changes at all. Both the likelihood and its gradient
are computed by the kernel `kernels/nade`, whose `reference.py` is this page in NumPy.

Training lowers the mean negative log-likelihood, in nats, which is exact: no bound, no sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn
from tinygen.backend import Array, module_of
from tinygen.kernels import nade as kernel
from tinygen.models.autoregressive import Autoregressive, observed_prefix
from tinygen.models.base import pixel_log_odds
from tinygen.models.orderings import inverse, ordering
from tinygen.models.recipe import Recipe
from tinygen.ops.nade import nade_log_prob

if TYPE_CHECKING:
    from tinygen.data import Split


class NADE(Autoregressive):
    """NADE over D binary dimensions.

    Args:
        dimensions: D.
        hidden: H.
        rng: draws the starting weights.
        order: a permutation of range(D), the dimensions as they are visited; None for 0, 1, ..., D - 1.
        bias: start of the output biases (D,) in the order of the dimensions (their log-odds, say); None for 0.
        scale: standard deviation of the starting weights W and V.

    Parameters: W (D, H), whose row i is the paper's column W_{.,i}, so that a step of the recurrence reads one contiguous
    row; V (D, H); b (D,); c (H,). Row i belongs to the pixel that is visited as number i, o_i.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(
            data="mnist5k",
            binarization="dynamic",
            epochs=60,
            batch_size=50,
            optimizer="adamw",
            lr=8e-3,
            schedule="cosine",
            weight_decay=0.1,
            model={"hidden": 500, "order": "column"},
        ),
        # The set-up of the paper (500 hidden units, fixed binarization, one order for all) with a later optimizer. Order and
        # weight decay were picked on the validation set.
        "paper": Recipe(
            data="binarized-mnist",
            binarization="fixed",
            epochs=80,
            batch_size=100,
            optimizer="adamw",
            lr=2e-3,
            schedule="cosine",
            weight_decay=0.08,
            target=88.33,
            model={"hidden": 500, "order": "column"},
        ),
    }

    def __init__(
        self,
        dimensions: int,
        hidden: int,
        rng: np.random.Generator,
        order: Array | None = None,
        bias: Array | None = None,
        scale: float = 0.01,
        dtype: type = np.float32,
    ):
        super().__init__(dimensions, order)
        D, H = dimensions, hidden
        if H < 1:
            raise ValueError(f"hidden = {H} is out of range: at least 1")
        self.W = nn.Parameter((scale * rng.standard_normal((D, H))).astype(dtype))
        self.V = nn.Parameter((scale * rng.standard_normal((D, H))).astype(dtype))
        self.b = nn.Parameter(np.zeros(D, dtype) if bias is None else np.asarray(bias, dtype)[self.order])
        self.c = nn.Parameter(np.zeros(H, dtype))

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        height, width = train.images.shape[1:]
        order = ordering(recipe.model["order"], height, width, rng)
        return cls(height * width, recipe.model["hidden"], rng, order, pixel_log_odds(train))

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x), (B,) in nats, of binary x (B, D)."""
        return nade_log_prob(self._visited(x), self.W, self.V, self.b, self.c)

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the unobserved pixels drawn from their exact conditional given the observed ones.

        `observed` (D,) is a boolean mask. The conditional is at hand only if the observed pixels come first in the model's
        order (the upper part of an image, for the raster order); otherwise raises ValueError.
        """
        start = observed_prefix(observed, self.order)
        visited = self._visited(module_of(self.b._data).asarray(x))
        arrays = (p._data for p in (self.W, self.V, self.b, self.c))
        return kernel.complete(visited, start, self.own(rng.random(visited.shape)), *arrays)[:, inverse(self.order)]

    def _visited(self, x: Array) -> Array:
        """The pixels of x (B, D) in the model's order, as numbers of the parameters' dtype."""
        return x.astype(self.b.dtype, copy=False)[:, self.order]
