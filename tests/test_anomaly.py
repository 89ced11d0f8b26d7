"""The anomaly mode names the first operation that makes a NaN or an infinity, and the line that called it."""

import threading

import numpy as np
import pytest

import tinygen as tg
from tinygen import AnomalyError, Tensor, anomaly, detect_anomaly

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, about the values made here on purpose


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def message_of(function):
    with pytest.raises(AnomalyError) as caught:
        function()
    return str(caught.value)


def test_nothing_is_checked_outside():
    x = leaf(0.0, -1.0)
    tg.log(x).sum().backward()
    assert not np.isfinite(x.grad[0])


def test_forward_nan_names_op_and_line():
    def run():
        x = leaf(1.0, -1.0)
        y = x + 1
        with detect_anomaly():
            z = y - 2
            return tg.sqrt(z).sum()  # the line to name

    message = message_of(run)
    assert message.startswith("sqrt made a NaN in the forward pass")
    assert "test_anomaly.py:" in message
    assert message.endswith("return tg.sqrt(z).sum()  # the line to name")


def test_forward_infinity():
    def run():
        with detect_anomaly():
            return leaf(1.0, 2.0) / np.array([1.0, 0.0])  # divides by zero

    message = message_of(run)
    assert message.startswith("divide made an infinity in the forward pass")
    assert message.endswith("# divides by zero")


def test_first_op_is_named_not_the_last():
    def run():
        with detect_anomaly():
            x = tg.log(leaf(0.0, 1.0))
            return (x * 0).sum()

    assert message_of(run).startswith("log made an infinity")


def test_a_nan_that_comes_in_is_told_from_one_that_is_made():
    def run():
        with detect_anomaly():
            return tg.exp(Tensor(np.array([np.nan])))

    assert message_of(run).startswith("exp was given a NaN in the forward pass")


def test_an_operator_on_tensors_without_gradients_is_checked_too():
    def run():
        with detect_anomaly(), tg.no_grad():
            return Tensor(np.array([0.0])) / 0.0

    assert message_of(run).startswith("divide made a NaN")


def test_backward_infinity_names_the_forward_line():
    x = leaf(0.0, 1.0)

    def run():
        with detect_anomaly():
            y = tg.sqrt(x)  # its slope at 0 is infinite
            y.sum().backward()

    message = message_of(run)
    assert message.startswith("sqrt made an infinity in its gradient")
    assert message.endswith("y = tg.sqrt(x)  # its slope at 0 is infinite")
    assert x.grad is None


def test_backward_nan():
    x = leaf(0.0)

    def run():
        with detect_anomaly():
            y = x**0.5 * 0.0  # 0 * inf
            y.backward(np.ones(1))

    assert message_of(run).startswith("power made a NaN in its gradient") or message_of(run).startswith("power made an inf")


def test_backward_of_a_graph_recorded_outside():
    x = leaf(0.0)
    y = tg.sqrt(x).sum()

    def run():
        with detect_anomaly():
            y.backward()

    assert message_of(run) == "sqrt made an infinity in its gradient; it was called at a line outside detect_anomaly()"


def test_second_order():
    x = leaf(0.0)

    def run():
        with detect_anomaly():
            (first,) = tg.grad((x**1.5).sum(), [x], create_graph=True)
            first.sum().backward()

    assert "infinity in its gradient" in message_of(run)


def test_masks_of_minus_infinity_are_no_anomaly():
    scores = leaf(0.3, -0.2, 1.0)
    mask = np.array([0.0, -np.inf, 0.0])
    with detect_anomaly():
        tg.softmax(scores + mask).max().backward()
        tg.where(mask == 0, scores, -np.inf).logsumexp().backward()
        masked = scores * 1
        masked[mask != 0] = -np.inf
        tg.pad(masked, 1, value=-np.inf).softmax().max().backward()
        weights = tg.exp(tg.log_softmax(scores + mask))
        (weights * np.arange(3.0)).sum().backward()
    assert np.isfinite(scores.grad).all()


def test_all_masked_logsumexp_is_no_anomaly():
    x = Tensor(np.full((2, 3), -np.inf), requires_grad=True)
    with detect_anomaly():
        y = x.logsumexp(axis=1)
        y.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, np.zeros((2, 3)))


def test_integers_and_booleans_pass():
    with detect_anomaly():
        assert (Tensor(np.array([1, 2])) + 1).numpy().tolist() == [2, 3]
        assert (Tensor(np.array([1, 2])) > 1).numpy().tolist() == [False, True]


def test_line_is_the_callers_inside_functions_of_this_file():
    def helper(x):
        return tg.log(x)  # inside the helper

    def run():
        with detect_anomaly():
            helper(leaf(-1.0))

    assert message_of(run).endswith("return tg.log(x)  # inside the helper")


def test_composite_functions_name_the_op_inside_and_the_users_line():
    def run():
        with detect_anomaly():
            tg.mse_loss(leaf(1e200), np.array([-1e200]))  # too far apart

    message = message_of(run)
    assert message.startswith("squared_error made an infinity")
    assert message.endswith("# too far apart")


def test_nested_and_restored():
    assert not anomaly.active
    with detect_anomaly():
        with detect_anomaly():
            pass
        assert anomaly.active
        with pytest.raises(AnomalyError):
            tg.log(leaf(-1.0))
    assert not anomaly.active
    with pytest.raises(KeyError), detect_anomaly():
        raise KeyError
    assert not anomaly.active
    with pytest.raises(AnomalyError), detect_anomaly():
        tg.log(leaf(-1.0))
    assert not anomaly.active


def test_as_a_decorator():
    @detect_anomaly()
    def run():
        return tg.log(leaf(-1.0))

    assert message_of(run).startswith("log made a NaN")
    assert message_of(run).startswith("log made a NaN")
    assert not anomaly.active


def test_two_threads_that_overlap_leave_it_off():
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with detect_anomaly():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=hold)
    with detect_anomaly():
        thread.start()
        inside.wait(5)
    leave.set()
    thread.join()
    assert not anomaly.active


def test_it_is_an_arithmetic_error():
    assert issubclass(AnomalyError, ArithmeticError)
