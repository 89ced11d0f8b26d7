"""What kernels share: choosing CPU or GPU, Numba's configuration, elementary functions, vectors."""

import ctypes.util
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from cuda_shim import forget

import tinygen
from tinygen.cli.runs import usable_device
from tinygen.kernels import runtime, simd, vectormath
from tinygen.kernels.runtime import configured_numba, jit, pjit
from tinygen.training import RunError

numba = configured_numba()
SOURCES = sorted(Path(runtime.__file__).parent.rglob("*.cu"))
BOTH_DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def elementwise(function):
    @jit(cache=False)
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


# ---- Elementary functions ----

LOOPS = {name: elementwise(getattr(vectormath, name)) for name in ("exp", "sigmoid", "tanh", "log1p", "softplus")}
EXACT = {
    "exp": np.exp,
    "sigmoid": lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x))),
    "tanh": np.tanh,
    "log1p": np.log1p,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}
UNITS = {"exp": 1.5, "sigmoid": 2.5, "tanh": 2.5, "log1p": 2, "softplus": 2}  # in the last place


def evaluated(name, x):
    y = np.empty_like(x)
    LOOPS[name](x, y)
    return y


@BOTH_DTYPES
@pytest.mark.parametrize("name", LOOPS)
def test_elementary_functions_are_accurate_to_the_last_places(name, dtype):
    rng = np.random.default_rng(0)
    scales = [rng.uniform(-1, 1, 50_000), rng.uniform(-20, 20, 50_000), rng.uniform(-87, 88, 50_000)]
    x = np.concatenate([*scales, rng.choice([-1, 1], 50_000) * np.exp(rng.uniform(-40, 4, 50_000))]).astype(dtype)
    if name == "log1p":
        x = np.concatenate([x[x > -1], np.exp(rng.uniform(-40, 80, 50_000)).astype(dtype)])
    wide = np.float64 if dtype == np.float32 else np.longdouble
    if np.finfo(wide).nmant <= np.finfo(dtype).nmant:
        pytest.skip("no wider type to compare with on this machine")
    expected = EXACT[name](x.astype(wide))
    normal = np.abs(expected) > np.finfo(dtype).tiny
    unit = np.spacing(np.abs(expected).astype(dtype)).astype(wide)
    assert (np.abs(evaluated(name, x) - expected) / unit)[normal].max() < UNITS[name]


@BOTH_DTYPES
def test_elementary_functions_at_the_edges(dtype):
    x = np.array([np.inf, -np.inf, np.nan, 1e4, -1e4, 0], dtype)
    np.testing.assert_array_equal(evaluated("exp", x), [np.inf, 0, np.nan, np.inf, 0, 1])
    np.testing.assert_array_equal(evaluated("sigmoid", x), [1, 0, np.nan, 1, 0, 0.5])
    np.testing.assert_array_equal(evaluated("tanh", x), [1, -1, np.nan, 1, -1, 0])
    np.testing.assert_array_equal(evaluated("softplus", x)[:5], [np.inf, 0, np.nan, dtype(1e4), 0])
    np.testing.assert_array_equal(
        evaluated("log1p", np.array([np.inf, -1, -2, np.nan, 0], dtype))[:5], [np.inf, -np.inf, np.nan, np.nan, 0]
    )


@BOTH_DTYPES
def test_exp_overflows_and_underflows_where_it_should(dtype):
    finfo = np.finfo(dtype)
    x = np.concatenate(
        [np.log(finfo.max) + np.linspace(-1, 1, 1001), np.log(finfo.smallest_subnormal) + np.linspace(-2, 30, 1001)]
    )
    x = x.astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        expected = np.exp(x)
    found = evaluated("exp", x)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(found, expected, rtol=4 * finfo.eps, atol=2 * finfo.smallest_subnormal)


@pytest.mark.parametrize("name", LOOPS)
def test_elementary_functions_compile_to_vector_instructions(name):
    evaluated(name, np.zeros(100, np.float32))
    (code,) = [text for kinds, text in LOOPS[name].inspect_llvm().items() if kinds[0].dtype == numba.float32]
    assert re.search(r"= fmul [a-z ]*<\d+ x float>", code)


# ---- Vectors ----


@BOTH_DTYPES
def test_vectors_hold_what_numpy_says(dtype):
    @jit(cache=False)
    def run(x, y, out):
        for i in range(x.shape[0]):
            for j in range(0, x.shape[1], simd.lanes(x)):
                a, b = simd.load(x, i, j), simd.load(y, i, j)
                s = simd.splat(simd.element(x, i, 1))
                simd.store(out, i, j, simd.fma(a, b, s) * (a - b) + b)

    lanes = simd.VECTOR // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    x, y = rng.integers(-8, 8, (2, 3, 2 * lanes)).astype(dtype)
    out = np.zeros_like(x)
    run(x, y, out)
    np.testing.assert_array_equal(out, (x * y + x[:, 1:2]) * (x - y) + y)


