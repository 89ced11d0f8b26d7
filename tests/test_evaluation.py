"""Measures against brute force and closed forms."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg, stats
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

import tinygen
from tinygen import data, evaluation
from tinygen.data import Split
from tinygen.evaluation.classifier import WEIGHTS
from tinygen.evaluation.distances import squared_distances
from tinygen.evaluation.train_classifier import augmented, spoilt, without
from tinygen.evaluation.train_classifier import train as train_classifier

REAL = Path(__file__).parents[1].parent / "shared" / "data"
SEEDS = st.integers(0, 2**32 - 1)


# ---- likelihoods ----


def test_importance_log_prob_is_the_log_of_the_mean_weight_whatever_the_chunks():
    weights = 40 * np.random.default_rng(0).standard_normal((1000, 7)) - 500  # e^-500 underflows
    expected = logsumexp(weights, axis=0) - math.log(1000)
    for chunk in (1, 7, 64, 1000, 5000):
        asked = []

        def draw(k, asked=asked):
            start = sum(asked)
            asked.append(k)
            return weights[start : start + k]

        np.testing.assert_allclose(evaluation.importance_log_prob(draw, 1000, chunk), expected, rtol=1e-13)
        assert sum(asked) == 1000
        assert max(asked) <= chunk


def test_importance_log_prob_keeps_dtype_takes_tensors_and_weights_of_zero():
    found = evaluation.importance_log_prob(lambda k: tinygen.Tensor(np.full((k, 2), [-90.5, -math.inf], np.float32)), 10, 3)
    assert found.dtype == np.float32
    assert found.tolist() == [-90.5, -math.inf]


def test_importance_weights_are_constant_under_the_true_posterior():
    """x = W z + noise, z ~ N(0, I): p(x) = N(0, W W' + s^2 I), and every weight is p(x) when q is the posterior."""
    rng = np.random.default_rng(1)
    w, s = rng.standard_normal((5, 2)), 0.7
    x = rng.standard_normal((4, 5))
    marginal = stats.multivariate_normal(cov=w @ w.T + s**2 * np.eye(5))
    covariance = np.linalg.inv(np.eye(2) + w.T @ w / s**2)
    means = x @ w @ covariance / s**2
    root = np.linalg.cholesky(covariance)

    def log_weights(k):
        noise = rng.standard_normal((k, 4, 2))
        z = means + noise @ root.T
        log_q = stats.norm.logpdf(noise).sum(axis=-1) - np.log(np.diag(root)).sum()
        return stats.norm.logpdf(x, z @ w.T, s).sum(axis=-1) + stats.norm.logpdf(z).sum(axis=-1) - log_q

    assert np.ptp(log_weights(50), axis=0).max() < 1e-12
    np.testing.assert_allclose(evaluation.importance_log_prob(log_weights, 20, 6), marginal.logpdf(x), rtol=1e-12)


def test_importance_log_prob_converges_to_the_integral_from_below():
    """A nonlinear model with one latent number: ln p(x) by quadrature, the mean estimate rising to it with K."""

    def log_joint(x, z):
        return stats.norm.logpdf(x, np.sin(2 * z) + z, 0.5) + stats.norm.logpdf(z)

    x, rng = np.array([-0.5, 0.3, 1.2]), np.random.default_rng(2)
    exact = np.log([integrate.quad(lambda z, x=x: np.exp(log_joint(x, z)), -9, 9)[0] for x in x])

    def log_weights(k, copies=1):
        z = x / 2 + rng.standard_normal((k, copies, 3))
        return (log_joint(x, z) - stats.norm.logpdf(z, x / 2)).reshape(k, copies * 3)

    means = [
        evaluation.importance_log_prob(lambda k: log_weights(k, 2000), samples).reshape(2000, 3).mean(axis=0)
        for samples in (1, 4, 16, 64)
    ]
    assert (np.diff(means, axis=0) > 0).all()
    assert (means[-1] < exact + 0.01).all()
    np.testing.assert_allclose(evaluation.importance_log_prob(log_weights, 100_000, 1000), exact, atol=0.02)


@pytest.mark.parametrize(
    ("samples", "chunk", "shape"), [(0, 1, (0, 2)), (4, 0, (4, 2)), (4, 4, (4,)), (4, 2, (4, 2)), (3, 2, (2, 3))]
)
def test_importance_log_prob_refuses(samples, chunk, shape):
    with pytest.raises(ValueError, match="expected"):
        evaluation.importance_log_prob(lambda k: np.zeros(shape), samples, chunk)


def test_bits_per_dim():
    assert evaluation.bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)
    # Uniform noise within 256 levels, told as a uniform density on [0, 1]: 8 bits.
    assert evaluation.bits_per_dim(0.0, 784, levels=256) == 8


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 500))
def test_squared_distances_in_blocks(seed, n, m, dimensions, block):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, dimensions)), rng.standard_normal((m, dimensions))
    parts = list(squared_distances(a, b, block))
    assert np.concatenate([np.arange(n)[rows] for rows, _ in parts]).tolist() == list(range(n))
    assert all(len(d) == 1 or d.nbytes <= block for _, d in parts)
    np.testing.assert_allclose(np.concatenate([d for _, d in parts]), cdist(a, b, "sqeuclidean"), atol=1e-12)


