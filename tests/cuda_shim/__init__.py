"""A CuPy whose device is this machine's processor, so that a kernel's cuda.py and .cu are tested without a GPU.

    from cuda_shim import cuda_on_cpu

    with cuda_on_cpu(multiprocessors=3, seed=1):
        y = tinygen.kernels.NAME.cuda.forward(x, weight)        # NumPy arrays in and out

Inside, `import cupy` gives a module that is NumPy but for what it takes to compile and launch: `RawModule` hands the .cu to
g++ behind cuda_shim.h (which says what is caught there) and `get_function` launches it through ctypes, arguments checked
against the kernel's parameters. So what runs is the cuda.py and the loader in kernels/runtime.py that a GPU runs. What
`empty` returns is NaN. `seed` draws the order in which blocks and threads run (0: that of their indices): a kernel without
a race gives the same bits for every seed. With CUDA_SHIM_SANITIZE set in the environment, g++ adds the address and
undefined-behaviour sanitizers; the process must then have been started as `sanitized` says.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tinygen.kernels import runtime

COMPILER = os.environ.get("CXX", "g++")
WITHOUT_COMPILER = None if shutil.which(COMPILER) else f"needs a C++ compiler: {COMPILER} is not on the path"
SANITIZE = "CUDA_SHIM_SANITIZE" in os.environ
FLAGS = ["-std=c++20", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-Wl,-Bsymbolic"]
HEADER = Path(__file__).with_name("cuda_shim.h")
CHECKS = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;")


class CompileError(Exception):
    """g++ refused the source."""


class RawModule:
    """The kernels of a source text, compiled by g++ with the -D and -I among the options."""

    def __init__(self, code: str, options: tuple[str, ...] = (), seed: int = 0):
        self._build = functools.partial(_library, code, options)
        self._seed = seed

    def compile(self) -> None:
        self._build()

    def get_function(self, name: str) -> "Function":
        return Function(self._build(), name, self._seed)


class Function:
    """A kernel, called as CuPy's are: function(grid, block, arguments, shared_mem=bytes)."""

    def __init__(self, library: ctypes.CDLL, name: str, seed: int):
        self.name = name
        self.max_dynamic_shared_size_bytes = 48 << 10
        self._seed = seed
        signature = getattr(library, f"shim_signature_{name}")
        signature.restype = ctypes.c_char_p
        self._signature = signature().decode().split()
        self._launch = getattr(library, f"shim_launch_{name}")
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint)

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        grid, block = ((*size, 1, 1)[:3] for size in (grid, block))
        self._check_sizes(grid, block, shared_mem)
        given = " ".join(map(_code, args))
        if len(args) != len(self._signature) or not all(map(_fits, self._signature, args)):
            raise TypeError(f"{self.name} takes ({' '.join(self._signature)}), got ({given})")
        values = [_value(argument) for argument in args]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = [np.array(size, np.uint32) for size in (grid, block)]
        failure = self._launch(*(size.ctypes.data for size in sizes), shared_mem, pointers, self._seed)
        if failure:
            raise RuntimeError(f"{self.name}: {failure.decode()}")

    def _check_sizes(self, grid: tuple, block: tuple, shared_mem: int) -> None:
        for name, size, most in (("grid", grid, (2**31 - 1, 65535, 65535)), ("block", block, (1024, 1024, 64))):
            if not all(1 <= n <= limit for n, limit in zip(size, most)):
                raise ValueError(f"{self.name}: {name} {size} is outside 1 to {most}")
        if np.prod(block) > 1024:
            raise ValueError(f"{self.name}: a block of {block} has more than 1024 threads")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"{self.name}: {shared_mem} bytes of shared memory, {self.max_dynamic_shared_size_bytes} allowed")


class CudaOnCpu(types.ModuleType):
    """NumPy, with the few names of CuPy that have to do with a device."""

    def __init__(self, multiprocessors: int, seed: int):
        super().__init__("cupy")
        self.__version__ = "on the CPU"
        device = types.SimpleNamespace(id=-1, attributes={"MultiProcessorCount": multiprocessors})
        self.cuda = types.SimpleNamespace(
            Device=lambda: device,
            compiler=types.SimpleNamespace(CompileException=CompileError),
            runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError),
        )
        self.RawModule = functools.partial(RawModule, seed=seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        return self.empty(array.shape, array.dtype)


@contextlib.contextmanager
def cuda_on_cpu(multiprocessors: int = 4, seed: int = 0) -> Iterator[CudaOnCpu]:
    """Let `import cupy`, and kernels/runtime.py with it, find the device described above."""
    caches = (runtime.cupy, runtime._cuda_module)
    with mock.patch.dict(sys.modules, cupy=CudaOnCpu(multiprocessors, seed)):
        for cache in caches:
            cache.cache_clear()
        try:
            yield sys.modules["cupy"]
        finally:
            for cache in caches:
                cache.cache_clear()


def sanitized() -> dict[str, str] | None:
    """The environment for a Python process that runs kernels with sanitizers, or None where g++ has none."""
    library = subprocess.run(
        [COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(library):
        return None
    # Python frees little at its end, and libraries of other compilers must not be asked to link with ASan.
    options = {
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "LD_PRELOAD": library,
        "CUDA_SHIM_SANITIZE": "1",
    }
    return {**os.environ, **options}


def _code(argument: Any) -> str:
    """A value's type as the shim writes those of parameters. CuPy passes Python's numbers as long long and double."""
    kind = np.asarray(argument).dtype
    return f"{'P' * isinstance(argument, np.ndarray)}{kind.kind}{kind.itemsize}"


def _fits(parameter: str, argument: Any) -> bool:
    return parameter == _code(argument) or (parameter.startswith("PV") and isinstance(argument, np.ndarray))


def _value(argument: Any) -> np.ndarray:
    """An array of one element, which is what the kernel's parameter shall hold."""
    return np.array([argument.ctypes.data], np.uintp) if isinstance(argument, np.ndarray) else np.array([argument])


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="cuda-on-cpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    chosen = [option for option in options if option.startswith(("-D", "-I"))]
    code = _compile(f'#line 1 "kernel.cu"\n{code}', "-E", *chosen)  # macros may hide kernels
    code = DYNAMIC_SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(cuda_shim::dynamic_shared.get());", code)
    launchers = "".join(f"SHIM_KERNEL({name})\n" for name in KERNEL.findall(code))
    # The unnamed namespace gives templates internal linkage: their shared arrays could not be in one section otherwise.
    text = f'#include "{HEADER}"\nnamespace {{\n{code}\n}}\n{launchers}'
    target = _folder() / f"{len(list(_folder().iterdir()))}.so"
    _compile(text, *FLAGS, *(CHECKS if SANITIZE else ["-O1"]), "-o", str(target))
    return ctypes.CDLL(str(target))


def _compile(text: str, *arguments: str) -> str:
    built = subprocess.run([COMPILER, *arguments, "-x", "c++", "-"], input=text, capture_output=True, text=True)
    if built.returncode:
        raise CompileError(built.stderr)
    return built.stdout
