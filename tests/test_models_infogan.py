"""InfoGAN: the bound on mutual information against channels whose information is known, and the code read as a classifier."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen import Tensor, cross_entropy, nn, softmax
from tinygen.models import Recipe
from tinygen.models.infogan import WIDEST, Codes, InfoGAN, code_error

K = 10
RIGHT, WRONG = 21, 1  # of 30 transmissions of each symbol: how often it arrives, and how often each other one does


def model(seed: int = 0, categories: int = 3, continuous: int = 2, weight: float = 1.0, sigma: float = 1.0) -> InfoGAN:
    rng = np.random.default_rng(seed)
    return InfoGAN((4, 4, 1), 3, categories, continuous, (6, 8), 12, 6, weight, sigma, rng)


def recipe(lr: float = 1e-3, generator_lr: float = 2e-3) -> Recipe:
    return Recipe(epochs=1, lr=lr, optimizer_options={"betas": (0.5, 0.999)}, model={"generator_lr": generator_lr})


def step(infogan: InfoGAN, settings: Recipe, seed: int = 0, labels=None) -> dict[str, float]:
    x = np.random.default_rng(9).random((8, 16), np.float32)
    return infogan.train_step(x, infogan.optimizers(settings), np.random.default_rng(seed), labels)


# ---- The bound ----


def information(log_q: np.ndarray, sent: np.ndarray, received: np.ndarray) -> float:
    """L_I by the model's own code, in float64: the "image" is the received symbol, and Q(c | y) = softmax(log_q[y])."""
    symbols = log_q.shape[0]
    rng = np.random.default_rng(0)
    infogan = InfoGAN((2, 2, 1), 1, symbols, 0, (1,), 1, symbols, 1.0, 1.0, rng, dtype=np.float64)
    infogan.D.inner = nn.Sequential()
    infogan.D.category.weight.data[...] = log_q.T
    infogan.D.category.bias.data[...] = 0
    codes = Codes(sent, np.zeros((len(sent), 0)))
    category, continuous = infogan.information(Tensor(np.eye(symbols)[received]), codes)
    assert continuous.item() == 0
    return category.item()


