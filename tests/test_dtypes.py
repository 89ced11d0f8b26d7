"""Float32 stays float32, and the one rule for mixed dtypes."""

import numpy as np
import pytest
from comparing import FLOATS, assert_same

import tinygen as tg
from tinygen import Tensor

BINARY = (
    "add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "floor_divide", "remainder",
)  # fmt: skip


def image(rng):
    return Tensor(rng.standard_normal((2, 4, 6, 6)).astype(np.float32), requires_grad=True)


def vector_of(x):
    return x[0, 0, 0]


FLOAT32 = {
    "abs": lambda f, x: f(x),
    "add": lambda f, x: f(x, 2.0),
    "astype": lambda f, x: f(x, np.float32),
    "avg_pool2d": lambda f, x: f(x, 2),
    "batch_norm": lambda f, x: f(x, training=True),
    "binary_cross_entropy_with_logits": lambda f, x: f(x, x.numpy() > 0),
    "broadcast_to": lambda f, x: f(x, (3, *x.shape)),
    "clip": lambda f, x: f(x, np.float64(-0.5), 0.5),
    "concatenate": lambda f, x: f([x, np.ones((2, 4, 6, 6), int)]),
    "conv2d": lambda f, x: f(x, x[:1, :, :3, :3]),
    "conv_transpose2d": lambda f, x: f(x, x[0, :, None, :3, :3]),
    "cos": lambda f, x: f(x),
    "cross_entropy": lambda f, x: f(x, np.zeros((2, 6, 6), int)),
    "cumsum": lambda f, x: f(x, 1),
    "divide": lambda f, x: f(x, np.float64(3.0)),
    "dropout": lambda f, x: f(x, np.float64(0.5), np.random.default_rng(0)),
    "einsum": lambda f, x: f("abcd,abcd->a", x, x),
    "elu": lambda f, x: f(x, np.float64(0.7)),
    "embedding": lambda f, x: f([0, 1, 1], x[0, 0]),
    "exp": lambda f, x: f(x),
    "expand_dims": lambda f, x: f(x, 0),
    "flip": lambda f, x: f(x),
    "floor_divide": lambda f, x: f(x, 2.0),
    "getitem": lambda f, x: f(x, [0, 0]),
    "instance_norm": lambda f, x: f(x),
    "interpolate": lambda f, x: f(x, 2),
    "l1_loss": lambda f, x: f(x, np.zeros(x.shape, int)),
    "leaky_relu": lambda f, x: f(x, np.float64(0.2)),
    "linear": lambda f, x: f(x, x[0, 0], vector_of(x)),
    "log": lambda f, x: f(x * x + 1),
    "log1p": lambda f, x: f(x * x),
    "log_softmax": lambda f, x: f(x),
    "logsumexp": lambda f, x: f(x),
    "matmul": lambda f, x: f(x, x),
    "max": lambda f, x: f(x),
    "max_pool2d": lambda f, x: f(x, 2),
    "maximum": lambda f, x: f(x, 0.1),
    "mean": lambda f, x: f(x),
    "min": lambda f, x: f(x, 1),
    "minimum": lambda f, x: f(0.1, x),
    "mse_loss": lambda f, x: f(x, np.zeros(x.shape, bool)),
    "multiply": lambda f, x: f(x, np.float64(2.0)),
    "negative": lambda f, x: f(x),
    "pad": lambda f, x: f(x, 1, np.float64(2)),
    "power": lambda f, x: f(x, 3),
    "relu": lambda f, x: f(x),
    "remainder": lambda f, x: f(x, 2),
    "reshape": lambda f, x: f(x, (-1,)),
    "setitem": lambda f, x: (y := x * 1, f(y, 0, np.float64(2)), y)[2],
    "sigmoid": lambda f, x: f(x),
    "sign": lambda f, x: f(x),
    "sin": lambda f, x: f(x),
    "softmax": lambda f, x: f(x, 1),
    "softplus": lambda f, x: f(x),
    "split": lambda f, x: f(x, 2)[0],
    "sqrt": lambda f, x: f(x * x + 1),
    "squeeze": lambda f, x: f(x[:1]),
    "stack": lambda f, x: f([x, 0.5 * x]),
    "std": lambda f, x: f(x),
    "subtract": lambda f, x: f(np.float64(1.0), x),
    "sum": lambda f, x: f(x),
    "swapaxes": lambda f, x: f(x, 0, 1),
    "take_along_axis": lambda f, x: f(x, np.zeros((2, 4, 6, 1), int), 3),
    "tanh": lambda f, x: f(x),
    "tile": lambda f, x: f(x, 2),
    "to": lambda f, x: f(x, "cpu"),
    "transpose": lambda f, x: f(x),
    "var": lambda f, x: f(x, (0, 1)),
    "where": lambda f, x: f(x > 0, x, np.float64(0.5)),
}


