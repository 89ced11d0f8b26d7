"""Where the sides compute: on this machine's processor or, with `--device cuda`, on its GPU; and how a call is timed there."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from tinygen import Tensor
from tinygen.backend import describe_gpu, gpu, is_array, load_cupy, to_device

name = "cpu"
_place: Any = None  # what PyTorch calls it; its own default is the processor


def use(device: str) -> None:
    """Let every array made by `ours`, and every tensor made by `theirs`, lie on `device` ("cpu", "cuda", "cuda:N").

    Raises RuntimeError or ValueError, with the way out, where tinygen or PyTorch cannot compute there.
    """
    global name, _place
    if device != "cpu":
        gpu(device).use()
    name, _place = device, None if device == "cpu" else torch_gpu(device)


def torch_gpu(device: str) -> Any:
    """PyTorch's torch.device of that GPU, set to the arithmetic that is compared; RuntimeError where PyTorch finds none."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU: install the build for the driver's CUDA version")
    # TF32 keeps 10 bits of a factor's 23, which is no float32: CuPy computes in full float32, so PyTorch has to as well.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # PyTorch's convolutions at their best: in its first call each tries the algorithms, and those calls are not timed.
    torch.backends.cudnn.benchmark = True
    return torch.device(device)


def kind() -> str:
    """`name` without a number: "cpu" or "cuda"."""
    return name.partition(":")[0]


def on_gpu() -> bool:
    """Whether the sides compute on a GPU."""
    return name != "cpu"


def ours(array: np.ndarray) -> Any:
    """`array` where tinygen is to compute with it."""
    return to_device(array, name)


def theirs(array: np.ndarray, **options: Any) -> Any:
    """A PyTorch tensor of `array` where PyTorch is to compute with it; the options are those of `torch.tensor`.

    Every tensor says where it lies: `torch.set_default_device` would add half a microsecond to each call of PyTorch.
    """
    import torch

    return torch.tensor(array, device=_place, **options)


def moved(module: Any) -> Any:
    """The PyTorch module, where PyTorch is to compute with it."""
    return module.to(_place)


def library() -> ModuleType:
    """NumPy, or CuPy."""
    return load_cupy() if on_gpu() else np


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
    if not on_gpu():
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
    """The GPU (see `tinygen.backend.describe_gpu`), or None on the CPU."""
    return describe_gpu(name) if on_gpu() else None
