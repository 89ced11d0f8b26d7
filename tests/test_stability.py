"""The edges of the functions' domains, and what they say to wrong arguments. Every warning of NumPy is an error here."""

import numpy as np
import pytest
from comparing import FLOATS, assert_same

import tinygen as tg
from tinygen import Tensor

EDGES = [np.array([1e4, -1e4, 0.0]), np.full(3, 1e4), np.full(3, -1e4), np.zeros(3), np.array([1e4, 1e4, -1e4])]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("logits", EDGES, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "softplus", "softmax", "log_softmax", "logsumexp", "bce", "cross_entropy", "elu"])
def test_far_logits(name, logits, dtype):
    x = Tensor(logits.astype(dtype), requires_grad=True)
    function = {
        "bce": lambda x: tg.binary_cross_entropy_with_logits(x, np.array([1.0, 0, 0.5]).astype(dtype)),
        "cross_entropy": lambda x: tg.cross_entropy(x, np.array(1)),
    }.get(name) or getattr(tg, name)
    y = function(x)
    first = tg.grad((y * np.arange(1, 1 + y.size, dtype=dtype).reshape(y.shape)).sum(), x, create_graph=True)
    first.sum().backward()
    for values in (y.numpy(), first.numpy(), x.grad):
        assert np.isfinite(values).all()


def test_far_logits_have_the_right_values():
    x = Tensor(np.array([1e4, -1e4]), requires_grad=True)
    assert_same(tg.binary_cross_entropy_with_logits(x, np.array([0.0, 1.0]), "none"), [1e4, 1e4])
    assert_same(tg.binary_cross_entropy_with_logits(x, np.array([1.0, 0.0]), "none"), [0.0, 0.0])
    assert_same(tg.cross_entropy(x, np.array(1)), 2e4)
    assert_same(tg.softplus(x), [1e4, 0.0])
    assert_same(tg.sigmoid(x), [1.0, 0.0])
    assert_same(tg.log_softmax(x), [0.0, -2e4])
    assert_same(tg.logsumexp(x), 1e4)


def test_tails_keep_their_relative_accuracy():
    x = np.array([-700.0, -40.0, -1e-20])
    np.testing.assert_allclose(tg.sigmoid(x), [np.exp(-700), np.exp(-40) / (1 + np.exp(-40)), 0.5], rtol=1e-14)
    np.testing.assert_allclose(tg.softplus(x), [np.exp(-700), np.log1p(np.exp(-40)), np.log(2)], rtol=1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 1, (0, 1)])
def test_logsumexp_of_minus_infinity(dtype, keepdims, axis):
    x = Tensor(np.full((2, 3), -np.inf, dtype), requires_grad=True)
    y = x.logsumexp(axis, keepdims)
    assert np.all(y.numpy() == -np.inf)
    first = tg.grad(y.sum(), x, create_graph=True)
    assert_same(first, np.zeros((2, 3), dtype))
    first.sum().backward()
    assert_same(x.grad, np.zeros((2, 3), dtype))


def test_logsumexp_of_some_minus_infinity():
    x = Tensor(np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf], [2.0, -np.inf, -np.inf]]), requires_grad=True)
    y = x.logsumexp(axis=1)
    assert_same(y, [np.logaddexp(0, 1), -np.inf, 2])
    y.backward(np.ones(3))
    p = 1 / (1 + np.e)
    assert_same(x.grad, [[p, 0, 1 - p], [0, 0, 0], [1, 0, 0]])


def test_mixture_with_components_switched_off():
    """-log sum_k pi_k N(x; mu_k): a weight of zero is a log weight of -inf, and must leave finite gradients."""
    means = Tensor(np.array([0.0, 1.0, 50.0]), requires_grad=True)
    log_weights = np.array([np.log(0.5), np.log(0.5), -np.inf])
    x = np.array([[0.3], [1e3]])
    loss = -tg.logsumexp(log_weights - 0.5 * (x - means) ** 2, axis=1).mean()
    loss.backward()
    assert np.isfinite(loss.item())
    assert np.isfinite(means.grad).all()
    assert means.grad[2] == 0


def test_equal_values_share_the_gradient_of_an_extremum():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    for y in (x.max(), x.min(), tg.maximum(x, x).mean(), tg.minimum(x, 1.0).mean() * 2):
        x.grad = None
        y.backward()
        assert_same(x.grad, np.full((2, 2), 0.25))


def test_std_of_equal_values_has_no_nan_gradient():
    x = Tensor(np.full((2, 3), 2.0), requires_grad=True)
    x.std().backward()
    assert_same(x.grad, np.zeros((2, 3)))


def test_power_at_zero():
    x = Tensor(np.array([0.0, 0.0]), requires_grad=True)
    n = Tensor(np.array([2.0, 0.0]), requires_grad=True)
    (x**n).sum().backward()
    assert_same(x.grad, [0.0, 0.0])
    assert_same(n.grad, [0.0, 0.0])
    x.grad = None
    (x**0).sum().backward()
    assert_same(x.grad, [0.0, 0.0])


# ---- Errors: one line that names the value and what was expected. ----

