"""The NADE kernel against its specification, the specification against the definition, and both against finite differences."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tinygen.kernels import nade
from tinygen.kernels.nade import cpu, reference

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])


def case(seed: int, B: int, D: int, H: int, dtype=np.float64, scale: float = 0.5, ones: float = 0.3):
    """x, W, V, b, c drawn from a seed."""
    rng = np.random.default_rng(seed)
    x = rng.random((B, D)) < ones
    W, V, b, c = (scale * rng.standard_normal(shape) for shape in ((D, H), (D, H), D, H))
    return tuple(array.astype(dtype) for array in (x, W, V, b, c))


def naive_log_prob(x, W, V, b, c):
    """The definition, O(D^2 H): every hidden vector from all the pixels before it."""
    total = np.zeros(len(x), x.dtype)
    for i in range(x.shape[1]):
        h = reference.sigmoid(c + x[:, :i] @ W[:i])
        p = reference.sigmoid(b[i] + h @ V[i])
        total += np.log(np.where(x[:, i] == 1, p, 1 - p))
    return total


def stored_backward(g, x, W, V, b, c):
    """The gradient with every a_i kept, as the chain rule gives it: what subtraction must reproduce."""
    D = x.shape[1]
    a = [c + x[:, :i] @ W[:i] for i in range(D)]
    gW, gV, gb, A = np.zeros_like(W), np.zeros_like(V), np.zeros_like(b), np.zeros_like(a[0])
    for i in reversed(range(D)):
        h = reference.sigmoid(a[i])
        d = g * (x[:, i] - reference.sigmoid(b[i] + h @ V[i]))
        gW[i], gV[i], gb[i] = x[:, i] @ A, d @ h, d.sum()
        A = A + d[:, None] * V[i] * h * (1 - h)
    return gW, gV, gb, A.sum(axis=0)


def cube(D: int) -> np.ndarray:
    return np.array(list(itertools.product((0.0, 1.0), repeat=D)))


def assert_close(got, expected, dtype, factor: float = 1.0):
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype == dtype
        tolerance = factor * 200 * np.finfo(dtype).eps * max(1.0, np.abs(other).max(initial=0))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@given(
    seed=seeds, B=st.integers(0, 9), D=st.integers(1, 40), H=st.integers(1, 70), dtype=dtypes, ones=st.sampled_from([0, 0.2, 1])
)
@settings(max_examples=60, deadline=None)
def test_cpu_equals_reference(seed, B, D, H, dtype, ones):
    arguments = case(seed, B, D, H, dtype, ones=ones)
    x, W, V, b, c = arguments
    rng = np.random.default_rng(seed)
    g, uniforms = rng.standard_normal(B).astype(dtype), rng.random((B, D)).astype(dtype)
    start = int(rng.integers(0, D + 1))
    expected, expected_residual = reference.forward(*arguments)
    got, residual = nade.forward(*arguments)
    assert_close([got, *residual], [expected, *expected_residual], dtype)
    assert_close(nade.backward(g, x, W, V, residual), reference.backward(g, x, W, V, expected_residual), dtype)
    assert (nade.conditionals(*arguments) == residual[0]).all()
    if dtype is np.float64:  # in float32 a uniform may fall between the two roundings of a probability
        assert (nade.sample(uniforms, W, V, b, c) == reference.complete(0 * x, 0, uniforms, W, V, b, c)).all()
        filled = nade.complete(x, start, uniforms, W, V, b, c)
        assert (filled == reference.complete(x, start, uniforms, W, V, b, c)).all()
        assert (filled[:, :start] == x[:, :start]).all()


def test_cpu_equals_reference_at_the_size_of_mnist():
    arguments = case(0, 20, 784, 500, np.float32, scale=0.05, ones=0.13)
    g = np.random.default_rng(1).standard_normal(20).astype(np.float32)
    exact, exact_residual = reference.forward(*(array.astype(np.float64) for array in arguments))
    got, residual = cpu.forward(*arguments)
    np.testing.assert_allclose(got, exact, rtol=3e-6)
    x, W, V = arguments[:3]
    truth = reference.backward(*(array.astype(np.float64) for array in (g, x, W, V)), exact_residual)
    drift = np.abs(residual[1] - exact_residual[1]).max()
    errors = [np.abs(one - other).max() / np.abs(other).max() for one, other in zip(cpu.backward(g, x, W, V, residual), truth)]
    print(
        f"float32 drift of the last a: {drift:.1e}; of gW, gV, gb, gc relative to the largest: {[f'{e:.1e}' for e in errors]}"
    )
    assert drift < 1e-5
    assert max(errors) < 1e-5


@given(seed=seeds, B=st.integers(1, 5), D=st.integers(1, 12), H=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_reference_equals_the_definition(seed, B, D, H):
    arguments = case(seed, B, D, H)
    np.testing.assert_allclose(reference.forward(*arguments)[0], naive_log_prob(*arguments), rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backward_by_subtraction_equals_stored_activations(dtype):
    arguments = case(2, 6, 300, 40, dtype, scale=0.3)
    g = np.random.default_rng(3).standard_normal(6).astype(dtype)
    stored = stored_backward(g, *arguments)
    x, W, V = arguments[:3]
    for implementation in (reference, cpu):
        by_subtraction = implementation.backward(g, x, W, V, implementation.forward(*arguments)[1])
        drift = max(np.abs(one - other).max() / np.abs(other).max() for one, other in zip(by_subtraction, stored))
        print(f"{implementation.__name__} in {np.dtype(dtype)}: subtraction against storage {drift:.1e}")
        assert drift < (2e-5 if dtype is np.float32 else 1e-13)


@given(seed=seeds, B=st.integers(1, 4), D=st.integers(1, 9), H=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_gradient_against_finite_differences(seed, B, D, H):
    x, *parameters = case(seed, B, D, H)
    rng = np.random.default_rng(seed)
    g = rng.standard_normal(B)
    directions = [rng.standard_normal(p.shape) for p in parameters]

    def along(t: float) -> float:
        return g @ cpu.forward(x, *(p + t * d for p, d in zip(parameters, directions)))[0]

    h = 1e-3  # fourth-order differences: error about h^4
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    gradients = cpu.backward(g, x, *parameters[:2], cpu.forward(x, *parameters)[1])
    analytic = sum((gradient * d).sum() for gradient, d in zip(gradients, directions))
    assert analytic == pytest.approx(numeric, rel=1e-7, abs=1e-7)


def test_probabilities_sum_to_one():
    x = cube(10)
    _, *parameters = case(4, 1, 10, 7, scale=1.0)
    assert abs(np.exp(nade.forward(x, *parameters)[0]).sum() - 1) < 1e-10


def test_zero_weights_give_ln_2_a_pixel():
    x, *parameters = case(0, 5, 17, 4)
    log_prob, _ = nade.forward(x, *(np.zeros_like(p) for p in parameters))
    np.testing.assert_allclose(log_prob, -17 * math.log(2), rtol=1e-15)


def test_samples_follow_the_enumerated_distribution():
    _, *parameters = case(5, 1, 7, 6, scale=1.0)
    p = np.exp(nade.forward(cube(7), *parameters)[0])
    uniforms = np.random.default_rng(0).random((30_000, 7))
    counts = np.bincount((nade.sample(uniforms, *parameters) @ 2 ** np.arange(6, -1, -1)).astype(int), minlength=128)
    assert stats.chisquare(counts, 30_000 * p).pvalue > 1e-3


def test_completions_follow_the_exact_conditional():
    _, *parameters = case(6, 1, 7, 6, scale=1.0)
    start, seen = 3, np.array([1.0, 0.0, 1.0])
    states = cube(7)
    match = (states[:, :start] == seen).all(axis=1)
    p = np.exp(nade.forward(states[match], *parameters)[0])
    x = np.zeros((30_000, 7))
    x[:, :start] = seen
    filled = nade.complete(x, start, np.random.default_rng(1).random(x.shape), *parameters)
    counts = np.bincount((filled[:, start:] @ 2 ** np.arange(3, -1, -1)).astype(int), minlength=16)
    assert stats.chisquare(counts, 30_000 * p / p.sum()).pvalue > 1e-3


def test_inputs_are_not_changed_and_may_have_strides():
    arguments = case(7, 5, 12, 9)
    g = np.random.default_rng(0).standard_normal(5)
    strided = [np.repeat(array, 2, axis=-1)[..., ::2] for array in arguments]
    strided[0] = np.asfortranarray(arguments[0])
    copies = [array.copy() for array in strided]
    log_prob, residual = nade.forward(*strided)
    gradients = nade.backward(np.repeat(g, 2)[::2], *strided[:3], residual)
    nade.complete(strided[0], 4, np.zeros((5, 12)), *strided[1:])
    plain, plain_residual = nade.forward(*arguments)
    assert (log_prob == plain).all()
    for one, other in zip(gradients, nade.backward(g, *arguments[:3], plain_residual), strict=True):
        assert (one == other).all()
    for array, copy in zip(strided, copies, strict=True):
        assert (array == copy).all()


def test_the_number_of_threads_does_not_change_a_bit():
    import numba

    arguments = case(8, 33, 100, 300, np.float32)
    g = np.random.default_rng(0).standard_normal(33).astype(np.float32)
    before, results = numba.get_num_threads(), []
    try:
        for threads in sorted({1, 2, numba.config.NUMBA_NUM_THREADS} & set(range(1, numba.config.NUMBA_NUM_THREADS + 1))):
            numba.set_num_threads(threads)
            log_prob, residual = nade.forward(*arguments)
            samples = nade.sample(np.random.default_rng(2).random((33, 100), dtype=np.float32), *arguments[1:])
            results.append((log_prob, *residual, *nade.backward(g, *arguments[:3], residual), samples))
    finally:
        numba.set_num_threads(before)
    if len(results) < 2:
        pytest.skip("this machine gives Numba one thread only")
    for one, other in zip(results[0], results[-1], strict=True):
        assert (one == other).all()


def test_what_does_not_fit_is_refused():
    x, W, V, b, c = case(9, 3, 5, 4)
    with pytest.raises(ValueError, match="zeros and ones only"):
        nade.forward(x + 0.5, W, V, b, c)
    with pytest.raises(ValueError, match="zeros and ones only"):
        nade.forward(np.full_like(x, np.nan), W, V, b, c)
    with pytest.raises(ValueError, match=r"shape \(3, 5\), got \(3, 4\)"):
        nade.forward(x[:, :4], W, V, b, c)
    with pytest.raises(TypeError, match="must be float64 like W, got int64"):
        nade.forward(x.astype(int), W, V, b, c)
