"""A CuPy whose device is this machine's processor, so that a kernel's cuda.py and .cu are tested without a GPU.

    from cuda_shim import cuda_on_cpu, needs_compiler

    @needs_compiler
    def test_my_kernel():
        with cuda_on_cpu(multiprocessors=3):
            y = tinygen.kernels.my_kernel.forward(x, weight)        # NumPy arrays in and out

Inside, kernels choose their cuda.py for NumPy's arrays, and `import cupy` gives a module that is NumPy but for what it takes to
compile and launch: `RawModule` hands the .cu to g++ behind cuda_shim.h (which says what is supported) and `get_function`
launches it through ctypes. So what runs is the very cuda.py, and the very loader in kernels/runtime.py, that a GPU runs. What
`empty` returns is NaN.

Each launch looks for what a GPU would not say. Arguments must match the kernel's parameters, arrays be contiguous, sizes be
within a device's limits. The kernel runs twice, on copies: once with blocks and threads in the order of their indices, once
in an order drawn from `seed`; the bits must be the same, which they are not where a barrier is missing or a sum depends on who
comes first. Nothing may be written in front of or behind an array, and what is read there is NaN.

With CUDA_SHIM_SANITIZE set in the environment, g++ adds the address and undefined-behaviour sanitizers, which see every wrong
access, shared memory included; the process must then have been started with the environment that `sanitized` returns.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib
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
import pytest

from tinygen.kernels import runtime

COMPILER = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"needs a C++ compiler: {COMPILER} is not on the path")
SANITIZE = "CUDA_SHIM_SANITIZE" in os.environ
CHECKS = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++17", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-Wl,-Bsymbolic", *(CHECKS if SANITIZE else ["-O1"])]
GUARD = 0 if SANITIZE else 4096  # bytes on both sides of every array
SHARED = 99 << 10  # bytes of shared memory that a block can have
HEADER = Path(__file__).with_name("cuda_shim.h")

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;")


class CompileError(Exception):
    """g++ refused the source."""


class RawModule:
    """The kernels of a source text, compiled by g++ with the -D and -I among the options."""

    def __init__(self, code: str, options: tuple[str, ...] = (), seed: int = 1):
        self._source = code, options
        self._seed = seed

    def compile(self) -> ctypes.CDLL:
        library = _library(*self._source)
        if isinstance(library, CompileError):
            raise library
        return library

    def get_function(self, name: str) -> "Function":
        return Function(self.compile(), name, self._seed)


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
        self._check_arguments(args)
        seeds = (self._seed,) if SANITIZE else (0, self._seed)
        first, *_, second = 2 * [self._run(grid, block, args, shared_mem, seed) for seed in seeds]
        for number, argument in enumerate(args):
            if isinstance(argument, np.ndarray):
                if first[number].tobytes() != second[number].tobytes():
                    raise RuntimeError(f"{self.name}: argument {number} depends on the order in which threads run")
                if first[number].tobytes() != argument.tobytes():
                    argument[...] = first[number]

    def _run(self, grid: tuple, block: tuple, args: tuple, shared_mem: int, seed: int) -> list:
        """The arguments, arrays as copies, after a run on them. Arrays at one address share a copy."""
        guarded = {a.ctypes.data: _guarded(a) for a in args if isinstance(a, np.ndarray)}
        copies = [guarded[a.ctypes.data] if isinstance(a, np.ndarray) else a for a in args]
        values = [np.array([a.ctypes.data if isinstance(a, np.ndarray) else a]) for a in copies]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = [np.array(size, np.uint32) for size in (grid, block)]
        failure = self._launch(*(size.ctypes.data for size in sizes), shared_mem, pointers, seed)
        if failure:
            raise RuntimeError(f"{self.name}: {failure.decode()}")
        for number, copy in enumerate(copies):
            if isinstance(copy, np.ndarray):
                memory = copy.base
                if (memory[:GUARD] != 0xFF).any() or (memory[GUARD + copy.nbytes :] != 0xFF).any():
                    raise RuntimeError(f"{self.name}: something was written outside of argument {number}")
        return copies

    def _check_arguments(self, args: tuple) -> None:
        if len(args) != len(self._signature) or not all(map(_fits, self._signature, args)):
            raise TypeError(f"{self.name} takes ({' '.join(self._signature)}), got ({' '.join(map(_code, args))})")
        for number, argument in enumerate(args):
            if isinstance(argument, np.ndarray) and not argument.flags.c_contiguous:
                raise ValueError(f"{self.name}: argument {number} is not contiguous, and a kernel sees its memory only")

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

    def __init__(self, multiprocessors: int, seed: int, shared_memory: int = SHARED):
        super().__init__("cupy")
        self.__version__ = "on the CPU"
        attributes = {"MultiProcessorCount": multiprocessors, "MaxSharedMemoryPerBlockOptin": shared_memory}
        device = types.SimpleNamespace(id=-1, attributes=attributes, compute_capability="90")
        self.cuda = types.SimpleNamespace(
            Device=lambda number=-1: device,
            compiler=types.SimpleNamespace(CompileException=CompileError),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0), getSupportedArchs=lambda: (75, 80, 90)),
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
def cuda_on_cpu(multiprocessors: int = 4, seed: int = 1, shared_memory: int = SHARED) -> Iterator[CudaOnCpu]:
    """Let `import cupy`, and kernels/runtime.py with it, find the device described above."""
    chosen = mock.patch.object(runtime, "_module_for", lambda package, _: importlib.import_module(f"{package}.cuda"))
    with imported_as_cupy(CudaOnCpu(multiprocessors, seed, shared_memory)) as module, chosen:
        yield module


@contextlib.contextmanager
def imported_as_cupy(module: types.ModuleType) -> Iterator[types.ModuleType]:
    """Let `import cupy` find `module`; before and after, forget what the runtime and the kernels keep of a device."""
    before = sys.modules.get("cupy")
    forget()
    sys.modules["cupy"] = module
    try:
        yield module
    finally:
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
        forget()


def forget() -> None:
    """Empty every cache of compiled sources, and of arrays that lie on a device."""
    caches = [runtime.cupy, runtime._cuda_module, runtime._cuda_function, runtime._attribute]
    for name, module in list(sys.modules.items()):
        if name.startswith("tinygen.kernels.") and name.endswith("cuda"):
            caches += [value for value in vars(module).values() if hasattr(value, "cache_clear")]
    for cache in caches:
        cache.cache_clear()


def sanitized() -> dict[str, str] | None:
    """The environment for a Python process that runs kernels with sanitizers, or None where the compiler has none."""
    command = [COMPILER, "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(library):
        return None
    asan = "detect_leaks=0:detect_stack_use_after_return=0"  # Python frees little at its end; fibers have their own stacks
    return {**os.environ, "ASAN_OPTIONS": asan, "LD_PRELOAD": library, "CUDA_SHIM_SANITIZE": "1"}


def _code(argument: Any) -> str:
    """A value's type as the shim writes those of parameters. CuPy passes Python's numbers as long long and double."""
    kind = np.asarray(argument).dtype
    return f"{'P' * isinstance(argument, np.ndarray)}{kind.kind}{kind.itemsize}"


def _fits(parameter: str, argument: Any) -> bool:
    return parameter == _code(argument) or (parameter.startswith("PV") and isinstance(argument, np.ndarray))


def _guarded(array: np.ndarray) -> np.ndarray:
    memory = np.full(array.nbytes + 2 * GUARD, 0xFF, np.uint8)  # NaN, where it is read as floating-point numbers
    copy = np.ndarray(array.shape, array.dtype, memory, GUARD)
    copy[...] = array
    return copy


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="cuda-on-cpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL | CompileError:
    chosen = [option for option in options if option.startswith(("-D", "-I"))]
    target = _folder() / f"{len(list(_folder().iterdir()))}.so"
    try:
        code = _compile(f'#line 1 "kernel.cu"\n{code}', "-E", *chosen)  # macros may hide kernels
        code = DYNAMIC_SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(cuda_shim::dynamic_shared.get());", code)
        launchers = "".join(f"SHIM_KERNEL({name})\n" for name in KERNEL.findall(code))
        # The unnamed namespace gives templates internal linkage: their shared arrays could not be in one section otherwise.
        _compile(f"namespace {{\n{code}\n}}\n{launchers}", *FLAGS, "-include", str(HEADER), "-o", str(target))
    except CompileError as error:
        return error
    return ctypes.CDLL(str(target))


def _compile(text: str, *arguments: str) -> str:
    command = [COMPILER, *arguments, "-x", "c++", "-"]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    built = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    if built.returncode:
        raise CompileError(built.stderr)
    return built.stdout
