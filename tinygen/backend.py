"""Which array library an array belongs to: the one place that tells NumPy from CuPy.

Everything above asks `module_of(array)` for the library and calls it by NumPy's names; CuPy has the same ones.
CuPy is imported only when somebody asks for a GPU.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray
SCALARS = (bool, int, float, complex)

_MODULES: dict[type, ModuleType] = {np.ndarray: np}
_MODULES.update(dict.fromkeys(SCALARS, np))


def module_of(*arrays: Array) -> ModuleType:
    """The module (numpy or cupy) whose functions apply to `arrays`; cupy as soon as one of them lives there.

    Python and NumPy scalars belong to both, so they decide only when nothing else does.
    Raises TypeError for what is no array.
    """
    for array in arrays:
        module = _MODULES.get(type(array))
        if module is None:
            module = _lookup(type(array))
        if module is not np:
            return module
    return np


def _lookup(kind: type) -> ModuleType:
    if issubclass(kind, (np.ndarray, np.generic)):
        module = np
    elif kind.__module__.partition(".")[0] == "cupy":
        module = sys.modules["cupy"]
    else:
        raise TypeError(f"{kind.__name__} is no array: expected numpy.ndarray, cupy.ndarray or a number")
    _MODULES[kind] = module
    return module


def is_array(value: object) -> bool:
    """Whether `value` is an array (of at least zero dimensions) of a library that tinygen computes with."""
    kind = type(value)
    return kind is np.ndarray or isinstance(value, np.ndarray) or kind.__module__.partition(".")[0] == "cupy"


def device_of(array: Array) -> str:
    """`"cpu"`, or `"cuda:0"` with the device's number."""
    return "cpu" if module_of(array) is np else f"cuda:{array.device.id}"


def to_device(array: Array, device: str) -> Array:
    """`array` on `device` (`"cpu"`, `"cuda"` or `"cuda:1"`); itself when it is there already.

    Raises ValueError for a device that has another name, RuntimeError where there is no CuPy or no GPU.
    """
    kind, colon, number = device.partition(":")
    if device == "cpu":
        return array if module_of(array) is np else sys.modules["cupy"].asnumpy(array)
    if kind != "cuda" or (colon and not number.isdigit()):
        raise ValueError(f"device {device!r} is unknown: expected 'cpu', 'cuda' or 'cuda:N'")
    cupy = load_cupy()
    with cupy.cuda.Device(int(number or 0)):
        return cupy.asarray(array)


def load_cupy() -> ModuleType:
    """Import CuPy, or say in one line what is missing (RuntimeError)."""
    try:
        import cupy
    except ImportError:
        raise RuntimeError(
            "device 'cuda' needs CuPy: pip install 'tinygen[cuda13]' (or 'tinygen[cuda12]' for a CUDA 12 driver)"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device 'cuda' was asked for, but CUDA found no usable GPU: {error}") from None
    if count == 0:
        raise RuntimeError("device 'cuda' was asked for, but this machine shows no GPU; use device 'cpu'")
    return cupy
