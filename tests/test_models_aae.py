"""The AAE: phases that touch only what they should, codes that follow any prior, the discriminator's optimum."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

import tinygen
from tinygen import data, optim
from tinygen.evaluation import mmd
from tinygen.models import RecipeError, model_class
from tinygen.models.aae import AAE
from tinygen.models.adversarial import GAMES, perceptron
from tinygen.models.base import Optimizers
from tinygen.models.pictures import Images, Points
from tinygen.models.priors import PRIORS, prior


def aae(seed: int = 0, dimensions: int = 6, **changes) -> AAE:
    options = {
        "latent": 2,
        "hidden": (16,),
        "discriminator": (16,),
        "prior": PRIORS["gaussian"](2),
        "scale": 1.0,
        "adversarial_lr": 1e-3,
        "sigmoid": False,
    }
    return AAE(dimensions, rng=np.random.default_rng(seed), **options | changes)


def recipe(**changes):
    return dataclasses.replace(AAE.RECIPES["quick"], **changes)


def figures_after(model: AAE, x: np.ndarray, steps: int, lr: float = 2e-3, batch: int = 100) -> dict[str, float]:
    """Train on batches of `x`, the rates lowered to 0; the last step's figures."""
    optimizers, rng = model.optimizers(recipe(lr=lr)), np.random.default_rng(1)
    for step in range(steps):
        optimizers.set_lr(optim.cosine_decay(step, steps))
        figures = model.train_step(x[rng.integers(len(x), size=batch)], optimizers, rng)
    return figures


# ---- the discrepancy ----


def test_the_discrepancy_is_that_of_all_pairs_counted():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 3)), rng.standard_normal((20, 3)) + 0.5
    both = np.concatenate([a, b])
    scale = np.median(cdist(both, both, "sqeuclidean")[np.triu_indices(40, 1)])
    kernel = lambda u, v: sum(np.exp(-cdist(u, v, "sqeuclidean") / (2 * s**2 * scale)) for s in (0.5, 1, 2)).mean()
    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert mmd(a, b, rng).mmd == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="same number"):
        mmd(a, b[:10], rng)


def test_sets_of_one_law_exceed_the_threshold_as_often_as_it_says_and_others_do():
    rng = np.random.default_rng(1)
    found = [mmd(*rng.standard_normal((2, 60, 2)), rng) for _ in range(60)]
    assert sum(one.mmd > one.threshold for one in found) <= stats.binom.ppf(0.999, 60, 0.05)
    assert np.mean([one.threshold / one.mmd for one in found]) < 5  # and it is no larger than it must be
    other = mmd(rng.standard_normal((200, 2)), 1.5 * rng.standard_normal((200, 2)), rng)
    assert other.mmd > other.threshold


# ---- the discriminator ----


def test_the_trained_logit_is_the_log_ratio_of_the_two_densities():
    # Evenly spread quantiles stand for the two laws, so that the means over a batch are nearly the expectations.
    levels = (np.arange(400) + 0.5) / 400
    p, q = stats.norm(0, 1), stats.norm(0.8, 1.3)
    real, fake = (law.ppf(levels)[:, None].astype(np.float32) for law in (p, q))
    D = perceptron((1, 32, 32, 1), rng=np.random.default_rng(2))
    optimizers = Optimizers({"model": optim.Adam(D.parameters(), 1e-2)})
    for step in range(600):
        optimizers.set_lr(optim.cosine_decay(step, 600))
        optimizers.minimize(GAMES["non-saturating"].discriminator(D(real), D(fake)))
    z = np.linspace(-1.5, 2.0, 36)[:, None]
    expected = p.logpdf(z) - q.logpdf(z)
    found = D(z.astype(np.float32)).numpy()
    assert np.abs(found - expected).mean() < 0.05
    assert np.abs(found - expected).max() < 0.2
    assert np.ptp(expected) > 1


# ---- the three phases ----


class Watched(Optimizers):
    """Notes which networks each phase changes, and which have a gradient after it."""

    def watch(self, model: AAE):
        self.parts, self.seen = {"encoder": model.encoder, "decoder": model.decoder, "D": model.D}, []
        return self

    def minimize(self, loss, name="model"):
        parameters = {part: [*module.parameters()] for part, module in self.parts.items()}
        for parameter in (p for several in parameters.values() for p in several if p.requires_grad):
            parameter.grad = None
        before = {part: [p.numpy().copy() for p in several] for part, several in parameters.items()}
        norm = super().minimize(loss, name)
        changed = {
            part for part, several in parameters.items() if any((a != p.numpy()).any() for a, p in zip(before[part], several))
        }
        graded = {part for part, several in parameters.items() if any(p.grad is not None for p in several)}
        self.seen.append((name, changed, graded))
        return norm


