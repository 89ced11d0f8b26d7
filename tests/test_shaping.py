"""Functions of shape, indexing and look-up against NumPy; the gradients of indexing against `numpy.add.at`."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from comparing import (
    FLOATS,
    array_of,
    arrays,
    assert_both_ways,
    assert_same,
    dtypes,
    filled_arrays,
    given,
    keeping_layout,
    seeds,
    shapes,
)
from hypothesis import strategies as st

import tinygen as tg
from tinygen import Tensor

# ---- Shapes. ----


@given(x=arrays, data=st.data())
def test_reshape_and_squeeze(x, data):
    target = data.draw(st.sampled_from([(x.size,), (-1,), (1, x.size, 1), (-1, 1), x.shape, x.shape[::-1]]))
    if x.size:
        assert_both_ways(lambda t: tg.reshape(t, target), x.reshape(target), x)
        assert_both_ways(lambda t: tg.reshape(t, *target), x.reshape(target), x)
        assert_both_ways(lambda t: tg.reshape(t, list(target)), x.reshape(target), x)
    assert_both_ways(tg.squeeze, np.squeeze(x), x)
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    wide = np.expand_dims(x, axis)
    assert_both_ways(lambda t: tg.expand_dims(t, axis), wide, x)
    assert_both_ways(lambda t: tg.squeeze(t, axis), np.squeeze(wide, axis), wide)
    assert_both_ways(lambda t: tg.expand_dims(t, (0, -1)), np.expand_dims(x, (0, -1)), x)


@given(x=arrays, data=st.data())
def test_axes_in_another_order(x, data):
    axes = data.draw(st.permutations(range(x.ndim)))
    signed = [a - x.ndim if data.draw(st.booleans()) else a for a in axes]
    assert_both_ways(lambda t: tg.transpose(t, tuple(signed)), x.transpose(axes), x)
    assert_both_ways(lambda t: tg.transpose(t), x.T, x)
    assert_same(keeping_layout(x).T, x.T)
    assert_same(keeping_layout(x).transpose(*signed), x.transpose(*axes))
    if x.ndim:
        i, j = (data.draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))
        assert_both_ways(lambda t: tg.swapaxes(t, i, j), np.swapaxes(x, i, j), x)
        assert_both_ways(lambda t: tg.flip(t, i), np.flip(x, i), x)
        assert_both_ways(lambda t: tg.flip(t, (i,)), np.flip(x, (i,)), x)
    assert_both_ways(tg.flip, np.flip(x), x)


@given(drawn=hnp.mutually_broadcastable_shapes(num_shapes=1, min_side=0, max_dims=3), dtype=dtypes, seed=seeds, more=shapes)
def test_broadcast_to(drawn, dtype, seed, more):
    (shape,) = drawn.input_shapes
    x = array_of(shape, dtype, "contiguous", seed)
    target = (*more, *(n if n != 1 else 3 for n in shape))
    assert_both_ways(lambda t: tg.broadcast_to(t, target), np.broadcast_to(x, target), x)


@given(x=arrays.filter(lambda x: x.ndim), data=st.data())
def test_joining_and_cutting(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    other = np.concatenate([x, x], axis)[..., ::-1]
    assert_both_ways(lambda *ts: tg.concatenate(ts, axis), np.concatenate([x, other, x], axis), x, other, x)
    assert_both_ways(lambda *ts: tg.stack(ts, axis), np.stack([x, 2 * x], axis), x, 2 * x)
    assert_both_ways(lambda *ts: tg.stack(ts, -1), np.stack([x, x], -1), x, x)
    n = x.shape[axis]
    for parts in [p for p in (1, 2, 3, 4) if n % p == 0] + [[0], [1, 2], (n,), [1, 1], [5], [-1], np.array([1, 3])]:
        for found, expected in zip(tg.split(keeping_layout(x), parts, axis), np.split(x, parts, axis), strict=True):
            assert_same(found, expected)
        for found, expected in zip(tg.split(x, parts, axis), np.split(x, parts, axis), strict=True):
            assert_same(found, expected)


def test_joining_mixes_tensors_arrays_and_dtypes():
    y = tg.concatenate([Tensor(np.ones(2, np.float32)), np.array([1, 2]), [0.5]])
    assert_same(y, np.array([1, 1, 1, 2, 0.5], np.float32))
    assert_same(tg.stack([Tensor(1.0), 2.0, np.float32(3)]), np.array([1, 2, 3], np.float32))
    assert_same(tg.concatenate(t for t in [Tensor([1.0]), Tensor([2.0])]), np.array([1, 2], np.float32))


@given(x=arrays, data=st.data())
def test_pad_and_tile(x, data):
    widths = st.integers(0, 3)
    value = data.draw(st.sampled_from([0.0, 1.5, -2]))
    pairs = [(data.draw(widths), data.draw(widths)) for _ in range(x.ndim)]
    for width in (pairs, 2, (1, 2)):
        if x.ndim:
            assert_both_ways(lambda t, w=width: tg.pad(t, w, value), np.pad(x, width, constant_values=value), x)
    repetitions = data.draw(st.one_of(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=4)))
    assert_both_ways(lambda t: tg.tile(t, repetitions), np.tile(x, repetitions), x)
    assert_both_ways(lambda t: tg.tile(t, np.int64(2)), np.tile(x, 2), x)


@given(x=filled_arrays.filter(lambda x: x.ndim), data=st.data())
def test_take_along_axis(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shape = [n if data.draw(st.booleans()) else 1 for n in x.shape]
    shape[axis] = data.draw(st.integers(0, 5))
    n = x.shape[axis]
    indices = data.draw(hnp.arrays(np.int64, tuple(shape), elements=st.integers(-n, n - 1)))
    expected = np.take_along_axis(x, indices, axis)
    assert_both_ways(lambda t: tg.take_along_axis(t, indices, axis), expected, x)
    assert_same(tg.take_along_axis(keeping_layout(x), Tensor(indices), axis), expected)


def test_take_along_axis_broadcasts_x():
    x = np.arange(3.0).reshape(1, 3)
    indices = np.array([[0, 2], [1, 1]])
    assert_both_ways(lambda t: tg.take_along_axis(t, indices, 1), np.take_along_axis(x, indices, 1), x)
    with pytest.raises(IndexError):
        tg.take_along_axis(Tensor(np.ones((3, 3))), np.zeros((2, 1), int), 1)


# ---- Indexing: the value, and the gradient against numpy.add.at. ----


def check_index(x, index, plain_index=None):
    plain_index = index if plain_index is None else plain_index
    t = Tensor(x, requires_grad=True)
    y = t[index]
    assert_same(y, x[plain_index])
    g = np.random.default_rng(0).standard_normal(y.shape).astype(x.dtype)
    y.backward(g)
    expected = np.zeros_like(x)
    np.add.at(expected, plain_index, g)
    np.testing.assert_allclose(t.grad, expected, rtol=1e-6, atol=1e-6)
    assert t.grad.dtype == x.dtype
    assert_same(tg.getitem(x, index), x[plain_index])


@given(x=arrays, data=st.data())
def test_basic_indices(x, data):
    check_index(x, data.draw(hnp.basic_indices(x.shape, allow_newaxis=True)))


@given(x=filled_arrays.filter(lambda x: x.ndim), data=st.data())
def test_integer_array_indices(x, data):
    check_index(x, data.draw(hnp.integer_array_indices(x.shape, result_shape=hnp.array_shapes(max_dims=3, max_side=5))))


@given(x=arrays, seed=seeds)
def test_boolean_masks(x, seed):
    rng = np.random.default_rng(seed)
    check_index(x, rng.random(x.shape) < 0.5)
    for ndim in range(x.ndim):
        check_index(x, rng.random(x.shape[:ndim]) < 0.5)


I, J = np.array([0, 2, 0, -1]), np.array([[1], [0], [1]])
MASK = np.array([True, False, True])
MIXTURES = [
    np.s_[I], np.s_[I, :, 0], np.s_[:, J], np.s_[J, I], np.s_[J, :, I], np.s_[..., I], np.s_[None, I, ..., None], np.s_[1, I],
    np.s_[I, 1], np.s_[I, None, 1], np.s_[::-1, I], np.s_[::-2, I, 1:3], np.s_[MASK], np.s_[MASK, 0], np.s_[MASK, ..., 1],
    np.s_[:, MASK], np.s_[MASK, :, np.array([1, 2])], np.s_[MASK, np.array([0, 1])], np.s_[np.array([[True, False, True]] * 3)],
    np.s_[True], np.s_[False], np.s_[True, I], np.s_[[0, 0, 2]], np.s_[[0, 1], [2, 2]], np.s_[[[0, 0], [1, 1]]],
    np.s_[((0, 0),)], np.s_[((0, 1), (2, 2)), :], np.s_[range(2)], np.s_[[True, False, True]], np.s_[[]], np.s_[:, []],
    np.s_[np.int64(1)], np.s_[np.array(1)], np.s_[np.array(1), I], np.s_[np.uint8([2, 2])], np.s_[0:0], np.s_[5:1:-1, 2:0:-1],
    np.s_[()], np.s_[...], np.s_[-1, -1, -1], np.s_[:, None, ..., None],
]  # fmt: skip


@pytest.mark.parametrize("index", MIXTURES, ids=repr)
@pytest.mark.parametrize("dtype", FLOATS)
def test_mixed_indices(index, dtype):
    check_index(np.arange(36, dtype=dtype).reshape(3, 3, 4), index)


def test_tensors_as_indices():
    x = np.arange(12.0).reshape(4, 3)
    check_index(x, Tensor(I), I)
    check_index(x, (Tensor(I), 1), (I, 1))
    check_index(x, (slice(None), Tensor(MASK)), (slice(None), MASK))
    check_index(x, Tensor(np.array(2)), 2)
    check_index(x, Tensor(x) > 5, x > 5)
    check_index(x, slice(Tensor(np.array(1)), None), slice(1, None))


def test_wrong_indices():
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(IndexError, match="out of bounds"):
        x[2]
    with pytest.raises(IndexError, match="too many indices"):
        x[0, 0, 0]
    with pytest.raises(IndexError, match="must hold integers or booleans, not float32"):
        x[[0.5]]
    with pytest.raises(IndexError, match="must hold integers or booleans, not float64"):
        x[Tensor(np.ones(2))]
    with pytest.raises(IndexError):
        x[np.array([True, False, True])]


@given(ids=hnp.arrays(np.int64, hnp.array_shapes(min_dims=0, max_dims=3), elements=st.integers(0, 4)), dtype=dtypes)
def test_embedding(ids, dtype):
    weight = np.arange(15, dtype=dtype).reshape(5, 3)
    w = Tensor(weight, requires_grad=True)
    y = tg.embedding(ids, w)
    assert_same(y, weight[ids])
    y.sum().backward()
    np.testing.assert_array_equal(w.grad, np.repeat(np.bincount(ids.ravel(), minlength=5), 3).reshape(5, 3))
