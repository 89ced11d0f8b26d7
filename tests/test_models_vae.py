"""VAE's exact oracles: probabilistic PCA, quadrature over z, three gradients that agree, and the laws of its samples."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tinygen import Tensor, optim
from tinygen.cli import main
from tinygen.data import Split
from tinygen.models import Recipe, vae
from tinygen.models.base import Optimizers
from tinygen.models.vae import VAE


class Signs:
    """In place of noise all combinations of +1 and -1: with as many draws, means of quadratic functions of z are exact."""

    def standard_normal(self, shape):
        k, latent = shape[0], shape[2]
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=latent)))
        assert len(signs) == k
        return np.broadcast_to(signs[:, None], shape)


def linear_vae(rng, dimensions=5, latent=2, sigma=0.7, **options):
    return VAE((dimensions,), latent, (), rng, decoder="gaussian", sigma=sigma, dtype=np.float64, **options)


def ppca_log_prob(x, W, b, sigma):
    """-1/2 (d ln 2 pi + ln |C| + (x - b)' C^-1 (x - b)),  C = W W' + sigma^2 I."""
    return stats.multivariate_normal(b, W @ W.T + sigma**2 * np.eye(len(b))).logpdf(x)


def tiny(seed=0, latent=1, dimensions=4, **options):
    """A VAE of bits with weights far from 0, whose q is not the posterior."""
    rng = np.random.default_rng(seed)
    small = VAE((dimensions,), latent, (6,), rng, dtype=np.float64, **options)
    for name, parameter in small.named_parameters():
        parameter.data[...] = (0.8 if name.startswith("decoder") else 0.3) * rng.standard_normal(parameter.shape)
    return small


def all_bits(dimensions):
    return np.array(list(itertools.product((0.0, 1.0), repeat=dimensions)))


def grid_of(latent, side=401):
    """Points z (n, latent) of a regular grid and the volume that each stands for."""
    axis = np.linspace(-9, 9, side if latent == 2 else 4 * side)
    z = np.stack(np.meshgrid(*[axis] * latent), axis=-1).reshape(-1, latent)
    return z, (axis[1] - axis[0]) ** latent


def log_likelihoods(small, x, z):
    """ln p(x | z) in plain NumPy, (len(z), len(x))."""
    logits = small.decoder(z)
    logits = logits.numpy() if isinstance(logits, Tensor) else logits
    return logits @ x.T - np.logaddexp(0, logits).sum(1)[:, None]


def exact_log_prob(small, x):
    z, volume = grid_of(small.latent)
    return np.log(np.exp(log_likelihoods(small, x, z) + stats.norm.logpdf(z).sum(1)[:, None]).sum(0) * volume)


# ---- The linear VAE is probabilistic PCA ----


def test_with_the_true_posterior_the_elbo_is_the_likelihood_and_weights_are_constant():
    rng = np.random.default_rng(0)
    linear = linear_vae(rng, learn_sigma=False)
    # Where the columns of W are orthogonal the posterior's covariance is diagonal, as the encoder's is.
    W = np.linalg.qr(rng.standard_normal((5, 2)))[0] * [1.5, 0.6]
    b, sigma, x = rng.standard_normal(5), 0.7, rng.standard_normal((9, 5))
    inverse = np.linalg.inv(W.T @ W + sigma**2 * np.eye(2))
    linear.decoder[0].weight.data[...], linear.decoder[0].bias.data[...] = W, b
    linear.encoder[0].weight.data[...] = np.concatenate([inverse @ W.T, np.zeros((2, 5))])
    linear.encoder[0].bias.data[...] = np.concatenate([-inverse @ W.T @ b, np.log(sigma**2 * np.diag(inverse))])
    expected = ppca_log_prob(x, W, b, sigma)
    with linear.evaluating():
        bound = linear.bound(x, Signs(), 4)
        np.testing.assert_allclose((bound.reconstruction - bound.kl).numpy(), expected, rtol=1e-11)
        weights = linear.log_weights(x, *linear.encode(x), 50, rng)[0].numpy()
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (50, 9)), rtol=1e-11)
    figures = linear.evaluate(x, rng)
    assert figures["nll"] == pytest.approx(-expected.mean(), rel=1e-11)
    assert figures["iwae_nll"] == pytest.approx(-expected.mean(), rel=1e-11)


def test_the_trained_linear_vae_reaches_the_optimum_of_ppca():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 5)) @ np.diag([2, 1.3, 0.6, 0.5, 0.4]) @ np.linalg.qr(rng.standard_normal((5, 5)))[0] + 1
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    sigma = math.sqrt(values[:3].mean())  # Tipping and Bishop 1999: the mean of the variances that are left out
    W = vectors[:, 3:] * np.sqrt(values[3:] - sigma**2)
    best = ppca_log_prob(x, W, x.mean(0), sigma).mean()
    linear = linear_vae(rng, sigma=1.0)
    optimizer = optim.Adam(linear.parameters(), lr=0.03)
    for step in range(1200):
        optimizer.lr = 0.03 * optim.SCHEDULES["cosine"](step, 1200)
        optimizer.zero_grad()
        bound = linear.bound(x, Signs(), 4)
        loss = (bound.kl - bound.reconstruction).mean()
        loss.backward()
        optimizer.step()
    assert -loss.item() == pytest.approx(best, abs=1e-3)
    assert math.exp(linear.log_sigma.item()) == pytest.approx(sigma, rel=5e-3)
    found = linear.decoder[0].weight.numpy()
    np.testing.assert_allclose(found @ found.T, W @ W.T, atol=0.03 * values[-1])


# ---- One or two latent dimensions, by quadrature ----


@pytest.mark.parametrize("latent", [1, 2])
def test_the_bounds_are_in_order_below_the_likelihood(latent):
    small, x, rng = tiny(latent, latent), all_bits(4), np.random.default_rng(5)
    exact = exact_log_prob(small, x)
    assert np.exp(exact).sum() == pytest.approx(1, abs=1e-9)
    repeats, means, errors = 1000, [], []
    with small.evaluating():
        for k in (1, 5, 50):
            values = small.bound(np.tile(x, (repeats, 1)), rng, k).value.numpy().reshape(repeats, 16)
            means.append(values.mean(0))
            errors.append(values.std(0) / math.sqrt(repeats))
        mu, rho = (part.numpy() for part in small.encode(x))
    z, volume = grid_of(latent)
    q = np.exp(stats.norm.logpdf(z[:, None], mu, np.exp(rho / 2)).sum(2)) * volume
    kl = 0.5 * (mu**2 + np.exp(rho) - 1 - rho).sum(1)
    elbo = (q * log_likelihoods(small, x, z)).sum(0) - kl
    assert (np.abs(means[0] - elbo) < 5 * errors[0]).all()
    assert (exact - elbo > 1e-3).all(), "q is not the posterior, so there is a gap to close"
    for low, high, error in zip(means, [*means[1:], exact], errors):
        assert (low <= high + 4 * error).all()
    assert np.mean(means[0]) < np.mean(means[1]) < np.mean(means[2]) < np.mean(exact)


def test_the_likelihood_by_importance_sampling_is_that_by_quadrature():
    small, x = tiny(3, 2), all_bits(4)
    figures = small.evaluate(x, np.random.default_rng(0))
    exact = -exact_log_prob(small, x).mean()
    assert figures["nll"] == pytest.approx(exact, abs=0.01)
    assert figures["bits_per_dim"] == pytest.approx(figures["nll"] / (4 * math.log(2)))
    assert exact < figures["iwae_nll"] < figures["bound_nll"]
    assert figures["bound_nll"] == pytest.approx(figures["reconstruction"] + figures["kl"])
    assert figures == small.evaluate(x, np.random.default_rng(0))


def test_the_closed_form_of_kl_is_the_monte_carlo_mean():
    small, x, rng = tiny(4, 3), all_bits(4)[:5], np.random.default_rng(0)
    with small.evaluating():
        log_w, log_likelihood = small.log_weights(x, *small.encode(x), 100_000, rng)
        kl = small.bound(x, rng, 1).kl.numpy()
    ratio = (log_likelihood - log_w).numpy()  # ln q(z | x) - ln p(z)
    assert (np.abs(ratio.mean(0) - kl) < 5 * ratio.std(0) / math.sqrt(len(ratio))).all()


def test_reparameterized_and_score_function_gradients_are_the_derivative_of_the_elbo():
    small, x, rng = tiny(6, 1), all_bits(4)[5:6], np.random.default_rng(0)
    z, volume = grid_of(1)
    values = log_likelihoods(small, x, z)[:, 0]
    with small.evaluating():
        mu, rho = (part.numpy().item() for part in small.encode(x))

    def elbo(mu, rho):
        q = np.exp(stats.norm.logpdf(z[:, 0], mu, math.exp(rho / 2))) * volume
        return (q * values).sum() - 0.5 * (mu**2 + math.exp(rho) - 1 - rho)

    h = 1e-4
    exact = [(elbo(mu + h, rho) - elbo(mu - h, rho)) / (2 * h), (elbo(mu, rho + h) - elbo(mu, rho - h)) / (2 * h)]

    draws = []  # the last layer's bias is mu and rho shifted for every example alike
    for _ in range(40):
        small.zero_grad()
        (-small.loss(np.repeat(x, 500, axis=0), rng)).backward()
        draws.append(small.encoder[-1].bias.grad.copy())
    error = np.std(draws, axis=0) / math.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - exact) < 5 * error).all()
    assert (error < 0.05).all()

    eps = rng.standard_normal((400_000, 1))
    drawn = mu + math.exp(rho / 2) * eps
    f = log_likelihoods(small, x, drawn) + stats.norm.logpdf(drawn) - stats.norm.logpdf(drawn, mu, math.exp(rho / 2))
    score = np.concatenate([eps / math.exp(rho / 2), (eps**2 - 1) / 2], axis=1)
    reinforce = score * f
    assert (np.abs(reinforce.mean(0) - exact) < 5 * reinforce.std(0) / math.sqrt(len(eps))).all()


# ---- Decoders ----


def test_a_decoder_that_is_sure_and_right_costs_nothing():
    bits = np.random.default_rng(0).integers(0, 2, 784).astype(np.float32)
    sure = VAE((28, 28), 2, (), np.random.default_rng(0), bias=60 * bits - 30)
    sure.decoder[0].weight.data[...] = 0
    # Probabilities taken for logits would leave at least 784 ln(1 + e^-1) = 245.6 nats.
    assert sure.validate(bits[None], np.random.default_rng(0))["reconstruction"] < 1e-6
    assert (sure.sample(20, np.random.default_rng(0)) == bits).all()


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_density_and_sampler_of_the_gaussian_decoder_have_one_sigma(learn_sigma):
    still = linear_vae(np.random.default_rng(0), 50, sigma=0.3, learn_sigma=learn_sigma)
    still.decoder[0].weight.data[...] = 0
    x = still.sample(2000, np.random.default_rng(1))
    assert x.std() == pytest.approx(0.3, rel=0.01)
    with still.evaluating():
        log_prob = still.output(np.zeros((1, 2))).log_prob(x)
    log_prob = log_prob.numpy() if isinstance(log_prob, Tensor) else log_prob
    entropy = 50 * math.log(0.3 * math.sqrt(2 * math.pi * math.e))
    assert -log_prob.sum(1).mean() == pytest.approx(entropy, abs=1)
    assert ("log_sigma" in dict(still.named_parameters())) is learn_sigma
    assert "log_sigma" in still.state_dict()


def test_samples_have_the_law_of_the_model():
    small, x = tiny(7, 2), all_bits(4)
    drawn = small.sample(20_000, np.random.default_rng(0)) @ [8, 4, 2, 1]
    counts = np.bincount(drawn.astype(int), minlength=16)
    p = np.exp(exact_log_prob(small, x))
    assert stats.chisquare(counts, 20_000 * p / p.sum()).pvalue > 1e-3


# ---- Networks, training, pictures ----


def test_convolutions_take_pixels_where_they_are():
    shape = (8, 4, 3)
    images = VAE(shape, 2, (5,), np.random.default_rng(0), channels=(3, 4), decoder="gaussian", dtype=np.float64)
    x = np.random.default_rng(1).random((2, 96))
    to_maps, to_pixels = images.encoder[0], images.decoder[len(images.decoder) - 2]
    maps = to_maps(x)
    assert np.array_equal(maps[1, 2, 5, 3], x[1].reshape(shape)[5, 3, 2])
    assert np.array_equal(to_pixels(maps).reshape(2, -1), x)
    assert images.sample(3, np.random.default_rng(0)).shape == (3, 96)
    with pytest.raises(ValueError, match=r"3 convolutions cannot halve examples of shape \(8, 4, 3\)"):
        VAE(shape, 2, (5,), np.random.default_rng(0), channels=(3, 4, 5))


@pytest.mark.parametrize("options", [{}, {"k": 4}, {"channels": (4,), "activation": "relu"}, {"decoder": "gaussian"}])
def test_training_lowers_the_bound_and_tells_its_parts(options):
    rng = np.random.default_rng(0)
    x = (rng.random((64, 16)) < np.repeat([0.9, 0.1], 32)[:, None]).astype(np.float32)
    model = VAE((4, 4), 2, (16,), rng, **options)
    recipe = Recipe(epochs=1, lr=1e-2)
    optimizers = model.optimizers(recipe)
    assert isinstance(optimizers, Optimizers)
    figures = [model.train_step(x, optimizers, rng) for _ in range(60)]
    assert set(figures[0]) == {"loss", "reconstruction", "kl"}
    assert figures[-1]["loss"] < figures[0]["loss"] - 1
    if "k" in options:
        assert figures[0]["loss"] <= figures[0]["reconstruction"] + figures[0]["kl"] + 0.5
    else:
        assert figures[0]["loss"] == pytest.approx(figures[0]["reconstruction"] + figures[0]["kl"], rel=1e-5)
    assert all(p.dtype == np.float32 for p in model.parameters())


def test_what_makes_no_sense_is_refused():
    rng = np.random.default_rng(0)
    for options in ({"latent": 0}, {"hidden": (0,)}, {"k": 0}, {"activation": "sine"}, {"decoder": "poisson"}, {"sigma": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            VAE((4,), **({"latent": 2, "hidden": (3,), "rng": rng} | options))


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_the_manifold_is_spanned_by_quantiles_of_the_prior(latent):
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((300, latent)) * np.arange(1, latent + 1)
    points = vae.plane(codes)
    flat = points.reshape(-1, latent)
    if latent == 1:
        np.testing.assert_allclose(stats.norm.cdf(points[0, :, 0]), (np.arange(20) + 0.5) / 20)
        return
    basis = np.linalg.svd(codes - codes.mean(0))[2][:2] if latent > 2 else np.eye(2)
    u, v = (flat @ basis.T).T.reshape(2, 20, 20)
    np.testing.assert_allclose(stats.norm.cdf(np.abs(u)), stats.norm.cdf(np.abs(u[:1])) + np.zeros_like(u), atol=1e-9)
    np.testing.assert_allclose(np.sort(stats.norm.cdf(u[0])), (np.arange(20) + 0.5) / 20)
    np.testing.assert_allclose(np.sort(stats.norm.cdf(v[:, 0])), (np.arange(20) + 0.5) / 20)
    np.testing.assert_allclose(flat @ basis.T @ basis, flat, atol=1e-9)
    assert v[0, 0] > v[-1, 0]


@pytest.mark.parametrize("labelled", [True, False])
def test_pictures_show_what_they_say(labelled):
    rng = np.random.default_rng(0)
    model = VAE((4, 4), 2, (8,), rng)
    x = rng.integers(0, 2, (50, 16)).astype(np.float32)
    labels = np.arange(50) % 3 if labelled else None
    with model.evaluating():
        pictures = model.pictures(x, rng, labels)
        mu = model.encode(x)[0].numpy()
        decoded = model.mean(mu).numpy()
    assert list(pictures) == ["means", "manifold", "reconstructions", "interpolation", "latent"]
    shown = pictures["reconstructions"].examples
    for row in (0, 2):
        for given, made in zip(shown[row], shown[row + 1]):
            (which,) = np.flatnonzero((x == given).all(1))[:1]
            np.testing.assert_allclose(made, decoded[which], atol=1e-6)
    for given, *between, other in pictures["interpolation"].examples:
        ends = [np.flatnonzero((x == end).all(1))[0] for end in (given, other)]
        np.testing.assert_allclose([between[0], between[-1]], decoded[ends], atol=1e-6)
    (groups,) = pictures["latent"].panels.values()
    assert list(groups) == (["0", "1", "2"] if labelled else ["test examples"])
    np.testing.assert_allclose(groups["1"] if labelled else groups["test examples"], mu[1::3] if labelled else mu)
    point = VAE((5,), 2, (8,), rng, decoder="gaussian")
    with point.evaluating():
        assert list(point.pictures(rng.standard_normal((7, 5)).astype(np.float32), rng)) == ["latent"]


def test_build_starts_from_the_pixels(monkeypatch):
    images = np.zeros((6, 28, 28), np.uint8)
    images[:, 3, 4] = 255
    for name, recipe in VAE.RECIPES.items():
        built = VAE.build(recipe, Split(images, None), np.random.default_rng(0))
        assert built.sample(2, np.random.default_rng(0)).shape == (2, 784)
        if name == "quick":
            assert built.decoder[-1].bias.numpy().argmax() == 3 * 28 + 4


def test_the_command_line_trains_draws_and_evaluates(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(vae, "SAMPLES", 40)
    out = tmp_path / "run"
    small = [f"--set={name}" for name in ("hidden=16", "batch_size=200")]
    assert main(["train", "vae", "--recipe", "plane", "--epochs", "2", *small, "--out", str(out)]) == 0
    result = json.loads(Path(out / "result.json").read_text())
    assert set(result["test"]) == {"nll", "bits_per_dim", "iwae_nll", "bound_nll", "reconstruction", "kl"}
    assert "valid_bound_nll" in (out / "metrics.csv").read_text()
    names = ("samples", "means", "manifold", "reconstructions", "interpolation", "latent", "curves")
    assert all((out / f"{name}.png").exists() for name in names)
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 0
    assert f"{result['test']['nll']:.4f}" in capsys.readouterr().out
