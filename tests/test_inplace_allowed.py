"""Changes in place that no gradient minds: no false alarm, and the right gradient."""

import numpy as np

import tinygen as tg
from tinygen import Tensor


def leaf(n=6, dtype=np.float64):
    return Tensor(np.arange(1, n + 1, dtype=dtype), requires_grad=True)


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


def test_change_of_a_list_of_widths():
    x, widths = leaf(), [1, 2]
    loss = (tg.pad(x, widths) * np.arange(9.0)).sum()
    widths[0] = 0
    loss.backward()
    np.testing.assert_array_equal(x.grad, np.arange(1.0, 7))


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
