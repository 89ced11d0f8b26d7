"""`tinygen.grad`, derivatives of any order, and the making of new operations."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor
from tinygen.op import differentiable


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# ---- grad(). ----


def test_grad_returns_tensors_and_leaves_grad_alone():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    a, b = tg.grad((x * y).sum(), [x, y])
    assert isinstance(a, Tensor)
    assert not a.requires_grad
    np.testing.assert_array_equal(a.numpy(), [3.0, 4])
    np.testing.assert_array_equal(b.numpy(), [1.0, 2])
    assert (x.grad, y.grad) == (None, None)
    single = tg.grad((x * y).sum(), x)
    np.testing.assert_array_equal(single.numpy(), [3.0, 4])


def test_grad_of_an_input_that_is_not_used_is_none():
    x, y = leaf(1.0), leaf(1.0)
    assert tg.grad(x * 2, [y, x])[0] is None
    assert tg.grad(x * 2, y) is None
    assert tg.grad(x * 2, y, create_graph=True) is None


def test_grad_with_respect_to_results():
    x = leaf(1.0, 2.0)
    h = x * 3
    y = (h * h).sum()
    gh, gx = tg.grad(y, [h, x], retain_graph=True)
    np.testing.assert_array_equal(gh.numpy(), [6.0, 12])
    np.testing.assert_array_equal(gx.numpy(), [18.0, 36])
    assert tg.grad(y, y).item() == 1


def test_grad_stops_at_its_inputs_and_frees_only_what_it_walked():
    x = leaf(1.0, 2.0)
    h = tg.exp(x)
    gh = tg.grad((h * h).sum(), h)
    h.backward(gh.numpy())
    np.testing.assert_allclose(x.grad, 2 * np.exp([2.0, 4]))


def test_grad_of_several_outputs():
    x = leaf(1.0, 2.0)
    a, b = x * 2, x * x
    g = tg.grad([a, b], x, [np.array([1.0, 1]), np.array([10.0, 100])], retain_graph=True)
    np.testing.assert_array_equal(g.numpy(), [2 + 20.0, 2 + 400])
    np.testing.assert_array_equal(tg.grad([a.sum(), b.sum(), b.sum()], x).numpy(), [2 + 4.0, 2 + 8])


def test_grad_outputs_are_differentiated_too():
    x, v = leaf(1.0, 2.0), leaf(3.0, 4.0)
    g = tg.grad(x * x, x, v, create_graph=True)
    np.testing.assert_array_equal(g.numpy(), [6.0, 16])
    np.testing.assert_array_equal(tg.grad(g.sum(), v).numpy(), [2.0, 4])
    (hv,) = tg.grad((x**3).sum(), [x], create_graph=True)
    np.testing.assert_array_equal(tg.grad(hv, x, v).numpy(), [18.0, 48])


def test_grad_errors():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="input 0 has no graph"):
        tg.grad((x * 2).sum(), [Tensor([1.0])])
    with pytest.raises(RuntimeError, match="output 0 has no graph"):
        tg.grad(Tensor(1.0), [x])
    with pytest.raises(ValueError, match="grad_outputs has 1 entries for 2 outputs"):
        tg.grad([x.sum(), x.sum()], x, [None])
    with pytest.raises(RuntimeError, match="needs a grad of that shape"):
        tg.grad(x * 2, x)
    y = (x * x).sum()
    tg.grad(y, x)
    with pytest.raises(RuntimeError, match="freed"):
        tg.grad(y, x)


def test_create_graph_keeps_the_graph():
    x = leaf(2.0)
    y = tg.exp(x)
    for _ in range(3):
        g = tg.grad(y, x, create_graph=True)
    np.testing.assert_array_equal(g.numpy(), np.exp([2.0]))
    y.backward()
    np.testing.assert_array_equal(x.grad, np.exp([2.0]))
    with pytest.raises(RuntimeError, match="the graph through exp was freed"):
        tg.grad(g, x)  # it leads through what y.backward() freed


DERIVATIVES = {
    "x^5": (lambda x: x**5, lambda x: [5 * x**4, 20 * x**3, 60 * x**2, 120 * x]),
    "sin": (tg.sin, lambda x: [np.cos(x), -np.sin(x), -np.cos(x), np.sin(x)]),
    "log": (tg.log, lambda x: [1 / x, -1 / x**2, 2 / x**3, -6 / x**4]),
    "1/x": (lambda x: 1 / x, lambda x: [-1 / x**2, 2 / x**3, -6 / x**4, 24 / x**5]),
    "sqrt": (tg.sqrt, lambda x: [0.5 * x**-0.5, -0.25 * x**-1.5, 0.375 * x**-2.5, -0.9375 * x**-3.5]),
    "exp(2x)": (lambda x: tg.exp(2 * x), lambda x: [2**k * np.exp(2 * x) for k in range(1, 5)]),
    "x e^x": (lambda x: x * tg.exp(x), lambda x: [(x + k) * np.exp(x) for k in range(1, 5)]),
    "2^x": (lambda x: 2.0**x, lambda x: [np.log(2) ** k * 2**x for k in range(1, 5)]),
    "log1p": (tg.log1p, lambda x: [1 / (1 + x), -((1 + x) ** -2), 2 * (1 + x) ** -3, -6 * (1 + x) ** -4]),
    "tanh": (
        tg.tanh,
        lambda x: [
            1 - np.tanh(x) ** 2,
            -2 * np.tanh(x) * (1 - np.tanh(x) ** 2),
            (1 - np.tanh(x) ** 2) * (6 * np.tanh(x) ** 2 - 2),
            (1 - np.tanh(x) ** 2) * np.tanh(x) * (16 - 24 * np.tanh(x) ** 2),
        ],
    ),
    "softplus": (
        tg.softplus,
        lambda x: [
            s := 1 / (1 + np.exp(-x)),
            s * (1 - s),
            s * (1 - s) * (1 - 2 * s),
            s * (1 - s) * (1 - 6 * s + 6 * s**2),
        ],
    ),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_to_the_fourth_order(name):
    function, expected = DERIVATIVES[name]
    x = leaf(0.3, 0.7, 1.3)
    y = function(x)
    for derivative in expected(x.numpy()):
        y = tg.grad(y.sum(), x, create_graph=True)
        np.testing.assert_allclose(y.numpy(), derivative, rtol=1e-11)


def test_mixed_derivatives():
    x, y = leaf(1.5), leaf(0.5)
    f = x**2 * tg.exp(x * y)
    fx, fy = tg.grad(f, [x, y], create_graph=True)
    fxy, fyx = tg.grad(fx, y, create_graph=True), tg.grad(fy, x, create_graph=True)
    np.testing.assert_allclose(fxy.numpy(), fyx.numpy(), rtol=1e-14)
    np.testing.assert_allclose(fxy.numpy(), (3 * 1.5**2 + 1.5**3 * 0.5) * np.exp(0.75), rtol=1e-14)
    np.testing.assert_allclose(tg.grad(fyx, y).numpy(), (4 * 1.5**3 + 1.5**4 * 0.5) * np.exp(0.75), rtol=1e-14)


def test_gradient_penalty():
    """The norm of the gradient in the input, differentiated in the weights, as WGAN-GP does."""
    rng = np.random.default_rng(0)
    w = Tensor(rng.standard_normal((4, 3)), requires_grad=True)
    x = Tensor(rng.standard_normal((5, 4)), requires_grad=True)

    def penalty(w, x):
        g = tg.grad(tg.tanh(x @ w).sum(), x, create_graph=True)
        return (((g * g).sum(axis=1) ** 0.5 - 1) ** 2).mean()

    loss = penalty(w, x)
    loss.backward()
    direction, h = rng.standard_normal(w.shape), 1e-6
    ends = [penalty(Tensor(w.numpy() + s * h * direction, requires_grad=True), x).item() for s in (-1, 1)]
    np.testing.assert_allclose((w.grad * direction).sum(), (ends[1] - ends[0]) / (2 * h), rtol=1e-7)


def test_one_fused_rule_says_that_it_has_no_second_derivative():
    @differentiable(once=True, x=lambda g, x: g * 2 * x)
    def fused_square(x, /):
        return x * x

    x = leaf(3.0)
    fused_square(x).backward()
    np.testing.assert_array_equal(x.grad, [6.0])
    with pytest.raises(RuntimeError, match="fused_square runs a fused kernel that has no second derivative"):
        tg.grad(fused_square(x), x, create_graph=True)
    z = tg.grad(fused_square(x.detach()) * x, x, create_graph=True)  # not on the way to x
    np.testing.assert_array_equal(z.numpy(), [9.0])


# ---- Making an op. ----


def test_op_with_a_residual():
    @differentiable(x=lambda g, residual: g * residual)
    def cube(x, /):
        square = x * x
        return square * x, 3 * square

    x = leaf(2.0)
    cube(x).backward()
    np.testing.assert_array_equal(x.grad, [12.0])
    np.testing.assert_array_equal(cube(np.array([2.0])), [8.0])


def test_joint_rule_learns_what_is_needed():
    seen = []

    @differentiable(
        joint=lambda g, a, b, needs: (seen.append(needs), (g * b if needs[0] else None, g * a if needs[1] else None))[1]
    )
    def product(a, b, /):
        return a * b

    x, y = leaf(2.0), leaf(3.0)
    product(x, y).backward()
    product(x, 5.0).backward()
    tg.grad(product(x, y), y)
    assert seen == [(True, True), (True, False), (False, True)]
    np.testing.assert_array_equal(x.grad, [8.0])


def test_mistakes_in_making_an_op():
    with pytest.raises(TypeError, match=r"rules for \['z'\], which are not positional-only arguments"):

        @differentiable(z=lambda g: g)
        def wrong(x, /):
            return x

    @differentiable(x=lambda g, nonsense: g)
    def unknown(x, /):
        return x * 1

    with pytest.raises(TypeError, match="a rule of unknown asks for 'nonsense'"):
        unknown(leaf(1.0))