ONES = Tensor(np.ones((2, 3)))
ERRORS = {
    "broadcast": (lambda: ONES + Tensor(np.ones(4)), ValueError, r"add: shapes \(2, 3\) and \(4,\) do not fit"),
    "broadcast in place of a loss": (lambda: tg.mse_loss(ONES, np.ones(3)), ValueError, r"\(2, 3\).*\(3,\)"),
    "where": (lambda: tg.where(np.ones(4) > 0, ONES, 0.0), ValueError, r"\(4,\).*\(2, 3\)"),
    "matmul": (lambda: ONES @ ONES, ValueError, r"\(2, 3\) and \(2, 3\): the inner lengths 3 and 2 differ"),
    "matmul scalar": (lambda: ONES @ 2.0, ValueError, "use \\* for a scalar"),
    "matmul batch": (lambda: Tensor(np.ones((2, 3, 3))) @ np.ones((4, 3, 3)), ValueError, r"\(2, 3, 3\) and \(4, 3, 3\)"),
    "linear": (lambda: tg.linear(ONES, np.ones((4, 2))), ValueError, r"\(2, 3\).*\(4, 2\)"),
    "axis of sum": (lambda: ONES.sum(axis=2), ValueError, "axis 2 is out of bounds for array of dimension 2"),
    "axis of max": (lambda: ONES.max(axis=-3), ValueError, "axis -3 is out of bounds"),
    "axis of softmax": (lambda: tg.softmax(ONES, 5), ValueError, "axis 5 is out of bounds"),
    "axis of logsumexp": (lambda: tg.logsumexp(ONES, 5), ValueError, "axis 5 is out of bounds"),
    "axis of cumsum": (lambda: tg.cumsum(ONES, 5), ValueError, "axis 5 is out of bounds"),
    "axis of transpose": (lambda: tg.transpose(ONES, (0, 3)), ValueError, "axis 3 is out of bounds"),
    "axes of transpose": (lambda: tg.transpose(ONES, (0, 0)), ValueError, "repeated axis"),
    "number of axes": (lambda: tg.transpose(ONES, (0,)), ValueError, "axes don't match"),
    "axis of swapaxes": (lambda: tg.swapaxes(ONES, 0, 2), ValueError, "axis 2 is out of bounds"),
    "axis of squeeze": (lambda: tg.squeeze(ONES, 4), ValueError, "axis 4 is out of bounds"),
    "squeeze": (lambda: tg.squeeze(ONES, 1), ValueError, r"axes of length 1: axis 1 of shape \(2, 3\)"),
    "axis of expand_dims": (lambda: tg.expand_dims(ONES, 4), ValueError, "axis 4 is out of bounds"),
    "axis of concatenate": (lambda: tg.concatenate([ONES], 2), ValueError, "axis 2 is out of bounds"),
    "concatenate": (lambda: tg.concatenate([ONES, np.ones((2, 4))]), ValueError, "must match exactly"),
    "nothing to join": (lambda: tg.concatenate([]), ValueError, "at least one array"),
    "axis of stack": (lambda: tg.stack([ONES], 3), ValueError, "axis 3 is out of bounds"),
    "axis of split": (lambda: tg.split(ONES, 2, 2), ValueError, "axis 2 is out of bounds"),
    "split": (lambda: tg.split(ONES, 2, 1), ValueError, "length 3 into 2 equal parts"),
    "split into none": (lambda: tg.split(ONES, 0), ValueError, "into 0 equal parts"),
    "axis of take_along_axis": (lambda: tg.take_along_axis(ONES, np.zeros((1, 1), int), 2), ValueError, "axis 2 is out"),
    "axes of indices": (lambda: tg.take_along_axis(ONES, np.zeros(1, int), 0), ValueError, r"\(1,\) for x of shape \(2, 3\)"),
    "axis of flip": (lambda: tg.flip(ONES, 2), ValueError, "axis 2 is out of bounds"),
    "reshape": (lambda: ONES.reshape(4), ValueError, "cannot reshape array of size 6 into shape"),
    "broadcast_to": (lambda: tg.broadcast_to(ONES, (3, 2)), ValueError, r"\(2,\s?3\)"),
    "pad": (lambda: tg.pad(ONES, -1), ValueError, "negative"),
    "unknown option": (lambda: ONES.sum(dim=0), TypeError, "unexpected keyword argument 'dim'"),
    "too many arguments": (lambda: tg.add(ONES, 1, 2), TypeError, r"add\(\) takes a, b: got 3 values"),
    "too few arguments": (lambda: tg.add(ONES), TypeError, r"add\(\) takes 2 array arguments \(a, b\), got 1"),
    "an option twice": (lambda: tg.sum(ONES, 0, axis=1), TypeError, "axis twice"),
    "no number": (lambda: ONES + "text", TypeError, "expected a Tensor, an array or a number, not str: 'text'"),
    "None": (lambda: ONES * None, TypeError, "not NoneType"),
    "reduction": (lambda: tg.mse_loss(ONES, ONES, "average"), ValueError, "'average' is unknown: expected one of"),
    "class": (lambda: tg.cross_entropy(ONES, np.array([0, 3])), IndexError, "expected 0 to 2, got 0 to 3"),
    "labels": (lambda: tg.cross_entropy(ONES, np.array([0, 1, 2])), ValueError, r"integer targets of shape \(2,\)"),
    "no logits": (lambda: tg.cross_entropy(Tensor(1.0), np.array(0)), ValueError, "logits"),
    "targets": (lambda: tg.binary_cross_entropy_with_logits(ONES, np.ones(2)), ValueError, r"\(2, 3\), targets \(2,\)"),
    "embedding": (lambda: tg.embedding(np.array([0, 2]), ONES), IndexError, "expected 0 to 1, got 0 to 2"),
    "embedding dtype": (lambda: tg.embedding(np.array([0.0]), ONES), TypeError, "integer indices, not float64"),
    "batch of one": (lambda: tg.batch_norm(Tensor(np.ones((1, 3))), training=True), ValueError, "one value a channel"),
    "device": (lambda: tg.to(ONES, "gpu"), ValueError, "'gpu' is unknown: expected 'cpu', 'cuda' or 'cuda:N'"),
    "dtype": (lambda: ONES.astype("nonsense"), TypeError, "nonsense"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_is_wrong(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
