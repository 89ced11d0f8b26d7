"""Arithmetic, reductions and products against NumPy, over drawn shapes and layouts.

Gradients are the business of the gradient checker's registry.
"""

import operator

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from comparing import (
    array_of,
    arrays,
    assert_both_ways,
    assert_same,
    dtypes,
    filled_arrays,
    given,
    keeping_layout,
    layouts,
    seeds,
    shapes,
)
from hypothesis import strategies as st

import tinygen as tg
from tinygen import Tensor

# ---- Elementwise. ----

UNARY = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "abs": np.abs, "sin": np.sin, "cos": np.cos,
    "tanh": np.tanh, "sign": np.sign, "negative": np.negative,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, x * x.dtype.type(0.01)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
}  # fmt: skip
BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "power": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "floor_divide": np.floor_divide, "remainder": np.remainder,
}  # fmt: skip
OPERATORS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
    "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip
COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)


@pytest.mark.parametrize("name", UNARY)
@given(shape=shapes, dtype=dtypes, layout=layouts, seed=seeds)
def test_unary(name, shape, dtype, layout, seed):
    low = 0.1 if name in ("log", "log1p", "sqrt") else -3.0
    x = array_of(shape, dtype, layout, seed, low)
    assert_both_ways(getattr(tg, name), UNARY[name](x), x, scale=4)


@pytest.mark.parametrize("name", BINARY)
@given(drawn=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_dims=3), dtype=dtypes, layout=layouts, seed=seeds)
def test_binary(name, drawn, dtype, layout, seed):
    a, b = (array_of(shape, dtype, layout, seed + i, 0.5) for i, shape in enumerate(drawn.input_shapes))
    assert_both_ways(getattr(tg, name), BINARY[name](a, b), a, b, scale=4)


@pytest.mark.parametrize("symbol", OPERATORS)
@given(x=filled_arrays, number=st.sampled_from([2, 3, 2.5, np.float32(1.5), np.float64(1.5), np.int64(2), True]))
def test_operators_with_numbers_on_either_side(symbol, x, number):
    operate, x = OPERATORS[symbol], np.abs(x) + x.dtype.type(0.5)
    weak = number.item() if isinstance(number, np.generic) else number
    assert_same(operate(Tensor(x), number), operate(x, weak), scale=8)
    assert_same(operate(number, Tensor(x)), operate(weak, x), scale=8)


@pytest.mark.parametrize("symbol", OPERATORS)
@given(drawn=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_dims=3), dtype=dtypes, seed=seeds)
def test_operators_with_arrays_on_either_side(symbol, drawn, dtype, seed):
    operate = OPERATORS[symbol]
    a, b = (array_of(shape, dtype, "contiguous", seed + i, 0.5) for i, shape in enumerate(drawn.input_shapes))
    for result in (operate(Tensor(a), b), operate(a, Tensor(b)), operate(Tensor(a), Tensor(b))):
        assert isinstance(result, Tensor)
        assert_same(result, operate(a, b), scale=4)


@pytest.mark.parametrize("compare", COMPARISONS, ids=lambda f: f.__name__)
@given(drawn=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_dims=3), seed=seeds)
def test_comparisons(compare, drawn, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 3, shape).astype(np.float32) for shape in drawn.input_shapes)
    for result in (compare(Tensor(a), Tensor(b)), compare(Tensor(a), b), compare(a, Tensor(b))):
        assert isinstance(result.data, np.ndarray)
        assert_same(result, compare(a, b))
    assert_same(compare(Tensor(a), 1), compare(a, 1))
    assert_same(compare(1, Tensor(a)), compare(1, a))


def test_comparison_with_what_is_no_number():
    x = Tensor([1.0, 2.0])
    assert (x == None) is False  # noqa: E711
    assert (x != "text") is True
    with pytest.raises(TypeError, match="not supported between"):
        x < None  # noqa: B015


def test_logic_of_booleans():
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    for operate in (operator.and_, operator.or_, operator.xor):
        for result in (operate(Tensor(a), Tensor(b)), operate(a, Tensor(b)), operate(Tensor(a), b)):
            assert_same(result, operate(a, b))
    assert_same(~Tensor(a), ~a)
    assert_same((Tensor(np.arange(4)) > 0) & (Tensor(np.arange(4)) < 3), np.array([False, True, True, False]))


def test_signs_and_absolute_values():
    x = np.array([-1.5, 0.0, 2.0])
    assert_same(-Tensor(x), -x)
    assert_same(+Tensor(x), x)
    assert_same(abs(Tensor(x)), abs(x))


