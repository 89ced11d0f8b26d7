"""The Row LSTM kernel and its specification against each other, a loop over pixels, and finite differences."""

import numpy as np
import pixel_loop
import pytest
from comparing import dtypes, seeds
from cuda_shim import SHARED, cuda_on_cpu, needs_compiler
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pixel_loop import assert_close, both_ways

from tinygen.kernels import row_lstm
from tinygen.kernels.row_lstm import cuda, reference

sides = st.integers(1, 7)
widths = st.sampled_from([1, 3, 5])


def case(seed, N, C, h, H, W, k=3, m=2, dtype=np.float64):
    """x, weight_ih, weight_hh, bias and a cotangent, drawn from a seed."""
    rng = np.random.default_rng(seed)
    shapes = (N, C, H, W), (4 * h, C, m), (4 * h, h, k), (4 * h,), (N, h, H, W)
    return [(rng.standard_normal(shape) * scale).astype(dtype) for shape, scale in zip(shapes, (1, 0.5, 0.4, 0.5, 1))]


def by_pixel(function, *first, weight_ih, weight_hh, bias, size):
    """Call a function of pixel_loop with what the Row LSTM is in its terms."""
    k, m = weight_hh.shape[2], weight_ih.shape[2]
    inputs = {(0, t - m + 1): weight_ih[..., t] for t in range(m)}
    states = {(-1, t - k // 2): weight_hh[..., t] for t in range(k)}
    return function(*first, inputs, states, (-1, 0), bias, list(np.ndindex(size)))


def walk(x, weight_ih, weight_hh, bias, step):
    """Hidden states (N, h, H, W) by one step a pixel, as a sampler gets them."""
    N, _, H, W = x.shape
    k, m, size = weight_hh.shape[2], weight_ih.shape[2], weight_hh.shape[1]
    hidden, cell = np.zeros((2, N, size, H + 1, W + k - 1), x.dtype)
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (m - 1, 0)))
    for r, c in np.ndindex(H, W):
        state = step(x[:, :, r, c : c + m], hidden[:, :, r, c : c + k], cell[:, :, r, c + k // 2], weight_ih, weight_hh, bias)
        hidden[:, :, r + 1, c + k // 2], cell[:, :, r + 1, c + k // 2] = state
    return hidden[:, :, 1:, k // 2 : k // 2 + W]


@given(
    seed=seeds,
    N=st.integers(0, 9),
    C=st.integers(1, 9),
    h=st.integers(1, 19),
    H=sides,
    W=sides,
    k=widths,
    m=st.integers(1, 4),
    dtype=dtypes,
)
@settings(max_examples=50, deadline=None)
def test_cpu_equals_reference(seed, N, C, h, H, W, k, m, dtype):
    *arguments, g = case(seed, N, C, h, H, W, k, m, dtype)
    assert_close(both_ways(row_lstm, arguments, g), both_ways(reference, arguments, g), dtype)


@given(
    seed=seeds,
    N=st.integers(1, 3),
    C=st.integers(1, 3),
    h=st.integers(1, 4),
    H=sides,
    W=sides,
    k=widths,
    m=st.integers(1, 3),
    dtype=dtypes,
)
@settings(max_examples=20, deadline=None)
def test_kernel_and_reference_equal_a_loop_over_pixels(seed, N, C, h, H, W, k, m, dtype):
    *arguments, g = case(seed, N, C, h, H, W, k, m, dtype)
    x, weight_ih, weight_hh, bias = arguments
    options = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "size": (H, W)}
    hidden = by_pixel(pixel_loop.forward, x, **options)[0]
    g_x, g_inputs, g_states, g_bias = by_pixel(pixel_loop.backward, g, x, **options)
    expected = [hidden, g_x, *(np.stack(list(taps.values()), axis=2) for taps in (g_inputs, g_states)), g_bias]
    for module in (reference, row_lstm):
        assert_close(both_ways(module, arguments, g), expected, dtype)


@needs_compiler
@given(
    seed=seeds,
    N=st.integers(0, 3),
    C=st.sampled_from([1, 5, 33]),
    h=st.sampled_from([1, 5, 16, 33, 70]),
    H=st.integers(1, 5),
    W=st.integers(1, 6),
    k=widths,
    m=st.integers(1, 3),
    dtype=dtypes,
    shared_memory=st.sampled_from([SHARED, 40 << 10, 100]),  # enough, for the rows alone, and too little
)
@example(seed=0, N=1, C=1, h=2, H=2, W=35, k=3, m=2, dtype=np.float64, shared_memory=SHARED)
@settings(max_examples=15, deadline=None)
def test_cuda_equals_reference(seed, N, C, h, H, W, k, m, dtype, shared_memory):
    *arguments, g = case(seed, N, C, h, H, W, k, m, dtype)
    with cuda_on_cpu(seed=seed, shared_memory=shared_memory):
        got = both_ways(cuda, arguments, g)
        if H * W <= 30:
            assert_close([walk(*arguments, cuda.step)], got[:1], dtype)
    assert_close(got, both_ways(reference, arguments, g), dtype)


@pytest.mark.parametrize("module", [reference, row_lstm])
def test_gradient_against_finite_differences(module):
    for seed, sizes in enumerate([(2, 3, 4, 3, 4), (1, 1, 1, 1, 1, 1, 1), (3, 2, 5, 1, 4), (2, 1, 3, 5, 1, 5, 3)]):
        *arguments, _ = case(seed, *sizes)
        assert pixel_loop.directional_error(module.forward, module.backward, arguments, seed) < 1e-8


@pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 1), (3, 2), (5, 3)])
def test_a_state_depends_on_the_triangle_above_and_on_no_other_pixel(k, m):
    H, W = 4, 9
    x, weight_ih, weight_hh, bias, _ = case(1, 1, 2, 3, H, W, k, m)
    y, residual = row_lstm.forward(x, weight_ih, weight_hh, bias)
    rows, columns = np.indices((H, W))
    triangle = np.zeros((H, W, H, W), bool)
    for r, c in np.ndindex(H, W):
        reach = (r - rows) * (k // 2)
        triangle[r, c] = (rows <= r) & (columns >= c - reach - m + 1) & (columns <= c + reach)
    for r, c in np.ndindex(H, W):
        g = np.zeros_like(y)
        g[..., r, c] = 1
        seen = (row_lstm.backward(g, weight_ih, weight_hh, residual)[0] != 0).any(axis=(0, 1))
        assert (seen == triangle[r, c]).all()
        changed = x.copy()
        changed[..., r, c] += 1
        moved = (row_lstm.forward(changed, weight_ih, weight_hh, bias)[0] != y).any(axis=(0, 1))
        assert (moved == triangle[:, :, r, c]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_give_the_states_of_forward_bit_for_bit(dtype):
    *arguments, _ = case(2, 5, 3, 6, 4, 5, 3, 2, dtype)
    y = row_lstm.forward(*arguments)[0]
    assert (walk(*arguments, row_lstm.step) == y).all()
    assert_close([walk(*arguments, reference.step)], [y], dtype)


def test_an_image_has_the_same_bits_alone_and_in_a_batch():
    pixel_loop.assert_same_alone_and_in_a_batch(row_lstm, *case(3, 33, 3, 5, 6, 5, dtype=np.float32)[:-1])


def test_the_number_of_threads_does_not_change_a_bit():
    *arguments, g = case(4, 37, 4, 7, 6, 5, dtype=np.float32)
    pixel_loop.assert_same_for_any_number_of_threads(row_lstm, arguments, g)


def test_inputs_are_not_changed_and_may_have_gaps_and_backward_may_run_twice():
    pixel_loop.assert_only_reads(row_lstm, *case(5, 6, 3, 4, 5, 4))


def test_what_does_not_fit_is_refused():
    x, weight_ih, weight_hh, bias, _ = case(6, 2, 3, 4, 5, 4)
    with pytest.raises(ValueError, match=r"with k odd, bias \(4 h,\); got .*\(16, 4, 2\)"):
        row_lstm.forward(x, weight_ih, np.zeros((16, 4, 2)), bias)
    with pytest.raises(ValueError, match=r"got \(2, 2, 5, 4\)"):
        row_lstm.forward(x[:, :2], weight_ih, weight_hh, bias)
    with pytest.raises(ValueError, match="at least one pixel"):
        row_lstm.forward(x[..., :0], weight_ih, weight_hh, bias)
    with pytest.raises(TypeError, match="float32, float64"):
        row_lstm.forward(x.astype(np.float32), weight_ih, weight_hh, bias)
    with pytest.raises(ValueError, match=r"step takes x \(N, C, m\)"):
        row_lstm.step(x[:, :, 0, :2], np.zeros((2, 4, 1)), np.zeros((2, 4)), weight_ih, weight_hh, bias)
