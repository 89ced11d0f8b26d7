"""Likelihoods that have to be estimated, in nats, and bits per dimension.

* `importance_log_prob`: ln p(x) of a model with latent variables, from weighted draws of z (Rezende, Mohamed and Wierstra,
  "Stochastic backpropagation", ICML 2014, appendix E; Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders",
  ICLR 2016).
* `parzen`: the density that Gaussian kernels on a model's samples have at the test examples (Goodfellow et al., "Generative
  adversarial nets", NIPS 2014, section 5; Breuleux, Bengio and Vincent 2011). It discriminates badly: in high dimensions
  it can prefer samples that are worse to the eye and to the likelihood (Theis, van den Oord and Bethge, "A note on the
  evaluation of generative models", ICLR 2016), so it is to be quoted only beside another measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.evaluation.distances import BLOCK, squared_distances
from tinygen.ops import logsumexp
from tinygen.tensor import array_of

# "selected from 10 log-spaced values in [0.1, 1]": the grid of Goodfellow et al.'s program.
SIGMAS = tuple(float(sigma) for sigma in np.logspace(-1, 0, 10))


def bits_per_dim(nll: float, dimensions: int, levels: int = 1) -> float:
    """A negative log-likelihood in nats as bits for each of `dimensions` numbers: nll / (dimensions ln 2) + log2(levels).

    Leave `levels` at 1 where `nll` belongs to probabilities of discrete values. For a density on [0, 1] of values that had
    `levels` (256) grey levels before uniform noise was added, each level was 1 / levels wide: hence the second term (Theis,
    van den Oord and Bethge 2016, section 3.1).
    """
    return nll / (dimensions * math.log(2)) + math.log2(levels)


def importance_log_prob(log_weights: Callable[[int], Array], samples: int = 5000, chunk: int = 50) -> Array:
    """ln of the mean of `samples` importance weights for each of B examples, (B,), in nats.

        ln p(x) ~ ln (1/K) sum_k w_k,   ln w_k = ln p(x | z_k) + ln p(z_k) - ln q(z_k | x),   z_k ~ q(z | x)

    log_weights(k): ln w of k further, independent draws of z for each example, (k, B), as an array or a Tensor. It is called
    for at most `chunk` draws at a time, and nothing is kept but a running logsumexp (in float64; the result has the weights'
    dtype), so the memory needed does not depend on `samples`.
    The estimate's expectation is at most ln p(x) and rises towards it with K; K = 1 gives one draw of the ELBO.
    Raises ValueError for samples or chunk below 1, and for weights that are not (k, B).
    """
    if samples < 1 or chunk < 1:
        raise ValueError(f"samples = {samples}, chunk = {chunk}: expected at least 1 of each")
    total = None
    for start in range(0, samples, chunk):
        k = min(chunk, samples - start)
        part = array_of(log_weights(k))
        if part.ndim != 2 or len(part) != k:
            raise ValueError(f"log_weights({k}) has shape {part.shape}, expected ({k}, B): one row for each draw")
        summed = logsumexp(part.astype(np.float64), axis=0)
        total = summed if total is None else module_of(part).logaddexp(total, summed)
    return (total - math.log(samples)).astype(part.dtype)


class Parzen(NamedTuple):
    """Mean of ln p over the test examples and its standard error, in nats, at the kernels' width sigma."""

    mean: float
    standard_error: float
    sigma: float


def parzen(samples: Array, valid: Array, test: Array, sigmas: Sequence[float] = SIGMAS) -> Parzen:
    """The Parzen-window log-likelihood of `test` under Gaussian kernels on `samples`, all (., D) of one floating dtype.

    sigma is the one of `sigmas` that gives `valid` the highest mean. The figure grows with the number of samples and says
    something only beside another that was made with as many, of the same data: 10,000 in the papers.
    """
    sigma = float(sigmas[int(np.argmax(log_densities(valid, samples, sigmas).mean(axis=1, dtype=np.float64)))])
    found = log_densities(test, samples, [sigma])[0].astype(np.float64)
    return Parzen(float(found.mean()), float(found.std(ddof=1)) / math.sqrt(len(test)), sigma)


def log_densities(x: Array, centres: Array, sigmas: Sequence[float], block: int = BLOCK) -> Array:
    """ln of the mean over j of N(x; centres_j, sigma^2 I) for each sigma, (sigmas, n), of x's dtype.

    x (n, D), centres (m, D). The distances of a block of rows (of `block` bytes) serve all sigmas, so that 10,000 centres and
    10,000 points of 784 dimensions need some tens of megabytes.
    """
    xp = module_of(x)
    found = xp.empty((len(sigmas), len(x)), x.dtype)
    for rows, d in squared_distances(x, centres, block):
        nearest = d.min(axis=1)
        d -= nearest[:, None]  # the exponent's largest value is then 0: that is logsumexp, shifted once for all sigmas
        for i, sigma in enumerate(sigmas):
            scale = -0.5 / sigma**2
            found[i, rows] = scale * nearest + xp.log(xp.exp(scale * d).sum(axis=1))
    constants = [math.log(len(centres)) + x.shape[1] * math.log(sigma * math.sqrt(2 * math.pi)) for sigma in sigmas]
    return found - xp.asarray(constants, x.dtype)[:, None]