@given(drawn=hnp.mutually_broadcastable_shapes(num_shapes=3, min_side=0, max_dims=3), dtype=dtypes, seed=seeds)
def test_where(drawn, dtype, seed):
    c, a, b = (array_of(shape, dtype, "contiguous", seed + i) for i, shape in enumerate(drawn.input_shapes))
    assert_both_ways(lambda a, b: tg.where(c > 0, a, b), np.where(c > 0, a, b), a, b)
    assert_same(tg.where(Tensor(c > 0), Tensor(a), b), np.where(c > 0, a, b))
    assert_same(tg.where(c > 0, Tensor(a), 0.0), np.where(c > 0, a, dtype(0)))
    assert_same(tg.where(c > 0, 1, Tensor(a)), np.where(c > 0, dtype(1), a))


@given(x=arrays, low=st.sampled_from([None, -1, -0.5]), high=st.sampled_from([None, 0.5, np.float64(1.0)]))
def test_clip(x, low, high):
    expected = x.copy() if low is None else np.maximum(x, x.dtype.type(low))
    expected = expected if high is None else np.minimum(expected, x.dtype.type(high))
    assert_both_ways(lambda x: tg.clip(x, low, high), expected, x)


def test_clip_takes_numbers():
    with pytest.raises(TypeError, match="clip takes numbers as limits, not ndarray: use maximum and minimum"):
        tg.clip(Tensor(np.ones(3)), np.zeros(3))


# ---- Reductions. ----

REDUCTIONS = ("sum", "mean", "max", "min", "var", "std")


@st.composite
def reductions(draw):
    x = draw(filled_arrays)
    axes = st.none()
    if x.ndim:
        one = st.integers(-x.ndim, x.ndim - 1)
        axes |= one | st.lists(st.integers(0, x.ndim - 1), unique=True).map(tuple)
    return x, draw(axes), draw(st.booleans())


@pytest.mark.parametrize("name", REDUCTIONS)
@given(drawn=reductions())
def test_reductions(name, drawn):
    x, axis, keepdims = drawn
    expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert_both_ways(lambda x: getattr(tg, name)(x, axis=axis, keepdims=keepdims), expected, x, scale=4)
    assert_same(getattr(keeping_layout(x), name)(axis, keepdims=keepdims), expected, scale=4)


@given(drawn=reductions())
def test_logsumexp(drawn):
    x, axis, keepdims = drawn
    expected = np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))
    assert_both_ways(lambda x: tg.logsumexp(x, axis, keepdims), expected, x, scale=8)


def test_sums_of_nothing():
    x = Tensor(np.ones((0, 3)), requires_grad=True)
    assert_same(x.sum(), 0.0)
    assert_same(x.sum(axis=0), np.zeros(3))
    assert_same(x.sum(axis=1), np.zeros(0))
    x.sum().backward()
    assert x.grad.shape == (0, 3)


@given(x=filled_arrays.filter(lambda x: x.ndim), data=st.data())
def test_along_an_axis(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    assert_both_ways(lambda x: tg.softmax(x, axis), e / e.sum(axis=axis, keepdims=True), x, scale=8)
    assert_both_ways(lambda x: tg.log_softmax(x, axis), np.log(e / e.sum(axis=axis, keepdims=True)), x, scale=16)
    assert_both_ways(lambda x: tg.cumsum(x, axis), np.cumsum(x, axis), x, scale=8)
    assert_both_ways(tg.cumsum, np.cumsum(x), x, scale=40)
    if x.shape[axis] > 1:
        assert_both_ways(lambda x: tg.var(x, axis, ddof=1), np.var(x, axis, ddof=1), x, scale=8)
        assert_both_ways(lambda x: tg.std(x, axis, 1), np.std(x, axis, ddof=1), x, scale=8)


@pytest.mark.parametrize("name", [*REDUCTIONS, "logsumexp"])
def test_axis_may_be_a_numpy_integer(name):
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    y = getattr(tg, name)(x, axis=np.int64(1))
    assert y.shape == (2,)
    y.sum().backward()
    assert x.grad.shape == (2, 3)


# ---- Products. ----


@given(
    batch=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, min_side=0, max_side=3),
    sizes=st.tuples(*[st.integers(0, 4)] * 3), dtype=dtypes, layout=layouts, seed=seeds,
)  # fmt: skip
def test_matmul_of_matrices(batch, sizes, dtype, layout, seed):
    n, k, m = sizes
    a = array_of((*batch.input_shapes[0], n, k), dtype, layout, seed)
    b = array_of((*batch.input_shapes[1], k, m), dtype, layout, seed + 1)
    assert_both_ways(tg.matmul, a @ b, a, b, scale=40)
    for result in (Tensor(a) @ b, a @ Tensor(b)):
        assert_same(result, a @ b, scale=40)


