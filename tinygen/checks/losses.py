"""Cases of the losses, each with its reductions and at logits far out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import tinygen as tg
from tinygen.checks.inputs import between, bits, check, integers, normal
from tinygen.checks.registry import Case
from tinygen.ops.bernoulli import bernoulli_log_prob

loss: Callable[..., Case] = partial(check, kind="loss")

FAR = np.array([[1e4, -1e4, 0.0], [30.0, -30.0, 1.0]])


def _probabilities(*shape: int) -> Callable[[np.random.Generator], Any]:
    return lambda rng: rng.dirichlet(np.ones(shape[1]), shape[:1] + shape[2:]).swapaxes(1, -1)


def _losses() -> Iterator[Case]:
    for reduction in ("mean", "sum", "none"):
        bce = partial(tg.binary_cross_entropy_with_logits, reduction=reduction)
        name = f"binary_cross_entropy_with_logits[{reduction}"
        yield loss(f"{name}]", bce, logits=normal(3, 4), targets=between(0, 1, 3, 4))
        yield loss(f"{name}, bits]", bce, logits=normal(3, 4), targets=bits(3, 4))
        yield loss(f"{name}, far out]", bce, logits=FAR, targets=np.array([[1, 1, 0], [0, 1, 0]]))

        entropy = partial(tg.cross_entropy, reduction=reduction)
        name = f"cross_entropy[{reduction}"
        yield loss(f"{name}]", entropy, logits=normal(4, 3), targets=integers(3, 4))
        yield loss(f"{name}, images]", entropy, logits=normal(2, 3, 2, 2), targets=integers(3, 2, 2, 2))
        yield loss(f"{name}, probabilities]", entropy, logits=normal(4, 3), targets=_probabilities(4, 3))
        yield loss(f"{name}, far out]", entropy, logits=FAR, targets=np.array([1, 0]))

        for distance in ("mse_loss", "l1_loss"):
            function = partial(getattr(tg, distance), reduction=reduction)
            yield loss(f"{distance}[{reduction}]", function, x=normal(3, 4), target=normal(3, 4))
    yield loss("bernoulli_log_prob", bernoulli_log_prob, x=bits(3, 4), logits=normal(3, 4))
    yield loss("bernoulli_log_prob[two draws]", bernoulli_log_prob, x=bits(3, 4), logits=normal(6, 4))
    yield loss("bernoulli_log_prob[far out]", bernoulli_log_prob, x=np.array([[1, 1, 0], [0, 1, 0]]), logits=FAR)
    yield loss("cross_entropy[one example]", tg.cross_entropy, logits=normal(5), targets=np.array(2))


CASES = list(_losses())
