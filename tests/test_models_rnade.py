"""RNADE's exact oracles: integrals, Gaussians, the equations written out, and the law of its samples."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from scipy.special import ndtr

from tinygen import gallery
from tinygen.cli import main
from tinygen.cli.runs import _density
from tinygen.models.base import Model
from tinygen.models.rnade import RNADE
from tinygen.nn import Parameter

ACTIVATE = {"sigmoid": lambda a: 1 / (1 + np.exp(-a)), "relu": lambda a: np.maximum(a, 0), "linear": lambda a: a}


def model(seed: int = 0, dimensions: int = 2, activation: str = "relu", order=None, **options) -> RNADE:
    rng = np.random.default_rng(seed)
    rnade = RNADE(dimensions, 5, 3, rng, activation, order, **{"dtype": np.float64, **options})
    for name, parameter in rnade.named_parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape) * (0.3 if name.startswith("V") else 0.7)
    return rnade


def mixtures(rnade: RNADE, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """alpha, mu, sigma of every conditional for one x, in the order of the visits, by the paper's equations one by one."""
    parameters = {name: p.numpy() for name, p in rnade.named_parameters()}
    W, c, rho = parameters["W"], parameters["c"], parameters["rho"]
    visited, found = x[rnade.order], []
    for i in range(len(x)):
        a = c + sum((W[j] * visited[j] for j in range(i)), np.zeros_like(c))
        h = ACTIVATE[rnade_activation(rnade)](rho[i] * a)
        alpha, mu, sigma = (h @ parameters[f"V_{k}"][i] + parameters[f"b_{k}"][i] for k in ("alpha", "mu", "sigma"))
        found.append((np.exp(alpha) / np.exp(alpha).sum(), mu, np.exp(sigma)))
    return found


def rnade_activation(rnade: RNADE) -> str:
    grid = np.array([-1.5, 0.5])
    return next(name for name, f in ACTIVATE.items() if np.allclose(rnade.f(grid), f(grid)))


@pytest.mark.parametrize("activation", ACTIVATE)
def test_the_recurrence_equals_the_equations_written_out(activation):
    rng = np.random.default_rng(1)
    rnade = model(1, 6, activation, rng.permutation(6))
    x = rng.standard_normal((7, 6))
    for row, found in zip(x, rnade.log_prob(x).numpy()):
        expected = sum(
            math.log((alpha * stats.norm.pdf(value, mu, sigma)).sum())
            for value, (alpha, mu, sigma) in zip(row[rnade.order], mixtures(rnade, row))
        )
        assert found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_density_integrates_to_one(order):
    rnade = model(2, order=np.array(order), activation="sigmoid")
    side = np.linspace(-40, 40, 1001)
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = sum(np.exp(rnade.log_prob(part).numpy()).sum() for part in np.array_split(points, 20))
    assert abs(total * (side[1] - side[0]) ** 2 - 1) < 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_one_linear_component_is_any_gaussian(seed):
    rng, D = np.random.default_rng(seed), 5
    order = rng.permutation(D)
    L = np.tril(rng.standard_normal((D, D)), -1) + np.diag(rng.uniform(0.5, 2, D))
    m = rng.standard_normal(D)
    rnade = RNADE(D, D, 1, rng, "linear", order, dtype=np.float64)
    for parameter in rnade.parameters():
        parameter.data[...] = 0
    rnade.rho.data[...] = 1
    rnade.W.data[...] = np.eye(D)  # h_i holds x_{o_1}, ..., x_{o_{i-1}}, then zeros
    for i in range(D):
        regression = L[i, :i] @ np.linalg.inv(L[:i, :i])
        rnade.V_mu.data[i, :i, 0] = regression
        rnade.b_mu.data[i, 0] = m[i] - regression @ m[:i]
        rnade.b_sigma.data[i, 0] = math.log(L[i, i])
    visited = m + rng.standard_normal((50, D)) @ L.T
    x = np.empty_like(visited)
    x[:, order] = visited
    expected = stats.multivariate_normal(m, L @ L.T).logpdf(visited)
    np.testing.assert_allclose(rnade.log_prob(x).numpy(), expected, rtol=0, atol=1e-10)


def test_the_order_is_a_renaming_of_the_dimensions():
    order = np.array([2, 0, 3, 1])
    ordered, plain = model(3, 4, order=order), model(3, 4)
    x = np.random.default_rng(0).standard_normal((9, 4))
    np.testing.assert_allclose(ordered.log_prob(x).numpy(), plain.log_prob(x[:, order]).numpy(), rtol=1e-13)
    assert np.abs(ordered.log_prob(x).numpy() - plain.log_prob(x).numpy()).max() > 0.01


def transformed(rnade: RNADE, samples: np.ndarray) -> np.ndarray:
    """F(x_{o_i} | x_{o_<i}) of every dimension of every sample, in the order of the visits."""
    pairs = (zip(x[rnade.order], mixtures(rnade, x)) for x in samples)
    return np.array([[(alpha * ndtr((v - mu) / sigma)).sum() for v, (alpha, mu, sigma) in row] for row in pairs])


