"""EoNADE, one deep NADE for every order and the ensemble of them (Uria, Murray and Larochelle, ICML 2014).

A network takes any subset of the D binary dimensions, x where the mask m is 1 and nothing where it is 0, and says of all
the others at once how likely they are 1:

    h1 = relu(W1 [x * m, m] + c1)      h2 = relu(W2 h1 + c2)      p(x_i = 1 | x where m) = sigmoid(V_i h2 + b_i)

(m itself is an input, so that a dimension that is 0 differs from one that is not known.) With an order o of the dimensions
this is an autoregressive model, ln p(x | o) = sum_d ln p(x_{o_d} | x_{o_<d}), and it is trained for all orders together. One
pass gives all the conditionals of one cut d, for all orders that agree before it, so the loss of an example is, with a
random order and a random d of 1, ..., D,

    D / (D - d + 1)  sum_{i not among o_<d}  -ln p(x_i | x_{o_<d})

whose expectation is the mean over orders of -ln p(x | o): d - 1 dimensions are seen, D - d + 1 are left, and each of those is
as likely as any other to be the next one.

Orders disagree about p(x), as no network is perfect, and their mixture is better than their average (Jensen):

    p(x) = 1/K sum_k p(x | o_k)

The K orders are part of the model, so that p(x) is a single distribution, exact, and sums to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, binary_cross_entropy_with_logits, logsumexp, nn, sigmoid, softplus
from tinygen.backend import Array, module_of, to_device
from tinygen.evaluation import bits_per_dim
from tinygen.models.base import Model, pixel_log_odds
from tinygen.models.recipe import Recipe
from tinygen.ops.bernoulli import bits

if TYPE_CHECKING:
    from tinygen.data import Split

CUTS = 4  # passes over the held-out examples that `validate` averages


QUICK = Recipe(
    data="mnist5k",
    binarization="dynamic",
    epochs=100,
    batch_size=100,
    optimizer="adamw",
    lr=2e-3,
    schedule="cosine",
    weight_decay=0.05,
    valid_every=10,
    model={"hidden": (500, 500), "orders": 8, "scored": 500},
)


class EoNADE(Model):
    """The ensemble over D binary dimensions.

    Args:
        dimensions: D.
        hidden: units of each hidden layer, one number or more.
        orders: K, how many orders are mixed; they are drawn from `rng`.
        rng: draws the starting weights, then the orders.
        bias: start of the output biases (D,) (the dimensions' log-odds, say); None for 0.
        scored: `evaluate` scores at most so many examples, from the first on: each costs K D passes through the network.

    Parameters: `hidden` is Dense, ReLU, Dense, ReLU, ..., the first of which takes [x * m, m] (2 D), and `output` the Dense
    layer with V and b. Buffer: orders (K, D), each row a permutation of the dimensions.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": QUICK,
        # Two hidden layers of 500 units as in the paper, with a later optimizer and fewer orders: 128 were published.
        "paper": replace(
            QUICK,
            data="binarized-mnist",
            binarization="fixed",
            epochs=140,
            lr=1e-3,
            weight_decay=0.01,
            valid_every=5,
            target=85.10,
            model=QUICK.model | {"scored": 10_000},
        ),
    }
    # The mean over orders, estimated by one cut an example: the ensemble's own figure costs K D times as much.
    selected_by: ClassVar[str | None] = "order_nll"

    def __init__(
        self,
        dimensions: int,
        hidden: Sequence[int],
        orders: int,
        rng: np.random.Generator,
        bias: Array | None = None,
        scored: int = 10_000,
        dtype: type = np.float32,
    ):
        D = dimensions
        if not hidden or min(hidden) < 1 or orders < 1 or scored < 1:
            raise ValueError(f"hidden = {hidden}, orders = {orders}, scored = {scored}: all must be at least 1")
        self.hidden = nn.Sequential()
        for inputs, units in zip((2 * D, *hidden), hidden):
            self.hidden.append(nn.Dense(inputs, units, rng=rng, init=nn.init.he_normal, dtype=dtype)).append(nn.ReLU())
        self.output = nn.Dense(hidden[-1], D, rng=rng, dtype=dtype)
        self.output.bias.data[...] = 0 if bias is None else bias
        self.register_buffer("orders", np.stack([rng.permutation(D) for _ in range(orders)]).astype(np.int32))
        self.scored = scored

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        dimensions = math.prod(train.images.shape[1:])
        return cls(dimensions, rng=rng, bias=pixel_log_odds(train), **recipe.model)

    def nll_after(self, x: Array, seen: Array) -> Tensor:
        """The loss of each example for one cut, (B,) in nats: D / (D - d + 1) times the sum over the dimensions not `seen`.

        x (B, D) is binary; seen (B, D) is boolean, with d - 1 < D dimensions True in a row. ValueError for any other x.
        """
        x = bits(x).astype(self.dtype, copy=False)
        D, m = x.shape[1], seen.astype(x.dtype)
        logits = self.output(self.hidden(module_of(x).concatenate([x * m, m], axis=1)))
        weight = D / (D - m.sum(axis=1, keepdims=True))
        return (binary_cross_entropy_with_logits(logits, x, reduction="none") * (weight * (1 - m))).sum(axis=1)

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """An unbiased estimate of the mean over all orders of -ln p(x | o), in nats per example."""
        return self.nll_after(x, to_device(random_cuts(*x.shape, rng), self.device)).mean()

    def log_prob_in(self, x: Array, order: Array) -> Array:
        """ln p(x | o) (B,) in nats, exactly: binary x (B, D), `order` (D,) a permutation, or (B, D) one for each example."""
        x = bits(x).astype(self.dtype, copy=False)
        xp = module_of(x)
        rows, network, total = xp.arange(len(x)), _Network(self, len(x)), xp.zeros(len(x))
        for i in order.T:
            seen = x[rows, i]
            total -= softplus((1 - 2 * seen) * network.logits(i))
            network.see(i, seen)
        return total.astype(x.dtype)

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x) (B,) in nats under the mixture of the K orders, exactly; no gradient is recorded."""
        return Tensor(_mixture(self._joints(x)))

    def _joints(self, x: Array) -> Array:
        """ln p(x | o_k) for every order, (K, B)."""
        return module_of(x).stack([self.log_prob_in(x, order) for order in self.orders])

    def validate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """ "order_nll", the mean over all orders of the NLL in nats: an unbiased estimate, by CUTS cuts an example."""
        total = 0.0
        with self.evaluating():
            for batch in self.batches(x):
                total += sum(self.loss(batch, rng).item() for _ in range(CUTS)) / CUTS * len(batch)
        return {"order_nll": total / len(x)}

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """Exact figures on at most `scored` of the examples `x`, the first ones: "nll" of the ensemble in nats with its
        "bits_per_dim", "order_nll", the mean of its K orders, and "scored", the number of examples."""
        x = x[: self.scored]
        joints = np.concatenate([to_device(self._joints(batch), "cpu") for batch in self.batches(x)], axis=1, dtype=np.float64)
        nll = -float(_mixture(joints).mean())
        return {
            "nll": nll,
            "bits_per_dim": bits_per_dim(nll, x.shape[1]),
            "order_nll": -float(joints.mean()),
            "scored": len(x),
        }

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` exact samples (n, D) of the ensemble: each by ancestral sampling in one of its K orders, drawn for it."""
        D = self.output.bias.size
        x = module_of(self.orders).zeros((n, D), self.output.weight.dtype)
        return self._fill(x, self.orders[to_device(rng.integers(len(self.orders), size=n), self.device)], rng)

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the dimensions where `observed` (D,) is False drawn given the others, whichever these are.

        The conditional is exact for the order that is used: the observed dimensions first, then the others in a random
        order, drawn for each example.
        """
        missing = np.flatnonzero(~to_device(observed, "cpu"))
        orders = missing[rng.random((len(x), len(missing))).argsort(axis=1)]
        return self._fill(x.astype(self.output.weight.dtype), to_device(orders, self.device), rng)

    def _fill(self, x: Array, orders: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the dimensions in the rows of `orders` (n, m) drawn one after the other given all others."""
        xp = module_of(x)
        rows, seen = xp.arange(len(x)), xp.ones_like(x)
        uniforms = to_device(rng.random(orders.shape), self.device)
        seen[rows[:, None], orders] = 0
        network = _Network(self, len(x), x, seen)
        for i, u in zip(orders.T, uniforms.T):
            x[rows, i] = drawn = (u < sigmoid(network.logits(i))).astype(x.dtype)
            network.see(i, drawn)
        return x


