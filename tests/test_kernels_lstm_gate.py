"""The gate kernel of the LSTMs against its specification, and the matrix product that the LSTM kernels are built on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_loop import assert_close, spaced

from tinygen.kernels import lstm_gate
from tinygen.kernels.lstm_gate import reference
from tinygen.kernels.memory import aligned, padded
from tinygen.kernels.product import product

dtypes = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])


def case(seed, rows, h, dtype=np.float64, scale=1.0):
    """gates, c, and cotangents of h' and c'."""
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal((rows, width))).astype(dtype) for width in (4 * h, h, h, h)]


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 9), h=st.integers(1, 40), dtype=dtypes, gaps=st.booleans())
@settings(max_examples=40, deadline=None)
def test_cpu_equals_reference(seed, rows, h, dtype, gaps):
    plain = case(seed, rows, h, dtype)
    gates, cell, g_hidden, g_after = map(spaced, plain) if gaps else plain
    expected = reference.forward(gates, cell)
    got = lstm_gate.forward(gates, cell)
    assert_close(got, expected, dtype)
    gradients = lstm_gate.backward(g_hidden, g_after, got[2], cell, got[1])
    assert_close(gradients, reference.backward(g_hidden, g_after, expected[2], cell, expected[1]), dtype)
    for array, before in zip((gates, cell, g_hidden, g_after), case(seed, rows, h, dtype), strict=True):
        assert (array == before).all()


def test_many_rows_are_as_few():
    gates, cell, g_hidden, g_after = case(0, 700, 50, np.float32)
    hidden, after, activations = lstm_gate.forward(gates, cell)
    g_gates, g_cell = lstm_gate.backward(g_hidden, g_after, activations, cell, after)
    for some in (slice(0, 3), slice(350, 355), slice(697, 700)):
        part = lstm_gate.forward(gates[some], cell[some])
        assert all((a == b[some]).all() for a, b in zip(part, (hidden, after, activations), strict=True))
        back = lstm_gate.backward(g_hidden[some], g_after[some], part[2], cell[some], part[1])
        assert all((a == b[some]).all() for a, b in zip(back, (g_gates, g_cell), strict=True))


def test_gates_far_from_zero_saturate():
    gates = np.array([[200.0, -200.0, 200.0, 200.0]], np.float32)
    hidden, after, activations = lstm_gate.forward(gates, np.array([[3.0]], np.float32))
    np.testing.assert_allclose(activations, [[1, 0, 1, 1]], atol=1e-30)
    np.testing.assert_allclose([after, hidden], [[[1]], [[np.tanh(1)]]], rtol=1e-6)


def test_gradient_against_finite_differences():
    gates, cell, g_hidden, g_after = case(1, 4, 5)
    rng = np.random.default_rng(2)
    directions = rng.standard_normal(gates.shape), rng.standard_normal(cell.shape)

    def along(t):
        hidden, after, _ = lstm_gate.forward(gates + t * directions[0], cell + t * directions[1])
        return (g_hidden * hidden).sum() + (g_after * after).sum()

    h = 1e-3
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    _, after, activations = lstm_gate.forward(gates, cell)
    gradients = lstm_gate.backward(g_hidden, g_after, activations, cell, after)
    analytic = sum((g * d).sum() for g, d in zip(gradients, directions))
    assert analytic == pytest.approx(numeric, rel=1e-9)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got \(2, 12\) and \(2, 4\)"):
        lstm_gate.forward(np.zeros((2, 12)), np.zeros((2, 4)))
    with pytest.raises(TypeError, match="float32 and float64"):
        lstm_gate.forward(np.zeros((2, 16), np.float32), np.zeros((2, 4)))


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 20),
    terms=st.integers(0, 20),
    width=st.integers(1, 150),
    dtype=dtypes,
    one=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_product_of_any_shape(seed, rows, terms, width, dtype, one):
    rng = np.random.default_rng(seed)
    columns = padded(width, dtype)
    assert width <= columns < width + 64 // dtype.itemsize
    a, b, out = aligned((rows, terms), dtype), aligned((terms, columns), dtype), aligned((rows, columns), dtype)
    assert all(matrix.ctypes.data % 64 == 0 for matrix in (a, b, out) if matrix.size)
    init = rng.standard_normal((1 if one else rows, columns)).astype(dtype)
    a[...], b[...] = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
    product(a, b, init, out)
    assert_close([out], [init + a @ b], dtype)
    again = np.empty_like(out)
    product(np.asfortranarray(a), b, init, again)
    assert (again == out).all()
    half = out.copy()
    product(a[:, : terms // 2], b[: terms // 2], init, half)
    product(a[:, terms // 2 :], b[terms // 2 :], half, half)
    assert (half == out).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 20),
    terms=st.integers(0, 9),
    width=st.integers(1, 150),
    taps=st.integers(0, 4),
    apart=st.integers(0, 3),
    dtype=dtypes,
)
@settings(max_examples=40, deadline=None)
def test_product_of_several_taps_is_a_convolution(seed, rows, terms, width, taps, apart, dtype):
    rng = np.random.default_rng(seed)
    columns = padded(width, dtype)
    a = rng.standard_normal((rows + max(taps - 1, 0) * apart, terms)).astype(dtype)
    b, out = aligned((taps * terms, columns), dtype), aligned((rows, columns), dtype)
    b[...] = rng.standard_normal(b.shape)
    init = rng.standard_normal((1, columns)).astype(dtype)
    product(a, b, init, out, taps, apart)
    moved = [a[tap * apart : tap * apart + rows] for tap in range(taps)]
    expected = init + np.zeros_like(out)
    for tap, part in enumerate(moved):
        expected += part @ b[tap * terms : (tap + 1) * terms]
    assert_close([out], [expected], dtype)
    side_by_side = np.empty_like(out)
    product(np.concatenate([np.empty((rows, 0), dtype), *moved], axis=1), b, init, side_by_side)
    assert (side_by_side == out).all()
