"""The NADE kernel: NumPy, Numba and CUDA against each other, and against what can be enumerated or differentiated."""

import itertools
import math
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from cuda_shim import cuda_on_cpu, needs_compiler
from hypothesis import strategies as st
from scipy import stats

from tinygen.kernels import nade
from tinygen.kernels.nade import cpu, cuda, reference
from tinygen.kernels.runtime import configured_numba

GRADIENTS = ("W", "V", "b", "c")
BOTH_DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-13}  # of the largest entry

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "B": st.integers(0, 5),
        "D": st.integers(1, 40),
        "H": st.integers(1, 80),
        "ones": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "dtype": st.sampled_from([np.float32, np.float64]),
    }
)


def given(examples, **strategies):
    fixed = hypothesis.settings(deadline=None, max_examples=examples, derandomize=True, database=None)
    return lambda test: fixed(hypothesis.given(**strategies)(test))


def problem(seed=0, B=4, D=12, H=7, ones=0.4, dtype=np.float64, scale=1.0) -> SimpleNamespace:
    """A random x (B, D), its parameters, a random cotangent g and uniform numbers."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (scale * rng.standard_normal(shape)).astype(dtype)
    x = (rng.random((B, D)) < ones).astype(dtype)
    parameters = (normal(D, H), normal(D, H), normal(D), normal(H))
    return SimpleNamespace(x=x, parameters=parameters, g=normal(B), u=rng.random((B, D)).astype(dtype))


def cube(dimensions: int) -> np.ndarray:
    """All binary vectors of that length, (2^D, D)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=dimensions)))


def gradients(module, p) -> tuple:
    """ln p(x), the logits, the last state and the four gradients."""
    W, V, b, c = p.parameters
    log_prob, residual = module.forward(p.x, W, V, b, c)
    return log_prob, *residual, *module.backward(p.g, p.x, W, V, residual)


def assert_close(found, expected, tolerance):
    for name, f, e in zip(("log_prob", "logits", "state", *GRADIENTS), found, expected, strict=True):
        assert f.shape == e.shape, name
        assert f.dtype == e.dtype, name
        assert np.abs(f - e).max(initial=0) <= tolerance * max(1, np.abs(e).max(initial=0)), name


def by_definition(x, W, V, b, c) -> np.ndarray:
    """ln p(x) in O(H D^2): each hidden vector from all the pixels before its own."""
    log_prob = np.zeros(len(x))
    for i in range(len(W)):
        h = 1 / (1 + np.exp(-(c + x[:, :i] @ W[:i])))
        p = 1 / (1 + np.exp(-(b[i] + h @ V[i])))
        log_prob += np.where(x[:, i] == 1, np.log(p), np.log1p(-p))
    return log_prob


def backward_with_stored_states(g, x, W, V, b, c) -> tuple:
    """The gradients, every a_i and h_i kept from the forward pass: (B, D, H) numbers."""
    steps = x[:, :, None] * W
    a = c + np.cumsum(np.concatenate([np.zeros_like(steps[:, :1]), steps[:, :-1]], 1), 1, dtype=x.dtype)
    h = reference.sigmoid(a)
    g_logits = g[:, None] * (x - reference.sigmoid(b + np.einsum("bdh,dh->bd", h, V)))
    g_a = g_logits[:, :, None] * V * h * (1 - h)
    from_here_on = np.cumsum(g_a[:, ::-1], 1)[:, ::-1]
    gW = np.einsum("bd,bdh->dh", x[:, :-1], from_here_on[:, 1:])
    return np.concatenate([gW, np.zeros_like(W[:1])]), np.einsum("bd,bdh->dh", g_logits, h), g_logits.sum(0), g_a.sum((0, 1))


# ---- The reference is the paper ----


def test_linear_time_equals_the_definition():
    p = problem(B=9, D=30, H=20)
    np.testing.assert_allclose(reference.forward(p.x, *p.parameters)[0], by_definition(p.x, *p.parameters), rtol=1e-12)