class _Network:
    """The network of `model` for n examples of which ever more dimensions are seen; no graph is recorded.

    A newly seen dimension changes the first layer's sums by one row, and one output is computed at a time: a conditional
    costs the deeper layers and O(H), and not the 3 D H of the first and the last layer.
    """

    def __init__(self, model: EoNADE, n: int, x: Array | None = None, seen: Array | None = None):
        (W, c), *self.deeper = [(layer.weight._data, layer.bias._data) for layer in model.hidden if isinstance(layer, nn.Dense)]
        xp, D = module_of(W), W.shape[1] // 2
        self.V, self.b = model.output.weight._data, model.output.bias._data
        self.bit, self.mask = xp.ascontiguousarray(W[:, :D].T), xp.ascontiguousarray(W[:, D:].T)
        self.sums = xp.repeat(c[None], n, axis=0)
        if x is not None:
            self.sums += (x * seen) @ self.bit + seen @ self.mask

    def see(self, i: Array, bits: Array) -> None:
        """Dimension `i` of every example, a number or (n,) numbers, is `bits` (n,)."""
        self.sums += bits[:, None] * self.bit[i]
        self.sums += self.mask[i]

    def logits(self, i: Array) -> Array:
        """The logits (n,) of x_i = 1 given what was seen; `i` as in `see`."""
        xp = module_of(self.sums)
        h = xp.maximum(self.sums, 0)
        for W, c in self.deeper:
            h = h @ W.T
            h += c
            xp.maximum(h, 0, out=h)
        return xp.einsum("...h,...h->...", h, self.V[i]) + self.b[i]


def random_cuts(n: int, dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """What is seen by each of `n` examples, boolean (n, D): the first d - 1 dimensions of a random order.

    Every example's d is uniform on 1, ..., D; together they are spread evenly, which makes the mean less noisy.
    """
    place = rng.random((n, dimensions)).argsort(axis=1)  # a random permutation: where each dimension is in the order
    seen = (rng.permutation(n) * dimensions + rng.integers(dimensions)) // n
    return place < seen[:, None]


def _mixture(joints: Array) -> Array:
    """ln of the mean over the first axis of e^joints."""
    return logsumexp(joints, 0) - math.log(len(joints))
