"""Cases of the layers: each as a function of its inputs and of all its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from tinygen import nn
from tinygen.checks.inputs import Sampler, integers, normal
from tinygen.checks.registry import Case


def layer(name: str, build: Callable[[np.random.Generator], nn.Module], **samplers: Sampler) -> Case:
    """A case of the layer that `build(rng)` makes, at inputs drawn by `samplers` and at its own first parameters."""

    def make(rng: np.random.Generator) -> tuple[Callable, Mapping[str, Any]]:
        module = build(rng)
        inputs = {key: sampler(rng) for key, sampler in samplers.items()}
        parameters = {key: parameter.numpy().copy() for key, parameter in module.named_parameters()}

        def apply(*values: Any) -> Any:
            for key, value in zip(parameters, values[len(inputs) :]):
                _place(module, key, value)
            x, *state = values[: len(inputs)]
            return _flat(module(x, tuple(state)) if state else module(x))

        return apply, inputs | parameters

    return Case(f"nn.{name}", "layer", make, order)


def _place(module: nn.Module, name: str, value: Any) -> None:
    """Put a tensor of the checker's where the module has its parameter `name`."""
    *path, attribute = name.split(".")
    for part in path:
        module = getattr(module, part)
    vars(module)[attribute] = value


def _flat(outputs: Any) -> Any:
    """The outputs of a recurrent layer, (y, (h, c)), as one tuple."""
    if not isinstance(outputs, tuple):
        return outputs
    return tuple(part for item in outputs for part in (item if isinstance(item, tuple) else (item,)))


def _dense() -> Iterator[Case]:
    yield layer("Dense", lambda rng: nn.Dense(4, 3, rng=rng), x=normal(2, 4))
    yield layer("Dense[no bias]", lambda rng: nn.Dense(4, 3, bias=False, rng=rng), x=normal(2, 3, 4))
    yield layer("Dense[vector]", lambda rng: nn.Dense(4, 3, rng=rng), x=normal(4))
    yield layer("Embedding", lambda rng: nn.Embedding(5, 3, rng=rng), indices=integers(5, 2, 4))
    yield layer(
        "Sequential",
        lambda rng: nn.Sequential(nn.Dense(4, 5, rng=rng), nn.Tanh(), nn.Dense(5, 2, rng=rng)),
        x=normal(3, 4),
    )


def _images() -> Iterator[Case]:
    strided = {"stride": (2, 1), "padding": (1, 0), "groups": 2}
    x = normal(2, 2, 5, 4)
    yield layer("Conv2d", lambda rng: nn.Conv2d(2, 3, 3, rng=rng), x=x)
    yield layer("Conv2d[strided]", lambda rng: nn.Conv2d(2, 4, (3, 2), **strided, rng=rng), x=x)
    yield layer("ConvTranspose2d", lambda rng: nn.ConvTranspose2d(2, 3, 3, rng=rng), x=x)
    transposed = partial(nn.ConvTranspose2d, 2, 4, (3, 2), output_padding=(1, 0), dilation=2, bias=False, **strided)
    yield layer("ConvTranspose2d[strided]", lambda rng: transposed(rng=rng), x=x)
    yield layer("MaxPool2d", lambda rng: nn.MaxPool2d(2), x=x)
    yield layer("MaxPool2d[overlapping]", lambda rng: nn.MaxPool2d(3, 2, 1), x=x)
    yield layer("AvgPool2d", lambda rng: nn.AvgPool2d(2), x=x)
    yield layer("AvgPool2d[overlapping]", lambda rng: nn.AvgPool2d(3, 2, 1), x=x)
    yield layer("Upsample", lambda rng: nn.Upsample(2), x=normal(1, 2, 2, 3))
    yield layer("Flatten", lambda rng: nn.Flatten(), x=x)


def _recurrent() -> Iterator[Case]:
    states = {"hidden": normal(1, 2, 3), "cell": normal(1, 2, 3)}
    yield layer("LSTM", lambda rng: nn.LSTM(2, 3, rng=rng), x=normal(4, 2, 2))
    yield layer("LSTM[state]", lambda rng: nn.LSTM(2, 3, bias=False, rng=rng), x=normal(4, 2, 2), **states)
    deep = partial(nn.LSTM, 2, 3, num_layers=2, batch_first=True, bidirectional=True)
    yield layer("LSTM[deep, both directions]", lambda rng: deep(rng=rng), x=normal(1, 3, 2))
    yield layer("LSTMCell", lambda rng: nn.LSTMCell(2, 3, rng=rng), x=normal(2, 2))
    cell_states = {"hidden": normal(2, 3), "cell": normal(2, 3)}
    yield layer("LSTMCell[state]", lambda rng: nn.LSTMCell(2, 3, bias=False, rng=rng), x=normal(2, 2), **cell_states)


def _normalization() -> Iterator[Case]:
    images = normal(2, 3, 2, 2)
    for name, x in (("BatchNorm1d", normal(5, 3)), ("BatchNorm2d", images)):
        norm = getattr(nn, name)
        yield layer(name, lambda rng, norm=norm: _shifted(norm(3)), x=x)
        yield layer(f"{name}[evaluation]", lambda rng, norm=norm: _shifted(norm(3)).eval(), x=x)
    yield layer("BatchNorm1d[sequence]", lambda rng: nn.BatchNorm1d(3, affine=False), x=normal(2, 3, 4))
    yield layer("InstanceNorm2d", lambda rng: nn.InstanceNorm2d(3), x=images)
    yield layer("InstanceNorm2d[affine]", lambda rng: _shifted(nn.InstanceNorm2d(3, affine=True)), x=images)


def _shifted(norm: nn.Module) -> nn.Module:
    """`norm` with parameters and statistics other than ones and zeros."""
    state = norm.state_dict()
    norm.load_state_dict({k: a + np.linspace(0.1, 0.7, a.size).reshape(a.shape).astype(a.dtype) for k, a in state.items()})
    return norm


def _functions() -> Iterator[Case]:
    x = normal(3, 4)
    for name in ("ReLU", "LeakyReLU", "ELU", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax"):
        yield layer(name, lambda rng, name=name: getattr(nn, name)(), x=x)
    yield layer("LeakyReLU[0.3]", lambda rng: nn.LeakyReLU(0.3), x=x)
    yield layer("ELU[1.5]", lambda rng: nn.ELU(1.5), x=x)
    yield layer("Softmax[rows]", lambda rng: nn.Softmax(0), x=x)
    yield layer("Dropout", lambda rng: _Repeatable(nn.Dropout(0.4, rng=rng)), x=x)
    yield layer("Dropout[evaluation]", lambda rng: nn.Dropout(0.4, rng=rng).eval(), x=x)


class _Repeatable(nn.Module):
    """A layer that draws, with its generator put back before every call."""

    def __init__(self, drawing: nn.Dropout):
        self.drawing = drawing
        self.start = drawing.rng.bit_generator.state

    def forward(self, x: Any) -> Any:
        self.drawing.rng.bit_generator.state = self.start
        return self.drawing(x * x)


CASES = [*_dense(), *_images(), *_recurrent(), *_normalization(), *_functions()]