# ---- Choosing, compiling, caching ----


def test_implementation_is_chosen_by_the_array():
    assert runtime.implementation("tinygen.kernels.nade", np.zeros(2)).__name__ == "tinygen.kernels.nade.cpu"
    like_cupy = type("ndarray", (), {"__module__": "cupy"})
    assert runtime.implementation("tinygen.kernels.nade", like_cupy()).__name__ == "tinygen.kernels.nade.cuda"
    with pytest.raises(TypeError, match=r"takes .*, got builtins.float"):
        runtime.implementation("tinygen.kernels.nade", 1.0)


def test_parallel_kernels_from_many_threads_do_not_collide():
    @pjit
    def fill(x, value):
        for i in numba.prange(x.size):
            x[i] = value

    arrays = [np.zeros(10_000) for _ in range(4)]

    def repeat(number):
        for _ in range(50):
            fill(arrays[number], number)

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, array in enumerate(arrays):
        assert (array == number).all()


KERNEL = """
    import sys
    sys.path[:0] = [{root!r}, {folder!r}]
    import tinygen
    import numpy as np
    import own_kernel
    print(own_kernel.twice(np.ones(3, np.float32)))
"""
OWN = """
    from tinygen.kernels.runtime import jit

    @jit
    def inner(x):
        return x + x

    @jit
    def twice(x):
        return inner(x){change}
"""


THREADS_OF_A_KERNEL = """
import {first}
import os, numpy, numba
from tinygen.kernels import adam
p, g, m, v = numpy.ones((4, 200_000))
adam.adam_step(p, g, m, v, 1, 0.1, 0.9, 0.999, 1e-8, 0.0, False)
print(numba.threading_layer(), os.environ.get("GOMP_SPINCOUNT"), p[:3].tobytes().hex())
"""


