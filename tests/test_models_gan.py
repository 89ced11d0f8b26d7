"""What the paper on GANs proves, checked; the losses of the game; the step in which each player moves by itself."""

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon

import tinygen
from tinygen import Tensor, data, optim, softmax, softplus
from tinygen.cli import main
from tinygen.data.densities import DENSITIES
from tinygen.models import model_class
from tinygen.models.adversarial import GAMES, frozen, perceptron, value
from tinygen.models.base import Optimizers
from tinygen.models.gan import GAN, Maxout
from tinygen.models.optimum import CELLS, Comparison, jensen_shannon
from tinygen.models.pictures import Images, Lines, Maps

LN4 = math.log(4)
sigmoid = lambda l: 1 / (1 + np.exp(-l))


def gan(seed: int = 0, dimensions: int = 1, **changes) -> GAN:
    options = {
        "noise": 1,
        "prior": "normal",
        "generator": (8,),
        "discriminator": (16, 16),
        "pieces": 3,
        "dropout": (0.0, 0.0),
        "loss": "non-saturating",
        "d_steps": 1,
        "sigmoid": False,
        "dtype": np.float64,
    }
    return GAN(dimensions, rng=np.random.default_rng(seed), **options | changes)


def adam(model: GAN, lr: float = 2e-3) -> Optimizers:
    return Optimizers(
        {"discriminator": optim.Adam(model.D.parameters(), lr), "generator": optim.Adam(model.G.parameters(), lr)}
    )


# ---- the losses ----

LOGITS = np.array([-30.0, -4.0, -0.5, 0.0, 0.3, 2.0, 25.0])


def derivative(function, logits=LOGITS):
    """d function(l) / d l for each logit, times their number: of the mean of what stands in the docstring."""
    leaf = Tensor(logits, requires_grad=True)
    function(leaf).backward()
    return leaf.grad * len(logits)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("saturating", -sigmoid(LOGITS)),
        ("non-saturating", -(1 - sigmoid(LOGITS))),
        ("least-squares", 2 * (LOGITS - 1)),
    ],
)
def test_what_pulls_at_the_logit_of_a_fake(name, expected):
    np.testing.assert_allclose(derivative(GAMES[name].generator), expected, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "real", "fake"),
    [
        ("saturating", -(1 - sigmoid(LOGITS)), sigmoid(LOGITS)),
        ("non-saturating", -(1 - sigmoid(LOGITS)), sigmoid(LOGITS)),
        ("least-squares", LOGITS - 1, LOGITS),
    ],
)
def test_what_pulls_at_the_logits_of_a_discriminator(name, real, fake):
    other = np.array([0.7, -0.2])
    loss = GAMES[name].discriminator
    np.testing.assert_allclose(derivative(lambda l: loss(l, other)), real, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(derivative(lambda l: loss(other, l)), fake, rtol=1e-12, atol=1e-16)


def test_losses_are_what_their_formulas_say_and_finite_where_d_is_certain():
    real, fake = np.array([0.4, -1.2]), np.array([-0.3, 0.8, 2.0])
    D, F = sigmoid(real), sigmoid(fake)
    expected = np.log(D).mean() + np.log(1 - F).mean()
    assert value(real, fake) == pytest.approx(expected, rel=1e-14)
    for name, loss in {"saturating": np.log(1 - F).mean(), "non-saturating": -np.log(F).mean()}.items():
        assert GAMES[name].discriminator(real, fake) == pytest.approx(-expected, rel=1e-14)
        assert GAMES[name].generator(fake) == pytest.approx(loss, rel=1e-14)
        np.testing.assert_allclose(GAMES[name].output(real), D, rtol=1e-14)
    assert GAMES["least-squares"].generator(fake) == pytest.approx(((fake - 1) ** 2).mean())
    certain = np.array([1000.0], np.float32)
    for game in GAMES.values():
        for logits in (certain, -certain):
            assert np.isfinite(game.discriminator(logits, -logits))
            assert np.isfinite(game.generator(logits))
    assert GAMES["non-saturating"].generator(-certain) == 1000
    assert value(certain, -certain) == 0


# ---- the theorems, on a finite set ----


def counts(*numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """A law on states by counts: the probabilities, and a batch in which each state is there that often."""
    numbers = np.array(numbers)
    return numbers / numbers.sum(), np.repeat(np.arange(len(numbers)), numbers)


@pytest.mark.parametrize("loss", GAMES)
def test_a_trained_table_is_the_optimal_discriminator(loss):
    p, x = counts(4, 1, 3, 0, 2, 6)
    q, fakes = counts(1, 5, 3, 2, 0, 1)
    logits = Tensor(np.zeros(6), requires_grad=True)
    optimizer = optim.Adam([logits], 0.1)
    for step in range(1000):
        optimizer.lr = 0.1 * optim.cosine_decay(step, 1000)
        optimizer.zero_grad()
        GAMES[loss].discriminator(logits[x], logits[fakes]).backward()
        optimizer.step()
    both = (p > 0) & (q > 0)
    D = GAMES[loss].output(logits.numpy())
    np.testing.assert_allclose(D[both], (p / (p + q))[both], rtol=1e-4)
    assert D[3] < 0.02
    assert D[4] > 0.98
    if loss != "least-squares":
        optimum = 2 * jensenshannon(p, q) ** 2 - LN4
        assert optimum - 0.01 < value(logits.numpy()[x], logits.numpy()[fakes]) < optimum


def test_the_value_at_the_optimum_is_twice_the_divergence_less_ln_4():
    rng = np.random.default_rng(1)
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(7), size=2)
        found = float((-p * softplus(-np.log(p / q)) - q * softplus(np.log(p / q))).sum())
        assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-10)
        assert found == pytest.approx(2 * jensen_shannon(p, q) - LN4, rel=1e-12)


