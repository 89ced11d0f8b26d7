"""The Diagonal LSTM kernel and its specification against each other, a loop over pixels, and finite differences."""

import itertools

import numpy as np
import pixel_loop
import pytest
from comparing import dtypes, seeds
from cuda_shim import SHARED, cuda_on_cpu, needs_compiler
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pixel_loop import assert_close, both_ways

from tinygen.kernels import diagonal_lstm
from tinygen.kernels.diagonal_lstm import cuda, reference

sides = st.integers(1, 7)


def case(seed, N, C, h, H, W, dtype=np.float64):
    """x, weight_ih, weight_hh, bias and a cotangent, drawn from a seed."""
    rng = np.random.default_rng(seed)
    shapes = (N, C, H, W), (4 * h, C), (4 * h, h, 2), (4 * h,), (N, h, H, W)
    return [(rng.standard_normal(shape) * scale).astype(dtype) for shape, scale in zip(shapes, (1, 0.5, 0.5, 0.5, 1))]


def by_pixel(function, *first, weight_ih, weight_hh, bias, size, reverse):
    """Call a function of pixel_loop with what the Diagonal LSTM is in its terms."""
    side = 1 if reverse else -1
    states = {(-1, 0): weight_hh[..., 0], (0, side): weight_hh[..., 1]}
    columns = range(size[1])[::-1] if reverse else range(size[1])
    return function(*first, {(0, 0): weight_ih}, states, (0, side), bias, list(itertools.product(range(size[0]), columns)))


def walk(x, weight_ih, weight_hh, bias, step):
    """Hidden states (N, h, H, W) by one step a pixel, as a sampler gets them."""
    N, _, H, W = x.shape
    size = weight_hh.shape[1]
    hidden, cell = np.zeros((2, N, size, H + 1, W + 1), x.dtype)
    for r, c in np.ndindex(H, W):
        neighbours = np.stack([hidden[:, :, r, c + 1], hidden[:, :, r + 1, c]], axis=2)
        state = step(x[:, :, r, c], neighbours, cell[:, :, r + 1, c], weight_ih, weight_hh, bias)
        hidden[:, :, r + 1, c + 1], cell[:, :, r + 1, c + 1] = state
    return hidden[:, :, 1:, 1:]


@given(shape=st.tuples(st.integers(0, 3), sides, sides))
@settings(max_examples=20, deadline=None)
def test_unskew_undoes_skew(shape):
    x = np.random.default_rng(0).standard_normal((2, *shape))
    skewed = reference.skew(x)
    assert skewed.shape == (2, *shape[:2], shape[1] + shape[2] - 1)
    assert (reference.unskew(skewed) == x).all()
    assert np.count_nonzero(skewed) == x.size
    for r, c in np.ndindex(shape[1:]):  # a column of the skewed map holds a diagonal
        assert (skewed[..., r, r + c] == x[..., r, c]).all()


@given(
    seed=seeds,
    N=st.integers(0, 9),
    C=st.integers(1, 9),
    h=st.integers(1, 19),
    H=sides,
    W=sides,
    dtype=dtypes,
    reverse=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_cpu_equals_reference(seed, N, C, h, H, W, dtype, reverse):
    *arguments, g = case(seed, N, C, h, H, W, dtype)
    assert_close(both_ways(diagonal_lstm, arguments, g, reverse), both_ways(reference, arguments, g, reverse), dtype)


@given(
    seed=seeds,
    N=st.integers(1, 3),
    C=st.integers(1, 3),
    h=st.integers(1, 4),
    H=sides,
    W=sides,
    dtype=dtypes,
    reverse=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_kernel_and_reference_equal_a_loop_over_pixels(seed, N, C, h, H, W, dtype, reverse):
    *arguments, g = case(seed, N, C, h, H, W, dtype)
    x, weight_ih, weight_hh, bias = arguments
    options = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "size": (H, W), "reverse": reverse}
    hidden = by_pixel(pixel_loop.forward, x, **options)[0]
    g_x, g_inputs, g_states, g_bias = by_pixel(pixel_loop.backward, g, x, **options)
    g_hh = np.stack(list(g_states.values()), axis=2)
    for module in (reference, diagonal_lstm):
        assert_close(both_ways(module, arguments, g, reverse), [hidden, g_x, g_inputs[0, 0], g_hh, g_bias], dtype)


@needs_compiler
@given(
    seed=seeds,
    N=st.integers(0, 3),
    C=st.sampled_from([1, 5, 33]),
    h=st.sampled_from([1, 5, 16, 33, 70]),
    H=st.integers(1, 5),
    W=st.integers(1, 6),
    reverse=st.booleans(),
    dtype=dtypes,
    shared_memory=st.sampled_from([SHARED, 40 << 10, 100]),  # enough, for the rows alone, and too little
)
@example(seed=0, N=1, C=1, h=2, H=34, W=35, reverse=False, dtype=np.float64, shared_memory=SHARED)
@settings(max_examples=15, deadline=None)
def test_cuda_equals_reference(seed, N, C, h, H, W, dtype, reverse, shared_memory):
    *arguments, g = case(seed, N, C, h, H, W, dtype)
    with cuda_on_cpu(seed=seed, shared_memory=shared_memory):
        got = both_ways(cuda, arguments, g, reverse)
        if H * W <= 30:
            assert_close([walk(*arguments, cuda.step)], [reference.forward(*arguments)[0]], dtype)
    assert_close(got, both_ways(reference, arguments, g, reverse), dtype)


def test_cpu_equals_reference_at_the_size_of_mnist():
    *arguments, g = case(0, 5, 8, 4, 28, 28, np.float32)
    exact, *truth = both_ways(reference, [a.astype(np.float64) for a in arguments], g.astype(np.float64))
    y, *gradients = both_ways(diagonal_lstm, arguments, g)
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-6)
    for one, other in zip(gradients, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * np.abs(other).max())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("module", [reference, diagonal_lstm])
