"""The counting models' exact oracles: enumeration, relative frequencies, every order, and the known figures on MNIST."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import tinygen
from tinygen import data
from tinygen.distributions import Bernoulli, Categorical
from tinygen.models import Recipe, RecipeError
from tinygen.models.base import Optimizers
from tinygen.models.chain_rule import ChainRule
from tinygen.models.full_joint import FullJoint
from tinygen.models.independent import Independent
from tinygen.models.markov import Markov
from tinygen.models.orderings import ORDERINGS, ordering
from tinygen.models.states import chain_rule_logits, joint_log_prob, state_counts, state_of

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
KINDS = (Independent, Markov, ChainRule, FullJoint)
seeds = st.integers(0, 2**32 - 1)


def cube(n: int) -> np.ndarray:
    """All binary vectors of that length, (2^n, n), in the order of their states."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def digits_like(seed: int, examples: int, n: int) -> np.ndarray:
    """Bits (examples, n) of which neighbours depend on each other."""
    rng = np.random.default_rng(seed)
    return (rng.random((examples, n)) + 0.6 * rng.standard_normal((examples, 1)) > 0.5).astype(np.float64)


def options(kind, n: int, rng: np.random.Generator) -> dict:
    return {"order": rng.permutation(n)} if kind in (Markov, ChainRule) else {}


def random_model(kind, n: int, seed: int = 0, **more):
    """A model of `n` pixels, its logits drawn, in a random order where it has one."""
    rng = np.random.default_rng(seed)
    model = kind(n, dtype=np.float64, **options(kind, n, rng), **more)
    model.logits.data[...] = 1.5 * rng.standard_normal(model.logits.shape)
    return model


def counted(kind, x: np.ndarray, alpha: float = 0.0, **more):
    model = kind(x.shape[1], alpha=alpha, dtype=np.float64, **more)
    model.count(x)
    return model


def probabilities(model) -> np.ndarray:
    return np.exp(model.log_prob(cube(model.dimensions)).numpy())


def frequencies(x: np.ndarray) -> np.ndarray:
    return np.bincount(state_of(x), minlength=2 ** x.shape[1]) / len(x)


# ---- a distribution ----


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, n=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_probabilities_sum_to_one(kind, seed, n):
    assert abs(probabilities(random_model(kind, n, seed)).sum() - 1) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, n=st.integers(1, 7), split=st.integers(0, 200))
