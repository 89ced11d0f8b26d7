"""The exact oracles of FVSBN and MADE; those of their kernel are in test_kernels_masked_dense.py."""

import itertools
import math

import numpy as np
import pytest
from comparing import given
from hypothesis import strategies as st
from scipy import stats

import tinygen
from tinygen import optim
from tinygen.models.base import Optimizers
from tinygen.models.fvsbn import FVSBN
from tinygen.models.made import MADE, hidden_degrees

D = 8
RNG = np.random.default_rng


def cube(dimensions: int) -> np.ndarray:
    """All binary vectors of that length, (2^D, D)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=dimensions)))


def randomized(model, seed=0, scale=1.0):
    rng = RNG(seed)
    for parameter in model.parameters():
        parameter.data[...] = scale * rng.standard_normal(parameter.shape)
    return model


def made(seed=0, dimensions=D, hidden=(9, 7), orders=1, masks=1, direct=False, scale=1.0) -> MADE:
    rng = RNG(seed)
    orders = [rng.permutation(dimensions) for _ in range(orders)]
    return randomized(MADE(dimensions, hidden, rng, orders, masks, direct, dtype=np.float64), seed, scale)


def fvsbn(seed=0, dimensions=D) -> FVSBN:
    return randomized(FVSBN(dimensions, RNG(seed).permutation(dimensions), dtype=np.float64), seed)


VARIANTS = {
    "fvsbn": fvsbn,
    "made": made,
    "made, one layer": lambda seed=0, dimensions=D: made(seed, dimensions, (6,)),
    "made, direct": lambda seed=0, dimensions=D: made(seed, dimensions, direct=True),
    "made, ensemble": lambda seed=0, dimensions=D: made(seed, dimensions, orders=3, masks=2, direct=True),
}
ALL = pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)


# ---- They are distributions ----


@ALL
@given(6, seed=st.integers(0, 2**32 - 1), dimensions=st.integers(1, 11))
def test_probabilities_sum_to_one(build, seed, dimensions):
    log_prob = build(seed, dimensions).log_prob(cube(dimensions)).numpy()
    assert abs(np.exp(log_prob).sum() - 1) < 1e-10


@ALL
def test_zero_weights_give_exactly_one_bit_a_pixel(build):
    model = randomized(build(), scale=0.0)
    np.testing.assert_allclose(model.log_prob(cube(D)).numpy(), -D * math.log(2), rtol=1e-15)
    assert model.evaluate(cube(D), RNG(0))["bits_per_dim"] == pytest.approx(1.0, rel=1e-14)


def test_fvsbn_is_logistic_regression_on_the_pixels_before():
    model = fvsbn(3)
    W, b = model.W.numpy(), model.b.numpy()
    for x, got in zip(cube(D)[::37], model.log_prob(cube(D)[::37]).numpy()):
        expected = 0.0
        for i, j in enumerate(model.order):
            before = model.order[:i]
            p = 1 / (1 + math.exp(-(b[j] + W[j, before] @ x[before])))
            expected += math.log(p if x[j] else 1 - p)
        assert got == pytest.approx(expected, rel=1e-12)


def test_fvsbn_has_half_a_matrix_of_parameters_that_count():
    model = fvsbn(1)
    model.loss(cube(D)[RNG(0).integers(0, 2**D, 64)], RNG(0)).backward()
    used = sum(int((parameter.grad != 0).sum()) for parameter in model.parameters())
    # The weights from the first pixel and to it, and so on: D (D - 1)/2; and D biases.
    assert used == D * (D + 1) // 2


def test_made_is_the_papers_equations_with_dense_masks():
    model = made(4, orders=2, masks=3, direct=True)
    x = cube(D)[::11]
    for member in range(model.members):
        pixels, *hidden = model.degrees(member)
        h, before = x, pixels
        for layer, after in zip(model.hidden, hidden):
            h = np.maximum(h @ (layer.weight.numpy() * (after[:, None] >= before)).T + layer.bias.numpy(), 0)
            before = after
        logits = h @ (model.output.weight.numpy() * (pixels[:, None] > before)).T + model.output.bias.numpy()
        logits += x @ (model.direct.numpy() * (pixels[:, None] > pixels)).T
        expected = (x * logits - np.logaddexp(0, logits)).sum(1)
        np.testing.assert_allclose(model.member_log_prob(x, member).numpy(), expected, rtol=1e-12)


def support(model, member) -> np.ndarray:
    """Which logits depend on which pixels, (D, D), by automatic differentiation. Biases keep every ReLU on."""
    for layer in (*model.hidden, model.output):
        layer.weight.data[...] *= 0.1
        layer.bias.data[...] = 3.0
    rows = []
    for i in range(D):
        x = tinygen.Tensor(np.full((1, D), 0.5), requires_grad=True)
        model.logits(x, member)[0, i].backward()
        rows.append(x.grad[0] != 0)
    return np.array(rows)


@pytest.mark.parametrize("direct", [False, True])
def test_each_logit_depends_on_all_pixels_before_and_on_no_other(direct):
    """Both ways: raster order and enough hidden units that every degree is there."""
    model = randomized(MADE(D, (2 * D, 3 * D), RNG(0), direct=direct, dtype=np.float64), 1)
    np.testing.assert_array_equal(support(model, 0), np.tril(np.ones((D, D), bool), -1))


def test_the_support_of_each_member_is_that_of_its_masks():
    """With few units of random degrees, paths may be missing: exactly those that the masks' product lacks."""
    for member in range(4):
        model = made(5, hidden=(4, 3), orders=2, masks=2)
        pixels, *hidden = model.degrees(member)
        paths, before = np.eye(D, dtype=int), pixels
        for after in hidden:
            paths, before = (after[:, None] >= before).astype(int) @ paths, after
        paths = (pixels[:, None] > before).astype(int) @ paths
        np.testing.assert_array_equal(support(model, member), paths > 0)
        assert not paths[pixels[:, None] <= pixels].any()