def test_gradient_against_finite_differences(module, reverse):
    for seed, sizes in enumerate([(2, 3, 4, 3, 4), (1, 1, 1, 1, 1), (3, 2, 5, 1, 4), (2, 1, 3, 5, 1)]):
        *arguments, _ = case(seed, *sizes)
        forward = lambda *a: module.forward(*a, reverse)
        backward = lambda *a: module.backward(*a, reverse)
        assert pixel_loop.directional_error(forward, backward, arguments, seed) < 1e-8


@pytest.mark.parametrize("reverse", [False, True])
def test_a_state_depends_on_all_pixels_above_and_to_one_side_and_on_no_other(reverse):
    H, W = 4, 5
    x, weight_ih, weight_hh, bias, _ = case(1, 1, 2, 3, H, W)
    y, residual = diagonal_lstm.forward(x, weight_ih, weight_hh, bias, reverse)
    rows, columns = np.indices((H, W))
    for r, c in np.ndindex(H, W):
        g = np.zeros_like(y)
        g[..., r, c] = 1
        seen = (diagonal_lstm.backward(g, weight_ih, weight_hh, residual, reverse)[0] != 0).any(axis=(0, 1))
        assert (seen == ((rows <= r) & (columns >= c if reverse else columns <= c))).all()
        changed = x.copy()
        changed[..., r, c] += 1
        moved = (diagonal_lstm.forward(changed, weight_ih, weight_hh, bias, reverse)[0] != y).any(axis=(0, 1))
        assert (moved == ((rows >= r) & (columns <= c if reverse else columns >= c))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_give_the_states_of_forward_bit_for_bit(dtype):
    *arguments, _ = case(2, 5, 3, 6, 4, 5, dtype)
    y = diagonal_lstm.forward(*arguments)[0]
    assert (walk(*arguments, diagonal_lstm.step) == y).all()
    assert_close([walk(*arguments, reference.step)], [y], dtype)
    empty = [a[:0] for a in (arguments[0][..., 0, 0], y[..., :2, 0], y[..., 0, 0])]
    assert [a.shape for a in diagonal_lstm.step(*empty, *arguments[1:])] == [(0, 6), (0, 6)]


def test_an_image_has_the_same_bits_alone_and_in_a_batch():
    pixel_loop.assert_same_alone_and_in_a_batch(diagonal_lstm, *case(3, 33, 3, 5, 6, 5, np.float32)[:-1])


def test_the_number_of_threads_does_not_change_a_bit():
    *arguments, g = case(4, 37, 4, 7, 6, 5, np.float32)
    pixel_loop.assert_same_for_any_number_of_threads(diagonal_lstm, arguments, g)


def test_inputs_are_not_changed_and_may_have_gaps_and_backward_may_run_twice():
    pixel_loop.assert_only_reads(diagonal_lstm, *case(5, 6, 3, 4, 5, 4))


def test_what_does_not_fit_is_refused():
    x, weight_ih, weight_hh, bias, _ = case(6, 2, 3, 4, 5, 4)
    with pytest.raises(ValueError, match=r"weight_hh \(4 h, h, 2\), bias \(4 h,\); got .*\(16, 4, 3\)"):
        diagonal_lstm.forward(x, weight_ih, np.zeros((16, 4, 3)), bias)
    with pytest.raises(ValueError, match=r"got \(2, 2, 5, 4\)"):
        diagonal_lstm.forward(x[:, :2], weight_ih, weight_hh, bias)
    with pytest.raises(ValueError, match="at least one pixel"):
        diagonal_lstm.forward(x[..., :0], weight_ih, weight_hh, bias)
    with pytest.raises(TypeError, match="float32, float64"):
        diagonal_lstm.forward(x.astype(np.float32), weight_ih, weight_hh, bias)
    with pytest.raises(ValueError, match=r"step takes x \(N, C\), hidden"):
        diagonal_lstm.step(x[..., 0, 0], np.zeros((2, 4)), np.zeros((2, 4)), weight_ih, weight_hh, bias)
    with pytest.raises(TypeError, match=r"numpy\.ndarray or cupy"):
        diagonal_lstm.backward([1.0], weight_ih, weight_hh, None)