def threads_of_a_kernel(first="sys", **environment):
    """The threading layer in a new process, what it leaves of GOMP_SPINCOUNT, and a kernel's result."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "NUMBA_THREADING_LAYER")}
    command = [sys.executable, "-c", THREADS_OF_A_KERNEL.format(first=first)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=inherited | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_threading_layer_is_openmp_where_there_is_one_to_load():
    gnu = Path("/proc/self/maps").exists() and ctypes.util.find_library("gomp")
    workqueue = threads_of_a_kernel(NUMBA_THREADING_LAYER="workqueue")
    assert workqueue[:2] == ["workqueue", "None"]
    openmp = threads_of_a_kernel()
    assert openmp[:2] == ["omp" if gnu else "workqueue", "None"]
    assert openmp[2] == workqueue[2]
    assert threads_of_a_kernel(GOMP_SPINCOUNT="7")[1] == "7"
    if gnu:  # loaded by another library already, it has that one's settings: threads that spin
        assert threads_of_a_kernel(first=f"ctypes; ctypes.CDLL({gnu!r})")[:2] == ["workqueue", "None"]


def test_a_kernel_is_announced_once_and_then_cached(tmp_path):
    root = str(Path(runtime.__file__).parents[1])
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PATH": ""}

    def run(change=""):
        (tmp_path / "own_kernel.py").write_text(textwrap.dedent(OWN.format(change=change)))
        command = [sys.executable, "-c", textwrap.dedent(KERNEL.format(root=root, folder=str(tmp_path)))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr.strip()

    announcement = "compiling kernel own_kernel.twice for float32 (once; cached for later processes)"
    assert run() == ("[2. 2. 2.]", announcement)
    assert run() == ("[2. 2. 2.]", "")
    assert run(" + x") == ("[3. 3. 3.]", announcement)


def test_cached_kernels_are_dropped_when_a_shared_module_changes(tmp_path, monkeypatch):
    function = lambda x: x
    folders = []
    for content in ("a = 1", "a = 2"):
        monkeypatch.setattr(runtime, "__file__", str(tmp_path / "runtime.py"))
        (tmp_path / "vectormath.py").write_text(content)
        runtime._shared_digest.cache_clear()
        folders.append(jit(function).stats.cache_path)
    runtime._shared_digest.cache_clear()
    assert folders[0] != folders[1]
    assert all(folder.startswith(str(tmp_path)) for folder in folders)


def test_plain_copies_only_what_numba_would_compile_anew():
    array = np.arange(12.0).reshape(3, 4)
    assert runtime.plain(array) is array
    frozen = array.copy()
    frozen.flags.writeable = False
    for other in (array.T, array[:, ::2], frozen, array[::-1]):
        copy = runtime.plain(other)
        np.testing.assert_array_equal(copy, other)
        assert copy.flags.c_contiguous
        assert copy.flags.writeable


def test_importing_the_runtime_loads_neither_numba_nor_cupy():
    code = "import sys, tinygen.kernels.runtime, tinygen.kernels.nade; print('numba' in sys.modules, 'cupy' in sys.modules)"
    root = Path(runtime.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["False", "False"], done.stderr


# ---- CUDA ----


class NoDriverError(RuntimeError):
    pass


def fake_cupy(count=1, compiles=True, driver=13020, capability="90", compiler=(13, 0)) -> ModuleType:
    """A module that behaves as CuPy does on a machine with `count` devices, or None with a driver that does not serve it."""

    def devices():
        if count is None:
            raise NoDriverError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")
        return count

    class RawModule:
        def __init__(self, code, options):
            self.options = options

        def compile(self):
            if not compiles:
                raise NoDriverError("header\nnade.cu(3): error: identifier 'x' is undefined\n1 error detected")

        def get_function(self, name):
            return name, self.options

    module = ModuleType("cupy")
    module.__version__ = "14.0"
    module.RawModule = RawModule

    def version():
        if compiler is None:
            raise OSError("libnvrtc.so.13: cannot open shared object file")
        return compiler

    device = lambda number=0: SimpleNamespace(id=number, attributes={"MultiProcessorCount": 132}, compute_capability=capability)
    module.cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            getDeviceCount=devices,
            CUDARuntimeError=NoDriverError,
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: 13020,
        ),
        nvrtc=SimpleNamespace(getVersion=version, getSupportedArchs=lambda: (75, 80, 90)),
        compiler=SimpleNamespace(CompileException=NoDriverError),
        Device=device,
    )
    return module


@pytest.fixture
def install(monkeypatch):
    """Make a stand-in importable as cupy (None: CuPy is not installed) and forget what was loaded before."""

    def set_module(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        forget()

    yield set_module
    forget()


def test_missing_cupy_driver_or_device_are_explained_in_one_line(install):
    for module, words in (
        (None, r"needs CuPy.*pip install 'tinygen\[cuda13\]', or 'tinygen\[cuda12\]' where"),
        (fake_cupy(None, driver=0), "CuPy 14.0 for CUDA 13 finds no GPU .cudaErrorInsufficientDriver.*check that nvidia-smi"),
        (fake_cupy(None, driver=12040), r"the driver is for CUDA 12: pip install 'tinygen\[cuda12\]', or update it"),
        (fake_cupy(0), "finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (fake_cupy(compiler=None), r"finds no NVRTC \(libnvrtc.so.13: cannot.*pip install 'tinygen\[cuda13\]'"),
        (
            fake_cupy(capability="61"),
            r"capability 6.1, and NVRTC of CUDA 13.0 compiles for 7.5 and newer: .*'tinygen\[cuda12\]'",
        ),
    ):
        install(module)
        with pytest.raises(runtime.DeviceError, match=words) as error:
            runtime.cuda_function(SOURCES[0], "kernel", np.float32)
        assert "\n" not in str(error.value)
        with pytest.raises(RuntimeError, match=words):
            tinygen.Tensor([1.0]).to("cuda")
        with pytest.raises(RunError, match=words):
            usable_device("cuda")


def test_a_gpu_that_the_compiler_serves_is_taken(install):
    for capability in ("75", "90", "120"):
        install(fake_cupy(capability=capability))
        assert runtime.cupy() is sys.modules["cupy"]
    with pytest.raises(RuntimeError, match="device 'cuda:1' is not here: the last one is 'cuda:0'"):
        tinygen.Tensor([1.0]).to("cuda:1")


def test_sources_are_compiled_once_for_each_dtype_and_device(install):
    module, compiled, number = fake_cupy(), [], 0

    class Counting(module.RawModule):
        def compile(self):
            compiled.append((number, self.options[1]))

    module.RawModule, device = Counting, module.cuda.Device
    module.cuda.Device = lambda: device(number)
    install(module)
    for number in (0, 1, 0):  # noqa: B007 - read by the functions above
        for dtype in (np.float32, np.float64, np.float32):
            runtime.cuda_function(SOURCES[0], "kernel", dtype)
            runtime.cuda_function(SOURCES[0], "another", dtype)
    assert compiled == [(n, f"-DREAL={real}") for n in (0, 1) for real in ("float", "double")]


def test_cuda_source_is_compiled_for_the_dtype(install):
    install(fake_cupy())
    for dtype, real in ((np.float32, "float"), (np.float64, "double")):
        name, options = runtime.cuda_function(SOURCES[0], "kernel", dtype)
        assert name == "kernel"
        assert f"-DREAL={real}" in options
    assert runtime.multiprocessors() == 132


def test_the_compilers_complaint_is_passed_on(install):
    install(fake_cupy(compiles=False))
    with pytest.raises(RuntimeError, match=r"does not compile for float32 on CUDA device 0: nade.cu\(3\): error") as error:
        runtime.cuda_function(SOURCES[0], "kernel", np.float32)
    assert "\n" not in str(error.value)
