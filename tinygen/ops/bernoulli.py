"""The likelihood of bits as a differentiable function of their logits, on the fused kernel."""

from __future__ import annotations

from typing import Any

from tinygen.backend import Array
from tinygen.kernels import bernoulli
from tinygen.op import differentiable
from tinygen.ops.elementwise import sigmoid


def _residual(x: Any, logits: Any) -> Any:
    """x - sigmoid(logits) of each draw, (k, B, D)."""
    return x - sigmoid(logits).reshape(-1, *x.shape)


@differentiable(
    weight=lambda g, x, logits: (g.reshape(-1, *x.shape) * _residual(x, logits)).sum(-1).reshape(-1),
    logits=lambda g, weight, logits: g * weight.reshape(-1, 1) * (sigmoid(logits) * (sigmoid(logits) - 1.0)),
)
def _gradient(weight: Array, x: Array, logits: Array, /) -> Array:
    return bernoulli.gradient(weight, x.astype(logits.dtype, copy=False), logits)


@differentiable(logits=lambda g, x, logits: _gradient(g, x, logits))
def bernoulli_log_prob(x: Array, logits: Array, /) -> Array:
    """ln p(x) = sum_i x_i l_i - ln(1 + e^l_i), (k B,) in nats, of bits x (B, D) under logits l (k B, D).

    Row r of the logits goes with example r mod B. No gradient is defined for x. Raises ValueError where x holds anything but
    zeros and ones: a probability in its place would give a number that is no likelihood.
    """
    return bernoulli.log_prob(bits(x).astype(logits.dtype, copy=False), logits)


def bits(x: Array) -> Array:
    """`x` itself where it holds nothing but zeros and ones; else raises ValueError."""
    wrong = x != (x == 1)  # NaN and infinity too
    if wrong.any():
        raise ValueError(f"x must hold zeros and ones only, got {float(x[wrong][0]):g}: binarize it first")
    return x