def brute_parzen(x, centres, sigma):
    kernels = -0.5 * ((x[:, None] - centres[None]) ** 2).sum(axis=-1) / sigma**2
    return logsumexp(kernels, axis=1) - math.log(len(centres)) - x.shape[1] / 2 * math.log(2 * math.pi * sigma**2)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 60), st.integers(1, 2000))
def test_parzen_is_the_brute_force_logsumexp(seed, n, m, dimensions, block):
    rng = np.random.default_rng(seed)
    x, centres = rng.random((n, dimensions)), rng.random((m, dimensions))
    sigmas = (0.02, 0.3, 2.0)
    expected = [brute_parzen(x, centres, sigma) for sigma in sigmas]
    np.testing.assert_allclose(evaluation.log_densities(x, centres, sigmas, block), expected, rtol=1e-9, atol=1e-9)
    single = evaluation.log_densities(x.astype(np.float32), centres.astype(np.float32), sigmas[1:], block)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected[1:], rtol=1e-4, atol=1e-3)


def test_parzen_picks_sigma_on_the_validation_set():
    rng = np.random.default_rng(3)
    samples, valid, test = (rng.random((n, 20)) for n in (300, 40, 50))
    found = evaluation.parzen(samples, valid, test)
    means = [brute_parzen(valid, samples, sigma).mean() for sigma in np.logspace(-1, 0, 10)]
    assert found.sigma == pytest.approx(np.logspace(-1, 0, 10)[np.argmax(means)])
    assert 0.1 < found.sigma < 1
    each = brute_parzen(test, samples, found.sigma)
    assert found.mean == pytest.approx(each.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(stats.sem(each), rel=1e-9)


def test_parzen_of_a_gaussian_tends_to_its_entropy():
    """Kernels of width s on samples of N(0, 1) are a draw of N(0, 1 + s^2): E ln p is known."""
    rng = np.random.default_rng(4)
    samples, test = rng.standard_normal((5_000, 1)), rng.standard_normal((10_000, 1))
    found = evaluation.log_densities(test, samples, [0.2])[0].mean()
    assert found == pytest.approx(-0.5 * math.log(2 * math.pi * 1.04) - 0.5 / 1.04, abs=0.03)


# ---- features ----


def test_frechet_distance_of_gaussians_in_closed_form():
    """Covariances that commute: |m - n|^2 + sum (sqrt a - sqrt b)^2; any others: scipy's root of the product."""
    rng = np.random.default_rng(5)
    basis = linalg.qr(rng.standard_normal((6, 6)))[0]
    a, b = rng.random(6), np.append(rng.random(5), 0.0)  # one of them singular
    m, n = rng.standard_normal((2, 6))
    found = evaluation.frechet_of_moments(m, basis * a @ basis.T, n, basis * b @ basis.T)
    assert found == pytest.approx(((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-7)
    left, right = (x @ x.T for x in rng.standard_normal((2, 6, 8)))
    expected = ((m - n) ** 2).sum() + np.trace(left + right - 2 * linalg.sqrtm(left @ right).real)
    assert evaluation.frechet_of_moments(m, left, n, right) == pytest.approx(expected, rel=1e-9)
    assert evaluation.frechet_of_moments(n, right, m, left) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_features():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((50, 4)).astype(np.float32), 2 * rng.standard_normal((70, 4)) + 1
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert evaluation.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert evaluation.frechet_distance(a, a + np.float32(3)) == pytest.approx(36, rel=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        evaluation.frechet_distance(a[:1], b)


def brute_precision_recall(real, fake, k):
    def radius(points, i):
        return sorted(math.dist(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    inside = [[math.dist(r, f) <= radius(real, i) for f in fake] for i, r in enumerate(real)]
    held = [[math.dist(r, f) <= radius(fake, j) for j, f in enumerate(fake)] for r in real]
    return {
        "precision": np.mean(np.any(inside, axis=0)),
        "recall": np.mean(np.any(held, axis=1)),
        "density": np.sum(inside) / (k * len(fake)),
        "coverage": np.mean(np.any(inside, axis=1)),
    }


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(5, 14), st.integers(5, 14), st.integers(1, 4), st.integers(1, 1000))
def test_precision_recall_density_coverage_by_brute_force(seed, n, m, k, block):
    rng = np.random.default_rng(seed)
    real, fake = rng.standard_normal((n, 2)), 0.7 * rng.standard_normal((m, 2)) + 0.3
    assert evaluation.precision_recall(real, fake, k, block) == pytest.approx(brute_precision_recall(real, fake, k))


def test_precision_recall_in_known_cases():
    rng = np.random.default_rng(7)
    real, more, far = rng.standard_normal((3, 1500, 3))
    same_law = evaluation.precision_recall(real, more, 5)
    assert same_law["density"] == pytest.approx(1, abs=0.05)
    assert same_law["coverage"] == pytest.approx(1 - 2**-5, abs=0.02)
    assert evaluation.precision_recall(real, far + 100) == dict.fromkeys(("precision", "recall", "density", "coverage"), 0.0)
    half = evaluation.precision_recall(real, more[more[:, 0] > 0], 5)  # half of the modes: all real, but not all of the real
    assert half["precision"] > 0.9
    assert half["recall"] < 0.65
    assert half["coverage"] < 0.65
    with pytest.raises(ValueError, match="more than k points"):
        evaluation.precision_recall(real[:5], more, 5)


def test_class_balance():
    uniform = evaluation.class_balance(np.arange(1000) % 10)
    assert uniform.modes == 10
    assert uniform.entropy == pytest.approx(math.log(10))
    assert uniform.shares == pytest.approx(0.1)
    collapsed = evaluation.class_balance(np.array([3] * 500 + [4] * 495 + [5] * 5))
    assert collapsed.modes == 2
    assert collapsed.shares[[3, 4, 5]].tolist() == [0.5, 0.495, 0.005]
    assert collapsed.entropy == pytest.approx(stats.entropy([0.5, 0.495, 0.005]))
    nowhere = evaluation.class_balance(np.array([-1, -1, 0, 1]), classes=8)
    assert nowhere.figures() == {"classified": 0.5, "modes": 2, "class_entropy": pytest.approx(math.log(2))}
    assert evaluation.class_balance(np.full(3, -1)).figures() == {"classified": 0, "modes": 0, "class_entropy": 0}


# ---- the digit classifier ----


def bits_of(images):
    return data.binarize(images.reshape(len(images), -1), "dynamic", np.random.default_rng(20110411))


def grey_of(images):
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def test_the_classifier_reads_digits_that_it_never_saw():
    digits = data.load("mnist5k").test
    classifier = evaluation.digit_classifier()
    assert classifier.error(grey_of(digits.images), digits.labels) <= 0.01
    assert classifier.error(bits_of(digits.images), digits.labels) <= 0.015
    features, labels = classifier.read(grey_of(digits.images[:7]))
    assert (features.dtype, labels.dtype) == (np.float32, np.int64)
    assert features.shape == (7, 64)
    assert features.min() >= 0


def test_the_classifier_s_error_on_mnist_is_the_recorded_one():
    if not (REAL / "mnist").exists():
        pytest.skip(f"MNIST is not in {REAL}")
    record = json.loads(WEIGHTS.with_suffix(".json").read_text())["errors"]
    test = data.load("mnist", REAL).test
    grey, binary = (evaluation.digit_classifier().error(x, test.labels) for x in (grey_of(test.images), bits_of(test.images)))
    # Rounding differs from machine to machine, and may turn the answer of one digit or two.
    assert grey == pytest.approx(record["mnist test"]["grey"], abs=2e-4)
    assert binary == pytest.approx(record["mnist test"]["binary"], abs=2e-4)
    assert grey < 0.01
    assert binary < 0.015


def test_no_embedded_digit_was_among_those_that_the_classifier_learnt():
    embedded = data.load("mnist5k")
    left = without(Split(embedded.train.images, embedded.train.labels), embedded.train.images[100:])
    assert np.array_equal(left.images, embedded.train.images[:100])
    assert np.array_equal(left.labels, embedded.train.labels[:100])
    record = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert record["trained_on"].startswith("45000 of the 50000 ")
    assert WEIGHTS.stat().st_size < 400_000


def test_augmentation_moves_every_digit_and_draws_half_of_them_as_bits():
    images = data.load("mnist5k").train.images[:400]
    x = augmented(images, np.random.default_rng(8)).reshape(400, 28, 28)
    assert x.dtype == np.float32
    assert set(np.unique(x[200:])) == {0.0, 1.0}
    places = set()
    padded = np.pad(grey_of(images[::2]).reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    for original, moved in zip(padded, x[:200], strict=True):
        moves = {(i, j) for i in range(5) for j in range(5) if np.array_equal(original[i : i + 28, j : j + 28], moved)}
        assert len(moves) == 1
        places |= moves
    assert len(places) == 25


def test_spoilt_digits_keep_what_they_should():
    x = grey_of(data.load("mnist5k").train.images[:300])
    within, across, squares = np.split(spoilt(x, np.random.default_rng(11)), 3)
    assert np.array_equal(np.sort(within, axis=1), np.sort(x[:100], axis=1))
    assert np.array_equal(np.sort(across, axis=0), np.sort(x[100:200], axis=0))
    for before, after in zip(x[200:].reshape(-1, 28, 28), squares.reshape(-1, 28, 28), strict=True):
        parts = [
            sorted(image[i : i + 7, j : j + 7].tobytes() for i in range(0, 28, 7) for j in range(0, 28, 7))
            for image in (before, after)
        ]
        assert parts[0] == parts[1]
    assert not any((a == b).all() for a, b in zip(x, np.concatenate([within, across, squares]), strict=True))


def test_a_small_training_learns():
    train = data.load("mnist5k").train
    split = Split(train.images[:2000], train.labels[:2000])
    classifier = train_classifier(split, 3, np.random.default_rng(9))
    assert classifier.error(grey_of(train.images[2000:]), train.labels[2000:]) < 0.35  # 0.9 by chance


# ---- samples ----


@pytest.mark.parametrize("form", [grey_of, bits_of])
def test_digits_get_better_figures_than_spoilt_digits(form):
    digits = data.load("mnist5k")
    valid, test = form(digits.valid.images), form(digits.test.images)
    good = evaluation.sample_figures(form(digits.train.images[:1000]), valid, test)
    assert good["modes"] == 10
    assert good["class_entropy"] == pytest.approx(math.log(10), abs=0.02)
    assert good["density"] == pytest.approx(1, abs=0.15)
    assert good["coverage"] > 0.9
    one_kind = evaluation.sample_figures(form(digits.train.images[digits.train.labels == 1]), valid, test)
    assert one_kind["modes"] <= 2
    assert one_kind["recall"] < 0.2
    assert one_kind["coverage"] < 0.2
    rng = np.random.default_rng(10)
    noise = evaluation.sample_figures((rng.random((1000, 784)) > 0.8).astype(np.float32), valid, test)
    pixels = (rng.random((1000, 784)) < grey_of(digits.train.images).mean(axis=0)).astype(np.float32)
    alone = evaluation.sample_figures(pixels, valid, test)  # every pixel has the right frequency
    for no_digits in (noise, alone):
        assert no_digits["classified"] < 0.05
        assert no_digits["precision"] < 0.1
        assert no_digits["coverage"] < 0.1
    for worse in (one_kind, noise, alone):
        assert worse["frechet"] > 10 * good["frechet"]
        assert worse["parzen"] < good["parzen"]


def test_the_balance_of_samples_knows_digits_and_separate_spots_of_the_plane():
    digits = data.load("mnist5k").test
    found = evaluation.balance_of("mnist5k", grey_of(digits.images[(digits.labels == 3) | (digits.labels == 8)]))
    assert found.modes == 2
    assert found.shares[[3, 8]] == pytest.approx(0.5, abs=0.03)
    points = data.load("gaussians").test.images
    found = evaluation.balance_of("gaussians", points)
    assert found.modes == 8
    assert found.shares.sum() == pytest.approx(1 - math.exp(-4.5), abs=0.005)  # within 3 standard deviations, in the plane
    assert evaluation.balance_of("gaussians", points[np.abs(points - [2, 0]).max(axis=1) < 0.6]).modes == 1
    assert evaluation.balance_of("gaussians", points * 0).modes == 0
    assert evaluation.balance_of("rings", points) is None
    assert evaluation.balance_of("fashion-mnist", grey_of(digits.images)) is None
