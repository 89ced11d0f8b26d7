"""Run the CUDA kernels of a `.cu` file, and the Python module that launches them, on NumPy arrays without a GPU.

    from cuda_shim.emulate import emulated, needs_compiler

    @needs_compiler
    def test_cuda_equals_reference():
        with emulated("tinygen.kernels.nade.cuda") as cuda:
            y = cuda.forward(...)          # NumPy arrays in, NumPy arrays out

Inside the `with`, the module's `cupy()` is NumPy, and its `cuda_function` compiles the source as C++ with g++ behind
`cuda_shim.h` (which says what is supported) and calls it. Each launch checks what a GPU would not say: the number,
type and dtype of the arguments against the kernel's signature; contiguous arrays; that nothing was written in front of
or behind any array; that every thread reaches the same barriers; and that the results are the same bits whether a
block's threads run in ascending or descending order, which they are not where a barrier is missing.
"""

import contextlib
import ctypes
import functools
import importlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest

HEADER = Path(__file__).with_name("cuda_shim.h")
GUARD = 4096  # bytes on both sides of every array
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")
DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w ]+?)\s+(\w+)\[\]")
SHARED = 256 * 1024  # more dynamic shared memory than any device has

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="g++, which stands in for the GPU, is not installed")


@contextlib.contextmanager
def emulated(name: str, multiprocessors: int = 4) -> Iterator[ModuleType]:
    """Import the module `name` with its kernels emulated, for a device with so many multiprocessors."""
    module = importlib.import_module(name)
    stand_ins = {
        "cupy": lambda: np,
        "cuda_function": cuda_function,
        "multiprocessors": lambda: multiprocessors,
    }
    with contextlib.ExitStack() as stack:
        for attribute, stand_in in stand_ins.items():
            if hasattr(module, attribute):
                stack.enter_context(mock.patch.object(module, attribute, stand_in))
        yield module


def cuda_function(source: Path, name: str, dtype: np.dtype) -> Callable:
    """Return the kernel `name`, called as CuPy calls one: `kernel(grid, block, arguments, shared_mem=0)`."""
    library = _compiled(source, np.dtype(dtype).name)
    kinds = getattr(library, f"shim_kinds_{name}")
    kinds.restype = ctypes.c_char_p
    return _Kernel(getattr(library, f"shim_call_{name}"), name, kinds().decode().split())


class _Kernel:
    def __init__(self, call: Callable, name: str, kinds: list[str]):
        self.call, self.name, self.kinds = call, name, kinds
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid: tuple, block: tuple, arguments: tuple, *, shared_mem: int = 0) -> None:
        assert len(arguments) == len(self.kinds), f"{self.name} takes {len(self.kinds)} arguments: {self.kinds}"
        for number, (argument, kind) in enumerate(zip(arguments, self.kinds)):
            assert _kind(argument) == kind, f"argument {number} of {self.name} is {_kind(argument)}, declared {kind}"
        assert 0 < np.prod(block) <= 1024, f"a block of {block} threads"
        assert min(grid) > 0, f"an empty grid {grid}"
        assert shared_mem <= self.max_dynamic_shared_size_bytes, f"{shared_mem} bytes of shared memory"
        results = [self._run(grid, block, arguments, descending) for descending in (False, True)]
        for argument, first, second in zip(arguments, *results):
            if isinstance(argument, np.ndarray):
                assert first.tobytes() == second.tobytes(), f"{self.name} depends on the order of its threads"
                argument[...] = first

    def _run(self, grid: tuple, block: tuple, arguments: tuple, descending: bool) -> list:
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        copies = [_guarded(a) if isinstance(a, np.ndarray) else a for a in arguments]
        values = [np.array([c.ctypes.data], np.uint64) if isinstance(c, np.ndarray) else np.array([c]) for c in copies]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        assert self.call(sizes, pointers, descending) == 0, f"{self.name}: its threads wait at different barriers"
        for number, copy in enumerate(copies):
            if isinstance(copy, np.ndarray):
                memory = copy.base
                outside = np.concatenate([memory[:GUARD], memory[GUARD + copy.nbytes :]])
                assert (outside == 0xFF).all(), f"{self.name} wrote outside of argument {number}"
        return copies


def _kind(argument: np.ndarray | np.generic | int | float) -> str:
    """The C++ type of an argument, as cuda_shim.h writes it: f4, i4, *f4. Python's numbers are CuPy's 8-byte ones."""
    value = np.asarray(argument)
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous, "a kernel takes contiguous arrays"
        return f"*{value.dtype.kind}{value.dtype.itemsize}"
    return f"{value.dtype.kind}{value.dtype.itemsize}"


def _guarded(array: np.ndarray) -> np.ndarray:
    memory = np.full(array.nbytes + 2 * GUARD, 0xFF, np.uint8)  # NaN, where it is read as floating-point numbers
    copy = memory[GUARD : GUARD + array.nbytes].view(array.dtype)
    copy[:] = array.ravel()
    return np.ndarray(array.shape, array.dtype, memory, GUARD)


@functools.cache
def _compiled(source: Path, dtype: str) -> ctypes.CDLL:
    text = source.read_text()
    names = KERNEL.findall(text)
    dynamic = set(DYNAMIC.findall(text))
    assert len(dynamic) <= 1, f"{source.name} declares its dynamic shared memory in more than one way"
    lines = [f'#include "{source}"']
    lines += [f"alignas(16) thread_local {kind} {name}[{SHARED} / sizeof({kind})];" for kind, name in dynamic]
    for name in names:
        lines += [
            f"static void body_{name}(void **arguments) {{ shim::apply({name}, arguments); }}",
            f'extern "C" int shim_call_{name}(const unsigned *sizes, void **arguments, bool descending)'
            f" {{ return shim::launch(body_{name}, sizes, arguments, descending); }}",
            f'extern "C" const char *shim_kinds_{name}()'
            f" {{ static const std::string all = shim::kinds({name}); return all.c_str(); }}",
        ]
    real = {"float32": "float", "float64": "double"}[dtype]
    with tempfile.TemporaryDirectory() as folder:
        wrapper, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        wrapper.write_text("\n".join(lines))
        command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-fno-gnu-unique", "-Wno-unknown-pragmas", f"-DREAL={real}"]
        command += ["-include", str(HEADER), f"-I{source.parent.parent}", str(wrapper), "-o", str(library)]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, f"{source.name} does not compile as C++:\n{built.stderr}"
        return ctypes.CDLL(str(library))