def test_each_phase_touches_its_own_networks_alone():
    model = aae()
    watched = Watched(model.optimizers(recipe())).watch(model)
    figures = model.train_step(np.random.default_rng(3).random((20, 6)).astype(np.float32), watched, np.random.default_rng(4))
    assert watched.seen == [
        ("autoencoder", {"encoder", "decoder"}, {"encoder", "decoder"}),
        ("discriminator", {"D"}, {"D"}),
        ("encoder", {"encoder"}, {"encoder"}),
    ]
    assert set(figures) == {"reconstruction", "d_loss", "g_loss", "d_real", "d_fake", "d_norm", "g_norm"}


def test_the_rates_are_the_recipes_and_the_adversarial_one():
    optimizers = aae(adversarial_lr=3e-4).optimizers(recipe(lr=2e-3))
    assert {name: optimizer.lr for name, optimizer in optimizers.items()} == {
        "autoencoder": 2e-3,
        "discriminator": 3e-4,
        "encoder": 3e-4,
    }


def test_codes_come_to_follow_the_prior():
    # Of N(1, 1/4) an affine encoder can make N(0, 1), by z = 2 (x - 1) or its mirror image, and lose nothing.
    x = (1 + 0.5 * np.random.default_rng(5).standard_normal((5000, 1))).astype(np.float32)
    one = {"latent": 1, "prior": PRIORS["gaussian"](1), "hidden": (), "discriminator": (16, 16)}
    model = aae(dimensions=1, adversarial_lr=2e-2, **one)
    before = model.evaluate(x[:300], np.random.default_rng(6))
    assert before["mmd"] > 10 * before["mmd_chance"]
    figures_after(model, x, 800, lr=1e-2, batch=200)
    after = model.evaluate(x[:300], np.random.default_rng(6))
    assert after["mmd"] < after["mmd_chance"]
    assert after["reconstruction"] < 0.05 * before["reconstruction"]
    codes = model.encoder(x).numpy()
    assert abs(codes.mean()) < 0.2
    assert codes.std() == pytest.approx(1, abs=0.2)


# ---- priors ----


class SamplerOnly:
    """A prior that can be drawn from and nothing else."""

    def __call__(self, n, rng):
        return rng.exponential(size=(n, 2))

    def log_prob(self, z):
        raise AssertionError("the density of the prior was asked for")


def test_a_prior_without_a_density_trains():
    x = data.load("moons").train.images
    model = aae(dimensions=2, prior=SamplerOnly())
    figures = figures_after(model, x, 30)
    assert all(np.isfinite(value) for value in figures.values())
    assert np.isfinite(model.evaluate(x[:50], np.random.default_rng(6))["mmd"])
    assert model.sample(7, np.random.default_rng(7)).shape == (7, 2)


def test_the_scale_multiplies_the_draws_and_the_model_decodes_them():
    model = aae(prior=SamplerOnly(), scale=5.0)
    z = SamplerOnly()(4, np.random.default_rng(8))
    np.testing.assert_allclose(model.draw(4, np.random.default_rng(8)), 5 * z, rtol=1e-6)
    expected = model.decoder((5 * z).astype(np.float32)).numpy()
    np.testing.assert_array_equal(model.sample(4, np.random.default_rng(8)), expected)


def test_the_mixture_has_ten_spokes_and_the_roll_one_and_a_half_turns():
    z = prior("mixture", 2)(20_000, np.random.default_rng(9))
    angle = np.degrees(np.arctan2(z[:, 1], z[:, 0])) % 36
    off = np.minimum(angle, 36 - angle)
    assert np.mean(off < 9) > 0.95
    spokes = np.bincount((np.degrees(np.arctan2(z[:, 1], z[:, 0])) / 36).round().astype(int) % 10, minlength=10)
    assert stats.chisquare(spokes).pvalue > 1e-3
    assert np.hypot(*z.T).mean() == pytest.approx(4, abs=0.05)
    roll = prior("swiss-roll", 2)(20_000, np.random.default_rng(10))
    # Along the spiral r = t / pi, that is, on rays the radii are half a turn's 2 apart: from 1 to 3 with the thickness.
    r, angle = np.hypot(*roll.T), np.arctan2(roll[:, 1], roll[:, 0]) % (2 * np.pi)
    turns = (r - angle / np.pi) / 2
    assert np.abs(turns - turns.round()).mean() < 0.06
    assert r.min() > 0.4
    assert r.max() < 3.5


