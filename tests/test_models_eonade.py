"""EoNADE's exact oracles: enumeration of all examples, orders and cuts of small models, in float64."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tinygen.models.eonade import EoNADE, random_cuts

D = 4


def cube(dimensions: int = D) -> np.ndarray:
    return np.array(list(itertools.product((0.0, 1.0), repeat=dimensions)))


def model(seed: int = 0, dimensions: int = D, hidden=(6, 5), orders: int = 3, **options) -> EoNADE:
    rng = np.random.default_rng(seed)
    eonade = EoNADE(dimensions, hidden, orders, rng, **{"dtype": np.float64, **options})
    for parameter in eonade.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape)
    return eonade


def logits_naively(eonade: EoNADE, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The network of the paper written out for one example, all D outputs."""
    h = np.concatenate([np.where(seen, x, 0.0), seen.astype(float)])
    for layer in list(eonade.hidden)[::2]:
        h = np.maximum(layer.weight.numpy() @ h + layer.bias.numpy(), 0)
    return eonade.output.weight.numpy() @ h + eonade.output.bias.numpy()


def log_prob_naively(eonade: EoNADE, x: np.ndarray, order: np.ndarray) -> float:
    total, seen = 0.0, np.zeros(len(x), bool)
    for i in order:
        p = 1 / (1 + math.exp(-logits_naively(eonade, x, seen)[i]))
        total += math.log(p if x[i] else 1 - p)
        seen[i] = True
    return total


def all_orders(dimensions: int = D) -> np.ndarray:
    return np.array(list(itertools.permutations(range(dimensions))))


@pytest.mark.parametrize("hidden", [(5,), (6, 5), (4, 3, 5)])
def test_the_incremental_likelihood_equals_the_naive_one(hidden):
    eonade, x = model(1, hidden=hidden), cube()
    orders = all_orders()[np.random.default_rng(2).integers(24, size=len(x))]
    expected = [log_prob_naively(eonade, row, order) for row, order in zip(x, orders)]
    np.testing.assert_allclose(eonade.log_prob_in(x, orders), expected, rtol=1e-12)
    expected = [log_prob_naively(eonade, row, orders[0]) for row in x]
    np.testing.assert_allclose(eonade.log_prob_in(x, orders[0]), expected, rtol=1e-12)


def test_probabilities_sum_to_one_in_every_order_and_over_the_ensemble():
    eonade, x = model(2), cube()
    for order in all_orders():
        assert abs(np.exp(eonade.log_prob_in(x, order)).sum() - 1) < 1e-10
    assert abs(np.exp(eonade.log_prob(x).numpy()).sum() - 1) < 1e-10


def test_the_ensemble_is_the_mean_of_the_joints():
    eonade, x = model(3), cube()
    joints = np.array([[log_prob_naively(eonade, row, order) for row in x] for order in eonade.orders])
    np.testing.assert_allclose(eonade.log_prob(x).numpy(), np.log(np.exp(joints).mean(axis=0)), rtol=1e-12)
    assert (eonade.log_prob(x).numpy() > joints.mean(axis=0)).all(), "Jensen: the orders of this model disagree"


def test_the_loss_is_an_unbiased_estimate_of_the_mean_over_orders():
    eonade, x = model(4), cube()
    exact = -np.mean([eonade.log_prob_in(x, order) for order in all_orders()], axis=0)
    losses = []
    for order, seen in itertools.product(all_orders(), range(D)):  # d - 1 = seen
        mask = np.zeros((len(x), D), bool)
        mask[:, order[:seen]] = True
        losses.append(eonade.nll_after(x, mask).numpy())
    np.testing.assert_allclose(np.mean(losses, axis=0), exact, rtol=1e-12)
    rng = np.random.default_rng(0)
    draws = np.array([eonade.loss(x, rng).item() for _ in range(1500)])
    assert abs(draws.mean() - exact.mean()) < 4 * draws.std() / math.sqrt(len(draws))


def test_cuts_are_uniform_in_their_size_and_then_in_what_they_hold():
    rng, dimensions, n = np.random.default_rng(5), 3, 7
    masks = np.array([random_cuts(n, dimensions, rng) for _ in range(4000)])
    codes = masks @ [4, 2, 1]
    sizes = np.array([bin(code).count("1") for code in range(7)])  # all seen, code 7, must never be
    p = np.array([1 / dimensions / math.comb(dimensions, size) for size in sizes])
    assert codes.max() < 7
    for place in (0, n - 1):  # draws of one place of the batch are independent
        assert stats.chisquare(np.bincount(codes[:, place], minlength=7), 4000 * p).pvalue > 1e-3
    spread = np.array([np.bincount(mask.sum(axis=1), minlength=dimensions) for mask in masks[:100]])
    assert set(spread.ravel()) <= {2, 3}, "each batch holds every size equally often"


