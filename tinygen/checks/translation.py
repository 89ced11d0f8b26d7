"""Cases of CycleGAN: what the two translators go down, and what the two discriminators do, as functions of all parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.backend import to_device
from tinygen.checks.modules import Functional
from tinygen.checks.registry import Case
from tinygen.tensor import Tensor

SHAPE = (8, 8, 1)


def players(variant: str, loss: Callable[..., Tensor]) -> Case:
    """A case of `loss(model, x, y)` of a small CycleGAN, at 2 images of each domain."""

    def make(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
        from tinygen.models.cyclegan import CycleGAN

        model = CycleGAN(SHAPE, "thick", (0, 1), (2, 3), 1, (2, 3), 10.0, 0.5, 4, rng, dtype=np.float64)
        for parameter in model.parameters():
            parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
        images = rng.uniform(-1, 1, (2, 2, 1, *SHAPE[:2]))
        given = lambda: to_device(images.astype(next(model.parameters()).dtype), model.device)
        function = Functional(model, lambda: loss(model, *given()))
        return function, function.values({})

    return Case(f"models.cyclegan[{variant}]", "model", make, 1, {"complex_step": False, "max_entries": 8})


def _translators(model: Any, x: Any, y: Any) -> Tensor:
    return model.translators_loss(x, y)[0]


def _discriminators(model: Any, x: Any, y: Any) -> Tensor:
    """Here of fakes with their graph, hence as a function of the translators too."""
    return model.discriminators_loss(x, y, model.G(x), model.F(y))[0]


CASES = [
    players("translators", _translators),
    players("discriminators", _discriminators),
]
