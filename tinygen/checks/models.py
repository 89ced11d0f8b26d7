"""Cases of the models: the training loss of a small one as a function of every parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.backend import to_device
from tinygen.checks.modules import Functional
from tinygen.checks.registry import Case
from tinygen.models import model_class
from tinygen.models.base import Model


def _table(kind: str, **options: Any) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        table = model_class(kind)(6, alpha=0.5, examples=10, dtype=np.float64, **options)
        table.logits.data[...] = rng.standard_normal(table.logits.shape)
        return table

    return build


def _nade(rng: np.random.Generator) -> Model:
    from tinygen.models.nade import NADE

    return NADE(6, 4, rng, order=rng.permutation(6), bias=rng.standard_normal(6), scale=0.5, dtype=np.float64)


def _eonade(rng: np.random.Generator) -> Model:
    from tinygen.models.eonade import EoNADE

    return EoNADE(6, (5, 4), 2, rng, bias=rng.standard_normal(6), dtype=np.float64)


def _pixelrnn(kind: str, shape: tuple[int, int, int], levels: int = 2) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        small = model_class(kind)(shape, levels, hidden=3, layers=2, head=3, rng=rng, dtype=np.float64)
        for name, parameter in small.named_parameters():
            if name.endswith("bias"):  # zeros would put the first pixel, which sees nothing, into the kinks of the ReLUs
                parameter.data[...] = rng.standard_normal(parameter.shape)
        return small

    return build


def _pixelcnn(shape: tuple[int, int, int], levels: int) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        small = model_class("pixelcnn")(shape, levels, hidden=3, blocks=1, head=3, rng=rng, dtype=np.float64)
        for parameter in small.parameters():  # biases of 0 would put the first pixel, which sees nothing, into the kinks
            parameter.data[...] = 0.5 * rng.standard_normal(parameter.shape)
        return small

    return build


def _fvsbn(rng: np.random.Generator) -> Model:
    from tinygen.models.fvsbn import FVSBN

    small = FVSBN(6, rng.permutation(6), rng.standard_normal(6), dtype=np.float64)
    small.W.data[...] = rng.standard_normal((6, 6))
    return small


def _made(orders: int, masks: int, direct: bool) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        from tinygen.models.made import MADE

        small = MADE(6, (5, 4), rng, [rng.permutation(6) for _ in range(orders)], masks, direct, dtype=np.float64)
        for parameter in small.parameters():
            parameter.data[...] = 0.5 * rng.standard_normal(parameter.shape)
        return small

    return build


def _rnade(activation: str) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        from tinygen.models.rnade import RNADE

        small = RNADE(6, 3, 2, rng, activation, rng.permutation(6), dtype=np.float64)
        for parameter in small.parameters():
            parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
        return small

    return build


def _vae(shape: tuple[int, ...] = (3, 2), **options: Any) -> Callable[[np.random.Generator], Model]:
    def build(rng: np.random.Generator) -> Model:
        from tinygen.models.vae import VAE

        small = VAE(shape, 2, (4,), rng, **options, dtype=np.float64)
        for parameter in small.parameters():
            parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
        return small

    return build


def model(
    name: str, build: Callable[[np.random.Generator], Model], order: int = 2, real: bool = False, dimensions: int = 6
) -> Case:
    """A case of the loss of the model that `build(rng)` makes, of 3 x 2 pixels, at binary examples or at real ones."""

    def make(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
        small = build(rng)
        x = rng.standard_normal((5, dimensions)) if real else rng.integers(0, 2, (5, dimensions))
        function = Functional(small, lambda: small.loss(to_device(x, small.device), np.random.default_rng(11)))
        return function, function.values({})

    return Case(f"models.{name}", "model", make, order, {"complex_step": False})


CASES = [
    model("independent", _table("independent")),
    model("markov", _table("markov", order=[4, 1, 0, 5, 2, 3])),
    model("full-joint", _table("full-joint")),
    model("chain-rule", _table("chain-rule", order=[4, 1, 0, 5, 2, 3])),
    model("fvsbn", _fvsbn),
    model("made", _made(1, 1, direct=False)),
    model("made[two orders, two masks, direct]", _made(2, 2, direct=True)),
    model("nade", _nade, order=1),
    model("eonade", _eonade),
    model("rnade[sigmoid]", _rnade("sigmoid"), real=True),
    model("rnade[ReLU]", _rnade("relu"), real=True),
    model("pixelcnn", _pixelcnn((3, 2, 1), 2)),
    model("pixelcnn[colour]", _pixelcnn((2, 1, 3), 3)),
    model("row-lstm", _pixelrnn("row-lstm", (3, 2, 1)), order=1),
    model("row-lstm[colour]", _pixelrnn("row-lstm", (2, 1, 3)), order=1),
    model("diagonal-bilstm", _pixelrnn("diagonal-bilstm", (3, 2, 1)), order=1),
    model("diagonal-bilstm[colour]", _pixelrnn("diagonal-bilstm", (2, 1, 3), levels=3), order=1),
    model("vae", _vae(), order=1),
    model("vae[Gaussian]", _vae(decoder="gaussian", sigma=0.5), order=1, real=True),
    model("vae[Gaussian, fixed sigma]", _vae(decoder="gaussian", sigma=0.5, learn_sigma=False), order=1, real=True),
    model("vae[k = 3]", _vae(k=3), order=1),
    model("vae[convolutions]", _vae((4, 2), channels=(3,)), order=1, dimensions=8),
    model(
        "vae[convolutions, Gaussian, k = 2]",
        _vae((2, 2, 3), channels=(2,), decoder="gaussian", k=2),
        1,
        real=True,
        dimensions=12,
    ),
]