def test_what_is_not_seen_has_no_influence_and_a_zero_is_not_the_unknown():
    eonade, x = model(6), cube()
    seen = np.array([True, False, True, False])
    for row in x:
        other = np.where(seen, row, 1 - row)
        assert np.array_equal(logits_naively(eonade, row, seen), logits_naively(eonade, other, seen))
    # The loss sees the unseen only as targets: with their terms taken out nothing of them is left.
    targets = eonade.nll_after(x, np.repeat(seen[None], len(x), axis=0)).numpy()
    for row, found in zip(x, targets):
        z = logits_naively(eonade, row, seen)
        terms = np.logaddexp(0, z) - row * z
        assert found == pytest.approx(D / 2 * terms[~seen].sum(), rel=1e-12)
    nothing = logits_naively(eonade, np.zeros(D), np.zeros(D, bool))
    assert np.abs(nothing - logits_naively(eonade, np.zeros(D), seen)).max() > 1e-3


def test_zero_weights_give_exactly_one_bit_a_pixel():
    eonade = model(7)
    for parameter in eonade.parameters():
        parameter.data[...] = 0
    np.testing.assert_allclose(eonade.log_prob(cube()).numpy(), -D * math.log(2), rtol=1e-14)
    assert eonade.loss(cube(), np.random.default_rng(0)).item() == pytest.approx(D * math.log(2), rel=1e-14)
    figures = eonade.evaluate(cube(), np.random.default_rng(0))
    assert figures["bits_per_dim"] == pytest.approx(1.0, rel=1e-14)


def test_evaluate_is_exact_on_the_examples_that_it_scores():
    eonade = model(8, scored=5)
    figures = eonade.evaluate(cube(), np.random.default_rng(0))
    assert figures["scored"] == 5
    assert figures["nll"] == pytest.approx(-eonade.log_prob(cube()[:5]).numpy().mean(), rel=1e-12)
    assert figures["order_nll"] == pytest.approx(
        -np.mean([eonade.log_prob_in(cube()[:5], order) for order in eonade.orders]), rel=1e-12
    )
    assert figures["nll"] < figures["order_nll"]
    exact = -np.mean([eonade.log_prob_in(cube(), order) for order in all_orders()])
    estimates = [eonade.validate(cube(), np.random.default_rng(seed))["order_nll"] for seed in range(100)]
    assert abs(np.mean(estimates) - exact) < 4 * np.std(estimates) / math.sqrt(100)


def frequencies(samples: np.ndarray) -> np.ndarray:
    return np.bincount((samples @ 2 ** np.arange(D - 1, -1, -1)).astype(int), minlength=2**D)


def test_samples_follow_the_ensemble():
    eonade = model(9)
    counts = frequencies(eonade.sample(20_000, np.random.default_rng(0)))
    assert stats.chisquare(counts, 20_000 * np.exp(eonade.log_prob(cube()).numpy())).pvalue > 1e-3


@pytest.mark.parametrize("observed", list(itertools.product((False, True), repeat=D))[1:-1:3])
def test_completions_of_any_mask_follow_the_exact_conditional(observed):
    observed, given = np.array(observed), cube()[9]
    eonade, states, missing = model(10), cube(), np.flatnonzero(~observed)
    first = np.flatnonzero(observed)
    possible = (states[:, observed] == given[observed]).all(axis=1)
    p = np.zeros(len(states))
    for rest in itertools.permutations(missing):  # given the observed, every order of the missing is as likely
        joint = np.exp(eonade.log_prob_in(states[possible], np.array([*first, *rest])))
        p[possible] += joint / joint.sum() / math.factorial(len(missing))
    filled = eonade.complete(np.repeat(given[None], 8000, axis=0), observed, np.random.default_rng(1))
    assert (filled[:, observed] == given[observed]).all()
    assert stats.chisquare(frequencies(filled)[possible], 8000 * p[possible]).pvalue > 1e-3


def test_gradient_reaches_every_parameter_and_descends():
    eonade, x = model(11), cube()
    loss = eonade.loss(x, np.random.default_rng(0))
    loss.backward()
    for _, parameter in eonade.named_parameters():
        assert np.abs(parameter.grad).max() > 0
        parameter.data -= 0.01 * parameter.grad
    assert eonade.loss(x, np.random.default_rng(0)).item() < loss.item()


def test_float32_stays_float32_and_agrees_with_float64():
    single, double, x = model(12, dtype=np.float32), model(12), cube()
    loss = single.loss(x.astype(np.float32), np.random.default_rng(0))
    loss.backward()
    assert loss.dtype == np.float32
    assert {p.grad.dtype for p in single.parameters()} == {np.dtype(np.float32)}
    assert single.log_prob(x.astype(np.float32)).dtype == np.float32
    assert single.sample(3, np.random.default_rng(0)).dtype == np.float32
    np.testing.assert_allclose(single.log_prob(x).numpy(), double.log_prob(x).numpy(), rtol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"zeros and ones only, got 0\.5"):
        model().log_prob(np.full((2, D), 0.5))
    with pytest.raises(ValueError, match=r"zeros and ones only, got 0\.5"):
        model().loss(np.full((2, D), 0.5), np.random.default_rng(0))
    for wrong in ({"hidden": ()}, {"hidden": (3, 0)}, {"orders": 0}, {"scored": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            model(**wrong)
