"""NADE's exact oracles, at the level of the model; the kernel's own are in test_kernels_nade.py."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import tinygen
from tinygen.models.nade import NADE
from tinygen.models.orderings import ORDERINGS, inverse, ordering

D = 9


def cube(dimensions: int) -> np.ndarray:
    """All binary vectors of that length, (2^D, D)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=dimensions)))


def model(seed: int = 0, dimensions: int = D, hidden: int = 6, scale: float = 1.0, order=None) -> NADE:
    rng = np.random.default_rng(seed)
    nade = NADE(dimensions, hidden, rng, order, scale=scale, dtype=np.float64)
    for parameter in (nade.b, nade.c):
        parameter.data[...] = rng.standard_normal(parameter.shape)
    return nade


@given(seed=st.integers(0, 2**32 - 1), dimensions=st.integers(1, 10), hidden=st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_probabilities_sum_to_one_in_every_order(seed, dimensions, hidden):
    order = np.random.default_rng(seed).permutation(dimensions)
    log_prob = model(seed, dimensions, hidden, order=order).log_prob(cube(dimensions)).numpy()
    assert abs(np.exp(log_prob).sum() - 1) < 1e-10


def test_equals_the_papers_equations_written_out():
    order = np.random.default_rng(5).permutation(D)
    nade = model(3, order=order)
    W, V, b, c = (p.numpy() for p in (nade.W, nade.V, nade.b, nade.c))
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    for x, got in zip(cube(D)[::37], nade.log_prob(cube(D)[::37]).numpy()):
        expected = 0.0
        for i in range(D):
            h = sigmoid(c + sum((W[j] * x[order[j]] for j in range(i)), np.zeros_like(c)))
            p = sigmoid(b[i] + V[i] @ h)
            expected += math.log(p if x[order[i]] else 1 - p)
        assert got == pytest.approx(expected, rel=1e-12)


def test_each_conditional_depends_on_all_earlier_pixels_and_on_no_other():
    order = np.random.default_rng(1).permutation(D)
    nade = model(2, order=order)
    states = cube(D)
    log_prob = dict(zip(map(tuple, states), nade.log_prob(states).numpy()))

    def conditional(x: tuple, i: int) -> float:
        """ln p(x_{o_i} | x_{o_<i}) from the joint alone, by summing the later pixels out."""
        known = order[: i + 1]
        same = [lp for s, lp in log_prob.items() if all(s[k] == x[k] for k in known)]
        before = [lp for s, lp in log_prob.items() if all(s[k] == x[k] for k in known[:-1])]
        return np.logaddexp.reduce(same) - np.logaddexp.reduce(before)

    W, V, b, c = (p.numpy() for p in (nade.W, nade.V, nade.b, nade.c))
    x = states[341]
    depends = np.zeros((D, D), bool)
    for i, j in itertools.product(range(D), range(D)):
        flipped = x.copy()
        flipped[order[j]] = 1 - flipped[order[j]]
        if j != i:
            depends[i, j] = abs(conditional(tuple(x), i) - conditional(tuple(flipped), i)) > 1e-9
    assert (depends == np.tril(np.ones((D, D), bool), -1)).all()
    assert W.shape == V.shape == (D, c.size)
    assert b.shape == (D,)


def test_zero_weights_give_exactly_one_bit_a_pixel():
    nade = model()
    for parameter in nade.parameters():
        parameter.data[...] = 0
    np.testing.assert_allclose(nade.log_prob(cube(D)).numpy(), -D * math.log(2), rtol=1e-15)
    assert nade.evaluate(cube(D), np.random.default_rng(0))["bits_per_dim"] == pytest.approx(1.0, rel=1e-14)


def test_loss_is_the_positive_mean_of_minus_log_prob():
    nade, x = model(4), cube(D)[:50]
    assert nade.loss(x, np.random.default_rng(0)).item() == pytest.approx(-nade.log_prob(x).numpy().mean())
    assert nade.loss(x, np.random.default_rng(0)).item() > 0


def test_gradient_reaches_every_parameter_and_descends():
    nade, x = model(6, scale=0.3), cube(D)[np.random.default_rng(0).integers(0, 2**D, 64)]
    loss = nade.loss(x, np.random.default_rng(0))
    loss.backward()
    for _, parameter in nade.named_parameters():
        assert np.abs(parameter.grad).max() > 0
        parameter.data -= 0.05 * parameter.grad
    assert nade.loss(x, np.random.default_rng(0)).item() < loss.item()


def test_samples_follow_the_model():
    order = np.random.default_rng(8).permutation(6)
    nade = model(7, 6, order=order)
    p = np.exp(nade.log_prob(cube(6)).numpy())
    samples = nade.sample(20_000, np.random.default_rng(0))
    counts = np.bincount((samples @ 2 ** np.arange(5, -1, -1)).astype(int), minlength=64)
    assert stats.chisquare(counts, 20_000 * p).pvalue > 1e-3


def test_completions_follow_the_exact_conditional():
    order = np.random.default_rng(9).permutation(6)
    nade = model(11, 6, order=order)
    states = cube(6)
    observed = np.zeros(6, bool)
    observed[order[:3]] = True
    given_x = states[45]
    match = (states[:, observed] == given_x[observed]).all(axis=1)
    p = np.exp(nade.log_prob(states[match]).numpy())
    filled = nade.complete(np.repeat(given_x[None], 20_000, axis=0), observed, np.random.default_rng(1))
    assert (filled[:, observed] == given_x[observed]).all()
    index = {tuple(s): k for k, s in enumerate(states[match])}
    counts = np.bincount([index[tuple(s)] for s in filled], minlength=8)
    assert stats.chisquare(counts, 20_000 * p / p.sum()).pvalue > 1e-3


def test_complete_refuses_what_is_no_prefix_of_the_order():
    observed = np.zeros(D, bool)
    observed[4] = True
    with pytest.raises(ValueError, match="come first in the model's order"):
        model().complete(np.zeros((1, D)), observed, np.random.default_rng(0))


def test_second_derivative_is_refused_in_words():
    nade = model()
    with pytest.raises(RuntimeError, match="no second derivative"):
        tinygen.grad(nade.loss(cube(D), np.random.default_rng(0)), nade.W, create_graph=True)


def test_grey_pixels_and_false_orders_are_refused():
    with pytest.raises(ValueError, match="0"):
        model().log_prob(np.full((2, D), 0.5))
    with pytest.raises(ValueError, match="permutation"):
        NADE(4, 3, np.random.default_rng(0), order=[0, 1, 1, 3])


def test_float32_stays_float32():
    nade = NADE(D, 4, np.random.default_rng(0))
    loss = nade.loss(cube(D).astype(np.float32), np.random.default_rng(0))
    loss.backward()
    assert loss.dtype == np.float32
    assert {p.grad.dtype for p in nade.parameters()} == {np.dtype(np.float32)}


@given(name=st.sampled_from(sorted(ORDERINGS)), height=st.integers(1, 9), width=st.integers(1, 9))
def test_an_ordering_visits_every_pixel_once(name, height, width):
    order = ordering(name, height, width, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(height * width))
    assert (order[inverse(order)] == np.arange(height * width)).all()


@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_the_spiral_moves_to_a_neighbour_at_every_step(height, width):
    rows, columns = np.divmod(ordering("spiral", height, width, np.random.default_rng(0)), width)
    steps = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
    assert (steps == 1).all()
