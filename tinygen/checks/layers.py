"""Cases of the layers: gradients of the inputs and of every parameter by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygen import nn
from tinygen.checks.inputs import Sampler, integers, normal
from tinygen.checks.modules import Functional
from tinygen.checks.registry import Case
from tinygen.models.pixels import MaskedConv2d

NORMALIZING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)
WEIGHTED = (nn.Dense, nn.Embedding, nn.Conv2d, nn.ConvTranspose2d, nn.LSTM, nn.LSTMCell, MaskedConv2d)


def layer(
    name: str,
    build: Callable[..., nn.Module],
    *settings: Any,
    x: Sampler,
    state: tuple[int, ...] | None = None,
    evaluate: bool = False,
    order: int = 2,
    **options: Any,
) -> Case:
    """A case of the layer `build(*settings, **options)` at `x`, and at a first state (h, c) of shape `state` if given.

    All parameters are drawn anew, also those that start as ones and zeros.
    """
    options |= {"dtype": np.float64} if build in WEIGHTED + NORMALIZING else {}

    def make(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
        module = build(*settings, **options, **({"rng": rng} if build in (*WEIGHTED, nn.Dropout) else {}))
        module.train(not evaluate)
        for parameter in module.parameters():
            parameter.data[...] = 0.5 * rng.standard_normal(parameter.shape)
        inputs = {"x": x(rng)}
        if state is None:
            function = Functional(module)
        else:
            inputs |= {"h": rng.standard_normal(state), "c": rng.standard_normal(state)}
            function = Functional(module, lambda x, h, c: module(x, (h, c)))
        return function, function.values(inputs)

    return Case(f"nn.{name}", "layer", make, order)


def _functions() -> Iterator[Case]:
    matrix, images = normal(3, 4), normal(2, 3, 4, 4)
    for activation in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.LogSoftmax):
        yield layer(activation.__name__, activation, x=matrix)
    yield layer("LeakyReLU[slope]", nn.LeakyReLU, 0.2, x=matrix)
    yield layer("ELU[alpha]", nn.ELU, 0.5, x=matrix)
    yield layer("Softmax[dim]", nn.Softmax, 0, x=matrix)
    yield layer("LogSoftmax[dim]", nn.LogSoftmax, 0, x=matrix)
    yield layer("Dropout", nn.Dropout, 0.4, x=matrix)
    yield layer("Dropout[evaluation]", nn.Dropout, 0.4, evaluate=True, x=matrix)
    yield layer("Flatten", nn.Flatten, x=normal(2, 2, 3))
    yield layer("MaxPool2d", nn.MaxPool2d, 2, x=images)
    yield layer("MaxPool2d[padding]", nn.MaxPool2d, 3, 2, 1, x=images)
    yield layer("AvgPool2d", nn.AvgPool2d, 2, x=images)
    yield layer("AvgPool2d[padding]", nn.AvgPool2d, 3, 2, 1, x=images)
    yield layer("Upsample", nn.Upsample, 2, x=normal(1, 2, 2, 3))


def _weighted() -> Iterator[Case]:
    yield layer("Dense", nn.Dense, 4, 3, x=normal(2, 4))
    yield layer("Dense[vector]", nn.Dense, 4, 3, x=normal(4))
    yield layer("Dense[no bias, sequence]", nn.Dense, 4, 3, bias=False, x=normal(2, 3, 4))
    yield layer("Embedding", nn.Embedding, 5, 3, x=integers(5, 2, 3))
    yield layer("Conv2d", nn.Conv2d, 2, 3, 3, x=normal(2, 2, 4, 4))
    yield layer("Conv2d[all options]", nn.Conv2d, 2, 4, (3, 2), (2, 1), (1, 2), 2, 2, x=normal(1, 2, 6, 5))
    yield layer("MaskedConv2d", MaskedConv2d, 2, 3, 3, "A", x=normal(2, 2, 4, 4))
    yield layer("MaskedConv2d[colour]", MaskedConv2d, 3, 6, 3, "B", 3, x=normal(1, 3, 3, 4))
    yield layer("ConvTranspose2d", nn.ConvTranspose2d, 2, 3, 3, x=normal(1, 2, 3, 3))
    yield layer("ConvTranspose2d[all options]", nn.ConvTranspose2d, 4, 2, 3, 2, 1, 1, 2, dilation=2, x=normal(1, 4, 3, 2))


def _normalizing() -> Iterator[Case]:
    for norm, shape, words in (
        (nn.BatchNorm1d, (5, 3), ""),
        (nn.BatchNorm1d, (3, 3, 2), "sequence"),
        (nn.BatchNorm2d, (2, 3, 2, 2), ""),
    ):
        for variant, options in {"": {}, "evaluation": {"evaluate": True}, "not affine": {"affine": False}}.items():
            name = ", ".join(word for word in (words, variant) if word)
            yield layer(norm.__name__ + (f"[{name}]" if name else ""), norm, 3, x=normal(*shape), **options)
    yield layer("InstanceNorm2d", nn.InstanceNorm2d, 3, x=normal(2, 3, 3, 2))
    yield layer("InstanceNorm2d[affine]", nn.InstanceNorm2d, 3, affine=True, x=normal(2, 3, 3, 2))


def _recurrent() -> Iterator[Case]:
    yield layer("LSTMCell", nn.LSTMCell, 3, 2, x=normal(2, 3))
    yield layer("LSTMCell[state]", nn.LSTMCell, 3, 2, x=normal(2, 3), state=(2, 2))
    yield layer("LSTM", nn.LSTM, 2, 2, x=normal(2, 2, 2))
    yield layer("LSTM[state]", nn.LSTM, 2, 2, x=normal(2, 2, 2), state=(1, 2, 2))
    yield layer("LSTM[no bias, one step]", nn.LSTM, 2, 3, bias=False, x=normal(1, 2, 2))
    deep = {"num_layers": 2, "batch_first": True, "bidirectional": True, "order": 1}
    yield layer("LSTM[two layers, both directions, batch first]", nn.LSTM, 2, 2, x=normal(2, 3, 2), **deep)


def _sequential(rng: np.random.Generator) -> tuple[Callable, dict[str, Any]]:
    options = {"rng": rng, "dtype": np.float64}
    layers = (nn.Dense(4, 5, **options), nn.Tanh(), nn.BatchNorm1d(5, dtype=np.float64), nn.Dense(5, 2, **options))
    function = Functional(nn.Sequential(*layers))
    return function, function.values({"x": rng.standard_normal((6, 4))})


CASES = [*_functions(), *_weighted(), *_normalizing(), *_recurrent(), Case("nn.Sequential", "layer", _sequential)]
