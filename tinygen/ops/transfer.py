"""Moving arrays between the CPU and GPUs, as part of the graph."""

from __future__ import annotations

from typing import Any

from tinygen.backend import Array, device_of, to_device
from tinygen.op import differentiable


@differentiable(x=lambda g, home: _to(g, home, home))
def _to(x: Array, /, device: str, home: str) -> Array:
    return to_device(x, device)


def to(x: Any, device: str) -> Any:
    """x on `device` (`"cpu"`, `"cuda"`, `"cuda:N"`); the gradient travels back. RuntimeError without CuPy or a GPU."""
    return _to(x, device, x.device if isinstance(getattr(x, "device", None), str) else device_of(x))
