"""The fused Adam kernel against its specification."""

import math
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen.kernels import adam, runtime
from tinygen.kernels.adam import cpu, reference

SIZES = (0, 1, 7, 1000, cpu.SERIAL_BELOW - 1, cpu.SERIAL_BELOW, 3 * cpu.CHUNK + 5)


def state_of(size, dtype, rng):
    param, grad, exp_avg = (rng.standard_normal(size).astype(dtype) for _ in range(3))
    return param, grad, exp_avg, np.abs(rng.standard_normal(size)).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    size=st.one_of(st.sampled_from(SIZES), st.integers(0, 5000)),
    dtype=st.sampled_from([np.float32, np.float64]),
    step=st.integers(1, 1000),
    lr=st.floats(1e-5, 1),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.999),
    eps=st.floats(1e-10, 1e-2),
    weight_decay=st.sampled_from([0.0, 0.01, 0.5]),
    decoupled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_reference(size, dtype, step, lr, beta1, beta2, eps, weight_decay, decoupled, seed):
    fast = state_of(size, dtype, np.random.default_rng(seed))
    slow = [array.copy() for array in fast]
    gradient = fast[1].copy()
    options = (step, lr, beta1, beta2, eps, weight_decay, decoupled)
    adam.adam_step(*fast, *options)
    reference.adam_step(*slow, *options)
    np.testing.assert_array_equal(fast[1], gradient)
    tolerance = 1e-13 if dtype == np.float64 else 2e-5
    for name, a, b in zip(("param", "grad", "exp_avg", "exp_avg_sq"), fast, slow):
        assert a.dtype == dtype
        # The root of a second moment near 0 in the denominator magnifies rounding, in proportion to the step taken.
        scale = tolerance * (1 + lr / math.sqrt(1 - beta1 + 1e-3)) if name == "param" else tolerance
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * scale, err_msg=name)


def test_the_first_step_moves_by_lr():
    """With zero moments m_hat = g and v_hat = g^2, so that each element moves by lr against its gradient's sign."""
    param, exp_avg, exp_avg_sq = np.zeros((3, 5))
    grad = np.array([1e-3, -2.0, 500.0, -1e-5, 3.0])
    adam.adam_step(param, grad, exp_avg, exp_avg_sq, 1, 0.1, 0.9, 0.999, 0.0)
    np.testing.assert_allclose(param, -0.1 * np.sign(grad), rtol=1e-12)


def test_zero_gradient_leaves_parameters():
    param = np.ones(4, np.float32)
    zeros = [np.zeros(4, np.float32) for _ in range(3)]
    adam.adam_step(param, *zeros, 1, 0.1, 0.9, 0.999, 1e-8)
    np.testing.assert_array_equal(param, 1)


def test_serial_and_parallel_give_the_same_bits():
    rng = np.random.default_rng(2)
    for dtype in (np.float32, np.float64):
        one = state_of(2 * cpu.CHUNK + 77, dtype, rng)
        two = [array.copy() for array in one]
        scalars = (0.99, 0.1, 0.9, 0.999, 1e-3, 3.0, 1e-8)
        cpu._serial(*one, *scalars)
        cpu._parallel(*two, *scalars)
        for a, b in zip(one, two):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loop_is_vectorized(dtype):
    """Packed square roots and divisions in the machine code: losing them would cost a factor of 4 to 8."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the mnemonics are those of x86")
    fresh = runtime.jit(cpu._serial.py_func, cache=False)  # code from the cache cannot be inspected
    fresh(*state_of(8, np.dtype(dtype), np.random.default_rng(0)), 1.0, 0.0, 0.9, 0.999, 1e-3, 3.0, 1e-8)
    (assembly,) = fresh.inspect_asm().values()
    suffix = "ps" if dtype == "float32" else "pd"
    assert "sqrt" + suffix in assembly
    assert "div" + suffix in assembly


def test_without_numba_at_import():
    code = "import tinygen.optim, sys; assert 'numba' not in sys.modules, 'numba was imported'"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="list"):
        adam.adam_step([1.0], [1.0], [0.0], [0.0], 1, 0.1, 0.9, 0.999, 1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cuda(dtype):
    import cupy

    rng = np.random.default_rng(4)
    for size in SIZES:
        host = state_of(size, dtype, rng)
        device = [cupy.asarray(array) for array in host]
        for step, decoupled in ((1, False), (2, True), (30, True)):
            options = (step, 0.01, 0.9, 0.999, 1e-6, 0.1, decoupled)
            adam.adam_step(*device, *options)
            reference.adam_step(*host, *options)
        for a, b in zip(device, host):
            tolerance = 1e-12 if dtype == np.float64 else 1e-5
            np.testing.assert_allclose(cupy.asnumpy(a), b, rtol=tolerance, atol=tolerance)
