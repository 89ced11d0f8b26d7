"""What layers and losses are made of: look-up, dropout, normalization, losses. Logits in, nats out."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.kernels import batch_norm as batch_norm_kernel
from tinygen.op import differentiable
from tinygen.ops.categorical import surprise
from tinygen.ops.elementwise import abs, astype, leaky_relu, sigmoid, sqrt, where
from tinygen.ops.reduction import log_softmax, mean, sum, var
from tinygen.ops.shape import getitem, reshape
from tinygen.tensor import Tensor, array_of

REDUCTIONS = ("mean", "sum", "none")


def _reduce(losses: Any, reduction: str) -> Any:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is unknown: expected one of {REDUCTIONS}")
    if reduction == "none":
        return losses
    return losses.sum() / losses.size if reduction == "mean" else losses.sum()


def embedding(indices: Any, weight: Any) -> Any:
    """Rows weight[indices]: indices (...) of integers in [0, V), weight (V, D) -> (..., D).

    Raises TypeError for indices that are not integers, IndexError for one out of range.
    """
    indices = module_of(array_of(weight)).asarray(array_of(indices))
    if indices.dtype.kind not in "iu":
        raise TypeError(f"embedding needs integer indices, not {indices.dtype}")
    if indices.size and (indices.min() < 0 or indices.max() >= weight.shape[0]):
        raise IndexError(
            f"embedding index out of range: expected 0 to {weight.shape[0] - 1}, got {indices.min()} to {indices.max()}"
        )
    return getitem(weight, indices)


@differentiable(x=lambda g, mask: _masked(g, mask))
def _masked(x: Array, /, mask: Array) -> Array:
    return x * mask


def dropout(x: Any, p: float, rng: np.random.Generator, training: bool = True) -> Any:
    """x with each element set to 0 with probability p and the rest divided by 1 - p; x itself when not training.

    Srivastava et al. 2014, in the "inverted" form that needs no rescaling at test time. ValueError unless 0 <= p < 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability {p} is outside [0, 1)")
    if not training or p == 0:
        return x
    keep = (rng.random(x.shape, dtype=np.float32) >= p) / (1 - p)
    return _masked(x, module_of(array_of(x)).asarray(keep.astype(x.dtype)))


def _batch_norm_gradients(g: Any, x: Any, weight: Any, bias: Any, moments: tuple, eps: float, slope: float) -> tuple:
    if not isinstance(g, Tensor):
        return batch_norm_kernel.backward(g, x, *moments, weight, bias, eps, slope)
    # Asked for with a graph of its own: the same in terms of ops, in which the moments depend on x.
    axes = (0, *range(2, x.ndim))
    z = _standardize(x, axes, eps)
    w, b = _per_channel(weight, x.ndim), _per_channel(bias, x.ndim)
    g = g * where(w * z + b > 0, 1.0, slope)
    return _standardize_gradient(g * w, z, x, axes, eps), sum(g * z, axes), sum(g, axes)


@differentiable(joint=_batch_norm_gradients)
def _batch_norm(x: Array, weight: Array, bias: Array, /, moments: tuple[Array, Array], eps: float, slope: float) -> Array:
    """`batch_norm` in training, with the leaky ReLU after it; `moments` are mean and variance of x."""
    return batch_norm_kernel.forward(x, *moments, weight, bias, eps, slope)


def _standardize_gradient(g: Any, y: Any, x: Any, axes: tuple[int, ...], eps: float) -> Any:
    # d/dx of (x - m)/s: the cotangent without its mean and without its component along y, divided by s.
    g = g - mean(g, axes, True) - y * mean(g * y, axes, True)
    return g / sqrt(var(x, axes, keepdims=True) + eps)


