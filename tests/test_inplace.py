"""Arrays changed in place under a graph: seen where a gradient needs the old value, never where it does not."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor
from tinygen.guard import fingerprint


def leaf(n=6, dtype=np.float64):
    return Tensor(np.arange(1, n + 1, dtype=dtype), requires_grad=True)


def refuses(loss, match="changed in place"):
    with pytest.raises(RuntimeError, match=match):
        loss.backward()


# ---- What must be seen. Each function changes something that the gradient of the loss it returns needs. ----


def fill_leaf(n):
    x = leaf(n)
    loss = (x * x).sum()
    x.data[...] = 2
    return loss


def add_to_leaf(n):
    x = leaf(n)
    loss = (x * x).sum()
    x.data += 1
    return loss


def replace_data(n):
    x = leaf(n)
    loss = (x * x).sum()
    x.data = np.zeros(n)
    return loss


def array_taken_before(n):
    x = leaf(n)
    held = x.data
    loss = (x * x).sum()
    held[n // 2] += 1
    return loss


def array_taken_before_the_gradient_was_asked_for(n):
    x = Tensor(np.ones(n))
    held = x.data
    x.requires_grad = True
    loss = (x * x).sum()
    held[-1] = 5
    return loss


def array_given_to_data(n):
    x, given = leaf(n), np.ones(n)
    x.data = given
    loss = (x * x).sum()
    x.data[0] = 5
    return loss


def view_by_reshape(n):
    x = leaf(n)
    view = x.reshape(2, n // 2)
    loss = (x * x).sum()
    view.data[0, 0] = 9
    return loss


def view_of_a_view(n):
    x = leaf(n)
    view = x.reshape(2, n // 2).T[1:, :1]
    loss = (x * x).sum()
    view.data[0, 0] = 9
    return loss


def leaf_under_a_saved_view(n):
    x = leaf(n)
    view = x[1:]
    loss = (view * view).sum()
    x.data[2] = 9
    return loss


def view_by_einsum(n):
    x = leaf(n).reshape(2, n // 2)
    turned = tg.einsum("ij->ji", x)
    loss = (turned * turned).sum()
    x.data[1, 0] = 9
    return loss


def view_by_broadcasting(n):
    x = leaf(n)
    wide = tg.broadcast_to(x, (3, n))
    loss = (wide * wide).sum()
    x.data[1] = 9
    return loss


def view_without_a_graph(n):
    x = leaf(n)
    with tg.no_grad():
        view = x.reshape(2, n // 2)
    loss = (x * x).sum()
    view.data[0, 0] = 9
    return loss


def same_device(n):
    x = leaf(n)
    with tg.no_grad():
        same = x.to("cpu")
    loss = (x * x).sum()
    same.data[0] = 9
    return loss


def detached(n):
    x = leaf(n)
    loss = (x * x).sum()
    x.detach().data[0] = 9
    return loss


def detached_leaf(n):
    x = leaf(n)
    other = x.detach()
    other.requires_grad = True
    loss = (other * other).sum()
    x.data[0] = 9
    return loss


def through_dlpack(n):
    x = leaf(n)
    loss = (x * x).sum()
    np.from_dlpack(x)[0] = 9
    return loss


def from_dlpack(n):
    array = np.ones(n)
    x = tg.from_dlpack(array)
    x.requires_grad = True
    loss = (x * x).sum()
    array[0] = 9
    return loss


def result(n):
    y = tg.exp(leaf(n) / n)
    loss = y.sum()
    y.data[0] = 0
    return loss


def argument_that_is_a_result(n):
    h = leaf(n) + 1
    loss = (h * h).sum()
    h.data *= 2
    return loss


def constant_array(n):
    constant = np.ones(n)
    loss = (leaf(n) * constant).sum()
    constant[n // 3] = 7
    return loss


def constant_array_on_the_left(n):
    constant = np.ones(n)
    loss = (constant * leaf(n)).sum()
    constant[n // 3] = 7
    return loss


def constant_broadcast_array(n):
    row = np.ones(n)
    loss = (leaf(n) * np.broadcast_to(row, (2, n))).sum()
    row[0] = 7
    return loss


def constant_tensor(n):
    constant = Tensor(np.ones(n))
    loss = (leaf(n) * constant).sum()
    constant.data[0] = 7
    return loss


def constant_inside_a_function(n):
    matrix = np.eye(n)
    loss = (leaf(n) @ matrix).sum()
    matrix[0, 1] = 7
    return loss


def condition(n):
    mask = np.arange(n) % 2 == 0
    loss = tg.where(mask, leaf(n), 0.0).sum()
    mask[:] = False
    return loss


def exchanged_elements(n):
    x = leaf(n)
    held = x.data
    held[...] = held[::-1].copy()
    loss = (x * x).sum()
    held.sort()
    return loss


def library_step(n):
    x = leaf(n)
    loss = (x * x).sum()
    x._data -= 0.1
    x.bump()
    return loss


def library_step_on_a_view(n):
    x = leaf(n)
    loss = (x * x).sum()
    view = x[:2]
    view._data -= 0.1
    view.bump()
    return loss


def grad_of_a_fused_loss(n):
    targets = np.zeros(n)
    loss = tg.binary_cross_entropy_with_logits(leaf(n), targets)
    targets[0] = 1
    return loss


CHANGES = [
    fill_leaf, add_to_leaf, replace_data, array_taken_before, array_taken_before_the_gradient_was_asked_for,
    array_given_to_data, view_by_reshape, view_of_a_view, leaf_under_a_saved_view, view_by_einsum, view_by_broadcasting,
    view_without_a_graph, same_device, detached, detached_leaf, through_dlpack, from_dlpack, result,
    argument_that_is_a_result, constant_array, constant_array_on_the_left, constant_broadcast_array, constant_tensor,
    constant_inside_a_function, condition, exchanged_elements, library_step, library_step_on_a_view, grad_of_a_fused_loss,
]  # fmt: skip


@pytest.mark.parametrize("n", [6, 2400], ids=["small", "large"])  # either way of fingerprinting
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_change_is_seen(change, n):
    refuses(change(n))


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_change_is_seen_by_grad_with_create_graph(change):
    loss = change(6)
    node = loss._node
    while node.op is not None:  # any leaf of the graph
        node = next(parent for parent in node.parents if parent is not None)
    with pytest.raises(RuntimeError, match="changed in place"):
        tg.grad(loss, Tensor._wrap(np.zeros(node.spec[0]), node), create_graph=True)


def test_message_names_the_op_the_argument_and_the_way_out():
    x, y = leaf(), leaf()
    loss = (x * y).sum()
    y.data[0] = 0
    refuses(loss, r"multiply: b, of shape \(6,\), was changed in place after the forward pass.*write to a copy")


def test_message_names_the_public_function():
    x = leaf().reshape(2, 3)
    loss = (x @ x.T).sum()
    x.data[0, 0] = 0
    refuses(loss, "^matmul: ")


def test_change_between_two_backwards_is_seen():
    x = leaf()
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    x.data[0] = 5
    refuses(loss)
    np.testing.assert_array_equal(x.grad, 2 * np.arange(1.0, 7))


def test_a_refused_backward_leaves_every_gradient_as_it_was():
    x = leaf()
    h = x * x
    late = Tensor(np.ones(6), requires_grad=True)  # younger than h: its turn comes before the failure
    loss = (h * 2 + late * 3).sum()
    x.data[0] = 9
    refuses(loss)
    assert x.grad is None
    assert late.grad is None


# ---- What must not be taken for a change. ----


def test_change_of_what_no_rule_needs():
    x, constant = leaf(), np.ones(6)
    loss = (x + constant).sum()
    x.data[0] = 100
    constant[0] = 100
    loss.backward()
    np.testing.assert_array_equal(x.grad, np.ones(6))


def test_change_of_a_factor_whose_partner_needs_no_gradient():
    x, constant = leaf(), np.full(6, 3.0)
    loss = (x * constant).sum()
    x.data[...] = 100
    loss.backward()
    np.testing.assert_array_equal(x.grad, constant)


def test_changes_before_the_forward_pass():
    x, constant = leaf(), np.ones(6)
    held = x.data
    for value in (2, 3):
        held[...] = value
        x.data += 1
        constant[...] = value
        (x * x * constant).sum().backward()
        np.testing.assert_array_equal(x.grad, np.full(6, 2.0 * value * (value + 1)))
        x.grad = None


def test_changes_after_the_backward_pass():
    x = leaf()
    loss = (x * x).sum()
    loss.backward()
    x.data[0] = 0
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 8, 12, 16, 20, 24])


def test_change_that_was_taken_back():
    x = leaf()
    loss = (x * x).sum()
    x.data[0] = 100
    x.data[0] = 1
    loss.backward()
    np.testing.assert_array_equal(x.grad, 2 * np.arange(1.0, 7))


def test_change_of_a_disjoint_part_of_an_array_in_use():
    x = leaf()
    held = x.data
    part = x[:3]
    loss = (part * part).sum()
    held[4] = 100
    loss.backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4, 6, 0, 0, 0])


def test_change_of_a_disjoint_part_of_a_constant():
    data, x = np.arange(12.0).reshape(4, 3), Tensor(np.ones(3), requires_grad=True)
    loss = (x * data[1]).sum()
    data[2] = 100
    loss.backward()
    np.testing.assert_array_equal(x.grad, [3.0, 4, 5])


def test_change_of_a_copy():
    x = leaf()
    copy = x.copy()
    loss = (x * x).sum()
    copy.data[...] = 0
    x.numpy().copy()[...] = 0
    np.array(x)[...] = 0
    loss.backward()
    np.testing.assert_array_equal(x.grad, 2 * np.arange(1.0, 7))


def test_change_of_the_array_a_tensor_was_made_from():
    array = np.ones(6)
    x, assigned = Tensor(array, requires_grad=True), leaf()
    assigned.data = array
    loss = (x * assigned).sum()
    array[...] = 7
    loss.backward()
    np.testing.assert_array_equal(x.grad, np.ones(6))
    np.testing.assert_array_equal(assigned.grad, np.ones(6))


def test_change_of_an_index_array():
    x, index, mask = leaf(), np.array([0, 0, 2]), np.arange(6) > 3
    index_tensor = Tensor(np.array([1, 1]))
    picked = [
        x[index],
        x[mask],
        x[index_tensor],
        tg.take_along_axis(x, index, 0),
        tg.embedding(index, x.reshape(6, 1)).sum(axis=1),
    ]
    loss = sum(p.sum() for p in picked)
    index[...] = 5
    mask[...] = False
    index_tensor.data[...] = 5
    loss.backward()
    np.testing.assert_array_equal(x.grad, [6.0, 2, 3, 0, 1, 1])


def test_change_of_labels():
    labels, logits = np.array([0, 1]), Tensor(np.zeros((2, 2)), requires_grad=True)
    loss = tg.cross_entropy(logits, labels)
    labels[...] = 0
    loss.backward()
    np.testing.assert_array_equal(logits.grad, [[-0.25, 0.25], [0.25, -0.25]])


def test_reading_is_no_change():
    x = leaf()
    loss = (x * x).sum()
    assert x.data[0] == 1
    assert np.asarray(x).sum() == 21
    assert x.numpy().flags.writeable is False
    repr(x), x.detach(), x.item if x.size == 1 else None, list(x)
    loss.backward()


def test_an_optimizers_step_between_steps():
    x = leaf()
    for step in range(3):
        (x * x).sum().backward()
        x._data -= 0.25 * x.grad
        x.bump()
        x.grad = None
        np.testing.assert_array_equal(x.numpy(), np.arange(1.0, 7) / 2 ** (step + 1))


# ---- The fingerprint. ----


@pytest.mark.parametrize("size", [0, 1, 7, 1000, 1025, 70_000, 140_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool])
def test_fingerprint_sees_one_changed_element(size, dtype):
    rng = np.random.default_rng(size)
    array = (rng.random(size) * 3).astype(dtype)
    before = fingerprint(array)
    assert fingerprint(array.copy()) == before
    for place in rng.integers(0, size, 20) if size else ():
        old = array[place]
        array[place] = not old if dtype is bool else old + dtype(1)
        assert fingerprint(array) != before
        array[place] = old
    assert fingerprint(array) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fingerprint_sees_exchanged_elements(dtype):
    """Bits 0.0 and 1.0 differ in their highest bits only, where a sum modulo 2^64 forgets most easily."""
    rng = np.random.default_rng(3)
    array = np.zeros(3000, dtype)
    array[::2] = 1
    before = fingerprint(array)
    for i, j in zip(rng.choice(range(0, 3000, 2), 1500), rng.choice(range(1, 3000, 2), 1500)):
        array[i], array[j] = 0, 1
        assert fingerprint(array) != before
        array[i], array[j] = 1, 0
    blocks = np.arange(2 * 65536, dtype=np.float64)
    assert fingerprint(np.roll(blocks, 65536)) != fingerprint(blocks)


def test_fingerprint_of_strided_arrays_is_of_their_values():
    array = np.arange(20_000.0).reshape(100, 200)
    assert fingerprint(array.T) == fingerprint(array.T.copy())
    assert fingerprint(array[::2, ::-3]) == fingerprint(array[::2, ::-3].copy())


# ---- Item assignment. ----

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