def test_equal_laws_give_minus_ln_4_and_disjoint_ones_0():
    p, q = np.array([0.2, 0.8, 0, 0]), np.array([0, 0, 0.5, 0.5])
    assert 2 * jensen_shannon(p, p) - LN4 == pytest.approx(-1.386294, abs=5e-7)
    assert 2 * jensen_shannon(p, q) - LN4 == pytest.approx(0, abs=1e-12)
    assert value(np.zeros(9), np.zeros(9)) == pytest.approx(-1.386294, abs=5e-7)


def test_the_generators_gradient_at_the_optimum_is_that_of_the_divergence():
    rng = np.random.default_rng(2)
    p, theta = rng.dirichlet(np.ones(6)), rng.standard_normal(6)
    q = np.exp(theta) / np.exp(theta).sum()

    def saturating_game(parameters):
        """V with D held at D* = p / (p + q): E over fakes of ln (1 - D), each state weighted by its probability."""
        return (softmax(parameters) * -softplus(np.log(p / q))).sum()

    leaf = Tensor(theta, requires_grad=True)
    saturating_game(leaf).backward()

    def divergence(parameters):
        law = np.exp(parameters) / np.exp(parameters).sum()
        return 2 * jensenshannon(p, law) ** 2

    step = 1e-5
    slopes = [(divergence(theta + step * e) - divergence(theta - step * e)) / (2 * step) for e in np.eye(6)]
    np.testing.assert_allclose(leaf.grad, slopes, atol=1e-9)


# ---- the step ----


class Watched(Optimizers):
    """Notes, after each player's move, who has gradients and who was changed."""

    def __init__(self, model, optimizers):
        super().__init__(optimizers)
        self.players, self.seen = {"discriminator": model.D, "generator": model.G}, []
        self.parameters_of_both = list(model.parameters())

    def minimize(self, loss, name="model"):
        before = {player: [p.numpy().copy() for p in module.parameters()] for player, module in self.players.items()}
        for parameter in self.parameters_of_both:  # a frozen one has no place for a gradient
            if parameter.requires_grad:
                parameter.grad = None
        norm = super().minimize(loss, name)
        for player, module in self.players.items():
            changed = [not np.array_equal(a, p.numpy()) for a, p in zip(before[player], module.parameters(), strict=True)]
            has = [p.grad is not None for p in module.parameters()]
            self.seen.append((name, player, all(changed), any(changed), all(has), any(has)))
        return norm


