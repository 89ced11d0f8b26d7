"""Functions without parameters, as modules: activations, softmax, dropout."""

from typing import Any

import numpy as np

from tinygen import ops
from tinygen.nn.module import Module


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class LeakyReLU(Module):
    """x where it is positive, negative_slope x elsewhere."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        return ops.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x where it is positive, alpha (e^x - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        return ops.elu(x, self.alpha)


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        return ops.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class Softplus(Module):
    """ln(1 + e^x)."""

    def forward(self, x: Any) -> Any:
        return ops.softplus(x)


class Softmax(Module):
    """e^x / sum e^x along the axis `dim`."""

    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return ops.softmax(x, self.dim)


class LogSoftmax(Module):
    """x - ln sum e^x along the axis `dim`, in nats."""

    def __init__(self, dim: int = -1):
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return ops.log_softmax(x, self.dim)


class Dropout(Module):
    """In training, each element of x is set to 0 with probability `p`, the others are divided by 1 - p.

    `rng` is kept and drawn from at every call: give it the generator of the training loop, whose state a checkpoint
    holds.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator):
        if not 0 <= p < 1:
            raise ValueError(f"p = {p} is out of range: expected at least 0 and below 1")
        self.p = p
        self.rng = rng

    def forward(self, x: Any) -> Any:
        return ops.dropout(x, self.p, self.rng, self.training)