@differentiable(x=_standardize_gradient)
def _standardize(x: Array, /, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    return centred / module_of(x).sqrt(variance + eps)


def _per_channel(values: Any, ndim: int) -> Any:
    return reshape(values, (1, -1) + (1,) * (ndim - 2))


def _scale_and_shift(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * _per_channel(weight, x.ndim)
    return x if bias is None else x + _per_channel(bias, x.ndim)


def batch_norm(
    x: Any,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    negative_slope: float = 1.0,
) -> Any:
    """(x - mean)/sqrt(var + eps) * weight + bias for every channel of x (N, C, ...), as torch.nn.functional.batch_norm.

    Training (or without running statistics): mean and biased variance of this batch; the running arrays, if given, are moved in
    place, r <- (1 - momentum) r + momentum * batch, with the unbiased variance. Otherwise the running statistics themselves.
    A `negative_slope` other than 1 is that of a leaky ReLU (0: a ReLU) which is applied to the result in the same pass.
    Source: Ioffe and Szegedy 2015, algorithm 1. ValueError when training on one value a channel.
    """
    if not training and running_mean is not None:
        statistics = (array_of(r) for r in (running_mean, running_var))
        if x.dtype.kind == "f":  # else the root would have the precision of narrower statistics
            statistics = (r.astype(np.result_type(r.dtype, x.dtype), copy=False) for r in statistics)
        shift, scale = (_per_channel(r, x.ndim) for r in statistics)
        y = _scale_and_shift((x - shift) * (scale + eps) ** -0.5, weight, bias)
        return y if negative_slope == 1 else leaky_relu(y, negative_slope)
    count = x.size // x.shape[1]
    if training and count == 1:
        raise ValueError(f"batch_norm cannot train on one value a channel (x has shape {x.shape}): use a larger batch")
    xp = module_of(array_of(x))
    weight = xp.ones(x.shape[1], x.dtype) if weight is None else weight
    bias = xp.zeros(x.shape[1], x.dtype) if bias is None else bias
    dtype = np.result_type(*{v.dtype for v in (x, weight, bias) if v.dtype.kind == "f"} or {np.float32})
    x, weight, bias = (v if v.dtype == dtype else astype(v, dtype) for v in (x, weight, bias))
    mean, variance = moments = batch_norm_kernel.moments(array_of(x))
    if training and running_mean is not None:
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (variance * (count / (count - 1)) - running_var)
    return _batch_norm(x, weight, bias, moments=moments, eps=eps, slope=negative_slope)


def instance_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """As batch_norm, with the statistics of every channel of every example by itself (Ulyanov et al. 2016); x (N, C, ...)."""
    return _scale_and_shift(_standardize(x, tuple(range(2, x.ndim)), eps), weight, bias)


def _entrywise(g: Any, x: Any, reduction: str) -> Any:
    """The cotangent of each entry's loss from that of the reduced one; the entries broadcast a single number themselves."""
    return g / x.size if reduction == "mean" else g


@differentiable(
    logits=lambda g, logits, targets, reduction: _entrywise(g, logits, reduction) * (sigmoid(logits) - targets),
    targets=lambda g, logits, reduction: _entrywise(g, logits, reduction) * -logits,
)
def _bce(logits: Array, targets: Array, /, reduction: str = "none") -> Array:
    xp = module_of(logits, targets)
    losses = xp.maximum(logits, 0) - logits * targets + xp.log1p(xp.exp(-xp.abs(logits)))
    return _reduce(losses, reduction)


def binary_cross_entropy_with_logits(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """-t ln sigma(l) - (1 - t) ln(1 - sigma(l)) in nats, as max(l, 0) - l t + ln(1 + e^-|l|), which cannot overflow.

    Targets in [0, 1], shape as the logits'. The gradient in l is sigma(l) - t.
    """
    if logits.shape != np.shape(array_of(targets)):
        raise ValueError(f"logits have shape {logits.shape}, targets {np.shape(array_of(targets))}: expected the same")
    return _bce(logits, targets, reduction=reduction)


def cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """-ln softmax(logits)[target] in nats: logits (C,) or (N, C, ...), integer targets () or (N, ...).

    Targets of the logits' shape and a floating dtype are class probabilities. The gradient is softmax - onehot.
    Raises ValueError for other shapes, IndexError for a class out of range.
    """
    if logits.ndim == 0:
        raise ValueError("cross_entropy takes logits of shape (C,) or (N, C, ...), not a single number")
    axis = 0 if logits.ndim == 1 else 1
    classes = logits.shape[axis]
    raw = array_of(targets)
    expected = logits.shape[:axis] + logits.shape[axis + 1 :]
    if raw.dtype.kind == "f" and raw.shape == logits.shape:
        return (
            _reduce(-sum(log_softmax(logits, axis) * targets, axis), reduction)
            if reduction != "mean"
            else -sum(log_softmax(logits, axis) * targets) / (logits.size // classes)
        )
    if raw.shape != expected or raw.dtype.kind not in "iu":
        raise ValueError(
            f"cross_entropy of logits {logits.shape} takes integer targets of shape {expected} or "
            f"probabilities of the logits' shape, not {raw.dtype} {raw.shape}"
        )
    if raw.size and (raw.min() < 0 or raw.max() >= classes):
        raise IndexError(f"cross_entropy target out of range: expected 0 to {classes - 1}, got {raw.min()} to {raw.max()}")
    return _reduce(surprise(logits, module_of(array_of(logits)).array(raw)), reduction)  # a copy: labels may change


def _same_shape(name: str, x: Any, target: Any) -> None:
    if x.shape != np.shape(array_of(target)):
        raise ValueError(f"{name}: input has shape {x.shape}, target {np.shape(array_of(target))}: expected the same")


@differentiable(
    x=lambda g, x, target, reduction: _entrywise(g, x, reduction) * (2.0 * (x - target)),
    target=lambda g, x, target, reduction: _entrywise(g, x, reduction) * (2.0 * (target - x)),
)
def _squared_error(x: Array, target: Array, /, reduction: str = "none") -> Array:
    difference = x - target
    return _reduce(difference * difference, reduction)


def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """(x - target)^2."""
    _same_shape("mse_loss", x, target)
    return _squared_error(x, target, reduction=reduction)


def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """|x - target|."""
    _same_shape("l1_loss", x, target)
    return _reduce(abs(x - target), reduction)
