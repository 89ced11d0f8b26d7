"""MADE, the masked autoencoder for distribution estimation (Germain, Gregor, Murray and Larochelle, ICML 2015).

An autoencoder whose outputs are the logits of p(x) = prod_i p(x_{o_i} | x_{o_<i}), all D of them from one pass: a mask leaves
out every path from a pixel to the logits of itself and of the pixels before it. Each unit k has a degree m(k): a pixel its
place in the order, a hidden unit the last place that it may depend on. With ReLUs between them, the layers are

    h^l = relu(b^l + (W^l * M^l) h^{l-1}),   M^l_{jk} = [m^l(j) >= m^{l-1}(k)],   h^0 = x              (equations 8 and 14)
    logits = b + (V * M) h^L + (A * N) x,    M_{jk} = [m^0(j) > m^L(k)],  N_{jk} = [m^0(j) > m^0(k)]    (equations 9 and 10)

The weights are never multiplied by a mask: the kernel (`kernels/masked_dense`) computes what the mask leaves and no more, and
what it leaves out keeps its value for the next mask.

With several sets of hidden degrees (connectivity-agnostic training) and several orders (order-agnostic training) every pair of
them makes a member of an ensemble that shares its weights. A step of training draws one member; the likelihood is that of the
mixture, ln p(x) = ln (1/S sum_s p_s(x)), the mean of the members' joint probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, binary_cross_entropy_with_logits, dropout, logsumexp, nn, no_grad, relu, stack
from tinygen.backend import Array, module_of, to_device
from tinygen.kernels import masked_dense as kernel
from tinygen.models.autoregressive import Autoregressive, observed_prefix
from tinygen.models.base import pixel_log_odds
from tinygen.models.orderings import ordering, permutation
from tinygen.models.recipe import Recipe
from tinygen.ops.bernoulli import bernoulli_log_prob
from tinygen.ops.masked import masked_linear

if TYPE_CHECKING:
    from tinygen.data import Split


class MADE(Autoregressive):
    """MADE over D binary pixels.

    Args:
        dimensions: D.
        hidden: units of each hidden layer.
        rng: draws the starting weights, and the degrees of the hidden units if `masks` is more than 1.
        orders: permutations of range(D), the pixels as they are visited, one for each order; None for 0, 1, ..., D - 1 alone.
        masks: how many sets of hidden degrees. A single one spreads the degrees evenly; more are drawn at random.
        direct: whether A is there, from the pixels straight to the logits; it starts at 0.
        dropout: the probability with which training leaves out a hidden unit.
        bias: start of the output biases (D,), the log-odds of the pixels, say; None for 0.

    Parameters: those of `hidden` and `output`, dense layers, and A (D, D) of `direct`. Rows and columns for pixels come in the
    order of x. Member s of the ensemble has order s % len(orders) and the hidden degrees number s // len(orders).
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(
            data="mnist5k",
            binarization="dynamic",
            epochs=25,
            batch_size=50,
            optimizer="adamw",
            lr=5e-3,
            schedule="cosine",
            weight_decay=0.1,
            model={"hidden": (500,), "order": "column", "orders": 1, "masks": 1, "direct": False, "dropout": 0.0},
        ),
        # Fixed binarization and one hidden layer as in the paper, which has 8000 units and Adagrad.
        "paper": Recipe(
            data="binarized-mnist",
            binarization="fixed",
            epochs=40,
            batch_size=100,
            optimizer="adamw",
            lr=2e-3,
            schedule="cosine",
            weight_decay=0.1,
            target=88.40,
            model={"hidden": (2000,), "order": "column", "orders": 1, "masks": 1, "direct": True, "dropout": 0.15},
        ),
    }

    def __init__(
        self,
        dimensions: int,
        hidden: Sequence[int],
        rng: np.random.Generator,
        orders: Sequence[Array] | None = None,
        masks: int = 1,
        direct: bool = False,
        dropout: float = 0.0,
        bias: Array | None = None,
        dtype: type = np.float32,
    ):
        orders = [np.arange(dimensions)] if orders is None else orders
        if not hidden or min(hidden) < 1 or masks < 1 or not len(orders):
            raise ValueError(
                f"hidden = {hidden}, masks = {masks}, {len(orders)} orders: "
                "MADE has at least one hidden layer, one unit in each, one mask and one order"
            )
        super().__init__(dimensions, orders[0])
        self.register_buffer("orders", np.stack([permutation(order, dimensions) for order in orders]))
        for l, degrees in enumerate(hidden_degrees(dimensions, hidden, masks, rng), 1):
            self.register_buffer(f"degrees_{l}", degrees)
        sizes = [dimensions, *hidden]
        self.hidden = [nn.Dense(a, b, rng=rng, dtype=dtype) for a, b in pairwise(sizes)]
        self.output = nn.Dense(sizes[-1], dimensions, bias=False, rng=rng, init=partial(nn.init.normal, std=0.01), dtype=dtype)
        self.output.bias = nn.Parameter(np.zeros(dimensions, dtype) if bias is None else np.asarray(bias, dtype))
        self.dropout = dropout
        self.direct = nn.Parameter(np.zeros((dimensions, dimensions), dtype)) if direct else None

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        height, width = train.images.shape[1:]
        options = dict(recipe.model)
        names = [options.pop("order"), *["random"] * (options.pop("orders") - 1)]
        orders = [ordering(name, height, width, rng) for name in names]
        return cls(height * width, rng=rng, orders=orders, bias=pixel_log_odds(train), **options)

    @property
    def members(self) -> int:
        """S, the size of the ensemble."""
        return len(self.orders) * len(self.degrees_1)

    def degrees(self, member: int) -> list[np.ndarray]:
        """The degrees m^0 (D,), ..., m^L of a member's pixels and hidden units."""
        masks, order = divmod(member, len(self.orders))
        hidden = (self.on_host(f"degrees_{l}")[masks] for l in range(1, len(self.hidden) + 1))
        return [np.argsort(self.on_host("orders")[order]), *hidden]

    def logits(self, x: Array, member: int = 0, rng: np.random.Generator | None = None) -> Tensor:
        """Of p_s(x_j = 1 | those before j), for every pixel j: (B, D). With `rng`, which draws them, units are dropped."""
        degrees = self.degrees(member)
        h = x
        for layer, before, after in zip(self.hidden, degrees, degrees[1:]):
            h = relu(masked_linear(h, layer.weight, layer.bias, in_degrees=before, out_degrees=after))
            h = h if rng is None else dropout(h, self.dropout, rng)
        end = {"out_degrees": degrees[0], "strict": True}
        logits = masked_linear(h, self.output.weight, self.output.bias, in_degrees=degrees[-1], **end)
        return logits if self.direct is None else logits + masked_linear(x, self.direct, in_degrees=degrees[0], **end)

    def member_log_prob(self, x: Array, member: int, rng: np.random.Generator | None = None) -> Tensor:
        """ln p_s(x), (B,) in nats, of binary x (B, D); `rng` as in `logits`."""
        x = x.astype(self.output.bias.dtype, copy=False)
        return bernoulli_log_prob(x, self.logits(x, member, rng))

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x) = ln (1/S sum_s p_s(x)), (B,) in nats, of binary x (B, D)."""
        joints = stack([self.member_log_prob(x, s) for s in range(self.members)])
        return logsumexp(joints, axis=0) - math.log(self.members)

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """Mean negative log-likelihood of the batch under a member drawn at random, in nats per example."""
        return -self.member_log_prob(x, int(rng.integers(self.members)), rng).mean()

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the unobserved pixels drawn from their exact conditional given the observed ones.

        `observed` (D,) is a boolean mask of pixels that come first in every order of the model; otherwise raises ValueError.
        """
        start = max(observed_prefix(observed, order) for order in self.on_host("orders"))
        bias = self.output.bias._data
        xp = module_of(bias)
        filled = xp.where(xp.asarray(observed), xp.asarray(x), 0).astype(bias.dtype)
        numbers = self.own(rng.random(filled.shape))
        layers = [*self.hidden, self.output]
        arrays = [layer.weight._data for layer in layers], [layer.bias._data for layer in layers]
        direct = None if self.direct is None else self.direct._data
        chosen = self._draw_members(filled, observed, rng)
        for s in np.unique(chosen):
            rows = xp.asarray(np.flatnonzero(chosen == s))
            filled[rows] = kernel.complete(filled[rows], start, numbers[rows], *arrays, self.degrees(int(s)), direct)
        return filled

    def _draw_members(self, x: Array, observed: Array, rng: np.random.Generator) -> np.ndarray:
        """A member (n,) for each example, drawn from p(s | observed pixels), which is p_s(observed pixels) up to a factor."""
        if self.members == 1:
            return np.zeros(len(x), np.int64)
        with no_grad():
            logits = [to_device(self.logits(x, s)._data, "cpu").astype(np.float64) for s in range(self.members)]
        losses = binary_cross_entropy_with_logits(np.stack(logits), np.stack([to_device(x, "cpu")] * self.members), "none")
        log_p = -losses[:, :, to_device(observed, "cpu")].sum(-1)
        p = np.exp(log_p - log_p.max(0))
        return (rng.random(len(x)) >= np.cumsum(p / p.sum(0), axis=0)[:-1]).sum(0)


def hidden_degrees(dimensions: int, hidden: Sequence[int], masks: int, rng: np.random.Generator) -> list[np.ndarray]:
    """For each hidden layer the degrees of its units under each mask, (masks, units) with values in 0 to D - 2.

    A single mask spreads them evenly and in order, so that no unit has to be moved for the zero blocks to be skipped. Several
    are drawn as in the paper: uniformly from the smallest degree of the layer before, so that no unit is without input.
    """
    largest = max(dimensions - 2, 0)
    if masks == 1:
        return [np.arange(units)[None] * (largest + 1) // units for units in hidden]
    layers = []
    least = np.zeros(masks, np.int64)
    for units in hidden:
        layers.append(np.stack([rng.integers(low, largest + 1, units) for low in least]))
        least = layers[-1].min(axis=1)
    return layers
