"""Dense layers and look-up tables."""

import math
from typing import Any

import numpy as np

from tinygen.nn import init as initialisers
from tinygen.nn.init import Initializer
from tinygen.nn.module import Module, Parameter
from tinygen.ops import embedding, linear


class Dense(Module):
    """y = x weight^T + bias: x (..., in_features) -> (..., out_features). PyTorch calls it Linear.

    weight (out_features, in_features) is drawn by `init`, by default U(-b, b) with b = 1 / sqrt(in_features); so is
    bias (out_features,), unless `bias=False`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator,
        init: Initializer = initialisers.fan_in_uniform,
        dtype: Any = np.float32,
    ):
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(init(rng, (out_features, in_features), dtype))
        self.bias = bias_like_weight(rng, self.weight, out_features) if bias else None

    def forward(self, x: Any) -> Any:
        return linear(x, self.weight, self.bias)


class Embedding(Module):
    """Rows of a table: integers (...) in [0, num_embeddings) -> (..., embedding_dim).

    weight (num_embeddings, embedding_dim) is drawn by `init`, by default N(0, 1).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rng: np.random.Generator,
        init: Initializer | None = None,
        dtype: Any = np.float32,
    ):
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        shape = (num_embeddings, embedding_dim)
        self.weight = Parameter(init(rng, shape, dtype) if init else initialisers.normal(rng, shape, dtype, std=1.0))

    def forward(self, indices: Any) -> Any:
        return embedding(indices, self.weight)


def bias_like_weight(rng: np.random.Generator, weight: Parameter, size: int) -> Parameter:
    """A bias (size,) drawn from U(-b, b) with b = 1 / sqrt(fan_in of `weight`), PyTorch's default."""
    fan_in = max(initialisers.fans(weight.shape)[0], 1)
    return Parameter(initialisers.uniform(rng, (size,), weight.dtype, bound=1 / math.sqrt(fan_in)))
