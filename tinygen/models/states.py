"""Tables over all 2^n states of n binary pixels: counts, joint and conditional probabilities, and completions.

State s is read as a binary number, the first pixel its highest digit. The coins of the chain rule lie level by level, as a
binary tree does in a heap: level i begins at 2^i - 1, and in it are the 2^i states of the i pixels before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinygen import sigmoid
from tinygen.backend import Array, module_of
from tinygen.ops.bernoulli import bits


def state_of(x: Array) -> Array:
    """The states (B,), int64, of bits x (B, n)."""
    xp = module_of(x)
    return bits(x).astype(np.int64) @ (1 << xp.arange(x.shape[1] - 1, -1, -1, dtype=np.int64))


def state_counts(x: Array) -> Array:
    """The expected number of examples in each state, float64 (2^n,), of x (B, n) as probabilities of independent pixels.

    The probability of a state is the product of those of its halves, so that one matrix product sums over the examples.
    """
    half = x.shape[1] // 2
    return (_state_probabilities(x[:, :half]).T @ _state_probabilities(x[:, half:])).reshape(-1)


def _state_probabilities(x: Array) -> Array:
    xp = module_of(x)
    p = xp.ones((len(x), 1))
    for pixel in x.T[:, :, None]:
        p = xp.stack([p * (1 - pixel), p * pixel], -1).reshape(len(x), 2 * p.shape[1])
    return p


def joint_log_prob(logits: Array) -> Array:
    """ln p of all states, float64 (2^n,), from the logits (2^n - 1,) of the chain rule's coins."""
    xp = module_of(logits)
    log_p = xp.zeros(1)
    for i in range(len(logits).bit_length()):
        level = logits[2**i - 1 : 2 ** (i + 1) - 1].astype(np.float64)
        log_p = xp.stack([log_p - xp.logaddexp(0, level), log_p - xp.logaddexp(0, -level)], -1).reshape(-1)
    return log_p


def chain_rule_logits(log_p: Array, order: Array) -> Array:
    """The logits (2^n - 1,) of the chain rule's coins in any order of the pixels, from ln p of all states (2^n,).

    Level by level from the last: a coin's logit is ln p(pixel = 1, those before) - ln p(pixel = 0, those before), and the sum
    of the two probabilities is one entry of the level above. Where both are 0 the logit is 0.
    """
    xp = module_of(log_p)
    table = log_p.reshape((2,) * len(order)).transpose([int(axis) for axis in order]).reshape(-1)
    with np.errstate(invalid="ignore"):
        logits = [level[:, 1] - level[:, 0] for level in levels_of(table, xp.logaddexp)]
    logits = xp.concatenate(logits)
    return xp.where(xp.isnan(logits), 0.0, logits)


def complete_states(log_p: Array, x: Array, observed: Array, rng: np.random.Generator) -> Array:
    """x (B, n) with the pixels where `observed` (n,) is False drawn given the others, from ln p of all states.

    The chain rule may take any order: with the observed pixels first, each further one is drawn by its own coin.
    """
    xp = module_of(log_p)
    observed = xp.asarray(observed)
    bits(x[:, observed])
    order = xp.argsort(~observed, kind="stable")
    p = sigmoid(chain_rule_logits(log_p, order))
    uniforms = xp.asarray(rng.random(x.shape))
    filled = xp.array(x)
    node, known = xp.zeros(len(x), np.int64), int(observed.sum())
    for i, pixel in enumerate(order.tolist()):
        if i >= known:
            filled[:, pixel] = uniforms[:, i] < p[node]
        node = 2 * node + 1 + (filled[:, pixel] > 0.5)
    return filled


def levels_of(states: Array, total: Callable[[Array, Array], Array]) -> list[Array]:
    """The levels (2^i, 2) of a heap, from the top, above what is given for all states (2^n,).

    The entries of the last level are the states', and `total` of a pair is the entry above it.
    """
    levels = []
    while len(states) > 1:
        levels.append(states.reshape(-1, 2))
        states = total(levels[-1][:, 0], levels[-1][:, 1])
    return levels[::-1]