@pytest.mark.parametrize("module", [reference, nade], ids=["reference", "cpu"])
def test_subtraction_equals_stored_states(module):
    p = problem(B=6, D=50, H=30)
    expected = backward_with_stored_states(p.g, p.x, *p.parameters)
    for found, stored in zip(gradients(module, p)[3:], expected):
        np.testing.assert_allclose(found, stored, rtol=1e-11, atol=1e-12)


def test_float32_drift_of_subtraction_is_that_of_the_forward_sums(capsys):
    """At the size of MNIST, weights several times what training reaches: float32 against float64, by both ways."""
    p = problem(B=20, D=784, H=100, ones=0.15, scale=0.3)
    exact = backward_with_stored_states(p.g, p.x, *p.parameters)
    single = SimpleNamespace(
        x=p.x.astype("f"), g=p.g.astype("f"), parameters=tuple(array.astype("f") for array in p.parameters)
    )
    stored = backward_with_stored_states(single.g, single.x, *single.parameters)
    for module in (reference, nade):
        subtracted = gradients(module, single)
        a, first = subtracted[2].copy(), single.parameters[3]
        for i in reversed(range(784)):
            a -= single.x[:, i : i + 1] * single.parameters[0][i]
        with capsys.disabled():
            print(f"\n{module.__name__}: a_1 drifts by {np.abs(a - first).max():.1e}; errors of gradients", end="")
        for name, by_subtraction, by_storing, truth in zip(GRADIENTS, subtracted[3:], stored, exact):
            scale = np.abs(truth).max()
            drift, rounding = np.abs(by_subtraction - truth).max() / scale, np.abs(by_storing - truth).max() / scale
            with capsys.disabled():
                print(f", {name} {drift:.1e} (stored {rounding:.1e})", end="")
            assert drift < 4 * rounding + 1e-6
        assert np.abs(a - first).max() < 2e-5


@pytest.mark.parametrize("module", [reference, nade], ids=["reference", "cpu"])
def test_gradients_equal_finite_differences(module):
    p = problem(B=3, D=6, H=5, seed=3)
    h = 1e-6
    for number, gradient in enumerate(gradients(module, p)[3:]):
        for index in np.ndindex(gradient.shape):
            sides = []
            for sign in (1, -1):
                moved = [array.copy() for array in p.parameters]
                moved[number][index] += sign * h
                sides.append(p.g @ module.forward(p.x, *moved)[0])
            assert gradient[index] == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=2e-8)


# ---- The CPU and CUDA kernels are the reference ----


@given(60, drawn=problems)
def test_cpu_equals_reference(drawn):
    p = problem(**drawn)
    assert_close(gradients(nade, p), gradients(reference, p), TOLERANCE[drawn["dtype"]])


@BOTH_DTYPES
def test_cpu_equals_reference_at_full_size(dtype):
    p = problem(B=23, D=784, H=500, ones=0.13, scale=0.05, dtype=dtype)
    assert_close(gradients(nade, p), gradients(reference, p), TOLERANCE[dtype])


@needs_compiler
@given(20, drawn=problems)
def test_cuda_equals_reference(drawn):
    p = problem(**drawn | {"B": min(drawn["B"], 3)})
    with cuda_on_cpu():
        assert_close(gradients(cuda, p), gradients(reference, p), TOLERANCE[drawn["dtype"]])


@needs_compiler
@BOTH_DTYPES
def test_cuda_with_many_hidden_units(dtype):
    p = problem(B=2, D=30, H=2000, ones=0.9, dtype=dtype, scale=0.05)
    with cuda_on_cpu():
        assert_close(gradients(cuda, p), gradients(reference, p), TOLERANCE[dtype])


@needs_compiler
def test_cuda_samples_like_the_reference():
    with cuda_on_cpu():
        for start in (0, 5, 39, 40):
            p = problem(B=3, D=40, H=33, seed=start)
            expected = reference.complete(p.x, start, p.u, *p.parameters)
            np.testing.assert_array_equal(cuda.complete(p.x, start, p.u, *p.parameters), expected)


@given(30, drawn=problems, fraction=st.floats(0, 1))
def test_cpu_samples_like_the_reference(drawn, fraction):
    p = problem(**drawn | {"dtype": np.float64})
    start = round(fraction * drawn["D"])
    expected = reference.complete(p.x, start, p.u, *p.parameters)
    np.testing.assert_array_equal(nade.complete(p.x, start, p.u, *p.parameters), expected)


