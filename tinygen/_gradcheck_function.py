"""The function under test, as the gradient checker sees it: a map from a list of float64 arrays to weighted outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygen import finite_differences as differences
from tinygen.backend import is_array, to_device
from tinygen.tensor import Tensor, array_of, grad


class Function:
    """`fn` as a function of its distinct floating inputs, with one fixed random cotangent for every floating output.

    Attributes: `names` and `arrays` (float64) of the floating inputs; `constants`, the other arrays with their names and with
    copies made before the first call; `cotangents` of the outputs; `device`.
    """

    def __init__(self, fn: Callable, names: Sequence[str], inputs: Sequence[Any], rng: np.random.Generator, device: str):
        self.fn, self.device = fn, device
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []
        self.constants: list[tuple[str, Any, Any]] = []
        self._arguments: list[tuple[bool, Any]] = []  # (True, number of an array) or (False, constant)
        places: dict[int, int] = {}
        for name, value in zip(names, inputs):
            array = np.asarray(value)
            if array.dtype.kind != "f":
                if is_array(value):
                    value = to_device(value.copy(), device)
                    self.constants.append((name, value, value.copy()))
                self._arguments.append((False, value))
                continue
            if id(value) not in places:
                places[id(value)] = len(self.arrays)
                self.names.append(name)
                self.arrays.append(array.astype(np.float64))
            self._arguments.append((True, places[id(value)]))
        if not self.arrays:
            raise ValueError("nothing to check: none of the inputs is a floating array")
        self.cotangents = [rng.standard_normal(y.shape) for y in self.call([self.tensor(x) for x in self.arrays])]

    def at(self, arrays: list[np.ndarray]) -> Function:
        """The same function and cotangents at another point."""
        other = object.__new__(Function)
        vars(other).update(vars(self), arrays=arrays)
        return other

    def tensor(self, x: Any, requires_grad: bool = False) -> Tensor:
        """A Tensor of its own on the device under test."""
        return Tensor(to_device(x, self.device), requires_grad=requires_grad)

    def call(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The floating outputs of `fn` at `values` (Tensors or plain arrays, one for each distinct floating input)."""
        outputs = self.fn(*(values[value] if checked else value for checked, value in self._arguments))
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        return tuple(y for y in outputs if array_of(y).dtype.kind in "fc")

    def terms(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The terms v_ij y_ij of the quantity that is differentiated, for real arrays."""
        return self._weighted([y.numpy() for y in self.call([self.tensor(x) for x in arrays])])

    def complex_terms(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The same through the functions' plain-array path, for complex arrays."""
        return self._weighted(
            [np.asarray(y) if not is_array(y) else y for y in self.call([to_device(x, self.device) for x in arrays])]
        )

    def try_complex(self, line: differences.Line) -> float | None:
        """The complex step along `line` (made of `complex_terms`), or None where the function does not take complex arrays."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a cast that discards the imaginary part only warns
            try:
                return differences.complex_step(line)
            except Exception:  # whatever a function says to an array that it was not made for
                return None

    def _weighted(self, outputs: Sequence[Any]) -> np.ndarray:
        return np.concatenate([(to_device(y, "cpu") * v).ravel() for y, v in zip(outputs, self.cotangents, strict=True)])

    def gradients(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The engine's gradients at `arrays`, in the dtype of the arrays; an input that no output depends on has zeros.

        Other calls come before the forward pass, and between it and the backward pass: a value that a rule caches, or a
        buffer that it shares between calls, is stale then.
        """
        elsewhere = [x * np.linspace(0.9, 0.99, x.size, dtype=x.dtype).reshape(x.shape) for x in arrays]
        self.pull_back(*self.recorded(elsewhere), [-v for v in self.cotangents])
        here = self.recorded(arrays)
        self.recorded(elsewhere)
        return self.pull_back(*here)

    def recorded(self, arrays: Sequence[np.ndarray]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Leaves at `arrays`, and the outputs computed from them."""
        leaves = [self.tensor(x, requires_grad=True) for x in arrays]
        return leaves, self.call(leaves)

    def pull_back(
        self, leaves: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Any] | None = None
    ) -> list[np.ndarray]:
        """The gradients of `leaves` for `cotangents` (by default copies of this function's), as NumPy arrays."""
        cotangents = [v.copy() for v in self.cotangents] if cotangents is None else cotangents
        pairs = [(y, self.seed(y, v)) for y, v in zip(outputs, cotangents) if y.requires_grad]
        found = grad([y for y, _ in pairs], leaves, [v for _, v in pairs]) if pairs else [None] * len(leaves)
        return [np.zeros(x.shape, x.dtype) if g is None else to_device(array_of(g), "cpu") for g, x in zip(found, leaves)]

    def seed(self, y: Tensor, cotangent: np.ndarray) -> Any:
        """A cotangent for output `y`: its dtype and device."""
        return to_device(cotangent.astype(y.dtype, copy=False), self.device)
