"""Where the sides compute: on this machine's processor or, with `--device cuda`, on its GPU; and how a call is timed there."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from tinygen import Tensor
from tinygen.backend import gpu, is_array, load_cupy, to_device

name = "cpu"


def use(device: str) -> None:
    """Let every array made by `ours`, and every tensor that PyTorch makes, lie on `device` ("cpu", "cuda", "cuda:N").

    Raises RuntimeError or ValueError, with the way out, where tinygen or PyTorch cannot compute there.
    """
    global name
    import torch

    if device != "cpu":
        gpu(device).use()
        if not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU: install the build for the driver's CUDA version")
    torch.set_default_device(device)
    name = device


def ours(array: np.ndarray) -> Any:
    """`array` where tinygen is to compute with it."""
    return to_device(array, name)


def library() -> ModuleType:
    """NumPy, or CuPy."""
    return np if name == "cpu" else load_cupy()


def on_host(value: Any) -> np.ndarray:
    """What a side returned (a number, or an array or tensor of any library) as a NumPy array."""
    if isinstance(value, Tensor):
        value = value.numpy()
    elif is_array(value):
        value = to_device(value, "cpu")
    elif hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def seconds(run: Callable[[], object], calls: int) -> float:
    """Seconds of one of so many calls of `run`.

    On a GPU, where calls return before the work is done, by CUDA events in the default stream, which CuPy and PyTorch share.
    """
    if name == "cpu":
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - started) / calls
    cuda = load_cupy().cuda
    first, last = cuda.Event(), cuda.Event()
    first.record()
    for _ in range(calls):
        run()
    last.record()
    last.synchronize()
    return cuda.get_elapsed_time(first, last) / 1e3 / calls


def describe() -> dict[str, object] | None:
    """The GPU's name, compute capability, multiprocessors, memory, and the CUDA versions of driver and library."""
    if name == "cpu":
        return None
    runtime, device = load_cupy().cuda.runtime, gpu(name)
    properties = runtime.getDeviceProperties(device.id)
    return {
        "name": properties["name"].decode(),
        "compute_capability": device.compute_capability,
        "multiprocessors": properties["multiProcessorCount"],
        "memory_bytes": properties["totalGlobalMem"],
        "cuda_driver": runtime.driverGetVersion(),
        "cuda_runtime": runtime.runtimeGetVersion(),
    }
