"""What every layer is: an object whose attributes are parameters, buffers and other layers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from tinygen.backend import Array, device_of, module_of, to_device
from tinygen.nn.serialize import load_arrays, save_arrays
from tinygen.tensor import Tensor


class Parameter(Tensor):
    """A Tensor that requires a gradient and that a Module owns; its array is a C-ordered copy of `data`."""

    __slots__ = ()

    def __init__(self, data):
        super().__init__(np.array(data, order="C") if isinstance(data, np.ndarray) else data, requires_grad=True)


class Module:
    """The base of all layers: define `forward`, assign parameters and layers as attributes, call the object.

    Every attribute that is a Parameter or a Module is found by name, also inside lists, tuples and dicts, as
    "attribute", "attribute.index" or "attribute.key"; there is no `super().__init__()` to remember. Other arrays that
    belong to the state are announced by `register_buffer`. `training` tells layers that behave differently then.
    """

    training = True
    _buffers: tuple[str, ...] = ()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter | None):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter and cannot become a {type(value).__name__}: "
                f"change its values by {name}.data[...] = value, or assign a Parameter or None"
            )
        object.__setattr__(self, name, value)

    def register_buffer(self, name: str, array: Array) -> None:
        """Make `array` the attribute `name`: part of `state_dict` and moved by `to`, but never trained."""
        object.__setattr__(self, name, array)
        self._buffers += (name,)

    def on_host(self, name: str) -> np.ndarray:
        """The buffer `name` as a NumPy array, to be read only.

        From a GPU it is fetched once, and again after `to`, `load_state_dict` or `register_buffer`: write into it by these.
        """
        array = getattr(self, name)
        if module_of(array) is np:
            return array
        fetched = vars(self).setdefault("_fetched", {})
        if name not in fetched or fetched[name][0] is not array:
            fetched[name] = array, to_device(array, "cpu")
        return fetched[name][1]

    # ---- The tree of modules ----

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below this one."""
        return ((name, value) for name, value in _entries(vars(self)) if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all those below it, each once, parents first."""
        return _unique(module for _, module in self._named_modules())

    def _named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self.children():
            yield from child._named_modules(f"{prefix}{name}.")

    def _state(self) -> Iterator[tuple[str, Module, Parameter | str]]:
        """(full name, owning module, Parameter or buffer's attribute name); a shared one under each of its names."""
        for prefix, module in self._named_modules():
            for name, value in _entries(vars(module)):
                if isinstance(value, Parameter):
                    yield prefix + name, module, value
                elif name in module._buffers:
                    yield prefix + name, module, name

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(full name, parameter), each parameter once, under its first name."""
        seen = set()
        for name, _, value in self._state():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter of this module and those below it, once."""
        return (parameter for _, parameter in self.named_parameters())

    # ---- What is done to all of them ----

    def train(self, mode: bool = True) -> Self:
        """Switch dropout, batch normalization and their like to training (or, with False, to evaluation)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """`train(False)`."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: str) -> Self:
        """Move all parameters and buffers to `device` ("cpu", "cuda" or "cuda:N") in place; gradients are forgotten."""
        for _, module, value in self._state():
            if isinstance(value, Parameter):
                value._data = to_device(value._data, device)
                value.grad = None
                value.bump()
            else:
                object.__setattr__(module, value, to_device(getattr(module, value), device))
        return self

    # ---- The state as arrays ----

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers as NumPy arrays, by full name."""
        return {name: np.array(to_device(_array(module, value), "cpu")) for name, module, value in self._state()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Copy the arrays of `state` into the parameters and buffers of the same names, keeping this module's dtypes.

        Raises ValueError that lists every name that is missing, unexpected, or of the wrong shape or kind of number;
        nothing has been changed then. With `strict=False` missing and unexpected names are left alone.
        """
        slots = {name: (module, value) for name, module, value in self._state()}
        state = {name: np.asarray(array) for name, array in state.items()}
        problems = []
        if strict:
            problems += [f"missing: {name}" for name in slots if name not in state]
            problems += [f"unexpected: {name}" for name in state if name not in slots]
        for name in slots.keys() & state.keys():
            wanted, given = _array(*slots[name]), state[name]
            if given.shape != wanted.shape:
                problems.append(f"wrong shape: {name} is {tuple(given.shape)}, expected {wanted.shape}")
            elif not np.can_cast(given.dtype, wanted.dtype, "same_kind"):
                problems.append(f"wrong dtype: {name} is {given.dtype}, expected {wanted.dtype}")
        if problems:
            raise ValueError(f"{type(self).__name__} cannot load this state:\n  " + "\n  ".join(sorted(problems)))
        for name in slots.keys() & state.keys():
            _fill(*slots[name], state[name])

    def __repr__(self) -> str:
        settings = [
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if isinstance(value, bool | int | float | str | tuple) and name != "training" and not name.startswith("_")
        ]
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.children()]
        return (
            f"{type(self).__name__}({', '.join(settings)}" + "".join("\n" + line for line in lines) + "\n" * bool(lines) + ")"
        )


class Sequential(Module):
    """Applies its modules one after the other; they are named "0", "1", ... as in PyTorch."""

    def __init__(self, *modules: Module):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        """Add `module` at the end."""
        if not isinstance(module, Module):
            raise TypeError(f"Sequential holds Modules, not a {type(module).__name__}")
        setattr(self, str(len(self)), module)
        return self

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x

    def __iter__(self) -> Iterator[Module]:
        return (value for value in vars(self).values() if isinstance(value, Module))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]


def save(path: str | os.PathLike, module: Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write `module.state_dict()` to a safetensors file, atomically."""
    save_arrays(path, module.state_dict(), metadata)


def load(path: str | os.PathLike, module: Module, strict: bool = True) -> dict[str, str]:
    """Fill `module` from a safetensors file, as `load_state_dict` does, and return the file's metadata."""
    arrays, metadata = load_arrays(path)
    module.load_state_dict(arrays, strict)
    return metadata


def _entries(attributes: Mapping | list | tuple, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(name, value) of all attributes, those inside lists, tuples and dicts included."""
    items = attributes.items() if isinstance(attributes, Mapping) else enumerate(attributes)
    for name, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unique(values: Iterator[Any]) -> Iterator[Any]:
    return iter({id(value): value for value in values}.values())


def _array(module: Module, value: Parameter | str) -> Array:
    return value._data if isinstance(value, Parameter) else getattr(module, value)


def _fill(module: Module, value: Parameter | str, given: np.ndarray) -> None:
    target = _array(module, value)
    target[...] = to_device(given, device_of(target))
    if isinstance(value, Parameter):
        value.bump()
    else:
        vars(module).get("_fetched", {}).pop(value, None)