def a_users_sampler(n, rng):
    return rng.random((n, 2))


def test_a_prior_is_found_by_name_or_imported():
    assert prior(f"{__name__}:a_users_sampler", 2) is a_users_sampler
    z = prior("gaussian", 5)(10_000, np.random.default_rng(11))
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert z.shape == (10_000, 5)
    with pytest.raises(RecipeError, match="did you mean 'swiss-roll'"):
        prior("swissroll", 2)
    with pytest.raises(RecipeError, match="cannot be imported"):
        prior("tinygen.models.priors:nothing", 2)
    with pytest.raises(RecipeError, match="is no function"):
        prior("tinygen.models.priors:THICKNESS", 2)
    with pytest.raises(RecipeError, match="must be 2"):
        prior("mixture", 3)
    with pytest.raises(ValueError, match=r"codes of shape \(4, 3\), expected \(4, 2\)"):
        aae(prior=PRIORS["gaussian"](3)).draw(4, np.random.default_rng(12))
    with pytest.raises(ValueError, match="positive numbers"):
        aae(scale=0.0)


# ---- as a model ----


def test_figures_are_means_over_all_examples():
    x = np.random.default_rng(13).random((620, 6)).astype(np.float32)
    model = aae()
    figures = model.evaluate(x, np.random.default_rng(14))
    error = ((model.decoder(model.encoder(x)).numpy() - x) ** 2).sum(axis=1)
    assert figures["reconstruction"] == pytest.approx(error.mean(), rel=1e-5)
    fake = tinygen.sigmoid(model.D(model.encoder(x))).numpy()
    assert figures["d_fake"] == pytest.approx(fake.mean(), rel=1e-5)
    assert set(figures) == {"reconstruction", "d_real", "d_fake", "mmd", "mmd_chance"}


def test_pictures_show_codes_by_class_beside_the_prior():
    x, labels = np.random.default_rng(15).random((90, 6)).astype(np.float32), np.arange(90) % 3
    model = aae()
    found = model.pictures(x, np.random.default_rng(16), labels)
    assert isinstance(found["codes"], Points)
    codes, draws = found["codes"].panels.values()
    assert list(codes) == ["0", "1", "2"]
    np.testing.assert_array_equal(codes["1"], model.encoder(x[1::3]).numpy())
    assert draws["draws"].shape == (90, 2)
    assert isinstance(found["manifold"], Images)
    assert found["manifold"].examples.shape == (20, 20, 6)
    given, decoded = found["reconstructions"].examples
    np.testing.assert_array_equal(given, x[:10])
    np.testing.assert_allclose(decoded, model.decoder(model.encoder(x[:10])).numpy(), rtol=1e-5, atol=1e-6)
    without = model.pictures(x, np.random.default_rng(16))
    assert list(without["codes"].panels["codes q(z)"]) == ["codes"]
    assert "manifold" not in aae(latent=3, prior=PRIORS["gaussian"](3)).pictures(x, np.random.default_rng(17), labels)


def test_the_manifold_is_decoded_at_quantiles_of_the_prior_up_being_up():
    model = aae(prior=lambda n, rng: np.stack([np.arange(n) / n, 10 + np.arange(n) / n], axis=1))
    manifold = model.pictures(np.zeros((3, 6), np.float32), np.random.default_rng(18))["manifold"].examples
    decode = lambda a, b: model.decoder(np.array([[a, b]], np.float32)).numpy()[0]
    np.testing.assert_allclose(manifold[0, 0], decode(0.025, 10.975), atol=1e-3)
    np.testing.assert_allclose(manifold[-1, 3], decode(0.175, 10.025), atol=1e-3)


def test_recipes_make_models_of_digits():
    train = data.load("mnist5k").train
    for name in ("quick", "plane", "paper"):
        model = AAE.build(AAE.RECIPES[name], train, np.random.default_rng(0))
        samples = model.sample(2, np.random.default_rng(0))
        assert (samples.dtype, samples.shape) == (np.float32, (2, 784))
        assert 0 <= samples.min() <= samples.max() <= 1
    assert model_class("aae") is AAE
    assert (model.latent, model.scale) == (8, 5.0)