def test_degrees_leave_no_unit_without_input_nor_a_pixel_out():
    for masks in (1, 5):
        layers = hidden_degrees(20, (50, 40), masks, RNG(0))
        least = np.zeros(masks)
        for degrees in layers:
            assert degrees.shape[0] == masks
            assert (degrees.min(axis=1) >= least).all()
            assert degrees.max() <= 18
            least = degrees.min(axis=1)
    first, second = hidden_degrees(20, (19, 57), 1, RNG(0))
    assert set(first[0]) == set(second[0]) == set(range(19))
    assert len({tuple(d) for d in layers[0]}) == 5, "the masks are the same"


# ---- The ensemble ----


def test_the_ensemble_is_the_mean_of_the_joints():
    model, x = made(6, orders=3, masks=2), cube(D)
    joints = np.array([np.exp(model.member_log_prob(x, s).numpy()) for s in range(6)])
    np.testing.assert_allclose(model.log_prob(x).numpy(), np.log(joints.mean(0)), rtol=1e-12)
    assert np.abs(np.diff(joints, axis=0)).max() > 1e-3, "the members are the same"
    assert model.evaluate(x, RNG(0))["nll"] == pytest.approx(-np.log(joints.mean(0)).mean())


def test_the_mean_of_logits_is_no_distribution():
    """The mistake that the ensemble must not make: what it would give does not sum to 1."""
    model, x = made(4, orders=4), cube(D)
    logits = np.mean([model.logits(x, s).numpy() for s in range(4)], axis=0)
    total = np.exp((x * logits - np.logaddexp(0, logits)).sum(1)).sum()
    assert abs(total - 1) > 1e-2
    assert abs(np.exp(model.log_prob(x).numpy()).sum() - 1) < 1e-10


def test_training_draws_every_member():
    model, x = made(7, orders=2, masks=2), cube(D)[:40]
    expected = sorted(-model.member_log_prob(x, s).numpy().mean() for s in range(4))
    rng = RNG(0)
    found = sorted({round(model.loss(x, rng).item(), 12) for _ in range(60)})
    np.testing.assert_allclose(found, expected, rtol=1e-11)


# ---- Sampling ----


def chi_squared(samples, states, p) -> float:
    index = {tuple(s): k for k, s in enumerate(states)}
    counts = np.bincount([index[tuple(s)] for s in samples], minlength=len(states))
    return stats.chisquare(counts, len(samples) * p / p.sum()).pvalue