@settings(max_examples=15, deadline=None)
def test_tally_of_parts_adds_up_and_gives_the_likelihood(kind, seed, n, split):
    model, x = random_model(kind, n, seed), digits_like(seed, 200, n)
    np.testing.assert_array_equal(model.tally(x), model.tally(x[:split]) + model.tally(x[split:]))
    assert model.expected_nll(x) == pytest.approx(-model.log_prob(x).numpy().mean(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_expected_nll_of_grey_values_is_the_mean_over_every_binarization(kind):
    model = random_model(kind, 5, 3)
    grey = np.random.default_rng(4).random((6, 5))
    states = cube(5)
    weights = np.prod(np.where(states[:, None] == 1, grey, 1 - grey), axis=2)  # (states, examples)
    expected = -(weights * model.log_prob(states).numpy()[:, None]).sum() / len(grey)
    assert model.expected_nll(grey) == pytest.approx(expected, rel=1e-12)


def test_uniform_logits_give_exactly_one_bit_a_pixel():
    for kind in KINDS:
        assert kind(9).evaluate(cube(9).astype(np.float32), np.random.default_rng(0))["bits_per_dim"] == pytest.approx(
            1, rel=1e-6
        )


# ---- learning is counting ----


def test_one_coin_and_one_die_have_their_relative_frequencies():
    x = np.array([[1.0], [0.0], [1.0], [1.0]])
    coin = counted(Independent, x)
    np.testing.assert_allclose(np.exp(Bernoulli(coin.logits.numpy()).log_prob(np.ones(1))), 3 / 4, rtol=1e-14)
    die = counted(FullJoint, digits_like(1, 500, 2))
    p = np.exp(Categorical(die.logits.numpy()).log_prob(np.arange(4)))
    np.testing.assert_allclose(p, frequencies(digits_like(1, 500, 2)), rtol=1e-13)


def test_the_most_likely_table_holds_relative_frequencies():
    x = digits_like(2, 3000, 5)
    np.testing.assert_allclose(probabilities(counted(FullJoint, x)), frequencies(x), rtol=1e-12)
    np.testing.assert_allclose(1 / (1 + np.exp(-counted(Independent, x).logits.numpy())), x.mean(0), rtol=1e-12)
    order = np.array([3, 0, 4, 1, 2])
    p = 1 / (1 + np.exp(-counted(Markov, x, order=order).logits.numpy()))
    assert p[0] == pytest.approx(x[:, 3].mean(), rel=1e-12)
    for i in range(1, 5):
        for before in (0, 1):
            those = x[x[:, order[i - 1]] == before]
            assert p[2 * i - 1 + before] == pytest.approx(those[:, order[i]].mean(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_is_added_to_every_count(kind):
    x = digits_like(3, 40, 4)
    model = counted(kind, x, alpha=2.0)
    table = model.counts + 2.0
    expected = np.log(table / table.sum(-1, keepdims=True))
    np.testing.assert_allclose(model.log_table().numpy(), expected, rtol=1e-12)
    assert model.counts.sum() == 40 * (1 if kind is FullJoint else 4)


def test_what_was_never_seen_is_impossible_without_smoothing_only():
    x = np.zeros((10, 3))
    for kind in KINDS:
        unseen = counted(kind, x).log_prob(np.array([[0.0, 0.0, 1.0]])).numpy()
        assert unseen == -np.inf
        assert counted(kind, x).log_prob(x[:1]).numpy() == 0
        assert np.isfinite(counted(kind, x, alpha=0.5).log_prob(cube(3)).numpy()).all()


def test_all_orders_of_the_chain_rule_are_the_joint_distribution():
    n, x = 4, digits_like(4, 400, 4)
    joint = probabilities(counted(FullJoint, x))
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        np.testing.assert_allclose(probabilities(counted(ChainRule, x, order=order)), joint, rtol=1e-11)
    smoothed = [probabilities(counted(ChainRule, x, alpha=1.0, order=order)) for order in orders]
    assert np.ptp(smoothed, axis=0).max() > 1e-4, "a prior on the conditionals depends on the order"
    chains = [probabilities(counted(Markov, x, order=order)) for order in orders]
    assert np.ptp(chains, axis=0).max() > 1e-4, "for a chain the order matters"


def test_what_independence_loses_is_the_total_correlation():
    x = digits_like(5, 2000, 5)
    entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()
    total_correlation = sum(entropy(frequencies(x[:, i : i + 1])) for i in range(5)) - entropy(frequencies(x))
    gap = counted(Independent, x).expected_nll(x) - counted(FullJoint, x).expected_nll(x)
    assert gap == pytest.approx(total_correlation, rel=1e-10)
    assert gap > 0.1


# ---- the same by gradient descent ----


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_p_minus_onehot(kind):
    model, x = random_model(kind, 4, 6, alpha=0.0), np.array([[1.0, 0.0, 0.0, 1.0]])
    model.loss(x, np.random.default_rng(0)).backward()
    p = np.exp(model.log_table().numpy())
    seen = model.tally(x)
    expected = p - seen if kind is FullJoint else (seen.sum(-1, keepdims=True) * p - seen)[:, 1]
    np.testing.assert_allclose(model.logits.grad, expected, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_descent_ends_where_counting_does(kind, alpha):
    x = np.concatenate([digits_like(7, 200, 3), cube(3)])  # every state is there, so that no logit is infinite
    model = kind(3, alpha=alpha, fit="gradient", examples=len(x), dtype=np.float64)
    optimizers = Optimizers({"model": tinygen.optim.SGD(model.parameters(), lr=4.0)})
    for _ in range(1500):
        model.train_step(x, optimizers, np.random.default_rng(0))
    assert np.abs(model.logits.grad).max() < 1e-7
    np.testing.assert_allclose(model.log_table().numpy(), counted(kind, x, alpha).log_table().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_judges_its_batch_and_then_counts_it(kind):
    x = digits_like(8, 100, 4)
    model = kind(4, dtype=np.float64)
    losses = [model.train_step(part, Optimizers({}), np.random.default_rng(0))["loss"] for part in (x[:50], x[50:])]
    assert losses[0] == pytest.approx(4 * math.log(2), rel=1e-12)
    assert losses[1] == pytest.approx(-counted(kind, x[:50], 1.0).log_prob(x[50:]).numpy().mean(), rel=1e-12)
    np.testing.assert_array_equal(model.logits.numpy(), counted(kind, x, 1.0).logits.numpy())


# ---- samples and completions ----


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_model(kind):
    model = random_model(kind, 5, 9)
    samples = model.sample(20_000, np.random.default_rng(0))
    counts = np.bincount(state_of(samples), minlength=32)
    assert stats.chisquare(counts, 20_000 * probabilities(model)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["10110", "01001", "00000", "11111", "00010"])
def test_completions_follow_the_exact_conditional_for_any_mask(kind, mask):
    model, observed = random_model(kind, 5, 10), np.array([digit == "1" for digit in mask])
    states, given_x = cube(5), np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    match = (states[:, observed] == given_x[observed]).all(axis=1)
    p = np.where(match, probabilities(model), 0)
    filled = model.complete(np.repeat(given_x[None], 20_000, axis=0), observed, np.random.default_rng(1))
    counts = np.bincount(state_of(filled), minlength=32)
    assert counts[~match].sum() == 0
    if match.sum() > 1:
        assert stats.chisquare(counts[match], 20_000 * p[match] / p.sum()).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_completions_of_different_examples_do_not_mix(kind):
    model, x = random_model(kind, 6, 11), cube(6)
    observed = np.array([False, True, True, False, True, False])
    filled = model.complete(x, observed, np.random.default_rng(2))
    np.testing.assert_array_equal(filled[:, observed], x[:, observed])
    assert (filled[:, ~observed] != x[:, ~observed]).any()
    again = model.complete(x, observed, np.random.default_rng(2))
    np.testing.assert_array_equal(filled, again)


@pytest.mark.parametrize("kind", [Markov, ChainRule, FullJoint])
def test_only_what_is_observed_must_be_bits(kind):
    model, observed = random_model(kind, 4, 15), np.array([True, False, True, False])
    x = np.array([[1.0, np.nan, 0.0, 0.3]])
    assert np.isin(model.complete(x, observed, np.random.default_rng(0)), (0, 1)).all()
    with pytest.raises(ValueError, match=r"zeros and ones only, got 0\.3"):
        model.complete(x, np.array([True, False, True, True]), np.random.default_rng(0))


def test_a_long_chain_is_completed_without_underflow():
    model = random_model(Markov, 784, 12)
    x = model.sample(3, np.random.default_rng(0))
    observed = np.random.default_rng(1).random(784) < 0.5
    filled = model.complete(x, observed, np.random.default_rng(2))
    assert np.isin(filled, (0, 1)).all()
    np.testing.assert_array_equal(filled[:, observed], x[:, observed])


def test_tables_of_states():
    log_p = np.random.default_rng(13).standard_normal(32)
    log_p -= np.logaddexp.reduce(log_p)
    np.testing.assert_allclose(joint_log_prob(chain_rule_logits(log_p, np.arange(5))), log_p, rtol=1e-12)
    np.testing.assert_array_equal(state_of(cube(5)), np.arange(32))
    grey = np.random.default_rng(14).random((7, 5))
    expected = [np.prod(np.where(state == 1, grey, 1 - grey), axis=1).sum() for state in cube(5)]
    np.testing.assert_allclose(state_counts(grey), expected, rtol=1e-12)


# ---- sizes, and what is refused ----


def test_parameters_needed():
    for n in range(1, 12):
        assert [kind.parameters_needed(n) for kind in KINDS] == [n, 2 * n - 1, 2**n - 1, 2**n - 1]
        assert [kind(n).logits.size for kind in KINDS] == [n, 2 * n - 1, 2**n - 1, 2**n]
    assert [kind.parameters_needed(784) for kind in KINDS] == [784, 1567, 2**784 - 1, 2**784 - 1]
    assert FullJoint.parameters_needed(3, 256) == ChainRule.parameters_needed(3, 256) == 16_777_215
    assert Independent.parameters_needed(3, 256) == 765


@pytest.mark.parametrize("kind", [ChainRule, FullJoint])
def test_a_table_that_fits_no_memory_is_refused_with_its_size(kind):
    with pytest.raises(
        RecipeError, match=r"784 binary pixels needs .*2\^n - 1 = about 10\^236 numbers, more than the 16,777,216"
    ):
        kind(784)
    with pytest.raises(RecipeError, match="33,554,431 numbers"):
        kind(25)


def test_what_makes_no_sense_is_refused():
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"zeros and ones only, got 0\.5"):
            kind(3).log_prob(np.full((1, 3), 0.5))
        with pytest.raises(RecipeError, match="fit 'guess' is unknown: valid: counts, gradient"):
            kind(3, fit="guess")
        with pytest.raises(RecipeError, match=r"alpha = -1 is out of range"):
            kind(3, alpha=-1)
    for kind in (Markov, ChainRule):
        with pytest.raises(ValueError, match="permutation of 0 to 2"):
            kind(3, order=[0, 1, 1])
    zero = KINDS[0].RECIPES["quick"].override({"alpha": "0"})
    with pytest.raises(RecipeError, match="alpha = 0 is out of range for training"):
        Independent.build(zero, data.load("mnist5k").train, np.random.default_rng(0))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind):
    model, x = kind(4), cube(4).astype(np.float32)
    loss = model.loss(x, np.random.default_rng(0))
    loss.backward()
    model.count(x)
    drawn = (model.sample(3, np.random.default_rng(0)), model.complete(x, np.arange(4) < 2, np.random.default_rng(0)))
    assert {a.dtype for a in (loss, model.logits, model.logits.grad, model.log_prob(x), *drawn)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", sorted(ORDERINGS))
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 5), (5, 3), (2, 8), (28, 20)])
def test_an_ordering_of_a_rectangle_is_a_permutation(name, shape):
    assert sorted(ordering(name, *shape, np.random.default_rng(0)).tolist()) == list(range(shape[0] * shape[1]))


@pytest.mark.parametrize("kind", [Markov, ChainRule])
@pytest.mark.parametrize("name", sorted(ORDERINGS))
def test_a_model_is_built_along_the_order_that_its_recipe_names(kind, name):
    recipe: Recipe = kind.RECIPES["quick"].override({"order": name})
    model = kind.build(recipe, data.load("mnist5k-4x4").train, np.random.default_rng(5))
    np.testing.assert_array_equal(model.order, ordering(name, 4, 4, np.random.default_rng(5)))


# ---- MNIST ----


@pytest.fixture(scope="module")
def mnist():
    """Grey values (60000, 784) and (10000, 784) in [0, 255]: all of MNIST's training digits, and its test digits."""
    digits = data.load("mnist", SHARED)
    images = np.concatenate([digits.train.images, digits.valid.images]), digits.test.images
    return tuple(part.reshape(-1, 784) for part in images)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the folder ../shared/data/mnist with the MNIST files is absent")
@pytest.mark.parametrize(
    ("kind", "dynamic", "threshold"), [(Independent, 205.81, 205.85), (Markov, 145.38, 135.75)], ids=["independent", "markov"]
)
def test_the_known_figures_on_mnist(mnist, kind, dynamic, threshold):
    """Add-one smoothing, in nats; grey values give the exact expectation over dynamic binarization."""
    for nats, convert in {
        dynamic: lambda images: images / np.float32(255),
        threshold: lambda images: (images > 127).astype(np.float32),
    }.items():
        model = kind(784, alpha=1.0)
        for start in range(0, 60_000, 5_000):
            model.count(convert(mnist[0][start : start + 5_000]))
        assert round(model.expected_nll(convert(mnist[1])), 2) == nats
    uniform = kind(784).expected_nll(convert(mnist[1]))
    assert round(uniform, 2) == 543.43
