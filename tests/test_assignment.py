"""Item assignment: differentiable, or refused with a word on what to write instead."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor


def leaf(n=6, dtype=np.float64):
    return Tensor(np.arange(1, n + 1, dtype=dtype), requires_grad=True)


INDICES = {
    "slice": slice(1, 4),
    "negative step": slice(None, None, -2),
    "int": 2,
    "pair": (1, 2),
    "ints": np.array([0, 2]),
    "pairs of ints": (np.array([0, 2]), np.array([1, 1])),
    "mask": np.arange(20).reshape(5, 4) % 3 == 0,
    "row mask": np.array([True, False, True, False, False]),
    "everything": Ellipsis,
    "newaxis": (slice(0, 2), None, 1),
    "list": [3, 1],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_assignment_has_gradients(index):
    rng = np.random.default_rng(0)
    a, value = rng.standard_normal((5, 4)), rng.standard_normal(np.zeros((5, 4))[index].shape)
    x, v = Tensor(a, requires_grad=True), Tensor(value, requires_grad=True)
    y = x * 2
    y[index] = v * 3
    expected = 2 * a
    expected[index] = 3 * value
    np.testing.assert_array_equal(y.numpy(), expected)
    g = rng.standard_normal((5, 4))
    y.backward(g)
    outside = 2 * g
    outside[index] = 0
    np.testing.assert_allclose(x.grad, outside)
    np.testing.assert_allclose(v.grad, 3 * g[index])


def test_assignment_to_an_element_twice_keeps_the_last_value():
    v = Tensor(np.array([1.0, 2, 3, 4]), requires_grad=True)
    y = Tensor(np.zeros(3))
    y[[0, 2, 0, 2]] = v
    np.testing.assert_array_equal(y.numpy(), [3, 0, 4])
    y.backward(np.array([10.0, 20, 30]))
    np.testing.assert_array_equal(v.grad, [0, 0, 10, 30])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (3, 1), (1, 1, 3, 4)])
def test_assignment_broadcasts_the_value(shape):
    value = Tensor(np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape), requires_grad=True)
    y = Tensor(np.zeros((5, 4)))
    y[1:4] = value
    g = np.arange(20.0).reshape(5, 4)
    y.backward(g)
    kept = tuple(i for i in range(2) if ((1, 1) + shape)[-2:][i] == 1)
    np.testing.assert_array_equal(value.grad, g[1:4].sum(axis=kept).reshape(shape))


def test_assignment_of_numbers_and_arrays_and_from_itself():
    x = Tensor(np.arange(6.0), requires_grad=True)
    y = x * 1
    y[0] = 7
    y[1] = np.float64(8)
    y[2:4] = np.array([9.0, 10])
    y[4:] = y[:2]
    np.testing.assert_array_equal(y.numpy(), [7, 8, 9, 10, 7, 8])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.zeros(6))


def test_assignment_keeps_the_dtype():
    x = Tensor(np.zeros(3, np.float32), requires_grad=True)
    y, v = x * 1, Tensor(np.ones(1), requires_grad=True)
    y[1] = np.float64(2)
    y[2:] = v
    assert y.dtype == np.float32
    y.sum().backward()
    assert (x.grad.dtype, v.grad.dtype) == (np.float32, np.float64)
    whole = Tensor(np.array([2**24 + 1, 5]))
    whole[1:] = np.array([2.5], np.float32)
    assert whole.dtype == np.int64
    np.testing.assert_array_equal(whole.numpy(), [2**24 + 1, 2])


def test_assignment_does_not_touch_what_was_computed_before():
    x = leaf()
    y = x * 1
    square, view, before = y * y, y[:2], y.data
    y[0] = 100
    np.testing.assert_array_equal(before, np.arange(1.0, 7))
    np.testing.assert_array_equal(view.numpy(), [1, 2])
    (square.sum() + view.sum()).backward()
    np.testing.assert_array_equal(x.grad, 2 * np.arange(1.0, 7) + [1, 1, 0, 0, 0, 0])


def test_assignment_in_a_loop_is_differentiated_twice():
    x = Tensor(np.array([1.0, 2, 3]), requires_grad=True)
    y = Tensor(np.zeros(4))
    y[0] = 1.0
    for i in range(3):
        y[i + 1] = y[i] * x[i] ** 2
    first = tg.grad(y[3], x, create_graph=True)
    np.testing.assert_allclose(first.numpy(), 2 * 36 / x.numpy())
    second = tg.grad(first.sum(), x)
    values = x.numpy()
    np.testing.assert_allclose(second.numpy(), [sum(4 * 36 / (a * b) for b in values) - 2 * 36 / a**2 for a in values])


def test_assignment_that_would_lose_a_gradient_is_refused():
    x = leaf()
    with pytest.raises(RuntimeError, match=r"leaf that requires grad.*x = x\.copy\(\)"):
        x[0] = 1
    y = x * 2
    with tg.no_grad(), pytest.raises(RuntimeError, match=r"inside no_grad.*x\.detach\(\)"):
        y[0] = 1
    with pytest.raises(TypeError, match="setitem changes a Tensor, not ndarray"):
        tg.setitem(np.zeros(3), 0, 1)


def test_assignment_of_a_wrong_shape_is_numpys_error():
    y = Tensor(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="could not broadcast"):
        y[0] = np.zeros(2)
    with pytest.raises(IndexError):
        y[5] = 0
