"""The Tensor: an array plus, where a gradient may be asked for, the graph node that produced it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygen.backend import SCALARS, Array, device_of, is_array, load_cupy, module_of, to_device
from tinygen.graph import Node, backpropagate, recording


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    Args:
        data: anything `numpy.array` takes, a CuPy array or a Tensor. It is copied, so that the graph and the caller never
            share memory by accident; `tinygen.from_dlpack` shares.
        requires_grad: collect d(output)/d(this) in `.grad` when `output.backward()` runs. Floating dtypes only.
        dtype: of the copy. Python floats become float32; arrays keep their dtype.

    Dtypes: float32 stays float32. Python and NumPy scalars never change a floating array's dtype; an integer or boolean array
    that meets a floating one is cast to it, to float32 by a Python float; two floating dtypes promote as in NumPy.
    """

    __slots__ = ("__weakref__", "_data", "_node")
    __array_ufunc__ = None  # so that `array * tensor` asks the Tensor, instead of making an object array
    __array_priority__ = 100.0

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None):
        if isinstance(data, Tensor):
            data = data._data
        if is_array(data):
            self._data = data.astype(dtype or data.dtype, copy=True)
        else:
            array = np.array(data, dtype=dtype)
            weak = dtype is None and array.dtype == np.float64 and not isinstance(data, np.generic)
            self._data = array.astype(np.float32) if weak else array
        if self._data.dtype.kind not in "fiubc":
            raise TypeError(f"Tensor holds numbers, not {self._data.dtype}: pass numeric data or a dtype")
        self._node = self._leaf() if requires_grad else None

    @classmethod
    def _wrap(cls, array: Array, node: Node | None = None) -> Tensor:
        tensor = Tensor.__new__(cls)
        tensor._data = array
        tensor._node = node
        return tensor

    def _leaf(self) -> Node:
        if self.dtype.kind != "f":
            raise TypeError(f"a gradient needs a floating dtype, not {self.dtype}: use .astype('float32') first")
        return Node((self.shape, self.dtype))

    @property
    def data(self) -> Array:
        """The array itself, writable. A change made while a graph needs the old value is an error at `backward`.

        Assigning to it (`t.data = array`, `t.data += 1`) writes into this array, never puts another one in its place.
        """
        if self._node is not None:
            self._node.expose(self._data)
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        if array is not self._data:  # `t.data += 1` comes here after it wrote in place
            if not is_array(array) or array.shape != self.shape or array.dtype != self.dtype:
                raise ValueError(f"data must be an array of shape {self.shape} and dtype {self.dtype}, not {array!r:.60}")
            self._data[...] = array
        self.bump()

    def bump(self) -> None:
        """Say that the array was written in place (optimizers do): a graph that needs the old value will refuse to go on."""
        if self._node is not None:
            self._node.storage().version += 1

    @property
    def requires_grad(self) -> bool:
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            if not value:
                raise RuntimeError(f"requires_grad of a result of {self._node.op.name} is fixed: use .detach()")
        elif not value:
            self._node = None
        elif self._node is None:
            self._node = self._leaf()
            self._node.expose(self._data)  # until now nobody took note of who got `.data`

    @property
    def is_leaf(self) -> bool:
        """Whether no operation produced this tensor."""
        return self._node is None or self._node.op is None

    @property
    def grad(self) -> Array | None:
        """The gradient that `backward` has collected here: a plain array of this shape and dtype, or None."""
        return None if self._node is None else self._node.grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        if self._node is None:
            raise RuntimeError("this tensor collects no gradient: create it with requires_grad=True")
        if value is not None and (not is_array(value) or (value.shape, value.dtype) != (self.shape, self.dtype)):
            raise ValueError(f"grad must be an array of shape {self.shape} and dtype {self.dtype}, not {value!r:.60}")
        self._node.grad = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def device(self) -> str:
        """`"cpu"` or `"cuda:N"`."""
        return device_of(self._data)

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that requires it; for a non-scalar, contracted with `grad`.

        The graph is freed as it is walked unless `retain_graph`; walking a freed graph raises RuntimeError.
        """
        if self._node is None:
            raise RuntimeError("backward() on a tensor without a graph: no input has requires_grad=True")
        backpropagate([self._node], [cotangent(self, grad)], retain=retain_graph)

    def detach(self) -> Tensor:
        """The same values, cut off from the graph (memory is shared)."""
        return Tensor._wrap(self.data)

    def item(self) -> float | int | bool:
        """The only element as a Python number; ValueError unless size is 1."""
        if self.size != 1:
            raise ValueError(f"item() needs exactly one element, this tensor has shape {self.shape}")
        return self._data.item()

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array that cannot be written to (a view on the CPU, a copy from a GPU)."""
        view = to_device(self._data, "cpu").view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    def __repr__(self) -> str:
        body = np.array2string(to_device(self._data, "cpu"), separator=", ", prefix="Tensor(", threshold=100, precision=4)
        notes = [f"shape={self.shape}"] if self.size > 100 or (self.size == 0 and self.ndim > 1) else []
        notes += [f"dtype={self.dtype}"] if self.dtype != np.float32 else []
        notes += [f"device={self.device!r}"] if self.device != "cpu" else []
        if not self.is_leaf:
            notes.append(f"op={self._node.op.name}")
        elif self.requires_grad:
            notes.append("requires_grad=True")
        return f"Tensor({', '.join([body, *notes])})"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self._data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self._data)

    __hash__ = object.__hash__


