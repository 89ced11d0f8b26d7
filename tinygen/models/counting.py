"""Models that are tables of probabilities, learnt by counting: what they share.

One coin. A pixel that is white with probability p is a Bernoulli variable (`distributions.py`). The likelihood of n1 white
and n0 black examples, p^n1 (1 - p)^n0, is highest at the relative frequency p = n1 / (n1 + n0): learning is counting. With the
logit l, p = sigmoid(l), gradient descent finds the same maximum, for

    d/dl (-ln p(x)) = p - x

is zero on average exactly where p is the mean of x. A die with K sides is a Categorical variable,
p = softmax(l), with the same two answers: p_k = n_k / n, and the gradient p - onehot(x).

A table. To describe a whole image give every pixel a coin, or one for each situation that the pixel can be in, or one die
with a side for each image there is. The four models differ in nothing else:

    independent    one coin a pixel                                                   n numbers
    markov         two coins a pixel, one for each value of the pixel before          2n - 1
    chain-rule     a coin for all values of all pixels before                         1 + 2 + 4 + ... + 2^(n-1) = 2^n - 1
    full-joint     one die for the image                                              2^n - 1

Smoothing. What was never seen need not be impossible, so `alpha` is added to every count before they are divided (alpha = 1:
Laplace's rule). That is the most probable table under a prior Beta(alpha + 1, alpha + 1), of a die Dirichlet(alpha + 1), so
that gradient descent gets there too when its loss has the prior's term, -alpha / N sum ln p over the entries of the table.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn, no_grad, softplus, stack
from tinygen.backend import Array, module_of
from tinygen.models.base import Model, Optimizers
from tinygen.models.orderings import ordering, permutation
from tinygen.models.recipe import Recipe, RecipeError
from tinygen.ops.bernoulli import bits

if TYPE_CHECKING:
    from tinygen.data import Split

FITS = ("counts", "gradient")
LARGEST_TABLE = 2**24  # numbers: 64 MiB of float32 logits, and 256 MiB of counts


class CountingModel(Model):
    """A table of coins: row r holds p(pixel = 1 | situation r). A subclass says which rows an image uses.

    Args:
        dimensions: the number of pixels n.
        alpha: added to every count.
        fit: "counts" makes a training step count its batch (one epoch is enough, and the recipe's optimizer has nothing to do),
            "gradient" descend along the loss's gradient (20 epochs with the schedule "cosine" come within 0.2 nats).
        examples: the number N of training examples, by which the prior's weight in the loss is divided.

    Parameter: logits (rows,), all 0 at the start. Buffer: counts (rows, 2), how often 0 and 1 came in each row.
    """

    PARAMETERS: ClassVar[str]  # the formula of `parameters_needed`, for people

    def __init__(
        self,
        dimensions: int,
        alpha: float = 1.0,
        fit: str = "counts",
        examples: int = 1,
        dtype: type = np.float32,
    ):
        if fit not in FITS:
            raise RecipeError(f"fit {fit!r} is unknown: valid: {', '.join(FITS)}")
        if not 0 <= alpha < math.inf:
            raise RecipeError(f"alpha = {alpha} is out of range: at least 0")
        needed = self.parameters_needed(dimensions)
        if needed >= LARGEST_TABLE:
            raise RecipeError(
                f"{type(self).__name__} of {dimensions} binary pixels needs {self.PARAMETERS} = {readable(needed)} numbers, "
                f"more than the {LARGEST_TABLE:,} of the largest table made here: take fewer pixels (--data mnist5k-4x4)"
            )
        self.dimensions, self.alpha, self.fit, self.examples = dimensions, alpha, fit, examples
        self.make_table(needed, dtype)

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        settings = dict(recipe.model)
        height, width = train.images.shape[1:]
        if settings["alpha"] == 0:
            raise RecipeError("alpha = 0 is out of range for training: what was never seen would have the logit -infinity")
        if "order" in settings:
            settings["order"] = ordering(settings["order"], height, width, rng)
        return cls(height * width, examples=max(1, len(train)), **settings)

    @staticmethod
    def parameters_needed(n: int, values: int = 2) -> int:
        """The numbers that the table of n variables needs, each with `values` values."""
        raise NotImplementedError

    # ---- The table; FullJoint replaces these ----

    def make_table(self, needed: int, dtype: type) -> None:
        """Make the parameter and the counts, for as many rows as numbers are needed."""
        self.logits = nn.Parameter(np.zeros(needed, dtype))
        self.register_buffer("counts", np.zeros((needed, 2)))

    def log_table(self) -> Tensor:
        """ln p of every entry, in the shape of `counts`."""
        return stack([-softplus(self.logits), -softplus(-self.logits)], -1)

    def rows(self, x: Array) -> Array:
        """The row of the table that each pixel of the bits x (B, n) uses, in the model's order: integers (B, n)."""
        raise NotImplementedError

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x), (B,) in nats, of bits x (B, n): the sum of one entry of the table for every pixel."""
        return self.log_table()[self.rows(bits(x)), self.visited(x).astype(np.int64)].sum(1)

    def visited(self, x: Array) -> Array:
        """The pixels of x (B, n) in the model's order."""
        return x

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` images (n, dimensions): nothing is observed, and all of it is drawn."""
        nothing = np.zeros(self.dimensions, bool)
        return self.complete(self.own(np.zeros((n, self.dimensions))), nothing, rng)

    def logits_of(self, counts: Array) -> Array:
        """The logits whose probabilities are the relative frequencies ln (n1 / n0); 0 in a row without counts."""
        xp = module_of(counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            return xp.where(counts.sum(-1) > 0, xp.log(counts[:, 1]) - xp.log(counts[:, 0]), 0.0)

    # ---- Two ways to learn it ----

    def tally(self, x: Array) -> Array:
        """How often the examples x (B, n) use each entry of the table: float64, in the shape of `counts`.

        It is linear in every pixel. For grey values in [0, 1] it is therefore the exact expectation over a binarization that
        makes each pixel 1 with that probability.
        """
        raise NotImplementedError

    def count(self, x: Array) -> None:
        """Add the examples x (B, n), bits or probabilities, to the counts, and set the logits by them: the closed form."""
        self.counts += self.tally(x.astype(np.float64, copy=False))
        self.logits._data[...] = self.logits_of(self.counts + self.alpha)
        self.logits.bump()

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """Mean negative log-likelihood of the batch, in nats, and the prior's term; its minimum is the closed form."""
        nll = -self.log_prob(x).mean()
        return nll - (self.alpha / self.examples) * self.log_table().sum() if self.alpha else nll

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator) -> dict[str, float]:
        """One batch more is counted, after it was judged by what was counted before, or descended along."""
        if self.fit == "gradient":
            return super().train_step(x, optimizers, rng)
        with no_grad():
            before = -self.log_prob(x).mean().item()
        self.count(x)
        return {"loss": before}

    def expected_nll(self, x: Array) -> float:
        """Mean of -ln p over x (N, n) in nats; of grey values, the exact expectation over their binarizations (`tally`)."""
        with no_grad():
            log_p = self.log_table()._data.astype(np.float64)
        uses = sum(self.tally(batch.astype(np.float64)) for batch in self.batches(x))
        return -float((uses[uses > 0] * log_p[uses > 0]).sum()) / len(x)


class OrderedCountingModel(CountingModel):
    """A table whose rows depend on the order in which the pixels are visited, besides CountingModel's arguments.

    order: a permutation of range(n), the pixels as they are visited; None for 0, 1, ..., n - 1.
    """

    def __init__(self, dimensions: int, order: Array | None = None, **options: Any):
        super().__init__(dimensions, **options)
        self.register_buffer("order", permutation(order, dimensions))

    def visited(self, x: Array) -> Array:
        return x[:, self.order]


def readable(count: int) -> str:
    """A whole number in full, or, when it is beyond reading, its power of ten."""
    return f"{count:,}" if count < 10**12 else f"about 10^{math.log10(count):.0f}"