@pytest.mark.parametrize("steps", [1, 3])
def test_each_player_moves_alone_and_leaves_no_gradient_in_the_other(steps):
    model = gan(d_steps=steps, dropout=(0.1, 0.2), pieces=1)
    watched = Watched(model, adam(model))
    figures = model.train_step(np.random.default_rng(1).standard_normal((30, 1)), watched, np.random.default_rng(2))
    moves = [name for name, *_ in watched.seen[::2]]
    assert moves == ["discriminator"] * steps + ["generator"]
    for name, player, all_changed, any_changed, all_have, any_have in watched.seen:
        if name == player:
            assert all_changed
            assert all_have
        else:
            assert not any_changed
            assert not any_have
    assert list(figures) == ["d_loss", "g_loss", "d_real", "d_fake", "d_norm", "g_norm"]
    assert all(math.isfinite(value) for value in figures.values())


def test_through_a_frozen_module_gradients_flow_and_none_stays():
    module = perceptron((3, 5, 1), rng=np.random.default_rng(0), dtype=np.float64)
    x = Tensor(np.random.default_rng(1).standard_normal((4, 3)), requires_grad=True)
    module(x).sum().backward()
    expected, x.grad = x.grad, None
    module.zero_grad()
    with frozen(module):
        module(x).sum().backward()
    with pytest.raises(ValueError, match="thaws after an error as well"), frozen(module):
        raise ValueError("it thaws after an error as well")
    np.testing.assert_array_equal(x.grad, expected)
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_figures_are_what_they_are_called():
    model = gan(seed=3)
    x = np.random.default_rng(4).standard_normal((50, 1))
    rng = np.random.default_rng(5)
    z = rng.standard_normal((50, 1))
    real, fake = model.D(x, rng).numpy(), model.D(model.G(z).numpy(), rng).numpy()
    figures = model.train_step(x, adam(model), np.random.default_rng(5))
    assert figures["d_real"] == pytest.approx(sigmoid(real).mean())
    assert figures["d_fake"] == pytest.approx(sigmoid(fake).mean())
    assert figures["d_loss"] == pytest.approx(-value(real, fake))


# ---- the networks ----


