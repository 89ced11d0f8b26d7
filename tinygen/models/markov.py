"""A first-order Markov chain: each pixel knows the one visited before it, and nothing else (Markov 1913, on letters).

    p(x) = p(x_{o_1}) prod_{i>1} p(x_{o_i} | x_{o_{i-1}})

Two coins a pixel, one for each value of the pixel before, are 2n - 1 numbers; every pixel has coins of its own (the chain is
not homogeneous). Each is fitted by the relative frequency of a 1 where the pixel before had the value in question
(`counting.py`).

The chain is simple enough for exact inference from any pixels at all, not only the first ones. With m_i(s) the probability that
x_{o_i} = s together with all observed pixels up to i,

    m_1(s) = p(s) seen_1(s),    m_i(s) = seen_i(s) sum_r m_{i-1}(r) p(s | r)            forwards: filtering
    x_{o_n} ~ m_n,              x_{o_i} ~ m_i(s) p(x_{o_{i+1}} | s)                     backwards: sampling

where seen_i(s) is 0 if pixel i is observed with another value than s, and 1 otherwise. The sums are those of the
forward-backward algorithm of hidden Markov models (Rabiner 1989); they are done on logarithms, since a product of 784
probabilities underflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tinygen import no_grad, sigmoid
from tinygen.backend import Array, module_of
from tinygen.models.counting import OrderedCountingModel
from tinygen.models.orderings import inverse
from tinygen.models.recipe import Recipe
from tinygen.ops.bernoulli import bits


class Markov(OrderedCountingModel):
    """A Markov chain along an order of the pixels (see OrderedCountingModel for the arguments).

    Row 0 of the table is the coin of the first pixel; rows 2i - 1 and 2i are those of the pixel visited as number i, counted
    from 0, after a 0 and after a 1.
    """

    PARAMETERS = "2n - 1"
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(epochs=1, lr=0.2, binarization="dynamic", model={"order": "raster", "alpha": 1.0, "fit": "counts"}),
    }

    @staticmethod
    def parameters_needed(n: int, values: int = 2) -> int:
        """values - 1 for the first variable, and for each of the others that many for each value before it."""
        return (values - 1) + (n - 1) * values * (values - 1)

    def rows(self, x: Array) -> Array:
        xp = module_of(x)
        after = 2 * xp.arange(1, self.dimensions) - 1 + self.visited(x)[:, :-1].astype(np.int64)
        return xp.concatenate([xp.zeros((len(x), 1), np.int64), after], 1)

    def tally(self, x: Array) -> Array:
        xp = module_of(x)
        x = self.visited(x)
        first = xp.stack([(1 - x[:, 0]).sum(), x[:, 0].sum()])
        before, now = x[:, :-1], x[:, 1:]
        pairs = [(r * s).sum(0) for r in (1 - before, before) for s in (1 - now, now)]
        return xp.concatenate([first, xp.stack(pairs, -1).reshape(-1)]).reshape(-1, 2)

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` (B, n) with the pixels where `observed` (n,) is False drawn from their exact conditional given all the others.

        Forward filtering, backward sampling; any mask will do, also one with pixels before and after the missing ones.
        """
        xp, order = module_of(self.logits._data), self.order
        observed = xp.asarray(observed)[order]
        x = xp.asarray(x)[:, order].astype(self.logits.dtype)
        bits(x[:, observed])
        uniforms = xp.asarray(rng.random(x.shape))
        with no_grad():
            table = self.log_table()._data.astype(np.float64)
        transitions = table[1:].reshape(-1, 2, 2)  # [i - 1, value before, value]
        observed = observed.tolist()
        seen = [xp.where(x[:, i, None] == xp.arange(2), 0.0, -np.inf) if known else 0.0 for i, known in enumerate(observed)]
        filtered = [xp.broadcast_to(table[0], (len(x), 2)) + seen[0]]
        for step, message in zip(transitions, seen[1:]):
            filtered.append(xp.logaddexp(filtered[-1][:, :1] + step[0], filtered[-1][:, 1:] + step[1]) + message)
        later = 0.0  # ln p(the pixel after, which is drawn by now | s)
        for i in reversed(range(self.dimensions)):
            if not observed[i]:
                log_p = filtered[i] + later
                x[:, i] = uniforms[:, i] < sigmoid(log_p[:, 1] - log_p[:, 0])
            if i:
                later = transitions[i - 1].T[x[:, i].astype(np.int64)]
        return x[:, inverse(order)]
