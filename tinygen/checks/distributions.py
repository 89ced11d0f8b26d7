"""Cases of the distributions: log-probabilities, draws, entropies and divergences as functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tinygen.checks.inputs import Sampler, bits, check, integers, normal, positive
from tinygen.checks.registry import Case
from tinygen.distributions import Bernoulli, Categorical, MixtureOfNormals, Normal, kl_divergence

case: Callable[..., Case] = partial(check, kind="distribution")

PARAMETERS: dict[type, dict[str, Sampler]] = {
    Bernoulli: {"logits": normal(2, 3)},
    Categorical: {"logits": normal(2, 3)},
    Normal: {"mean": normal(2, 3), "scale": positive(3)},
}


def _cases() -> Iterator[Case]:
    name = "distributions."
    yield case(f"{name}Bernoulli", lambda logits, x: Bernoulli(logits).log_prob(x), logits=normal(2, 3), x=bits(2, 3))
    yield case(
        f"{name}Categorical", lambda logits, x: Categorical(logits).log_prob(x), logits=normal(2, 3), x=integers(3, 4, 2)
    )
    normals = {"mean": normal(2, 3), "scale": positive(3)}
    yield case(f"{name}Normal", lambda x, mean, scale: Normal(mean, scale).log_prob(x), x=normal(2, 3), **normals)
    yield case(
        f"{name}Normal[draws]", lambda mean, scale: Normal(mean, scale).sample(np.random.default_rng(3), (2,)), **normals
    )
    mixture = {"logits": normal(2, 3), "means": normal(3), "scales": positive(2, 3)}
    yield case(f"{name}MixtureOfNormals", lambda x, *p: MixtureOfNormals(*p).log_prob(x), x=normal(2), **mixture)
    for kind, parameters in PARAMETERS.items():
        other = {f"other_{key}": sampler for key, sampler in parameters.items()}
        yield case(f"{name}{kind.__name__}[entropy]", lambda *p, kind=kind: kind(*p).entropy(), **parameters)
        yield case(f"{name}{kind.__name__}[divergence]", partial(_divergence, kind), **parameters, **other)


def _divergence(kind: type, *parameters: Any) -> Any:
    half = len(parameters) // 2
    return kl_divergence(kind(*parameters[:half]), kind(*parameters[half:]))


CASES = list(_cases())