@pytest.fixture(scope="module")
def channel() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Every transmission of a noisy channel in its exact share: sent, received, the posterior Q(c | y), I(c; y) in nats."""
    counts = np.full((K, K), WRONG)
    np.fill_diagonal(counts, RIGHT)
    pairs = np.array(list(itertools.product(range(K), range(K))))
    sent, received = np.repeat(pairs, counts.ravel(), axis=0).T
    p = counts / counts.sum()
    exact = float((p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum())
    return sent, received, (p / p.sum(0)).T, exact


def test_the_bound_is_tight_where_q_is_the_posterior(channel):
    sent, received, posterior, exact = channel
    assert 0 < exact < math.log(K)
    assert information(np.log(posterior), sent, received) == pytest.approx(exact, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), away=st.floats(1e-3, 5))
@settings(max_examples=20, deadline=None)
def test_any_other_q_gives_less(channel, seed, away):
    sent, received, posterior, exact = channel
    log_q = np.log(posterior) + away * np.random.default_rng(seed).standard_normal((K, K))
    assert information(log_q, sent, received) < exact < math.log(K)


def test_a_code_that_can_be_read_without_error_gives_all_of_its_entropy():
    """A softmax before the cross entropy, a mistake that is easily made, would stop at 0.84 nats here."""
    sent = np.arange(K)
    logits = 50 * np.eye(K)
    assert information(logits, sent, sent) == pytest.approx(math.log(10), abs=1e-12)
    twice = math.log(K) - cross_entropy(softmax(Tensor(logits)), sent).item()
    assert twice == pytest.approx(1 + math.log(K) - math.log(math.e + K - 1), abs=1e-12)
    assert twice < 0.8426


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_an_image_that_ignores_the_code_gives_nothing(seed):
    sent, received = np.array(list(itertools.product(range(K), range(4)))).T
    log_q = np.random.default_rng(seed).standard_normal((K, K))
    assert information(log_q, sent, received) < 0
    assert information(np.zeros((K, K)), sent, received) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_continuous_part_is_the_gaussian_log_density_plus_the_codes_entropy(sigma):
    infogan, rng = model(sigma=sigma), np.random.default_rng(0)
    infogan.eval()
    features = Tensor(rng.standard_normal((7, 12)).astype(np.float32))
    codes = Codes(rng.integers(3, size=7), rng.uniform(-1, 1, (7, 2)).astype(np.float32))
    means = infogan.D.means(infogan.D.inner(features)).numpy()
    density = -0.5 * ((codes.continuous - means) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
    found = infogan.information(features, codes)[1].item()
    assert found == pytest.approx(2 * math.log(2) + density.sum(1).mean(), rel=1e-5)


def test_an_untrained_generators_codes_cannot_be_read():
    infogan = model()
    noise, codes = infogan.draw(2000, np.random.default_rng(0))
    category, _ = infogan.information(infogan.features(infogan.fakes(noise, codes)), codes)
    assert -0.2 < category.item() < 0.05


# ---- Training ----


def test_the_information_climbs():
    infogan, rng = model(1), np.random.default_rng(1)
    optimizers = infogan.optimizers(recipe(2e-3, 4e-3))
    patterns = rng.random((3, 16))
    found = []
    for _ in range(200):
        x = np.clip(patterns[rng.integers(3, size=24)] + 0.02 * rng.standard_normal((24, 16)), 0, 1).astype(np.float32)
        found.append(infogan.train_step(x, optimizers, rng)["info"])
    assert np.mean(found[:5]) < 0.3
    assert math.log(3) * 0.7 < np.mean(found[-20:]) <= math.log(3)


def test_labels_are_not_looked_at():
    first, second = model(), model()
    for labels, infogan in ((np.zeros(8, int), first), (np.arange(8), second)):
        step(infogan, recipe(), labels=labels)
    for one, other in zip(first.parameters(), second.parameters()):
        assert (one.numpy() == other.numpy()).all()


def test_each_parameter_belongs_to_one_player_and_the_rates_are_the_papers():
    infogan = model()
    optimizers = infogan.optimizers(InfoGAN.RECIPES["paper"])
    assert {name: optimizer.lr for name, optimizer in optimizers.items()} == {"discriminator": 2e-4, "generator": 1e-3}
    owned = [id(parameter) for optimizer in optimizers.values() for parameter in optimizer.parameters]
    assert sorted(owned) == sorted(id(parameter) for parameter in infogan.parameters())


def test_the_generators_move_leaves_d_and_q_alone():
    slow, fast = model(), model()
    step(slow, recipe(generator_lr=1e-9))
    step(fast, recipe(generator_lr=1e-1))
    for one, other in zip(slow.D.parameters(), fast.D.parameters()):
        assert (one.numpy() == other.numpy()).all()
    assert any((one.numpy() != other.numpy()).any() for one, other in zip(slow.G.parameters(), fast.G.parameters()))


def test_without_weight_the_codes_pull_at_nothing():
    without = model(weight=0.0)
    start = {name: parameter.numpy().copy() for name, parameter in without.D.named_parameters()}
    step(without, recipe())
    moved = {name for name, parameter in without.D.named_parameters() if (parameter.numpy() != start[name]).any()}
    assert not any(name.startswith(("inner", "category", "means")) for name in moved)
    assert any(name.startswith("body") for name in moved)


def test_float32_stays_float32():
    infogan = model()
    step(infogan, recipe())
    assert {parameter.dtype for parameter in infogan.parameters()} == {np.dtype(np.float32)}
    assert infogan.sample(3, np.random.default_rng(0)).dtype == np.float32


def test_one_category_is_refused():
    with pytest.raises(ValueError, match="categories = 1"):
        model(categories=1)


# ---- Judging ----


@given(seed=st.integers(0, 2**32 - 1), codes=st.integers(2, 4), classes=st.integers(2, 4), n=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_code_error_is_that_of_the_best_of_all_assignments(seed, codes, classes, n):
    rng = np.random.default_rng(seed)
    code, label = rng.integers(codes, size=n), rng.integers(classes, size=n)
    # A code without a class is given -1 or below, which no example has.
    names = [*range(classes), *range(-codes, 0)]
    best = min((np.array(given)[code] != label).mean() for given in itertools.permutations(names, codes))
    assert code_error(code, label) == pytest.approx(best, abs=1e-12)


def test_renamed_classes_are_no_error():
    labels = np.random.default_rng(0).integers(10, size=200)
    renamed = np.random.default_rng(1).permutation(10)[labels]
    assert code_error(renamed, labels) == 0
    renamed[:10] = (renamed[:10] + 1) % 10
    assert code_error(renamed, labels) == pytest.approx(0.05)


def test_evaluate_reads_the_code_of_real_examples():
    infogan, x = model(), np.random.default_rng(0).random((40, 16), np.float32)
    labels = np.random.default_rng(1).permutation(3)[infogan.categories_of(x)]
    figures = infogan.evaluate(x, np.random.default_rng(2), labels)
    assert figures["code_error"] == 0
    assert {"d_real", "d_fake"} < figures.keys()


def test_pictures_vary_one_code_a_row():
    infogan = model()
    found = infogan.pictures(np.zeros((1, 16), np.float32), np.random.default_rng(3), np.zeros(1, int))
    assert set(found) == {"category", "continuous_1", "continuous_2"}
    noise, codes = infogan.draw(10, np.random.default_rng(3))
    with infogan.evaluating():
        for k in range(3):
            expected = infogan.fakes(noise, Codes(np.full(10, k), codes.continuous)).numpy()
            np.testing.assert_allclose(found["category"].examples[:, k], expected, atol=1e-6)
        draws = np.random.default_rng(3)
        infogan.draw(10, draws)
        noise, codes = infogan.draw(3, draws)
        codes.continuous[:, 0] = -WIDEST
        expected = infogan.fakes(noise, Codes(np.arange(3), codes.continuous)).numpy()
    np.testing.assert_allclose(found["continuous_1"].examples[:, 0], expected, atol=1e-6)