def test_the_probability_integral_transform_of_samples_is_uniform():
    rnade = model(4, 3, order=np.array([1, 2, 0]))
    u = transformed(rnade, rnade.sample(800, np.random.default_rng(0)))
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    independent = np.histogramdd(u, bins=3, range=[(0, 1)] * 3)[0]
    assert stats.chisquare(independent.ravel()).pvalue > 1e-3


def test_density_and_sampler_have_the_same_sigma():
    rnade = model(5, 1)
    for name in ("V_alpha", "V_mu", "V_sigma", "b_alpha", "b_mu"):
        getattr(rnade, name).data[...] = 0
    rnade.b_sigma.data[...] = math.log(0.37)
    samples = rnade.sample(20_000, np.random.default_rng(0))
    assert samples.std() == pytest.approx(0.37, rel=0.03)
    peak = rnade.log_prob(np.zeros((1, 1))).numpy()[0]
    assert peak == pytest.approx(-math.log(0.37 * math.sqrt(2 * math.pi)), rel=1e-12)


def test_completions_follow_the_conditional_and_keep_what_was_given():
    rnade = model(6, 3, order=np.array([2, 0, 1]))
    given, observed = np.array([0.0, 0.0, 0.8]), np.array([False, False, True])
    filled = rnade.complete(np.repeat(given[None], 500, axis=0), observed, np.random.default_rng(1))
    assert (filled[:, 2] == 0.8).all()
    for column in transformed(rnade, filled)[:, 1:].T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert given.tolist() == [0.0, 0.0, 0.8]
    with pytest.raises(ValueError, match="come first in the model's order"):
        rnade.complete(given[None], np.array([True, False, False]), np.random.default_rng(1))
    assert rnade.first_half(3).tolist() == [False, False, True]


def test_the_start_has_the_spread_of_the_examples():
    rng = np.random.default_rng(7)
    examples = np.array([3.0, -20.0]) + np.array([0.1, 7.0]) * rng.standard_normal((500, 2))
    rnade = RNADE(2, 8, 10, rng, order=np.array([1, 0]), examples=examples)
    samples = rnade.sample(4000, rng)
    np.testing.assert_allclose(samples.mean(axis=0), examples.mean(axis=0), atol=0.6)
    assert (samples.std(axis=0) / examples.std(axis=0) < 2).all()
    assert rnade.log_prob(examples).numpy().mean() > -math.log(0.1 * 7 * 2 * math.pi) - 2


def test_gradient_reaches_every_parameter_and_descends():
    rnade, x = model(8, 4), np.random.default_rng(0).standard_normal((60, 4))
    loss = rnade.loss(x, np.random.default_rng(0))
    loss.backward()
    for _, parameter in rnade.named_parameters():
        assert np.abs(parameter.grad).max() > 0
        parameter.data -= 0.001 * parameter.grad
    assert rnade.loss(x, np.random.default_rng(0)).item() < loss.item()


def test_float32_stays_float32():
    rnade = RNADE(3, 4, 2, np.random.default_rng(0))
    loss = rnade.loss(np.ones((5, 3), np.float32), np.random.default_rng(0))
    loss.backward()
    assert loss.dtype == np.float32
    assert {p.grad.dtype for p in rnade.parameters()} == {np.dtype(np.float32)}
    assert rnade.sample(4, np.random.default_rng(0)).dtype == np.float32


def test_what_cannot_be_is_refused():
    for wrong in ({"hidden": 0}, {"components": 0}, {"activation": "tanh"}):
        with pytest.raises(ValueError, match="expected at least 1, at least 1, and one of sigmoid, relu, linear"):
            RNADE(2, **{"hidden": 3, "components": 2, "rng": np.random.default_rng(0), **wrong})


# ---- on the plane, by the command line ----


def test_a_run_on_the_plane_draws_data_samples_and_density(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "--set hidden=4 --set components=2 --set batch_size=5000 --epochs 1 --data moons --out a"
    assert main(["train", "rnade", *small.split()]) == 0
    out = capsys.readouterr().out
    assert "bits/dim" not in out
    assert set(json.loads(Path("a/result.json").read_text())["test"]) == {"nll"}
    assert main(["sample", "a", "-n", "30", "--out", "b.png"]) == 0
    assert main(["sample", "a", "-n", "30", "--out", "c.png"]) == 0
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes() != Path("a/samples.png").read_bytes()
    with Image.open("a/samples.png") as image:
        assert image.size == (1080, 390), "three panels"
    capsys.readouterr()
    assert main(["complete", "a"]) == 1
    assert "its data are points of the plane" in capsys.readouterr().err


def test_a_model_without_a_likelihood_draws_data_and_samples_only(tmp_path):
    points = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    rnade = model(9, dtype=np.float32)
    silent = Model()
    silent.weight = Parameter(np.zeros(1, np.float32))
    assert _density(silent) is None
    assert _density(rnade)(points).shape == (50,)
    gallery.write_plane(tmp_path / "two.png", points, points + 100)
    with Image.open(tmp_path / "two.png") as image:
        assert image.size == (720, 390)