@pytest.mark.parametrize("name", VARIANTS)
def test_samples_follow_the_model(name):
    model, states = VARIANTS[name](7, 6), cube(6)
    p = np.exp(model.log_prob(states).numpy())
    keep = p > 1e-4  # where a count is expected
    samples = model.sample(30_000, RNG(0))
    rare = {tuple(s) for s in states[~keep]}
    samples = np.array([s for s in samples if tuple(s) not in rare])
    assert len(samples) > 30_000 * (p[keep].sum() - 0.01)
    assert chi_squared(samples, states[keep], p[keep]) > 1e-3


@pytest.mark.parametrize("name", ["fvsbn", "made", "made, direct"])
def test_completions_follow_the_exact_conditional(name):
    model, states = VARIANTS[name](11, 6), cube(6)
    observed = np.zeros(6, bool)
    observed[model.order[:3]] = True
    given_x = states[45]
    match = (states[:, observed] == given_x[observed]).all(axis=1)
    p = np.exp(model.log_prob(states[match]).numpy())
    filled = model.complete(np.repeat(given_x[None], 20_000, axis=0), observed, RNG(1))
    assert (filled[:, observed] == given_x[observed]).all()
    assert chi_squared(filled, states[match], p) > 1e-3


def test_completions_of_an_ensemble_weigh_its_members_by_what_was_observed():
    """Several masks, one order: the exact conditional of the mixture, which is not the mean of the members' conditionals."""
    model, states = made(2, 6, masks=4, scale=2.0), cube(6)
    observed = np.zeros(6, bool)
    observed[model.order[:4]] = True
    joints = np.exp([model.member_log_prob(states, s).numpy() for s in range(4)])
    distance, p, q, given_x = max(
        (
            (np.abs(p - q).sum(), p, q, x)
            for x in states
            for same in [(states[:, observed] == x[observed]).all(axis=1)]
            for mixture in [joints[:, same].sum(0)]
            for p in [mixture / mixture.sum()]
            for q in [(joints[:, same] / joints[:, same].sum(1, keepdims=True)).mean(0)]
        ),
        key=lambda found: found[0],
    )
    assert distance > 0.05, "no observation tells the members apart"
    match = states[(states[:, observed] == given_x[observed]).all(axis=1)]
    filled = model.complete(np.repeat(given_x[None], 20_000, axis=0), observed, RNG(1))
    assert chi_squared(filled, match, p) > 1e-3
    assert chi_squared(filled, match, q) < 1e-3


@ALL
def test_complete_refuses_what_is_no_prefix_of_the_order(build):
    model = build()
    observed = np.zeros(D, bool)
    observed[model.order[3]] = True
    with pytest.raises(ValueError, match="come first in the model's order"):
        model.complete(np.zeros((1, D)), observed, RNG(0))