def test_maxout_is_the_largest_of_its_pieces_in_a_loop():
    rng = np.random.default_rng(6)
    layer, x = Maxout(3, 4, 5, rng=rng, dtype=np.float64), rng.standard_normal((7, 3))
    W, b = layer.affine.weight.numpy().reshape(5, 4, 3), layer.affine.bias.numpy().reshape(5, 4)
    for row, found in zip(x, layer(x).numpy(), strict=True):
        expected = [max(W[j, i] @ row + b[j, i] for j in range(5)) for i in range(4)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_units_are_dropped_in_training_alone():
    model, x = gan(dropout=(0.3, 0.5), dimensions=4), np.random.default_rng(7).standard_normal((6, 4))
    logits = lambda seed: model.discriminate(x, np.random.default_rng(seed)).numpy()
    assert not np.array_equal(logits(0), logits(1))
    assert np.array_equal(logits(0), logits(0))
    with model.evaluating():
        assert np.array_equal(logits(0), logits(1))


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_samples_are_float32_in_the_unit_interval_and_noise_has_variance_1(prior):
    model = gan(dimensions=5, noise=3, prior=prior, sigmoid=True, dtype=np.float32, bias=np.zeros(5))
    samples = model.sample(20, np.random.default_rng(8))
    assert (samples.dtype, samples.shape) == (np.float32, (20, 5))
    assert samples.min() > 0
    assert samples.max() < 1
    z = model.draw_noise(20_000, np.random.default_rng(9))
    assert z.dtype == np.float32
    assert z.mean() == pytest.approx(0, abs=0.02)
    assert z.var() == pytest.approx(1, abs=0.02)
    assert (np.abs(z).max() <= math.sqrt(3)) == (prior == "uniform")


@pytest.mark.parametrize("wrong", [{"loss": "least-squares"}, {"prior": "cauchy"}, {"d_steps": 0}, {"noise": 0}, {"pieces": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="expected uniform or normal"):
        gan(**wrong)


# ---- D beside D*, V beside 2 JSD - ln 4 ----


def affine(dimensions: int = 1) -> GAN:
    """A generator whose density is N(0.5, 1.2^2) in each dimension, against the data of a known law."""
    density = DENSITIES["peaks" if dimensions == 1 else "gaussians"]
    model = gan(dimensions=dimensions, generator=(), noise=dimensions, density=density)
    (layer,) = model.G.children()
    layer[1].weight.data[...] = 1.2 * np.eye(dimensions)
    layer[1].bias.data[...] = 0.5
    return model


def test_the_generators_density_and_the_divergence_are_those_in_closed_form():
    model = affine()
    found = model.compare(data.load("peaks").test.images, np.random.default_rng(10))
    (places,) = found.places
    width = places[1] - places[0]
    q = stats.norm(0.5, 1.2)
    inside = slice(1, -1)  # at the rim is what lies beyond it
    np.testing.assert_allclose((found.q / width)[inside], q.pdf(places)[inside], atol=0.02)
    p = lambda x: math.exp(DENSITIES["peaks"].log_prob(np.array([x])))
    m = lambda x: (p(x) + q.pdf(x)) / 2
    kl = lambda x: (p(x) * math.log(p(x) / m(x)) + q.pdf(x) * math.log(q.pdf(x) / m(x))) / 2
    jsd = integrate.quad(kl, -6, 6, limit=200)[0]
    assert found.jsd == pytest.approx(jsd, abs=0.002)
    assert found.outside == pytest.approx(q.sf(places[-1] + width / 2) + q.cdf(places[0] - width / 2), abs=0.001)
    best = np.array([p(x) / (p(x) + q.pdf(x)) for x in places])
    known = np.isfinite(found.best)
    np.testing.assert_allclose(found.best[known][1:-1], best[known][1:-1], atol=0.12)
    assert np.abs(found.best[known][1:-1] - best[known][1:-1]).mean() < 0.01


def test_a_discriminator_trained_against_a_fixed_generator_comes_to_the_optimum():
    model = affine()
    points, rng = data.load("peaks").train.images, np.random.default_rng(11)
    optimizers = adam(model)
    optimizers["generator"].lr = 0.0
    before = model.compare(points[:5000], np.random.default_rng(12)).figures()
    for step in range(600):
        optimizers["discriminator"].lr = 1e-2 * optim.cosine_decay(step, 600)
        model.train_step(points[rng.integers(len(points), size=400)].astype(np.float64), optimizers, rng)
    after = model.compare(points[:5000], np.random.default_rng(12)).figures()
    assert after["optimum"] == before["optimum"]
    assert before["optimum"] - before["value"] > 0.1
    assert 0 <= after["optimum"] - after["value"] < 0.01
    assert after["d_error"] < 0.05 < before["d_error"]


def test_the_value_never_exceeds_its_optimum_and_meets_it_at_d_star():
    rng = np.random.default_rng(13)
    p, q = rng.dirichlet(np.ones(50), size=2)
    p[:3] = 0
    places = [np.arange(50.0)]
    for logits in rng.standard_normal((20, 50)):
        figures = Comparison(places, p / p.sum(), q, logits, 0.0).figures()
        assert figures["value"] <= figures["optimum"]
    p /= p.sum()
    best = Comparison(places, p, q, np.maximum(np.log(np.maximum(p, 1e-300) / q), -500), 0.0).figures()
    assert best["d_error"] < 1e-12
    assert best["value"] == pytest.approx(best["optimum"], rel=1e-12)


def test_the_plane_is_drawn_the_right_way_up():
    model = affine(2)
    points = data.load("gaussians").test.images
    picture = model.pictures(points, np.random.default_rng(14))["optimum"]
    assert isinstance(picture, Maps)
    p, q, best, D = picture.panels.values()
    assert p.shape == q.shape == best.shape == D.shape == (CELLS[2], CELLS[2])
    left, right, bottom, top = picture.extent
    across, up = (np.linspace(a, b, CELLS[2] + 1) for a, b in ((left, right), (bottom, top)))
    across, up = ((edge[1:] + edge[:-1]) / 2 for edge in (across, up))
    expected = np.exp(DENSITIES["gaussians"].log_prob(np.stack(np.meshgrid(across, up), axis=-1)))
    np.testing.assert_allclose(p, expected, rtol=0.02, atol=1e-9)
    q_expected = np.outer(stats.norm.pdf(up, 0.5, 1.2), stats.norm.pdf(across, 0.5, 1.2))
    np.testing.assert_allclose(q[1:-1, 1:-1], q_expected[1:-1, 1:-1], atol=0.02)
    place = np.array([[across[30], up[7]]])
    assert D[7, 30] == pytest.approx(sigmoid(model.D(place, np.random.default_rng(0)).numpy()[0]), rel=1e-5)


def test_the_line_is_drawn_with_its_figures():
    picture = affine().pictures(data.load("peaks").test.images, np.random.default_rng(15))["optimum"]
    assert isinstance(picture, Lines)
    densities, discriminators, told = picture.panels.values()
    assert [len(line) for panel in picture.panels.values() for line in panel.values()] == [CELLS[1]] * 6
    width = picture.x[1] - picture.x[0]
    assert [float(line.sum() * width) for line in densities.values()] == pytest.approx([1, 1])
    name = list(picture.panels)[2]
    ours, best = (float(line.sum() * width) for line in told.values())
    assert name == f"V = {ours:.4f}, 2 JSD - ln 4 = {best:.4f}"
    assert len(discriminators) == 2


# ---- as a model ----


def test_images_are_interpolated_in_z():
    model = gan(dimensions=12, sigmoid=True, noise=3)
    picture = model.pictures(np.zeros((2, 12)), np.random.default_rng(16))["interpolations"]
    assert isinstance(picture, Images)
    assert picture.examples.shape == (8, 10, 12)
    z = model.draw_noise(16, np.random.default_rng(16))
    np.testing.assert_allclose(picture.examples[:, 0], model.G(z[:8]).numpy(), atol=1e-12)
    np.testing.assert_allclose(picture.examples[:, -1], model.G(z[8:]).numpy(), atol=1e-12)


def test_recipes_make_models_of_images_and_of_points():
    recipes = GAN.RECIPES
    digits = GAN.build(recipes["quick"], data.load("mnist5k").train, np.random.default_rng(0))
    assert digits.sample(2, np.random.default_rng(0)).shape == (2, 784)
    assert digits.density is None
    points = GAN.build(recipes["density"], data.load("peaks").train, np.random.default_rng(0))
    assert points.sample(2, np.random.default_rng(0)).shape == (2, 1)
    assert points.density is DENSITIES["peaks"]
    assert model_class("gan") is GAN
    paper = recipes["paper"].model
    assert (paper["noise"], paper["generator"], paper["discriminator"], paper["pieces"]) == (100, (1200, 1200), (240, 240), 5)


def test_the_command_line_tells_the_value_beside_its_optimum(tmp_path):
    for out in ("a", "b"):
        small = "--set generator=4 --set discriminator=4 --set batch_size=1000"
        assert main(f"train gan --recipe density --epochs 1 {small} --out {tmp_path / out}".split()) == 0
    results = [json.loads((tmp_path / out / "result.json").read_text()) for out in ("a", "b")]
    test = results[0]["test"]
    assert results[1]["test"] == test
    assert -LN4 - 1 < test["value"] < test["optimum"] < 0
    assert test["optimum"] == pytest.approx(2 * test["jsd"] - LN4)
    assert (tmp_path / "a" / "optimum.png").read_bytes()[1:4] == b"PNG"
    states = [tinygen.nn.load_arrays(tmp_path / out / "best.safetensors")[0] for out in ("a", "b")]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
