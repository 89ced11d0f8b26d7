"""Probability distributions over arrays: log-probabilities, draws, entropies and divergences, in nats.

Parameters are floating Tensors or arrays of shapes that broadcast; their common shape is the batch, with one independent
variable for each element (Categorical and MixtureOfNormals use up the last axis). Where a parameter is a Tensor results
are Tensors through which gradients flow, else arrays. Draws come from an explicit `numpy.random.Generator`, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.backend import Array, device_of, is_array, module_of, to_device
from tinygen.ops import (
    binary_cross_entropy_with_logits,
    broadcast_to,
    exp,
    expand_dims,
    log,
    log_softmax,
    logsumexp,
    sigmoid,
    softmax,
    softplus,
    squeeze,
    sum,
    take_along_axis,
    where,
)
from tinygen.tensor import Tensor, array_of

HALF_LOG_2PI = math.log(2 * math.pi) / 2


class Distribution:
    """What every distribution offers."""

    batch: tuple[int, ...]

    def log_prob(self, x: Any) -> Any:
        """ln p(x) in nats (of the density where x is continuous); x broadcasts against the batch."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Any:
        """Independent draws, (*shape, *batch)."""
        raise NotImplementedError

    def entropy(self) -> Any:
        """-E ln p(x) in nats, of the batch's shape. Raises NotImplementedError where there is no closed form."""
        raise NotImplementedError(
            f"the entropy of {type(self).__name__} has no closed form: average -log_prob(x) over samples x"
        )


class Bernoulli(Distribution):
    """p(1) = sigmoid(logits); the batch is the logits' shape."""

    def __init__(self, logits: Any):
        self.logits = _floating("logits", logits)
        self.batch = self.logits.shape

    def log_prob(self, x: Any) -> Any:
        """x ln p(1) + (1 - x) ln p(0) for x in [0, 1]."""
        logits, x = _broadcast(self.logits, _like(x, self.logits))
        return -binary_cross_entropy_with_logits(logits, x, reduction="none")

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Array:
        """Zeros and ones of the logits' dtype: an array, through which no gradient flows."""
        logits = array_of(self.logits)
        return (_uniform(rng, (*shape, *self.batch), logits) < sigmoid(logits)).astype(logits.dtype)

    def entropy(self) -> Any:
        return sigmoid(self.logits) * softplus(-self.logits) + sigmoid(-self.logits) * softplus(self.logits)


class Categorical(Distribution):
    """p(k) = softmax(logits)[k]: logits (*batch, K), in which -inf excludes a category."""

    def __init__(self, logits: Any):
        self.logits = _floating("logits", logits)
        if not self.logits.ndim or not self.logits.shape[-1]:
            raise ValueError(f"Categorical takes logits (..., K) with K > 0, not {self.logits.shape}")
        self.batch = self.logits.shape[:-1]

    def log_prob(self, x: Any) -> Any:
        """ln p(x) for integers x in [0, K). Raises TypeError for other dtypes, IndexError out of that range."""
        classes = self.logits.shape[-1]
        x = module_of(array_of(self.logits)).asarray(array_of(x))
        if x.dtype.kind not in "iu":
            raise TypeError(f"Categorical.log_prob takes integers, not {x.dtype}")
        if x.size and (x.min() < 0 or x.max() >= classes):
            raise IndexError(f"Categorical.log_prob takes 0 to {classes - 1}, got {x.min()} to {x.max()}")
        table, x = _broadcast(log_softmax(self.logits), x[..., None], last=(classes, 1))
        return squeeze(take_along_axis(table, x, -1), -1)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Array:
        """Integers: an array, through which no gradient flows. A category of probability 0 is never drawn."""
        logits = array_of(self.logits)
        edges = softmax(logits.astype(np.float64)).cumsum(-1)
        edges /= edges[..., -1:]  # the last edge is 1 in spite of rounding, and every draw is below it
        return (edges <= _uniform(rng, (*shape, *self.batch, 1), logits)).sum(-1)

    def entropy(self) -> Any:
        return -_expectation(log_softmax(self.logits), lambda log_p: log_p)


class Normal(Distribution):
    """The Gaussian density with `mean` and standard deviation `scale`; plain numbers take the other arrays' dtype.

    Raises ValueError for a scale that is not positive (unless it lies on a GPU, which would have to be waited for).
    """

    def __init__(self, mean: Any, scale: Any):
        self.mean = mean if isinstance(mean, int | float) else _floating("mean", mean)
        self.scale = scale if isinstance(scale, int | float) else _floating("scale", scale)
        self.batch = np.broadcast_shapes(np.shape(array_of(mean)), np.shape(array_of(scale)))
        raw = array_of(self.scale)
        if module_of(raw) is np and np.any(np.less_equal(raw, 0)):
            raise ValueError(f"scale must be positive, its smallest element is {np.min(raw)}")

    def log_prob(self, x: Any) -> Any:
        """-((x - mean) / scale)^2 / 2 - ln scale - ln(2 pi) / 2."""
        z = (x - self.mean) / self.scale
        return -0.5 * (z * z) - (_log(self.scale) + HALF_LOG_2PI)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Any:
        """mean + scale * noise, differentiable in both (the reparameterization of Kingma and Welling 2014).

        A Tensor if one of them is; `.detach()` it, or draw inside `no_grad()`, where no gradient is wanted.
        """
        arrays = [array for array in (array_of(self.mean), array_of(self.scale)) if is_array(array)]
        dtype = np.result_type(*arrays) if arrays else np.float32
        noise = rng.standard_normal((*shape, *self.batch)).astype(dtype)
        return self.mean + self.scale * (to_device(noise, device_of(arrays[0])) if arrays else noise)

    def entropy(self) -> Any:
        """ln scale + ln(2 pi e) / 2."""
        return self._in_batch(_log(self.scale) + (HALF_LOG_2PI + 0.5))

    def _in_batch(self, value: Any) -> Any:
        return broadcast_to(value, self.batch) if np.shape(array_of(value)) != self.batch else value


