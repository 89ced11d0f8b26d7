"""What every kernel shares: choosing CPU or GPU, Numba's configuration, and loading CUDA source into CuPy.

Numba and CuPy are imported when a kernel is first used, never by importing this module.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SPINS = "300"  # rounds in which an idle thread looks for work, some microseconds, before it sleeps
FASTMATH = {"contract", "nsz", "reassoc"}  # what vectorizing a sum needs; NaN and inf keep their meaning


def implementation(package: str, array: Any) -> ModuleType:
    """Return the module `cpu` or `cuda` of a kernel's package, imported at its first use.

    `package` is the caller's `__name__`; a `numpy.ndarray` selects `cpu`, a `cupy.ndarray` selects `cuda`.
    Raises TypeError for anything else.
    """
    return _module_for(package, type(array))


@functools.cache
def _module_for(package: str, kind: type) -> ModuleType:
    if issubclass(kind, np.ndarray):
        return importlib.import_module(f"{package}.cpu")
    if kind.__name__ == "ndarray" and kind.__module__.partition(".")[0] == "cupy":
        return importlib.import_module(f"{package}.cuda")
    raise TypeError(
        f"{package} takes numpy.ndarray or cupy.ndarray, got {kind.__module__}.{kind.__qualname__}; "
        "convert it with numpy.asarray or cupy.asarray"
    )


# ---- Numba ----

_labels: dict[Callable, str] = {}  # the functions compiled here, with the names under which that is announced
_parallel_call = threading.Lock()


@functools.cache
def configured_numba() -> ModuleType:
    """Import Numba and configure it, once.

    The threading layer, unless the environment names one, is GNU's OpenMP where it can be had: it starts a parallel loop in
    microseconds. Numba's own `workqueue`, which is always there, takes 0.1 ms, a third of a masked layer of 784 x 500. What
    OpenMP cannot do is run in the fork of a process that has used it: Numba ends such a process, with a line that says so.
    Processes are to be spawned, or the environment is to have NUMBA_THREADING_LAYER=workqueue.
    """
    import numba
    from numba.core import event

    if "NUMBA_THREADING_LAYER" not in os.environ:
        numba.config.THREADING_LAYER = "omp" if _load_openmp() else "workqueue"
    event.register("numba:compile", _announcer(event.Listener))
    return numba


def _load_openmp() -> bool:
    """Load GNU's OpenMP into Numba, with idle threads that go to sleep soon; False where that cannot be done.

    By default they spin for milliseconds, on the cores that the next matrix product of BLAS wants: a VAE's training step
    then takes six times as long. The library reads how long when it is loaded, and only then. A fresh Debian has no libgomp.
    """
    maps, spin = Path("/proc/self/maps"), {"GOMP_SPINCOUNT": SPINS}
    if not maps.exists() or "/libgomp.so" in maps.read_text():
        return False
    if os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        spin = {}
    os.environ.update(spin)
    try:
        from numba.np.ufunc import omppool
    except ImportError:
        return False
    finally:
        for name in spin:
            del os.environ[name]
    return omppool.openmp_vendor == "GNU"


def jit(function: Callable | None = None, *, fastmath: Any = FASTMATH, cache: bool = True, **options: Any) -> Callable:
    """Compile with Numba in nopython mode: no GIL, cached on disk, and no exception for a division by zero.

    Python's division check is a branch in every lane, so `error_model="numpy"` is what lets a loop with a division
    vectorize. Further `options` go to `numba.njit`.
    """
    if function is None:
        return functools.partial(jit, fastmath=fastmath, cache=cache, **options)
    dispatcher = configured_numba().njit(error_model="numpy", fastmath=fastmath, nogil=True, **options)(function)
    if cache:
        with _cache_folder(), contextlib.suppress(RuntimeError):  # no writable folder: each process compiles
            dispatcher.enable_caching()
    _labels[function] = f"{function.__module__.removeprefix('tinygen.kernels.')}.{function.__name__}"
    return dispatcher


def pjit(function: Callable) -> Callable:
    """Compile a kernel that holds a `prange`, as `jit` does, and let one Python thread at a time run such a kernel.

    Two parallel kernels at once would oversubscribe the cores, or abort the process where the layer is `workqueue`.
    The dispatcher is kept as `.dispatcher`, for inspection.
    """
    dispatcher = jit(function, parallel=True)

    @functools.wraps(function)
    def kernel(*arguments: Any) -> Any:
        with _parallel_call:
            return dispatcher(*arguments)

    kernel.dispatcher = dispatcher
    return kernel


def plain(array: np.ndarray) -> np.ndarray:
    """Return the array, or a copy of it where it is strided, misaligned, read-only or of a subclass.

    Numba compiles a kernel anew for each of those kinds, for seconds at a time.
    """
    if type(array) is np.ndarray and array.flags.carray:
        return array
    return np.require(array, requirements=("C", "A", "W", "E"))


def share(work: int) -> int:
    """Return how much of `work` falls to each thread, rounded up; at least 1."""
    return max(1, -(-work // configured_numba().get_num_threads()))


@contextlib.contextmanager
def _cache_folder() -> Iterator[None]:
    """Point Numba's cache at a folder named after the modules that kernels inline.

    Numba recompiles a function whose own file changed, not one whose callee in another file did.
    """
    config = configured_numba().config
    outer = config.CACHE_DIR
    config.CACHE_DIR = str(Path(outer or Path(__file__).parent / "__pycache__") / f"kernels-{_shared_digest()}")
    try:
        yield
    finally:
        config.CACHE_DIR = outer


@functools.cache
def _shared_digest() -> str:
    here = Path(__file__).parent
    shared = sorted([*here.glob("*.py"), *here.glob("*/microkernel.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in shared)).hexdigest()[:12]


def _announcer(listener: type) -> Any:
    class Announcer(listener):
        """Say on stderr that a kernel is being compiled. A kernel found in the cache raises no such event."""

        def __init__(self) -> None:
            self.compiling: list[Callable] = []  # Numba compiles under one global lock, so a plain list will do

        def on_start(self, event: Any) -> None:
            function = event.data["dispatcher"].py_func
            if not self.compiling and function in _labels:
                floats = {str(kind) for kind in map(_element, event.data["args"]) if str(kind).startswith("float")}
                print(
                    f"compiling kernel {_labels[function]} for {', '.join(sorted(floats)) or 'integers'} "
                    "(once; cached for later processes)",
                    file=sys.stderr,
                )
            self.compiling.append(function)

        def on_end(self, event: Any) -> None:
            self.compiling.pop()

    return Announcer()


def _element(kind: Any) -> Any:
    return getattr(kind, "dtype", kind)


# ---- CUDA ----


class DeviceError(RuntimeError):
    """There is no GPU to compute on; the text, one line, says why and what to do."""


@functools.cache
def cupy() -> ModuleType:
    """Import CuPy and make sure that a GPU answers and that NVRTC compiles for it. Raises DeviceError."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"device 'cuda' needs CuPy ({_line(error)}): pip install 'tinygen[cuda13]', or 'tinygen[cuda12]' where the CUDA "
            "version that nvidia-smi prints is below 13"
        ) from None
    runtime = cupy.cuda.runtime
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        driver, built = runtime.driverGetVersion() // 1000, runtime.runtimeGetVersion() // 1000
        way_out = "check that nvidia-smi lists a GPU, or use device 'cpu'"
        if 0 < driver < built:
            way_out = f"the driver is for CUDA {driver}: pip install 'tinygen[cuda{driver}]', or update it"
        raise DeviceError(f"CuPy {cupy.__version__} for CUDA {built} finds no GPU ({_line(error)}): {way_out}") from None
    if devices == 0:
        raise DeviceError("device 'cuda' finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device 'cpu'")
    _check_compiler(cupy)
    return cupy


