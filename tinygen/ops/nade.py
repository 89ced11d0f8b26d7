"""NADE's log-likelihood as a differentiable function of its parameters, on the fused kernel."""

from __future__ import annotations

from typing import Any

from tinygen.backend import Array
from tinygen.kernels import nade
from tinygen.op import differentiable


def _gradients(g: Array, x: Array, W: Array, V: Array, residual: Any) -> tuple:
    return (None, *nade.backward(g, x, W, V, residual))


@differentiable(once=True, joint=_gradients)
def nade_log_prob(x: Array, W: Array, V: Array, b: Array, c: Array, /) -> tuple[Array, Any]:
    """ln p(x) (B,) in nats of binary x (B, D) under W (D, H), V (D, H), b (D,), c (H,); see tinygen/models/nade.py.

    No gradient is defined for x, and no second derivative. Raises ValueError where x holds anything but 0 and 1.
    """
    return nade.forward(x, W, V, b, c)
