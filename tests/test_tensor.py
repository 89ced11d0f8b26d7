"""The Tensor itself: making one, its attributes, its ways to and from other libraries, how it shows."""

import copy
import operator
import sys

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# ---- Making one. ----


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, np.int64),
        (1.5, np.float32),
        (True, bool),
        ([1.0, 2.0], np.float32),
        ([[1, 2], [3, 4]], np.int64),
        ([], np.float32),
        ((1.0, 2), np.float32),
        (range(3), np.int64),
        (np.float64(1.5), np.float64),
        (np.float32(1.5), np.float32),
        (np.ones(2), np.float64),
        (np.ones(2, np.float16), np.float16),
        (np.ones((2, 0), np.uint8), np.uint8),
        (np.ones((2, 2))[:, 0], np.float64),
    ],
)
def test_dtype_of_what_is_given(data, dtype):
    t = Tensor(data)
    assert (t.dtype, t.shape) == (dtype, np.shape(data))
    np.testing.assert_array_equal(t.numpy(), data)
    assert not t.requires_grad
    assert Tensor(t).dtype == dtype
    assert Tensor(data, dtype=np.float64).dtype == np.float64


def test_data_is_copied():
    array = np.ones(3)
    t = Tensor(array)
    other = Tensor(t)
    array[0] = 5
    t.data[1] = 6
    np.testing.assert_array_equal(t.numpy(), [1, 6, 1])
    np.testing.assert_array_equal(other.numpy(), [1, 1, 1])


@pytest.mark.parametrize("data", ["text", None, [None], object(), ["a", 1.0], {"a": 1}])
def test_what_is_no_number_is_refused(data):
    with pytest.raises(TypeError, match="Tensor holds numbers, not"):
        Tensor(data)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.complex128])
def test_gradients_need_a_floating_dtype(dtype):
    with pytest.raises(TypeError, match=r"a gradient needs a floating dtype, not \w+: use \.astype"):
        Tensor(np.ones(2, dtype), requires_grad=True)
    t = Tensor(np.ones(2, dtype))
    with pytest.raises(TypeError, match="a gradient needs a floating dtype"):
        t.requires_grad = True
    assert not t.requires_grad


def test_requires_grad_can_be_switched_on_a_leaf_only():
    t = Tensor([1.0, 2.0])
    t.requires_grad = True
    assert t.requires_grad
    assert t.is_leaf
    (t * 2).sum().backward()
    t.requires_grad = True
    np.testing.assert_array_equal(t.grad, [2.0, 2])
    t.requires_grad = False
    assert not t.requires_grad
    assert t.grad is None
    h = leaf(1.0) * 2
    h.requires_grad = True
    with pytest.raises(RuntimeError, match=r"a result of multiply is fixed: use \.detach\(\)"):
        h.requires_grad = False
    assert not h.is_leaf


def test_attributes():
    t = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    assert (t.shape, t.ndim, t.size, t.dtype, t.device) == ((2, 3), 2, 6, np.float32, "cpu")
    assert t.T.shape == (3, 2)
    assert len(t) == 2
    with pytest.raises(AttributeError):
        t.nonsense = 1


# ---- data and grad. ----


def test_data_is_the_array_itself():
    t = leaf(1.0, 2.0)
    t.data[0] = 5
    t.data += 1
    np.testing.assert_array_equal(t.numpy(), [6, 3])
    held = t.data
    t.data = np.array([8.0, 9])
    np.testing.assert_array_equal(held, [8, 9])
    assert t.data is held


@pytest.mark.parametrize("value", [np.ones(3), np.ones(2, np.float32), [1.0, 2.0], 1.0])
def test_data_keeps_its_shape_and_dtype(value):
    t = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"data must be an array of shape \(2,\) and dtype float64, not"):
        t.data = value


@pytest.mark.parametrize("value", [np.ones(3), np.ones(2, np.float32), [1.0, 2.0], 1.0])
def test_grad_has_the_tensors_shape_and_dtype(value):
    t = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"grad must be an array of shape \(2,\) and dtype float64, not"):
        t.grad = value
    t.grad = np.ones(2)
    t.grad = None
    assert t.grad is None


