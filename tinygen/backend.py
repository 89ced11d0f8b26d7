"""Which array library an array belongs to: the one place that tells NumPy from CuPy.

Everything above asks `module_of(array)` for the library and calls it by NumPy's names; CuPy has the same ones.
CuPy is imported only when somebody asks for a GPU.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.runtime import cupy as load_cupy

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

    Raises ValueError for a device that has another name, RuntimeError where there is no CuPy or no such GPU.
    """
    if device == "cpu":
        return array if module_of(array) is np else sys.modules["cupy"].asnumpy(array)
    with gpu(device):
        return load_cupy().asarray(array)


def gpu(device: str) -> Any:
    """The cupy.cuda.Device of the name `"cuda"` or `"cuda:N"`; raises as `to_device` does.

    CuPy computes on the current device, the first one at the start: `gpu("cuda:1").use()` makes the second one current.
    """
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdigit()):
        raise ValueError(f"device {device!r} is unknown: expected 'cpu', 'cuda' or 'cuda:N'")
    cuda = load_cupy().cuda
    if colon and int(number) >= cuda.runtime.getDeviceCount():
        raise RuntimeError(f"device {device!r} is not here: the last one is 'cuda:{cuda.runtime.getDeviceCount() - 1}'")
    return cuda.Device(int(number or 0))


def describe_gpu(device: str) -> dict[str, Any]:
    """What the GPU of the name `"cuda"` or `"cuda:N"` is; raises as `to_device` does.

    name, compute_capability, multiprocessors, memory_bytes, and the CUDA versions of driver and library, as 1000 major + 10
    minor.
    """
    runtime, number = load_cupy().cuda.runtime, gpu(device).id
    properties = runtime.getDeviceProperties(number)
    return {
        "name": properties["name"].decode(),
        "compute_capability": gpu(device).compute_capability,
        "multiprocessors": properties["multiProcessorCount"],
        "memory_bytes": properties["totalGlobalMem"],
        "cuda_driver": runtime.driverGetVersion(),
        "cuda_runtime": runtime.runtimeGetVersion(),
    }
