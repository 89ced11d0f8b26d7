"""The surprise of a class under logits, computed example by example so that what is made on the way stays in the cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.op import differentiable
from tinygen.ops.reduction import softmax, sum
from tinygen.ops.shape import expand_dims

PART = 1 << 17  # logits at a time on the CPU


def _weight_share(g: Any, logits: Any, targets: Array) -> Any:
    axis, xp = _axis(logits), module_of(targets)
    classes = xp.arange(logits.shape[axis]).reshape(-1, *[1] * (logits.ndim - axis - 1))
    onehot = (classes == xp.expand_dims(targets, axis)).astype(logits.dtype)
    return sum(g * (softmax(logits, axis) - onehot), axis)


def _logits_share(g: Any, weight: Any, logits: Any) -> Any:
    axis = _axis(logits)
    p = softmax(logits, axis)
    return expand_dims(weight, axis) * p * (g - sum(g * p, axis, True))


@differentiable(weight=_weight_share, logits=_logits_share)
def _gradient(weight: Array, logits: Array, /, targets: Array) -> Array:
    """That of sum(weight * surprise(logits, targets)) in the logits: weight (softmax - onehot)."""
    shape = examples, _, places = _by_example(logits)
    gradient = module_of(logits).empty(shape, logits.dtype)
    weight, targets = weight.reshape(examples, places), targets.reshape(examples, places)
    for part in _parts(shape, module_of(logits)):
        rows = gradient[part]
        _, total = _powers(logits.reshape(shape)[part], rows)
        rows *= (weight[part] / total)[:, None]
        rows[_chosen(targets[part])] -= weight[part]
    return gradient.reshape(logits.shape)


@differentiable(logits=lambda g, logits, targets: _gradient(g, logits, targets))
def surprise(logits: Array, /, targets: Array) -> Array:
    """-ln softmax(logits)[target] in nats, of the shape of the targets: logits (C,) or (N, C, ...), integers () or (N, ...)."""
    xp = module_of(logits)
    shape = examples, _, places = _by_example(logits)
    losses = xp.empty((examples, places), logits.dtype)
    scratch = xp.empty((_together(shape, xp), *shape[1:]), logits.dtype)
    for part in _parts(shape, xp):
        rows = logits.reshape(shape)[part]
        top, total = _powers(rows, scratch[: len(rows)])
        losses[part] = xp.log(total) - (rows[_chosen(targets.reshape(examples, places)[part])] - top)
    return losses.reshape(targets.shape)


def _axis(logits: Any) -> int:
    """That of the classes in logits (C,) or (N, C, ...)."""
    return 0 if logits.ndim == 1 else 1


def _by_example(logits: Array) -> tuple[int, int, int]:
    """The logits' shape as (N, C, P): every example has its classes at P places."""
    examples = 1 if logits.ndim == 1 else len(logits)
    return examples, logits.shape[_axis(logits)], math.prod(logits.shape[_axis(logits) + 1 :])


def _together(shape: tuple[int, int, int], xp: Any) -> int:
    """How many examples are computed together."""
    examples, classes, places = shape
    return max(1, min(examples, PART // max(1, classes * places)) if xp is np else examples)


def _parts(shape: tuple[int, int, int], xp: Any) -> list[slice]:
    """All the examples, some at a time."""
    count = _together(shape, xp)
    return [slice(start, start + count) for start in range(0, shape[0], count)]


def _powers(logits: Array, out: Array) -> tuple[Array, Array]:
    """Write e^(logits - top) to `out`, (n, C, P); return top, the largest over the classes, and the powers' sums, (n, P)."""
    xp = module_of(logits)
    top = logits.max(1)
    xp.subtract(logits, top[:, None], out=out)
    xp.exp(out, out=out)
    return top, out.sum(1)


def _chosen(targets: Array) -> tuple:
    """An index into logits (n, C, P) that picks the targets (n, P)."""
    xp = module_of(targets)
    return xp.arange(len(targets))[:, None], targets, xp.arange(targets.shape[1])
