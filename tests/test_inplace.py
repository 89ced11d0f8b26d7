"""Arrays changed in place under a graph: seen wherever a gradient needs the old value."""

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


# Each of these functions changes something that the gradient of the loss it returns needs.


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
