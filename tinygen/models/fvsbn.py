"""FVSBN, the fully visible sigmoid belief network (Neal 1992; Frey 1998): logistic regression of each pixel on those before it.

    p(x) = prod_i p(x_{o_i} | x_{o_<i}),   p(x_j = 1 | those before) = sigmoid(b_j + sum_{k before j} W_{jk} x_k)

in an order o of the pixels. W and b hold D (D - 1)/2 + D = D (D + 1)/2 numbers that count; the others are never used and their
gradient is zero. With no hidden units, the loss is convex.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn
from tinygen.backend import Array, module_of
from tinygen.kernels import masked_dense as kernel
from tinygen.models.autoregressive import Autoregressive, observed_prefix
from tinygen.models.base import pixel_log_odds
from tinygen.models.orderings import ordering
from tinygen.models.recipe import Recipe
from tinygen.ops.bernoulli import bernoulli_log_prob
from tinygen.ops.masked import masked_linear

if TYPE_CHECKING:
    from tinygen.data import Split


class FVSBN(Autoregressive):
    """FVSBN over D binary pixels.

    Args:
        dimensions: D.
        order: a permutation of range(D), the pixels as they are visited; None for 0, 1, ..., D - 1.
        bias: start of the biases (D,), the log-odds of the pixels, say; None for 0.

    Parameters: W (D, D), whose row j leads to pixel j, and b (D,). W starts at 0: the pixels are independent then.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(
            data="mnist5k",
            binarization="dynamic",
            epochs=25,
            batch_size=50,
            optimizer="adamw",
            lr=1e-2,
            schedule="cosine",
            weight_decay=0.1,
            model={"order": "raster"},
        ),
    }

    def __init__(self, dimensions: int, order: Array | None = None, bias: Array | None = None, dtype: type = np.float32):
        super().__init__(dimensions, order)
        self.W = nn.Parameter(np.zeros((dimensions, dimensions), dtype))
        self.b = nn.Parameter(np.zeros(dimensions, dtype) if bias is None else np.asarray(bias, dtype))

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        height, width = train.images.shape[1:]
        return cls(height * width, ordering(recipe.model["order"], height, width, rng), pixel_log_odds(train))

    def logits(self, x: Array) -> Tensor:
        """Of p(x_j = 1 | those before j), for every pixel j: (B, D)."""
        places = self.places()
        return masked_linear(x, self.W, self.b, in_degrees=places, out_degrees=places, strict=True)

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x), (B,) in nats, of binary x (B, D)."""
        x = x.astype(self.b.dtype, copy=False)
        return bernoulli_log_prob(x, self.logits(x))

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the unobserved pixels drawn from their exact conditional given the observed ones.

        `observed` (D,) is a boolean mask of pixels that come first in the model's order; otherwise raises ValueError.
        """
        x = module_of(self.b._data).asarray(x).astype(self.b.dtype)
        start = observed_prefix(observed, self.order)
        return kernel.complete(x, start, self.own(rng.random(x.shape)), [self.W._data], [self.b._data], [self.places()])
