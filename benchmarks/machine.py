"""The machine, described without its name, and its ceilings: the rates that set a benchmark's floor.

A ceiling is the best rate that any implementation at hand reached, on all threads that the benchmark may use: NumPy,
PyTorch, and our own vectorized functions; on a GPU, CuPy and PyTorch.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import device

TRANSCENDENTALS = ("exp", "sigmoid", "tanh", "softplus")
COPIED = {  # bytes of traffic, from the first cache to main memory; a GPU's second-level cache holds up to 2**26
    "cpu": tuple(2**n for n in (16, 19, 22, 25, 28)),
    "cuda": tuple(2**n for n in (19, 22, 25, 28, 31, 32)),
}
SECONDS = {"cpu": 0.3, "cuda": 0.05}  # for each rate: a GPU's are steady, and its time is dear
LARGEST = {"cpu": 2048, "cuda": 8192}  # square products: enough to fill the processor, or the GPU
VALUES = {"cpu": 2**17, "cuda": 2**26}  # of transcendentals: what stays in the second-level cache, or fills the GPU


@dataclass(frozen=True)
class Ceilings:
    """The measured rates.

    flops: operations a second of the best matrix product, by dtype
    copy_bytes: bytes read plus written a second, by the number of bytes: faster where they fit a cache
    transcendentals: values a second, by dtype and function
    """

    flops: dict[str, float]
    copy_bytes: dict[int, float]
    transcendentals: dict[str, dict[str, float]]

    def bandwidth(self, size: float) -> float:
        """Bytes a second of a copy whose traffic is the largest measured that does not exceed `size` bytes."""
        return self.copy_bytes[max((known for known in self.copy_bytes if known <= size), default=min(self.copy_bytes))]


def describe(threads: int) -> dict[str, object]:
    """CPU model, cores, caches, memory, system. Fields that the system does not tell are None."""
    cpuinfo = _text("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name") or platform.processor() or None,
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "architecture": platform.machine(),
        "vector_extensions": [flag for flag in ("avx2", "fma", "avx512f") if flag in flags],
        "cores": os.cpu_count(),
        "threads_used": threads,
        "caches": _caches(),
        "memory_bytes": _memory(),
        "system": platform.system(),
        "gpu": device.describe(),
    }


def load() -> float | None:
    """Processes that wanted a core, averaged over the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _caches() -> dict[str, str]:
    """Cache sizes as Linux tells them, such as {"L1 data": "48K", "L2 unified": "1024K"}."""
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    return {
        f"L{_text(f'{folder}/level').strip()} {_text(f'{folder}/type').strip().lower()}": _text(f"{folder}/size").strip()
        for folder in folders
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def ceilings(
    seconds: float | None = None, size: int | None = None, copied: Sequence[int] | None = None, values: int | None = None
) -> Ceilings:
    """Measure, for about `seconds` each: square products up to `size`, copies of `copied` bytes, functions of `values`."""
    kind = device.kind()
    size, count, copied = size or LARGEST[kind], values or VALUES[kind], copied or COPIED[kind]
    limit = SECONDS[kind] if seconds is None else seconds

    def best(work: float, attempts: Iterable[Callable[[], object]]) -> float:
        return max(work / _fastest(attempt, limit) for attempt in attempts)

    flops, transcendentals = {}, {}
    for dtype in ("float32", "float64"):
        flops[dtype] = max(best(2 * n**3, _products(n, dtype)) for n in (size // 4, size // 2, size))
        spread = device.library().linspace(-8, 8, count, dtype=dtype)
        transcendentals[dtype] = {f: best(count, _evaluations(f, spread)) for f in TRANSCENDENTALS}
    return Ceilings(flops, {traffic: best(traffic, _copies(traffic)) for traffic in copied}, transcendentals)


def _fastest(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call; other libraries' threads, which a GPU does not wait for, are left 50 ms to fall asleep."""
    time.sleep(0.0 if device.on_gpu() else min(0.05, seconds))
    run()
    fastest, end = np.inf, time.perf_counter() + seconds
    while True:
        fastest = min(fastest, device.seconds(run, 1))
        if time.perf_counter() > end:
            return fastest


def _products(n: int, dtype: str) -> Iterable[Callable[[], object]]:
    """NumPy's (or CuPy's) BLAS, PyTorch's, and for float32 on the CPU the oneDNN that PyTorch uses in its layers."""
    import torch

    a, out = (device.library().full((n, n), 0.5, dtype) for _ in range(2))
    tensor, tensor_out = torch.from_dlpack(a), torch.from_dlpack(out)
    yield lambda: device.library().matmul(a, a, out=out)
    yield lambda: torch.mm(tensor, tensor, out=tensor_out)
    if dtype == "float32" and not device.on_gpu() and torch.backends.mkldnn.is_available():
        tensor = tensor.to_mkldnn()
        yield lambda: torch.nn.functional.linear(tensor, tensor)


def _copies(traffic: int) -> Iterable[Callable[[], object]]:
    import torch

    source, target = (device.library().full(traffic // 2, value, np.uint8) for value in range(2))
    tensor, tensor_target = torch.from_dlpack(source), torch.from_dlpack(target)
    yield lambda: device.library().copyto(target, source)
    yield lambda: tensor_target.copy_(tensor)


def _evaluations(name: str, values: np.ndarray) -> Iterable[Callable[[], object]]:
    import torch

    from benchmarks import vectorized

    out = values.copy()
    tensor, tensor_out = torch.from_dlpack(values), torch.from_dlpack(out)
    if hasattr(np, name):
        yield lambda: getattr(device.library(), name)(values, out=out)
    if name == "softplus":
        yield lambda: torch.nn.functional.softplus(tensor)
    else:
        yield lambda: getattr(torch, name)(tensor, out=tensor_out)
    if not device.on_gpu():
        yield lambda: getattr(vectorized, name)(values, out)