@pytest.mark.parametrize("name", tg.ops.__all__)
def test_float32_stays_float32(name):
    x = image(np.random.default_rng(0))
    y = FLOAT32[name](getattr(tg, name), x)
    assert y.dtype == np.float32
    assert isinstance(y._data, np.ndarray)
    (first,) = tg.grad((y * y).sum(), [x], create_graph=True)
    assert first.dtype == np.float32
    (first.sum() * 0.5 + y.sum()).backward()
    assert x.grad.dtype == np.float32
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("number", [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.float16(2), np.bool_(True)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BINARY)
def test_numbers_are_weak(name, dtype, number):
    function = getattr(tg, name)
    for shape in ((), (3,)):
        x = Tensor(np.full(shape, 1.5, dtype), requires_grad=True)
        for y in (function(x, number), function(number, x)):
            assert y.dtype == dtype
            y.backward(np.ones(shape))
            assert x.grad.dtype == dtype


@pytest.mark.parametrize("integers", [np.int64, np.int8, np.uint8, bool])
@pytest.mark.parametrize("name", [*BINARY, "matmul", "where", "concatenate", "mse_loss"])
def test_integer_arrays_take_the_floating_dtype(name, integers):
    x, n = Tensor(np.full((2, 2), 1.5, np.float32), requires_grad=True), np.ones((2, 2), integers)
    function = {"where": lambda a, b: tg.where(n > 0, a, b), "concatenate": lambda a, b: tg.concatenate([a, b])}.get(name)
    function = function or getattr(tg, name)
    for y in (function(x, n), function(n, x), function(Tensor(n), x)):
        assert y.dtype == np.float32
        y.sum().backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("name", [*BINARY, "matmul", "where", "concatenate", "mse_loss", "linear", "einsum"])
def test_float32_with_float64_gives_float64_and_each_its_gradient(name):
    a = Tensor(np.full((2, 2), 1.5, np.float32), requires_grad=True)
    b = Tensor(np.full((2, 2), 2.5), requires_grad=True)
    special = {
        "where": lambda a, b: tg.where(np.eye(2) > 0, a, b), "concatenate": lambda a, b: tg.concatenate([a, b]),
        "linear": lambda a, b: tg.linear(a, a, b[0]), "einsum": lambda a, b: tg.einsum("ij,jk", a, b),
    }  # fmt: skip
    y = special.get(name, getattr(tg, name))(a, b)
    assert y.dtype == np.float64
    y.sum().backward()
    assert (a.grad.dtype, b.grad.dtype) == (np.float32, np.float64)


def test_a_python_float_makes_integers_float32():
    n, bits = Tensor(np.array([1, 2, 3])), Tensor(np.array([True, False]))
    for y in (n * 2.5, 2.5 - n, n / 2.0, n**0.5, tg.maximum(n, 0.5), tg.where(n > 1, n, 0.5), n * np.float64(2), bits * 0.5):
        assert y.dtype == np.float32
    assert_same(n * 2.5, np.array([2.5, 5, 7.5], np.float32))


def test_integers_among_themselves_follow_numpy():
    n = Tensor(np.array([1, 2, 3]))
    assert_same(n + 1, np.array([2, 3, 4]))
    assert_same(n / 2, np.array([0.5, 1, 1.5]))
    assert_same(n.mean(), np.float64(2))
    assert_same(n.sum(), np.int64(6))


def test_batch_norm_of_float64_is_not_rounded_like_its_float32_statistics():
    """float32's root differs from device to device in the last bit, which float64 would show."""
    x, (mean, variance) = Tensor(np.arange(6.0).reshape(3, 2)), np.array([[0.3, 0.7], [1.3, 2.7]], np.float32)
    y = tg.batch_norm(x, mean, variance)
    assert_same(y, tg.batch_norm(x, mean.astype(np.float64), variance.astype(np.float64)).numpy())
    integers = tg.batch_norm(Tensor(np.arange(6).reshape(3, 2)), mean, variance)
    assert integers.dtype == np.float32
