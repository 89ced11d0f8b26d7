"""The CUDA kernels, compiled for this processor (see cuda_shim), against their references."""

import re
import subprocess
import sys

import numpy as np
import pytest
from comparing import given, seeds
from cuda_shim import SANITIZE, cuda_on_cpu, needs_compiler, sanitized
from hypothesis import assume
from hypothesis import strategies as st

from tinygen import checks
from tinygen.kernels.adam import cuda as adam
from tinygen.kernels.adam import reference as adam_reference
from tinygen.kernels.conv2d import cuda as conv2d
from tinygen.kernels.conv2d import reference as conv2d_reference
from tinygen.kernels.nade import cuda as nade
from tinygen.kernels.nade import reference as nade_reference

pytestmark = needs_compiler

EXAMPLES = 6 if SANITIZE else 30
TOLERANCE = {np.float32: 3e-5, np.float64: 2e-13}

dtypes = st.sampled_from([np.float32] if SANITIZE else [np.float32, np.float64])
devices = st.sampled_from([1, 3, 200])  # multiprocessors
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


CASES = {name: case for name, case in checks.cases().items() if case.kind == "kernel"}
if SANITIZE:  # one dtype has the same bounds as the other
    CASES = {name: case for name, case in CASES.items() if "float32" in name and "large" not in name}


@pytest.mark.parametrize("name", CASES)
def test_case_of_the_registry(name):
    with cuda_on_cpu():
        result = checks.run_case(CASES[name])
    assert result.ok, result.message


def assert_agree(found, exact, dtype):
    """`found` has `dtype` and equals what the reference gives in float64, relative to the largest entry."""
    assert found.dtype == dtype
    assert found.shape == exact.shape
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance * np.abs(exact).max(initial=1.0))


def in_double(arrays):
    return [array.astype(np.float64) for array in arrays]


@given(
    EXAMPLES,
    size=st.sampled_from([0, 1, 255, 257, 5000]),
    dtype=dtypes,
    step=st.integers(1, 50),
    weight_decay=st.sampled_from([0.0, 0.1]),
    decoupled=st.booleans(),
    multiprocessors=devices,
    seed=seeds,
)
def test_adam(size, dtype, step, weight_decay, decoupled, multiprocessors, seed):
    state = np.random.default_rng(seed).standard_normal((4, size)).astype(dtype)
    state[3] **= 2
    exact = in_double(state)
    options = (step, 0.01, 0.9, 0.999, 1e-3, weight_decay, decoupled)
    adam_reference.adam_step(*exact, *options)
    with cuda_on_cpu(multiprocessors, seed):
        adam.adam_step(*state, *options)
    for array, right in zip(state, exact):
        assert_agree(array, right, dtype)


def nade_arrays(B, D, H, dtype, seed, scale=1.0):
    """x, W, V, b, c, a cotangent of log_prob, and uniforms."""
    rng = np.random.default_rng(seed)
    x = rng.random((B, D)) < rng.random()
    parameters = [scale * rng.standard_normal(shape) for shape in ((D, H), (D, H), (D,), (H,))]
    return [a.astype(dtype) for a in (x, *parameters, rng.standard_normal(B), rng.random((B, D)))]


nade_sizes = {"B": st.integers(0, 40), "D": st.integers(1, 70), "H": st.integers(1, 150), "dtype": dtypes, "seed": seeds}


def nade_gradients(module, x, W, V, b, c, g):
    log_prob, residual = module.forward(x, W, V, b, c)
    return log_prob, *residual, *module.backward(g, x, W, V, residual)


@given(EXAMPLES, **nade_sizes, scale=st.sampled_from([0.01, 1.0]), multiprocessors=devices)
def test_nade(B, D, H, dtype, seed, scale, multiprocessors):
    *arrays, _ = nade_arrays(B, D, H, dtype, seed, scale)
    with cuda_on_cpu(multiprocessors, seed):
        found = nade_gradients(nade, *arrays)
    for array, exact in zip(found, nade_gradients(nade_reference, *in_double(arrays)), strict=True):
        assert_agree(array, exact, dtype)


@given(EXAMPLES, **nade_sizes, share=st.floats(0, 1))
def test_nade_draws(B, D, H, dtype, seed, share):
    x, W, V, b, c, _, uniforms = nade_arrays(B, D, H, dtype, seed, scale=0.3)
    start = int(share * D)
    before = x.copy()
    with cuda_on_cpu(seed=seed):
        found = nade.complete(x, start, uniforms, W, V, b, c)
    np.testing.assert_array_equal(x, before)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, nade_reference.complete(x, start, uniforms, W, V, b, c))


@given(5, dtype=dtypes, seed=seeds)
def test_nade_when_units_saturate(dtype, seed):
    *arrays, _ = nade_arrays(9, 40, 35, dtype, seed, scale=1e3)
    with cuda_on_cpu():
        log_prob, *others = nade_gradients(nade, *arrays)
    assert_agree(log_prob, nade_gradients(nade_reference, *in_double(arrays))[0], dtype)
    assert all(np.isfinite(array).all() for array in others)


@given(
    EXAMPLES,
    images=st.integers(0, 4),
    channels=st.integers(1, 4),
    outs=st.sampled_from([1, 2, 9, 70]),
    groups=st.integers(1, 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    bias=st.booleans(),
    dtype=dtypes,
    multiprocessors=devices,
    seed=seeds,
)
def test_conv2d(images, channels, outs, groups, size, kernel, stride, padding, dilation, bias, dtype, multiprocessors, seed):
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel)))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, channels * groups, *size)).astype(dtype)
    weight = rng.standard_normal((outs * groups, channels, *kernel)).astype(dtype)
    options = (stride, padding, dilation, groups)
    y = conv2d_reference.forward(x, weight, *options)
    g = rng.standard_normal(y.shape).astype(dtype)
    biases = [rng.standard_normal(n).astype(dtype) if bias else None for n in (outs * groups, channels * groups)]

    def results(module, x, weight, g, *biases):
        yield module.forward(x, weight, *options, *biases[:1])
        yield module.input_gradient(g, weight, size, *options, *biases[1:])
        yield module.weight_gradient(x, g, kernel, *options)

    with cuda_on_cpu(multiprocessors, seed):
        found = list(results(conv2d, x, weight, g, *biases))
    exact = results(conv2d_reference, *in_double([x, weight, g, *(biases if bias else [])]))
    for array, right in zip(found, exact, strict=True):
        assert_agree(array, right, dtype)


@pytest.mark.skipif(SANITIZE, reason="this is the run with sanitizers")
def test_everything_above_with_sanitizers():
    """No access outside an array or a shared array, no undefined behaviour."""
    environment = sanitized()
    if environment is None:
        pytest.skip("the compiler has no address sanitizer")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    assert re.search(r"\d\d passed, 1 skipped", run.stdout), run.stdout