def from_dlpack(source: Any) -> Tensor:
    """A Tensor that shares the memory of any object with `__dlpack__` (NumPy, CuPy, PyTorch, JAX arrays)."""
    on_gpu = source.__dlpack_device__()[0] == 2
    return Tensor._wrap((load_cupy() if on_gpu else np).from_dlpack(source))


def array_of(value: Any) -> Any:
    """The plain array behind a Tensor; arrays and scalars as they are, NumPy scalars as Python's, sequences as arrays."""
    if isinstance(value, Tensor):
        return value._data
    if type(value) is np.ndarray or type(value) in SCALARS:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if is_array(value):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"expected a Tensor, an array or a number, not {type(value).__name__}: {value!r:.60}")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def cotangent(output: Tensor, grad: Any) -> Array:
    """The array that a backward pass starts from: `grad` checked against `output`, or 1 for a scalar."""
    if grad is None:
        if output.size != 1:
            raise RuntimeError(
                f"backward() of a tensor of shape {output.shape} needs a grad of that shape (only a scalar has 1)"
            )
        return module_of(output._data).ones(output.shape, output.dtype)
    array = array_of(grad)
    array = to_device(module_of(array).asarray(array), output.device)
    if array.shape != output.shape:
        raise ValueError(f"grad has shape {array.shape}, expected {output.shape}, the output's")
    return array.astype(output.dtype, copy=False)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor | None, ...] | Tensor | None:
    """d(sum of outputs · grad_outputs)/d(inputs), as Tensors; `.grad` of no leaf changes.

    One gradient for a single Tensor, else a tuple; None for an input that the outputs do not depend on. With `create_graph` the
    gradients carry a graph of their own, to any order. The graph of `outputs` is freed unless `retain_graph` (default: the
    value of `create_graph`).
    """
    single = isinstance(inputs, Tensor)
    inputs = [inputs] if single else list(inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    seeds = [grad_outputs] if len(outputs) == 1 and not isinstance(grad_outputs, (list, tuple)) else grad_outputs
    seeds = [None] * len(outputs) if seeds is None else list(seeds)
    if len(seeds) != len(outputs):
        raise ValueError(f"grad_outputs has {len(seeds)} entries for {len(outputs)} outputs")
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for i, tensor in enumerate(tensors):
            if tensor._node is None:
                raise RuntimeError(f"{kind} {i} has no graph: it needs requires_grad=True before the outputs are computed")
    starts = [
        seed if create_graph and isinstance(seed, Tensor) and seed.shape == output.shape else cotangent(output, seed)
        for output, seed in zip(outputs, seeds)
    ]
    if create_graph:
        starts = [start if isinstance(start, Tensor) else Tensor._wrap(start) for start in starts]
    wrap = Tensor._wrap if create_graph else None
    retain = create_graph if retain_graph is None else retain_graph
    with recording(create_graph):
        found = backpropagate([t._node for t in outputs], starts, [t._node for t in inputs], wrap, retain)
    results = tuple([g if g is None or isinstance(g, Tensor) else Tensor._wrap(g) for g in found])
    return results[0] if single else results