def test_grad_of_a_tensor_that_collects_none():
    t = Tensor([1.0])
    assert t.grad is None
    with pytest.raises(RuntimeError, match="collects no gradient: create it with requires_grad=True"):
        t.grad = np.ones(1, np.float32)


def test_detach_shares_memory_but_not_the_graph():
    x = leaf(1.0, 2.0)
    y = x * 2
    d = y.detach()
    assert not d.requires_grad
    assert np.shares_memory(d.data, y.data)
    (d * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4])


def test_copy_stays_in_the_graph():
    x = leaf(1.0, 2.0)
    y = x.copy()
    assert not np.shares_memory(x._data, y._data)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, 1])


# ---- To Python. ----


def test_item():
    assert Tensor(2.5).item() == 2.5
    assert isinstance(Tensor([[3]]).item(), int)
    assert Tensor(np.array([True])).item() is True
    with pytest.raises(ValueError, match=r"item\(\) needs exactly one element, this tensor has shape \(2,\)"):
        Tensor([1.0, 2.0]).item()


def test_numbers():
    assert float(Tensor([2.5])) == 2.5
    assert int(Tensor(3.7)) == 3
    assert operator.index(Tensor(3)) == 3
    assert [10, 11, 12][Tensor(1)] == 11
    with pytest.raises(TypeError):
        operator.index(Tensor(3.0))
    with pytest.raises(ValueError, match="exactly one element"):
        float(Tensor([1.0, 2.0]))
    assert f"{Tensor(2.5).item():.2f}" == "2.50"


def test_truth():
    assert bool(Tensor(1.0))
    assert not Tensor([0])
    assert bool(Tensor(2.0) > 1)
    with pytest.raises(ValueError, match="truth value"):
        bool(Tensor([1.0, 2.0]))


def test_length_and_iteration():
    x = leaf(1.0, 2.0, 3.0)
    total = sum(part * k for k, part in enumerate(x))
    total.backward()
    np.testing.assert_array_equal(x.grad, [0.0, 1, 2])
    rows = list(Tensor(np.eye(2)))
    assert [row.shape for row in rows] == [(2,), (2,)]
    a, b = Tensor([1.0, 2.0])
    assert (a.item(), b.item()) == (1, 2)
    assert 2.0 in Tensor([1.0, 2.0])
    assert 3.0 not in Tensor([1.0, 2.0])
    for use in (len, iter):
        with pytest.raises(TypeError, match="0-d"):
            use(Tensor(1.0))


def test_tensors_are_keys():
    a, b = Tensor([1.0]), Tensor([1.0])
    assert len({a, b, a}) == 2
    assert {a: 1, b: 2}[a] == 1


def test_in_place_operators_rebind():
    x = leaf(1.0, 2.0)
    y = before = x * 1
    y += 1
    y *= 2
    assert y is not before
    np.testing.assert_array_equal(before.numpy(), [1, 2])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 2])


# ---- NumPy and DLPack. ----


def test_numpy_views_are_read_only():
    t = leaf(1.0, 2.0)
    for view in (t.numpy(), np.asarray(t)):
        assert np.shares_memory(view, t._data)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 5


def test_numpy_copies():
    t = leaf(1.0, 2.0)
    for array in (np.array(t), np.asarray(t, dtype=np.float32), np.array(t, copy=True)):
        assert not np.shares_memory(array, t._data)
        array[0] = 7
    assert np.asarray(t, dtype=np.float32).dtype == np.float32
    assert np.shares_memory(np.array(t, copy=False), t._data)
    with pytest.raises(ValueError, match="copy"):
        np.array(t, dtype=np.float32, copy=False)
    np.testing.assert_array_equal(t.numpy(), [1, 2])