@BOTH_DTYPES
def test_same_bits_for_any_number_of_threads(dtype):
    numba = configured_numba()
    p = problem(B=37, D=100, H=333, dtype=dtype)
    results = []
    before = numba.get_num_threads()
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            results.append([*gradients(nade, p), nade.sample(p.u, *p.parameters)])
    finally:
        numba.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other):
            assert first.tobytes() == second.tobytes()


def test_same_bits_for_any_division_of_the_batch(monkeypatch):
    p = problem(B=21, D=20, H=33, dtype=np.float32)
    expected = [*gradients(nade, p), nade.sample(p.u, *p.parameters)]
    for group in (1, 2, 21):
        monkeypatch.setattr(cpu, "GROUP", group)
        monkeypatch.setattr(cpu, "share", lambda work: work)
        for first, second in zip(expected, [*gradients(nade, p), nade.sample(p.u, *p.parameters)]):
            assert first.tobytes() == second.tobytes()


# ---- It is a distribution, and the sampler draws from it ----


@given(10, seed=st.integers(0, 2**32 - 1), D=st.integers(1, 10), H=st.integers(1, 9))
def test_probabilities_sum_to_one(seed, D, H):
    p = problem(seed, D=D, H=H)
    assert abs(np.exp(nade.forward(cube(D), *p.parameters)[0]).sum() - 1) < 1e-10


def test_conditionals_are_ratios_of_sums_over_the_cube():
    D = 7
    p = problem(1, D=D)
    x = cube(D)
    probability = np.exp(nade.forward(x, *p.parameters)[0])
    found = 1 / (1 + np.exp(-nade.conditionals(x, *p.parameters)))
    for row, values in zip(x[::11], found[::11]):
        for i in range(D):
            same = (x[:, :i] == row[:i]).all(1)
            assert values[i] == pytest.approx(probability[same & (x[:, i] == 1)].sum() / probability[same].sum())


@BOTH_DTYPES
def test_zero_weights_give_d_ln_2(dtype):
    D, H = 784, 500
    x = np.random.default_rng(0).integers(0, 2, (5, D)).astype(dtype)
    zeros = np.zeros((D, H), dtype), np.zeros((D, H), dtype), np.zeros(D, dtype), np.zeros(H, dtype)
    np.testing.assert_allclose(nade.forward(x, *zeros)[0], -D * math.log(2), rtol=8 * np.finfo(dtype).eps)


def test_samples_follow_the_enumerated_probabilities():
    D, n = 6, 200_000
    p = problem(7, D=D, H=4)
    expected = n * np.exp(nade.forward(cube(D), *p.parameters)[0])
    samples = nade.sample(np.random.default_rng(1).random((n, D)), *p.parameters)
    counts = np.bincount((samples @ 2.0 ** np.arange(D)[::-1]).astype(int), minlength=2**D)
    assert stats.chisquare(counts, expected * (n / expected.sum())).pvalue > 1e-3


def test_completions_follow_the_exact_conditional():
    D, n, seen = 7, 100_000, np.array([1.0, 0.0, 1.0])
    p = problem(8, D=D, H=4)
    x = cube(D)
    probability = np.exp(nade.forward(x, *p.parameters)[0]) * (x[:, :3] == seen).all(1)
    start = np.concatenate([np.tile(seen, (n, 1)), np.full((n, D - 3), np.nan)], 1)
    completed = nade.complete(start, 3, np.random.default_rng(2).random((n, D)), *p.parameters)
    assert (completed[:, :3] == seen).all()
    counts = np.bincount((completed @ 2.0 ** np.arange(D)[::-1]).astype(int), minlength=2**D)
    possible = probability > 0
    assert counts[~possible].sum() == 0
    expected = n * probability[possible] / probability.sum()
    assert stats.chisquare(counts[possible], expected * (n / expected.sum())).pvalue > 1e-3


# ---- Arguments ----


