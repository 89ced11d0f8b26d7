"""RNADE, the real-valued neural autoregressive density estimator (Uria, Murray and Larochelle, NIPS 2013).

A density over real vectors x of D dimensions by the chain rule, in an order o of the dimensions. Each conditional is a mixture
of K Gaussians, whose parameters come from a hidden layer of H units as in NADE (a_1 = c, and the weights W are shared):

    p(x) = prod_i p(x_{o_i} | x_{o_<i}),   p(x_{o_i} | x_{o_<i}) = sum_k alpha_ik Normal(x_{o_i}; mu_ik, sigma_ik)

    a_{i+1} = a_i + W_{.,i} x_{o_i}        h_i = f(rho_i a_i)                  f: sigmoid or ReLU
    alpha_i = softmax(V^alpha_i h_i + b^alpha_i)   mu_i = V^mu_i h_i + b^mu_i   sigma_i = exp(V^sigma_i h_i + b^sigma_i)

The sums a_i grow from dimension to dimension, and the free factors rho_i take that growth back, so that the units do not all
saturate in the end. Training lowers the mean -ln p(x), in nats, which is exact; it is of a density, and may be negative.

With one component and f the identity all conditionals are Gaussian with means linear in what came before: every Gaussian
N(m, S) is such a model, its W and V read from a Cholesky factor of S.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tinygen import Tensor, exp, expand_dims, linear, matmul, nn, relu, sigmoid
from tinygen.backend import Array, module_of
from tinygen.distributions import MixtureOfNormals
from tinygen.models.autoregressive import Autoregressive, observed_prefix
from tinygen.models.orderings import inverse, ordering
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split

ACTIVATIONS = {"sigmoid": sigmoid, "relu": relu, "linear": lambda a: a}


class RNADE(Autoregressive):
    """RNADE over D real dimensions.

    Args:
        dimensions: D.
        hidden: H.
        components: K.
        rng: draws the starting weights.
        activation: f, "sigmoid", "relu" or "linear".
        order: a permutation of range(D), the dimensions as they are visited; None for 0, 1, ..., D - 1.
        examples: real numbers (N, D); at the start, the Gaussians of each dimension are spread over its values here. None
            stands for standard Gaussian values.

    Parameters: W (D, H), rho (D,), c (H,), and V_alpha, V_mu, V_sigma (D, H, K) with b_alpha, b_mu, b_sigma (D, K). Row i
    belongs to the dimension that is visited as number i, o_i.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(
            data="pinwheel",
            binarization="real",
            epochs=40,
            batch_size=200,
            optimizer="adam",
            lr=5e-3,
            schedule="cosine",
            clip=10.0,
            model={"hidden": 100, "components": 20, "activation": "relu", "order": "raster"},
        ),
        "patches": Recipe(
            data="mnist5k-patches",
            binarization="real",
            epochs=40,
            batch_size=100,
            optimizer="adam",
            lr=2e-3,
            schedule="cosine",
            clip=100.0,
            model={"hidden": 128, "components": 10, "activation": "relu", "order": "raster"},
        ),
    }

    def __init__(
        self,
        dimensions: int,
        hidden: int,
        components: int,
        rng: np.random.Generator,
        activation: str = "relu",
        order: Array | None = None,
        examples: Array | None = None,
        dtype: type = np.float32,
    ):
        super().__init__(dimensions, order)
        D, H, K = dimensions, hidden, components
        if H < 1 or K < 1 or activation not in ACTIVATIONS:
            raise ValueError(
                f"hidden = {H}, components = {K}, activation = {activation!r}: expected at least 1, at least 1, and one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        self.f = ACTIVATIONS[activation]
        means, spread = _start(examples, D, K)
        draw = lambda scale, *shape: nn.Parameter((scale * rng.standard_normal(shape)).astype(dtype))
        self.W, self.c, self.rho = draw(1 / math.sqrt(D), D, H), draw(1.0, H), nn.Parameter(np.ones(D, dtype))
        self.V_alpha, self.V_mu, self.V_sigma = (draw(0.01 / math.sqrt(H), D, H, K) for _ in range(3))
        self.b_alpha = nn.Parameter(np.zeros((D, K), dtype))
        self.b_mu = nn.Parameter(means[self.order].astype(dtype))
        self.b_sigma = nn.Parameter(np.log(np.repeat(spread[self.order, None], K, axis=1)).astype(dtype))

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        height, width = (1, *train.images.shape[1:])[-2:]  # a vector is an image of one row
        options = dict(recipe.model)
        order = ordering(options.pop("order"), height, width, rng)
        examples = train.images.reshape(len(train), -1) if len(train) else None
        return cls(height * width, rng=rng, order=order, examples=examples, **options)

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x), (B,) in nats, of real x (B, D)."""
        xp, (D, H) = module_of(x), self.W.shape
        x = x.astype(self.c.dtype, copy=False)[:, self.order]
        # All D sums at once, a_i = c + W^T (x_{o_1}, ..., x_{o_{i-1}}, 0, ..., 0): for vectors as short as these one product of
        # matrices is far faster than adding up term by term.
        before = x * xp.tri(D, k=-1, dtype=x.dtype)[:, None]
        a = linear(before.reshape(-1, D), self.W.T, self.c).reshape(D, len(x), H)
        return self.conditional(a, slice(D)).log_prob(x.T).sum(axis=0)

    def conditional(self, a: Array | Tensor, i: slice) -> MixtureOfNormals:
        """p(x_{o_i} | x_{o_<i}) for the places `i` of the order (a slice of n), given the sums a_i, (n, B, H)."""
        h = self.f(expand_dims(self.rho[i], (1, 2)) * a)
        alpha, mu, sigma = (
            matmul(h, V[i]) + expand_dims(b[i], 1)
            for V, b in ((self.V_alpha, self.b_alpha), (self.V_mu, self.b_mu), (self.V_sigma, self.b_sigma))
        )
        return MixtureOfNormals(alpha, mu, exp(sigma))

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (n, D) with the unobserved dimensions drawn from their exact conditional given the observed ones.

        `observed` (D,) is a boolean mask. Raises ValueError unless the observed dimensions come first in the model's order.
        """
        xp, W = module_of(self.c._data), self.W._data
        start = observed_prefix(observed, self.order)
        visited = xp.asarray(x, self.c.dtype)[:, self.order]
        a = self.c._data + visited[:, :start] @ W[:start]
        for i in range(start, visited.shape[1]):
            visited[:, i] = self.conditional(a[None], slice(i, i + 1)).sample(rng)[0]
            a += visited[:, i, None] * W[i]
        return visited[:, inverse(self.order)]

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """ "nll": the mean of -ln p(x) in nats. Bits per dimension would depend on the unit that x is measured in."""
        return {"nll": super().evaluate(x, rng)["nll"]}


def _start(examples: Array | None, dimensions: int, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (D, K) at evenly spread quantiles of each dimension's values, and their standard deviations (D,)."""
    levels = (np.arange(components) + 0.5) / components
    if examples is None:
        return np.tile([NormalDist().inv_cdf(level) for level in levels], (dimensions, 1)), np.ones(dimensions)
    return np.quantile(examples, levels, axis=0).T, examples.std(axis=0, dtype=np.float64)