def test_samples_repeat_and_keep_float32():
    model = MADE(D, (6,), RNG(0), masks=2)
    first, second = (model.sample(5, RNG(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert set(np.unique(first)) <= {0, 1}


# ---- Training ----


def test_weights_that_no_mask_uses_are_not_destroyed_when_masks_are_cycled():
    """After steps of Adam with decay under many masks: an unused weight has only decayed, and never become zero."""
    rng = RNG(0)
    model = MADE(D, (10, 10), rng, [rng.permutation(D) for _ in range(3)], masks=4, dtype=np.float64)
    before = {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}
    optimizers = Optimizers({"model": optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)})
    x = cube(D)[rng.integers(0, 2**D, 50)]
    for _ in range(30):
        model.train_step(x, optimizers, rng)
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            assert (parameter.numpy() != 0).all(), name
            assert np.abs(parameter.numpy() - before[name]).max() < 0.04, name


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.AdamW])
def test_a_masked_weight_meets_the_decay_alone(optimizer):
    """With one mask: what it leaves out changes as under decay alone, has no part in the loss, and 0 stays 0."""
    model = randomized(MADE(D, (10,), RNG(0), dtype=np.float64), 1)
    pixels, hidden = model.degrees(0)
    masks = {"hidden.0.weight": hidden[:, None] >= pixels, "output.weight": pixels[:, None] > hidden}
    parameters = {name: p for name, p in model.named_parameters() if name in masks}
    zeroed = {name: np.argwhere(~mask)[0] for name, mask in masks.items()}
    for name, p in parameters.items():
        p.data[tuple(zeroed[name])] = 0
    alone = {name: tinygen.nn.Parameter(p.numpy().copy()) for name, p in parameters.items()}
    x = cube(D)[RNG(1).integers(0, 2**D, 50)]
    steps = optimizer(list(model.parameters()), lr=1e-2, weight_decay=0.1)
    decays = optimizer(list(alone.values()), lr=1e-2, weight_decay=0.1)
    for _ in range(20):
        Optimizers({"model": steps}).minimize(model.loss(x, RNG(0)))
        for p in alone.values():
            p.grad = np.zeros(p.shape)
        decays.step()
    for name, p in parameters.items():
        np.testing.assert_array_equal(p.numpy()[~masks[name]], alone[name].numpy()[~masks[name]])
        assert p.numpy()[tuple(zeroed[name])] == 0
        assert (p.numpy()[masks[name]] != alone[name].numpy()[masks[name]]).any()
    loss = model.loss(x, RNG(0)).item()
    for name, p in parameters.items():
        p.data[~masks[name]] = 1e6
    assert model.loss(x, RNG(0)).item() == loss


@ALL
def test_loss_is_positive_and_its_gradient_descends(build):
    model, x = build(6), cube(D)[RNG(0).integers(0, 2**D, 64)]
    loss = model.loss(x, RNG(0))
    assert loss.item() > 0
    loss.backward()
    for parameter in model.parameters():
        parameter.data -= 0.02 * parameter.grad
    assert model.loss(x, RNG(0)).item() < loss.item()


def test_dropout_is_for_training_alone():
    model = MADE(D, (20,), RNG(0), dropout=0.5, dtype=np.float64)
    x = cube(D)[:30]
    losses = {model.loss(x, RNG(seed)).item() for seed in range(5)}
    assert len(losses) == 5
    np.testing.assert_array_equal(model.log_prob(x).numpy(), model.log_prob(x).numpy())
    assert np.mean(list(losses)) == pytest.approx(-model.log_prob(x).numpy().mean(), rel=0.05)


def test_training_learns_a_distribution_of_dependent_pixels():
    """The second half repeats the first: 4 ln 2 nats, where independent pixels have 8 ln 2."""
    rng = RNG(0)
    halves = rng.integers(0, 2, (400, 4)).astype(np.float32)
    x = np.concatenate([halves, halves], axis=1)
    for model in (MADE(D, (30,), rng), FVSBN(D)):
        optimizers = Optimizers({"model": optim.Adam(model.parameters(), lr=3e-2)})
        for _ in range(300):
            model.train_step(x, optimizers, rng)
        assert model.evaluate(x, rng)["nll"] < 4 * math.log(2) + 0.5


# ---- Arguments ----


@ALL
def test_grey_pixels_are_refused(build):
    with pytest.raises(ValueError, match=r"zeros and ones only, got 0\.5: binarize"):
        build().log_prob(np.full((2, D), 0.5))


def test_senseless_sizes_are_refused():
    with pytest.raises(ValueError, match="permutation of 0 to 3"):
        MADE(4, (3,), RNG(0), [np.array([0, 1, 1, 3])])
    with pytest.raises(ValueError, match="at least one hidden layer"):
        MADE(4, (), RNG(0))
    with pytest.raises(ValueError, match="masks = 0"):
        MADE(4, (3,), RNG(0), masks=0)
    with pytest.raises(ValueError, match="permutation of 0 to 3"):
        FVSBN(4, np.arange(3))


@pytest.mark.parametrize("model", [MADE(D, (5, 4), RNG(0), masks=2, direct=True), FVSBN(D)], ids=["made", "fvsbn"])
def test_float32_stays_float32(model):
    loss = model.loss(cube(D).astype(np.float32), RNG(0))
    loss.backward()
    assert loss.dtype == np.float32
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}