@BOTH_DTYPES
def test_strided_and_read_only_arguments(dtype):
    p = problem(B=6, D=20, H=9, dtype=dtype)
    W, V, b, c = p.parameters
    compiled = len(cpu._forward.dispatcher.signatures)
    wide = np.zeros((20, 18), dtype)
    wide[:, ::2] = W
    strided = SimpleNamespace(
        x=np.asfortranarray(p.x), g=np.repeat(p.g, 2)[::2], parameters=(wide[:, ::2], V[::-1].copy()[::-1], b, c)
    )
    for array in strided.parameters:
        array.flags.writeable = False
    expected = gradients(nade, p)
    for first, second in zip(expected, gradients(nade, strided)):
        assert first.tobytes() == second.tobytes()
    drawn = nade.complete(p.x, 4, p.u, W, V, b, c)
    again = nade.complete(strided.x, 4, np.asfortranarray(p.u), *strided.parameters)
    np.testing.assert_array_equal(drawn, again)
    assert len(cpu._forward.dispatcher.signatures) <= max(compiled, 2), "a layout had a kernel compiled of its own"


@BOTH_DTYPES
def test_arguments_are_not_changed_and_backward_repeats(dtype):
    p = problem(B=6, D=20, H=9, dtype=dtype)
    W, V, b, c = p.parameters
    log_prob, residual = nade.forward(p.x, W, V, b, c)
    arguments = (p.x, W, V, b, c, p.g, p.u, log_prob, *residual)
    before = [array.copy() for array in arguments]
    first = nade.backward(p.g, p.x, W, V, residual)
    second = nade.backward(p.g, p.x, W, V, residual)
    nade.complete(p.x, 3, p.u, W, V, b, c)
    for array, copy in zip(arguments, before):
        np.testing.assert_array_equal(array, copy)
    for a, b in zip(first, second):
        assert a.tobytes() == b.tobytes()
        assert not np.shares_memory(a, b)


def test_empty_batch_gives_zero_gradients():
    p = problem(B=0)
    assert all((gradient == 0).all() for gradient in gradients(nade, p)[3:])
    assert nade.sample(p.u, *p.parameters).shape == p.u.shape


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, np.nan, np.inf])
def test_x_that_is_not_binary_is_refused(value):
    p = problem()
    p.x[2, 5] = value
    with pytest.raises(ValueError, match=f"zeros and ones only, got {value}: binarize"):
        nade.forward(p.x, *p.parameters)
    with pytest.raises(ValueError, match="zeros and ones"):
        nade.complete(p.x, 6, p.u, *p.parameters)
    nade.complete(p.x, 5, p.u, *p.parameters)  # the pixel is not looked at


def test_wrong_shapes_and_dtypes_are_named():
    p = problem(B=4, D=12, H=7)
    W, V, b, c = p.parameters
    with pytest.raises(ValueError, match=r"V must have shape \(12, 7\), got \(7, 12\)"):
        nade.forward(p.x, W, V.T, b, c)
    with pytest.raises(ValueError, match=r"x must have shape \(4, 12\), got \(4, 11\)"):
        nade.forward(p.x[:, 1:], W, V, b, c)
    with pytest.raises(TypeError, match="x must be float64 like W, got float32"):
        nade.forward(p.x.astype("f"), W, V, b, c)
    with pytest.raises(TypeError, match="W must be float32 or float64, got int64"):
        nade.forward(p.x, W.astype(int), V, b, c)
    with pytest.raises(ValueError, match="at least one of each"):
        nade.forward(p.x, W[:, :0], V[:, :0], b, c[:0])
    with pytest.raises(ValueError, match="start must be between 0 and the 12 pixels, got 13"):
        nade.complete(p.x, 13, p.u, W, V, b, c)
    with pytest.raises(TypeError, match=r"takes .*, got builtins.list"):
        nade.implementation("tinygen.kernels.nade", [1.0])


@BOTH_DTYPES
def test_extreme_weights_give_finite_results(dtype):
    p = problem(B=3, D=15, H=8, dtype=dtype)
    loud = SimpleNamespace(**vars(p) | {"parameters": tuple(dtype(1e4) * array for array in p.parameters)})
    for array in gradients(nade, loud):
        assert np.isfinite(array).all()