@given(k=st.integers(0, 4), batch=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), dtype=dtypes, seed=seeds)
def test_matmul_of_vectors(k, batch, dtype, seed):
    v, w = (array_of((k,), dtype, "contiguous", seed + i) for i in range(2))
    assert_both_ways(tg.matmul, v @ w, v, w, scale=40)
    a, b = array_of((*batch, 3, k), dtype, "contiguous", seed), array_of((*batch, k, 2), dtype, "contiguous", seed)
    assert_both_ways(tg.matmul, a @ v, a, v, scale=40)
    assert_both_ways(tg.matmul, v @ b, v, b, scale=40)


EINSUMS = {
    "ij,jk->ik": ["ij", "jk"], "ij,jk": ["ij", "jk"], "ij": ["ij"], "ji": ["ji"], "ij->ji": ["ij"], "ij->": ["ij"],
    "ij->j": ["ij"], "i,i": ["i", "i"], "i,j->ji": ["i", "j"], "ij,ij->i": ["ij", "ij"], "ijk,k->ij": ["ijk", "k"],
    "bij,bjk->bik": ["bij", "bjk"], "ij,jk,kl->il": ["ij", "jk", "kl"], "ij,k->i": ["ij", "k"], ",ij->ij": ["", "ij"],
    "...ij,...jk->...ik": ["AZij", "Zjk"], "...i->...": ["AZi"], "i...->...": ["iAZ"], "...": ["AZ"],
    "...i,i": ["AZi", "i"], "i...,...": ["iZ", "Z"], "i j , j -> i": ["ij", "j"],
}  # fmt: skip


@pytest.mark.parametrize("subscripts", EINSUMS)
@given(15, sizes=st.lists(st.integers(0, 4), min_size=9, max_size=9), dtype=dtypes, layout=layouts, seed=seeds)
def test_einsum(subscripts, sizes, dtype, layout, seed):
    length = dict(zip("AZbijkl", sizes))
    operands = [array_of(tuple(length[c] for c in term), dtype, layout, seed + i) for i, term in enumerate(EINSUMS[subscripts])]
    assert_both_ways(lambda *xs: tg.einsum(subscripts, *xs), np.einsum(subscripts, *operands), *operands, scale=200)


def test_einsum_broadcasts_an_ellipsis_of_length_one():
    a, b = Tensor(np.ones((1, 3, 4)), requires_grad=True), Tensor(np.arange(20.0).reshape(5, 4), requires_grad=True)
    c = Tensor(np.ones((5, 4, 2)), requires_grad=True)
    y = tg.einsum("...ij,...jk->...ik", a, c)
    assert_same(y, np.einsum("...ij,...jk->...ik", a.numpy(), c.numpy()))
    y.sum().backward()
    assert_same(a.grad, np.full((1, 3, 4), 10.0))
    tg.einsum("...j,...j->...", a, b[0]).sum().backward()
    assert_same(a.grad, np.full((1, 3, 4), 10.0) + np.arange(4.0))


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk->ik", [(2, 3)], "names 2 operands, got 1"),
        ("ij->i", [(2, 3, 4)], r"an operand of shape \(2, 3, 4\) is given 2 indices"),
        ("ii->i", [(3, 3)], "take the diagonal by indexing first"),
    ],
)
def test_einsum_errors(subscripts, shapes, message):
    with pytest.raises(ValueError, match=message):
        tg.einsum(subscripts, *(Tensor(np.ones(shape)) for shape in shapes))


@given(
    lead=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    n=st.integers(0, 4),
    m=st.integers(0, 4),
    dtype=dtypes,
    seed=seeds,
)
def test_linear(lead, n, m, dtype, seed):
    x, w, b = (array_of(s, dtype, "contiguous", seed + i) for i, s in enumerate([(*lead, n), (m, n), (m,)]))
    assert_both_ways(tg.linear, x @ w.T + b, x, w, b, scale=40)
    assert_both_ways(tg.linear, x @ w.T, x, w, scale=40)


# ---- Methods. ----


def test_methods_are_the_functions():
    x = Tensor(np.random.default_rng(0).random((2, 3)) + 0.5)
    for name in ("exp", "log", "sqrt", "tanh", "sigmoid", "relu", "sum", "mean", "var", "std", "max", "min", "logsumexp",
                 "softmax", "log_softmax", "cumsum", "transpose", "squeeze", "flip"):  # fmt: skip
        assert_same(getattr(x, name)(), getattr(tg, name)(x).numpy())
        assert getattr(Tensor, name).__doc__ == getattr(tg, name).__doc__
        assert getattr(Tensor, name).__name__ == name
    assert_same(x.clip(0.6, 0.9), np.clip(x.numpy(), 0.6, 0.9))
    assert_same(x.swapaxes(0, 1), x.numpy().T)
    assert_same(x.astype(np.float32), x.numpy().astype(np.float32))
    assert_same(x.copy(), x.numpy())
    assert x.to("cpu").device == "cpu"


def test_every_function_is_documented_with_its_own_name():
    for name in tg.ops.__all__:
        function = getattr(tg, name)
        assert function.__doc__, name
        assert function.__name__ == name
