"""A module as a function of its inputs and its parameters, so that both can be checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygen.backend import device_of, to_device
from tinygen.nn import Module
from tinygen.tensor import Tensor, array_of


class Functional:
    """`module` as a pure function of (inputs, parameters): called twice with the same values it gives the same outputs.

    During a call every parameter stands for the value given in its place, with that value's graph; buffers are copies in the
    inputs' dtype; layers that draw start from the same generator. Afterwards the module is as it was.
    """

    def __init__(self, module: Module, call: Callable[..., Any] | None = None):
        self.module = module
        self.call = call or module
        self.parameters = dict(module.named_parameters())

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        count = len(values) - len(self.parameters)
        with self._holding(values[count:], values[0]):
            return tuple(_flat(self.call(*values[:count])))

    def values(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, then the parameters' current arrays, by name: what `tinygen.gradcheck` is given."""
        return {**inputs, **{name: np.array(to_device(p._data, "cpu")) for name, p in self.parameters.items()}}

    @contextmanager
    def _holding(self, values: tuple[Any, ...], first: Any) -> Iterator[None]:
        kept = [(p, p._data, p._node) for p in self.parameters.values()]
        buffers = [(owner, name, getattr(owner, name)) for _, owner, name in self.module._state() if isinstance(name, str)]
        generators = [(module, module.rng) for module in self.module.modules() if hasattr(module, "rng")]
        like = array_of(values[0] if values else first)
        try:
            for parameter, value in zip(self.parameters.values(), values):
                parameter._data = array_of(value)
                parameter._node = value._node if isinstance(value, Tensor) else None
            for owner, name, buffer in buffers:
                floating = buffer.dtype.kind == "f" and like.dtype.kind == "f"
                copy = buffer.astype(like.dtype if floating else buffer.dtype, copy=True)
                object.__setattr__(owner, name, to_device(copy, device_of(like)))
            for module, _ in generators:
                module.rng = np.random.default_rng(7)
            yield
        finally:
            for parameter, data, node in kept:
                parameter._data, parameter._node = data, node
            for owner, name, buffer in buffers:
                object.__setattr__(owner, name, buffer)
            for module, rng in generators:
                module.rng = rng


def _flat(outputs: Any) -> Iterator[Any]:
    if isinstance(outputs, (tuple, list)):
        for output in outputs:
            yield from _flat(output)
    else:
        yield outputs
