"""The CUDA kernels on a GPU: every case of the registry against its reference, training sizes against the CPU's kernels."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tinygen import checks
from tinygen.kernels import runtime
from tinygen.kernels.nade import cpu as nade_cpu
from tinygen.kernels.nade import cuda as nade_cuda

pytestmark = pytest.mark.gpu

CASES = {name: case for name, case in checks.cases().items() if case.kind == "kernel"}


class OnDevice:
    """A module whose functions take NumPy's arrays to the GPU, and bring back what they return and what they changed.

    What they return that is an object of a class of the module (a Stepper) has methods that do the same.
    """

    def __init__(self, module: ModuleType | object):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            cupy, moved = runtime.cupy(), {}

            def there(array: np.ndarray) -> Any:
                return moved.setdefault(id(array), (array, cupy.asarray(array)))[1]

            args, options = _each(args, np.ndarray, there), _each(options, np.ndarray, there)
            result = getattr(self._module, name)(*args, **options)
            for host, array in moved.values():
                if host.tobytes() != array.get().tobytes():
                    host[...] = array.get()
            if type(result).__module__ == getattr(self._module, "__name__", None):
                return OnDevice(result)
            return _each(result, cupy.ndarray, cupy.asnumpy)

        return call


def _each(value: Any, kind: type, change: Callable) -> Any:
    """`value` with `change` made to what is of a kind in it."""
    if isinstance(value, (tuple, list)):
        parts = [_each(part, kind, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {name: _each(part, kind, change) for name, part in value.items()}
    return change(value) if isinstance(value, kind) else value


@pytest.fixture
def on_device():
    """Inside, kernels that are given NumPy's arrays run on the GPU."""
    chosen = lambda package, _: OnDevice(importlib.import_module(f"{package}.cuda"))
    with mock.patch.object(runtime, "_module_for", chosen):
        yield


@pytest.mark.parametrize("name", CASES)
def test_case_of_the_registry(name, on_device):
    result = checks.run_case(CASES[name])
    assert result.ok, result.message


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_again(name, on_device):
    first, second = (CASES[name].make(np.random.default_rng(0)).fast for _ in range(2))
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-5), (np.float64, 1e-12)])
def test_nade_of_training_size_equals_the_cpu(dtype, tolerance):
    rng = np.random.default_rng(0)
    B, D, H = 100, 784, 500
    x = (rng.random((B, D)) < 0.13).astype(dtype)
    W, V = (0.1 * rng.standard_normal((2, D, H))).astype(dtype)
    b, c, g = (rng.standard_normal(n).astype(dtype) for n in (D, H, B))
    uniforms = rng.random((B, D)).astype(dtype)

    def results(module):
        log_prob, residual = module.forward(x, W, V, b, c)
        return log_prob, *residual, *module.backward(g, x, W, V, residual)

    expected = results(nade_cpu)
    for exact, found in zip(expected, results(OnDevice(nade_cuda)), strict=True):
        np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance * np.abs(exact).max())
    drawn = [module.complete(x, 300, uniforms, W, V, b, c) for module in (nade_cpu, OnDevice(nade_cuda))]
    np.testing.assert_array_equal(drawn[0][:, :300], drawn[1][:, :300])
    # A draw within rounding of its probability may fall to the other side, and what follows it with it.
    assert (drawn[0] == drawn[1]).all(axis=1).mean() > 0.95