def test_array_on_the_left_makes_a_tensor():
    x = leaf(1.0, 2.0)
    array = np.array([[3.0], [4.0]])
    y = array * x
    assert isinstance(y, Tensor)
    assert y.shape == (2, 2)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [7.0, 7])
    assert isinstance(np.float64(2) * x, Tensor)
    assert isinstance(np.eye(2) @ x, Tensor)
    array_before = array
    array += 1
    assert array is array_before
    with pytest.raises(TypeError):
        np.exp(x)  # a NumPy function would lose the gradient


def test_dlpack_to_and_from_numpy():
    t = Tensor(np.arange(6.0).reshape(2, 3))
    array = np.from_dlpack(t)
    assert np.shares_memory(array, t._data)
    back = tg.from_dlpack(array)
    assert isinstance(back, Tensor)
    assert np.shares_memory(back._data, t._data)
    assert t.__dlpack_device__() == (1, 0)
    assert not back.requires_grad


def test_dlpack_to_and_from_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is in the bench extra")
    theirs = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    ours = tg.from_dlpack(theirs)
    assert (ours.shape, ours.dtype) == ((2, 3), np.float32)
    theirs[0, 0] = 9
    assert ours.numpy()[0, 0] == 9
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()
    strided = tg.from_dlpack(theirs.T)
    np.testing.assert_array_equal(strided.numpy(), theirs.numpy().T)
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    np.testing.assert_array_equal(torch.from_dlpack(x * 2).numpy(), [2, 2, 2])


def test_gradient_through_shared_memory():
    x = tg.from_dlpack(np.array([1.0, 2.0]))
    x.requires_grad = True
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4])


def test_copies_of_leaves():
    x = Tensor([1.0, 2.0])
    y = copy.deepcopy(x)
    assert not np.shares_memory(x._data, y._data)


# ---- Devices. ----


def test_devices():
    x = leaf(1.0, 2.0)
    y = x.to("cpu")
    assert y.device == "cpu"
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, 1])
    for device in ("gpu", "cpu:0", "cuda:", "cuda:x", ""):
        with pytest.raises(ValueError, match="expected 'cpu', 'cuda' or 'cuda:N'"):
            x.to(device)


def test_device_without_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"needs CuPy .*: pip install 'tinygen\[cuda13\]'"):
        leaf(1.0).to("cuda")


# ---- How it shows. ----


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Tensor(1.5), "Tensor(1.5)"),
        (lambda: Tensor([1.0, 2.5]), "Tensor([1. , 2.5])"),
        (lambda: Tensor([1.0], requires_grad=True), "Tensor([1.], requires_grad=True)"),
        (lambda: Tensor([1, 2]), "Tensor([1, 2], dtype=int64)"),
        (lambda: Tensor(np.array([1 / 3, 2.0])), "Tensor([0.3333, 2.    ], dtype=float64)"),
        (lambda: Tensor([1.0, 2.0], requires_grad=True) * 2, "Tensor([2., 4.], op=multiply)"),
        (lambda: Tensor([[1.0, 2.0]], requires_grad=True)[0], "Tensor([1., 2.], op=getitem)"),
        (lambda: Tensor([1.0, 2.0]) * 2, "Tensor([2., 4.])"),
        (lambda: Tensor([True, False]), "Tensor([ True, False], dtype=bool)"),
        (lambda: Tensor([]), "Tensor([])"),
        (lambda: Tensor(np.ones((0, 3), np.float32)), "Tensor([], shape=(0, 3))"),
        (lambda: Tensor([[1.0, 2.0], [3.0, 4.0]]), "Tensor([[1., 2.],\n        [3., 4.]])"),
        (lambda: Tensor([np.inf, -np.inf, np.nan]), "Tensor([ inf, -inf,  nan])"),
    ],
)
def test_repr(make, expected):
    assert repr(make()) == expected


def test_repr_of_a_large_tensor_is_short_and_tells_its_shape():
    text = repr(Tensor(np.zeros((1000, 1000), np.float32), requires_grad=True))
    assert len(text) < 400
    assert "..." in text
    assert text.endswith("shape=(1000, 1000), requires_grad=True)")
