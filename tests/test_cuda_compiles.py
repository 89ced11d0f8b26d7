"""Every CUDA source compiles to machine code without a GPU, with the options that the loader gives to CuPy.

The compiler is NVRTC, which is what CuPy calls (the extras `cuda12` and `cuda13` install it), or else nvcc.
"""

import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from cuda_shim import forget

from tinygen.kernels import runtime

SOURCES = sorted(Path(runtime.__file__).parent.rglob("*.cu"))
VARIANTS = [pytest.param(source, {}, id=source.stem) for source in SOURCES] + [
    pytest.param(source, {"CELLS": 2}, id=f"{source.stem}, 2 cells")
    for source in SOURCES
    if "lstm_sweep.cuh" in source.read_text()
]
ARCHITECTURES = ("sm_75", "sm_80", "sm_90")


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """The newest NVRTC that pip has installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else ()
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    newest = max(found, key=lambda path: int(path.suffix[1:]), default=None)
    return newest and ctypes.CDLL(str(newest))


def compile_by_nvrtc(code: str, options: list[str]) -> tuple[bytes, str]:
    """The cubin, empty if there is none, and what the compiler said."""
    library, program = nvrtc(), ctypes.c_void_p()

    def result(kind: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{kind}")(program, buffer)
        return buffer.raw

    assert library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None) == 0
    try:
        failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
        log = result("ProgramLog").rstrip(b"\0").decode()
        return b"" if failed else result("CUBIN"), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def compile_by_nvcc(code: str, options: list[str], folder: Path) -> tuple[bytes, str]:
    """As `compile_by_nvrtc`."""
    source, target = folder / "kernel.cu", folder / "kernel.cubin"
    source.write_text(code)
    done = subprocess.run(["nvcc", "-cubin", *options, "-o", target, source], capture_output=True, text=True)
    return b"" if done.returncode else target.read_bytes(), done.stdout + done.stderr


def loaded(source: Path, dtype: str, **defines: int) -> tuple[str, list[str]]:
    """The text and options with which kernels/runtime.py makes a RawModule."""
    module = mock.Mock()
    cupy = SimpleNamespace(RawModule=module, cuda=SimpleNamespace(Device=lambda: SimpleNamespace(id=-1)))
    cupy.cuda.compiler = SimpleNamespace(CompileException=RuntimeError)
    try:
        with mock.patch.object(runtime, "cupy", return_value=cupy):
            runtime.cuda_function(source, "any", np.dtype(dtype), **defines)
    finally:
        forget()
    return module.call_args.kwargs["code"], list(module.call_args.kwargs["options"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("source", "defines"), VARIANTS)
def test_source_compiles_without_a_word(source, defines, dtype, architecture, tmp_path):
    code, options = loaded(source, dtype, **defines)
    options.append(f"--gpu-architecture={architecture}")
    if nvrtc():
        cubin, said = compile_by_nvrtc(code, options)
    elif shutil.which("nvcc"):
        cubin, said = compile_by_nvcc(code, options, tmp_path)
    else:
        pytest.skip("needs NVRTC (pip install nvidia-cuda-nvrtc, or the extra cuda12 or cuda13) or nvcc")
    assert not said.strip(), said
    assert cubin.startswith(b"\x7fELF")
    names = re.findall(rb"\.text\.(\w+)\0", cubin)
    assert names, "no kernel was compiled"


def test_there_are_sources():
    assert {"adam", "conv2d", "nade"} <= {path.stem for path in SOURCES}