class MixtureOfNormals(Distribution):
    """sum_k softmax(logits)[k] Normal(means[k], scales[k]): all three (..., K), broadcast to (*batch, K).

    Raises ValueError for a scale that is not positive, as Normal does.
    """

    def __init__(self, logits: Any, means: Any, scales: Any):
        self.weights = Categorical(logits)
        self.components = Normal(_floating("means", means), _floating("scales", scales))
        self.batch = np.broadcast_shapes(self.weights.logits.shape, self.components.batch)[:-1]

    def log_prob(self, x: Any) -> Any:
        """ln sum_k e^(ln weight_k + ln p_k(x)), by log-sum-exp."""
        x = expand_dims(_like(x, self.components.mean), -1)
        return logsumexp(log_softmax(self.weights.logits) + self.components.log_prob(x), -1)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Array:
        """First a component, then a draw from it: an array, through which no gradient flows."""
        raw = [array_of(p) for p in (self.weights.logits, self.components.mean, self.components.scale)]
        logits, means, scales = _broadcast(*raw)
        chosen = Categorical(logits).sample(rng, shape)[..., None]
        mean, scale = (take_along_axis(broadcast_to(p, (*shape, *p.shape)), chosen, -1)[..., 0] for p in (means, scales))
        return Normal(mean, scale).sample(rng)


def kl_divergence(p: Distribution, q: Distribution) -> Any:
    """KL(p || q) = E_p ln p(x) - ln q(x) in nats, elementwise over the broadcast batches, in closed form.

    Between two Bernoullis, two Categoricals or two Normals; NotImplementedError, which says what to do, otherwise.
    """
    closed_form = _DIVERGENCES.get((type(p), type(q)))
    if closed_form is None:
        raise NotImplementedError(
            f"KL({type(p).__name__} || {type(q).__name__}) has no closed form here: "
            "average p.log_prob(x) - q.log_prob(x) over samples x of p"
        )
    return closed_form(p, q)


def _bernoulli_divergence(p: Bernoulli, q: Bernoulli) -> Any:
    on = softplus(-q.logits) - softplus(-p.logits)
    off = softplus(q.logits) - softplus(p.logits)
    return sigmoid(p.logits) * on + sigmoid(-p.logits) * off


def _categorical_divergence(p: Categorical, q: Categorical) -> Any:
    log_q = log_softmax(q.logits)
    return _expectation(log_softmax(p.logits), lambda log_p: log_p - log_q)


def _normal_divergence(p: Normal, q: Normal) -> Any:
    ratio, shift = p.scale / q.scale, (p.mean - q.mean) / q.scale
    return 0.5 * (ratio * ratio + shift * shift - 1.0) - _log(ratio)


_DIVERGENCES: dict[tuple[type, type], Callable] = {
    (Bernoulli, Bernoulli): _bernoulli_divergence,
    (Categorical, Categorical): _categorical_divergence,
    (Normal, Normal): _normal_divergence,
}


def _expectation(log_p: Any, value: Callable[[Any], Any]) -> Any:
    """sum_k p_k value(ln p)_k over the last axis, in which categories of probability 0 count 0, gradients included."""
    p = exp(log_p)
    possible = array_of(p) > 0
    return sum(p * where(possible, value(where(possible, log_p, 0.0)), 0.0), -1)


def _log(x: Any) -> Any:
    return math.log(x) if isinstance(x, int | float) else log(x)


def _floating(name: str, value: Any) -> Any:
    """`value` as a Tensor or array; TypeError unless its dtype is floating."""
    if not isinstance(value, Tensor) and not is_array(value):
        value = np.asarray(value, np.float32)
    if value.dtype.kind != "f":
        raise TypeError(f"{name} must have a floating dtype, not {value.dtype}")
    return value


def _like(x: Any, parameter: Any) -> Any:
    """`x` itself if it is a Tensor or an array, else as an array of the parameter's library and dtype."""
    if isinstance(x, Tensor) or is_array(x):
        return x
    return module_of(array_of(parameter)).asarray(x, parameter.dtype)


def _broadcast(*values: Any, last: tuple[int, ...] | None = None) -> list[Any]:
    """`values` at their common shape; with `last`, at the common shape of all axes but the last, which stay so long."""
    if last is None:
        shapes = [np.broadcast_shapes(*(v.shape for v in values))] * len(values)
    else:
        common = np.broadcast_shapes(*(v.shape[:-1] for v in values))
        shapes = [(*common, size) for size in last]
    return [v if v.shape == shape else broadcast_to(v, shape) for v, shape in zip(values, shapes)]


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], like: Array) -> Array:
    return to_device(rng.random(shape), device_of(like))