def _check_compiler(cupy: ModuleType) -> None:
    """Raise DeviceError unless NVRTC is there and still compiles for the current device."""
    try:
        version, oldest = cupy.cuda.nvrtc.getVersion(), min(cupy.cuda.nvrtc.getSupportedArchs())
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"CuPy {cupy.__version__} finds no NVRTC ({_line(error)}): pip install 'tinygen[cuda13]' or 'tinygen[cuda12]'"
        ) from None
    capability = int(cupy.cuda.Device().compute_capability)
    if capability < oldest:
        raise DeviceError(
            f"the GPU has compute capability {capability / 10}, and NVRTC of CUDA {version[0]}.{version[1]} compiles for "
            f"{oldest / 10} and newer: pip install 'tinygen[cuda12]' instead of 'tinygen[cuda13]'"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def cuda_function(source: Path, name: str, dtype: np.dtype, **defines: int) -> Callable:
    """Return the kernel `name` of a `.cu` file, compiled with `REAL` defined as `float` or `double`, and `defines`.

    One compilation per file, dtype, definitions and device in a process; CuPy also caches the binary on disk.
    Raises RuntimeError, with the compiler's first complaint, where NVRTC is missing or refuses the source.
    """
    return _cuda_function(source, name, dtype, cupy().cuda.Device().id, tuple(defines.items()))


@functools.cache
def _cuda_function(source: Path, name: str, dtype: np.dtype, device: int, defines: tuple[tuple[str, int], ...]) -> Callable:
    return _cuda_module(source, np.dtype(dtype).name, device, defines).get_function(name)


@functools.cache
def _cuda_module(source: Path, dtype: str, device: int, defines: tuple[tuple[str, int], ...]) -> Any:
    real = {"float32": "float", "float64": "double"}[dtype]
    # CuPy's cache on disk knows the source and the options, and not what the source includes.
    options = ("--std=c++17", f"-DREAL={real}", f"-I{Path(__file__).parent}", f"-DHEADERS={_header_digest()}")
    options += tuple(f"-D{name}={value}" for name, value in defines)
    module = cupy().RawModule(code=source.read_text(), options=options)
    try:
        module.compile()
    except (cupy().cuda.compiler.CompileException, RuntimeError, ImportError, OSError) as error:
        complaint = next((line for line in str(error).splitlines() if "error" in line.lower()), str(error))
        raise RuntimeError(f"{source.name} does not compile for {dtype} on CUDA device {device}: {complaint}") from error
    return module


@functools.cache
def _header_digest() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.cuh")))).hexdigest()[:12]


def multiprocessors() -> int:
    """Return the number of multiprocessors of the current CUDA device, from which kernels size their grids."""
    return _attribute("MultiProcessorCount", cupy().cuda.Device().id)


def shared_memory() -> int:
    """Return how many bytes of shared memory a block can have at most on the current CUDA device."""
    return _attribute("MaxSharedMemoryPerBlockOptin", cupy().cuda.Device().id)


@functools.cache
def _attribute(name: str, device: int) -> int:
    # CuPy asks the driver for all attributes, some hundred, each time: more than a launch costs.
    return cupy().cuda.Device(device).attributes[name]
