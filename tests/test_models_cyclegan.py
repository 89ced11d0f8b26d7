"""CycleGAN: what the cycle leaves open, the pool, the patches, domains that never pair, and an error measured on pairs."""

import dataclasses
import itertools
import math
import signal

import numpy as np
import pytest

import tinygen
from tinygen import nn
from tinygen.data import Dataset, Split
from tinygen.models import RecipeError
from tinygen.models.adversarial import squared_errors
from tinygen.models.convnets import to_examples, to_images
from tinygen.models.cyclegan import KEPT, PAIRS, CycleGAN, Pool, Translator, footprint, patch_discriminator, thick
from tinygen.training import Interrupted, Observer, Run, Training, configuration, restore
from tinygen.training.examples import batches, held_out

SHAPE = (8, 8, 1)
SMALL = {"channels": (2, 3), "blocks": 1, "patches": (2, 3)}
QUICK = CycleGAN.RECIPES["quick"]


def small(rng, **changes):
    """A CycleGAN for 8 x 8 images, in float64."""
    options = {**QUICK.model, **SMALL, **changes}
    return CycleGAN(SHAPE, **options, rng=rng, dtype=np.float64)


def split(n, seed=3):
    """Grey images of 8 x 8 pixels, of three classes."""
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (n, *SHAPE[:2]), np.uint8), rng.integers(0, 3, n))


def flat(images):
    return held_out(Split(images), "grey")


class Map(nn.Module):
    """A translator that is a plain function."""

    def __init__(self, function):
        self.function = function

    def forward(self, images):
        return self.function(images)


# ---- The losses ----


def test_an_inverse_pair_has_cycle_loss_zero():
    rng = np.random.default_rng(0)
    model = small(rng)
    x, y = rng.uniform(-1, 1, (2, 5, 1, 8, 8))
    quarter = lambda turns: Map(lambda images: -tinygen.Tensor(np.rot90(images._data, turns, (2, 3)).copy()))
    model.G, model.F = quarter(1), quarter(-1)
    x, y = tinygen.Tensor(x), tinygen.Tensor(y)
    assert model.cycle_loss(x, y, model.G(x), model.F(y)).item() == 0
    model.F = quarter(1)
    assert model.cycle_loss(x, y, model.G(x), model.F(y)).item() > 0.1


def test_on_n_points_the_cycle_alone_leaves_n_factorial_pairs():
    n = 3
    model = small(np.random.default_rng(0))
    x, y = np.linspace(-1, 1, n).reshape(n, 1, 1, 1), np.linspace(-0.9, 0.8, n).reshape(n, 1, 1, 1)

    def table(chosen, source, target):
        return Map(
            lambda images: target[np.array(chosen)[np.abs(images.reshape(-1, 1) - source.reshape(1, -1)).argmin(axis=1)]]
        )

    free = []
    for g, f in itertools.product(itertools.product(range(n), repeat=n), repeat=2):
        model.G, model.F = table(g, x, y), table(f, y, x)
        if model.cycle_loss(x, y, model.G(x), model.F(y)) == 0:
            free.append((g, f))
    assert len(free) == math.factorial(n)
    assert all(f[g[i]] == i for g, f in free for i in range(n))


def test_the_best_discriminator_of_least_squares_is_p_over_p_plus_q():
    p, q = np.array([4, 1, 3, 2]), np.array([1, 6, 3, 0])  # how often each of four images is among ten of either kind
    best = p / (p + q)

    def loss(table):
        return squared_errors(table[np.repeat(np.arange(4), p)], table[np.repeat(np.arange(4), q)])

    table = tinygen.Tensor(best, requires_grad=True)
    loss(table).backward()
    np.testing.assert_allclose(table.grad, 0, atol=1e-15)
    for i in range(4):
        assert loss(best + 0.01 * np.eye(4)[i]) > loss(best) < loss(best - 0.01 * np.eye(4)[i])


def test_the_translators_loss_is_the_sum_of_its_terms():
    rng = np.random.default_rng(1)
    model = small(rng, cycle=7.0, identity=0.25)
    for parameter in model.parameters():
        parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
    x, y = rng.uniform(-1, 1, (2, 1, 8, 8)), rng.uniform(-1, 1, (3, 1, 8, 8))  # the domains need not give equally many
    loss, Gx, Fy = model.translators_loss(x, y)
    call = lambda network, images: network(images).numpy()
    np.testing.assert_allclose(Gx.numpy(), call(model.G, x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(Fy.numpy(), call(model.F, y), rtol=1e-12, atol=1e-14)
    game = ((call(model.D_Y, Gx) - 1) ** 2).mean() + ((call(model.D_X, Fy) - 1) ** 2).mean()
    cycle = np.abs(call(model.F, Gx) - x).mean() + np.abs(call(model.G, Fy) - y).mean()
    identity = np.abs(call(model.G, y) - y).mean() + np.abs(call(model.F, x) - x).mean()
    assert loss.item() == pytest.approx(game + 7 * cycle + 7 * 0.25 * identity, rel=1e-12)

    loss, real, fake = model.discriminators_loss(x, y, Gx, Fy)
    verdicts = [call(model.D_X, x), call(model.D_Y, y), call(model.D_X, Fy), call(model.D_Y, Gx)]
    halved = [((v - 1) ** 2).mean() / 2 for v in verdicts[:2]] + [(v**2).mean() / 2 for v in verdicts[2:]]
    assert loss.item() == pytest.approx(sum(halved), rel=1e-12)
    assert real.item() == pytest.approx((verdicts[0].mean() + verdicts[1].mean()) / 2)
    assert fake.item() == pytest.approx((verdicts[2].mean() + verdicts[3].mean()) / 2)


def test_a_step_moves_each_player_by_its_own_loss_alone():
    model = small(np.random.default_rng(0))
    recipe = dataclasses.replace(QUICK, model={**QUICK.model, **SMALL})
    optimizers, moved = model.optimizers(recipe), {}
    assert optimizers["translators"].lr == 2e-4
    minimize = optimizers.minimize

    def watched(loss, name):
        before = model.state_dict()
        norm = minimize(loss, name)
        moved[name] = {key.split(".")[0] for key, value in model.state_dict().items() if (value != before[key]).any()}
        return norm

    optimizers.minimize = watched
    images = split(16)
    figures = model.train_step(flat(images.images).astype(np.float64), optimizers, np.random.default_rng(1), images.labels)
    assert moved == {"translators": {"G", "F"}, "discriminators": {"D_X", "D_Y"}}
    assert set(figures) == {"g_loss", "d_loss", "d_real", "d_fake", "g_norm", "d_norm"}


# ---- The pool ----


def test_the_pool_lets_the_first_pass_and_then_swaps_half():
    pool, rng = Pool(50, (1, 1, 1)), np.random.default_rng(0)
    numbered = lambda start, stop: np.arange(start, stop, dtype=np.float32).reshape(-1, 1, 1, 1)
    first = numbered(0, 30), numbered(30, 50)
    for fakes in first:
        np.testing.assert_array_equal(pool.exchange(fakes, rng), fakes)
    np.testing.assert_array_equal(pool.images, numbered(0, 50))

    n, start = 4000, 50
    given, before = numbered(start, start + n), pool.images.copy()
    shown = np.concatenate([pool.exchange(given[i : i + 8], rng) for i in range(0, n, 8)])
    np.testing.assert_array_equal(given, numbered(start, start + n))  # the fakes themselves are left alone
    swapped = (shown != given).ravel()
    assert abs(swapped.sum() - n / 2) < 5 * math.sqrt(n / 4)
    assert (shown[swapped] < given[swapped]).all()  # always an earlier one
    kept_or_shown = np.concatenate([shown, pool.images]).ravel()
    np.testing.assert_array_equal(np.sort(kept_or_shown), np.sort(np.concatenate([given, before]).ravel()))


def test_an_empty_pool_shows_what_it_is_given():
    fakes = np.random.default_rng(0).random((5, 1, 2, 2))
    np.testing.assert_array_equal(Pool(0, (2, 2, 1)).exchange(fakes, np.random.default_rng(0)), fakes)


# ---- The networks ----


@pytest.mark.parametrize(("channels", "side"), [((2, 3), 16), ((2, 2, 3), 34), ((2, 2, 2, 3), 70)])
def test_a_verdict_sees_exactly_its_patch(channels, side):
    assert footprint(len(channels)) == side
    rng, size = np.random.default_rng(0), side + 2 ** (len(channels) + 1)
    whole = patch_discriminator(1, channels, rng=rng, dtype=np.float64)
    D = nn.Sequential(*(layer for layer in whole if not isinstance(layer, nn.InstanceNorm2d)))  # whose means see everything
    x = tinygen.Tensor(rng.standard_normal((1, 1, size, size)), requires_grad=True)
    verdicts = D(x)
    at, stride = (verdicts.shape[2] // 2, verdicts.shape[3] // 2 - 1), 2 ** (len(channels) - 1)
    verdicts[0, 0, *at].backward()
    padding = (stride - 1) + 2 * stride  # of all layers, each in pixels of the image
    first = [place * stride - padding for place in at]
    expected = np.zeros((size, size), bool)
    expected[first[0] : first[0] + side, first[1] : first[1] + side] = True
    assert expected.sum() == side * side
    np.testing.assert_array_equal(x.grad[0, 0] != 0, expected)


def test_a_translator_keeps_the_shape_and_its_paper_s_layers():
    rng = np.random.default_rng(0)
    network = Translator(3, (4, 5, 6), 2, rng=rng)
    images = rng.uniform(-1, 1, (2, 3, 12, 8)).astype(np.float32)
    translated = network(images)
    assert translated.shape == images.shape
    assert translated.dtype == np.float32
    assert (np.abs(translated.numpy()) < 1).all()
    kinds = [type(layer).__name__ for layer in network]
    assert kinds.count("Residual") == 2
    assert kinds.count("ConvTranspose2d") == 2
    assert kinds.count("Conv2d") == 4
    with pytest.raises(ValueError, match="cannot be halved"):
        CycleGAN((10, 9, 1), **{**QUICK.model, **SMALL}, rng=rng)


# ---- The domains ----


@pytest.mark.parametrize("pair", [pair for pair, truth in PAIRS.items() if truth])
def test_no_digit_is_ever_in_both_domains(pair):
    train, model = split(200), small(np.random.default_rng(0), pair=pair)
    even = flat(train.images).reshape(200, -1)
    even = np.rint(255 * even).astype(int).sum(axis=1) % 2 == 0
    assert 60 < even.sum() < 140
    everything = to_images(flat(train.images), SHAPE)
    allowed = {image.tobytes() for image in everything[even]}, {image.tobytes() for image in PAIRS[pair](everything[~even])}
    recipe = dataclasses.replace(QUICK, batch_size=20)
    for epoch in (1, 2, 3):
        seen = [set(), set()]
        for x, labels in batches(train, recipe, seed=0, epoch=epoch):
            for place, images in zip(seen, model.domains(x, labels)):
                place |= {image.tobytes() for image in images}
        assert tuple(seen) == allowed


def test_the_domains_of_two_digits_are_their_classes():
    train, model = split(50), small(np.random.default_rng(0), pair="digits", digits=(2, 0))
    x, y = model.domains(flat(train.images), train.labels)
    for domain, digit in ((x, 2), (y, 0)):
        np.testing.assert_array_equal(domain, to_images(flat(train.images[train.labels == digit]), SHAPE))


def test_the_true_maps_by_hand():
    image = np.full((1, 1, 4, 5), -1.0)
    image[0, 0, 1, 1], image[0, 0, 3, 4] = 1, 0.5
    wide = np.array([[1, 1, 1, -1, -1], [1, 1, 1, -1, -1], [1, 1, 1, 0.5, 0.5], [-1, -1, -1, 0.5, 0.5]])
    np.testing.assert_array_equal(thick(image)[0, 0], wide)
    edge = wide.copy()
    edge[1, 1], edge[3, 4] = -1, -1
    np.testing.assert_array_equal(PAIRS["outline"](image)[0, 0], edge)
    np.testing.assert_array_equal(PAIRS["negative"](image), -image)


def test_settings_that_cannot_be():
    recipe = dataclasses.replace(QUICK, model={**QUICK.model, **SMALL})
    rng = np.random.default_rng(0)
    with pytest.raises(RecipeError, match="binarization is 'dynamic' and must be 'grey'"):
        CycleGAN.build(dataclasses.replace(recipe, binarization="dynamic"), split(20), rng)
    with pytest.raises(RecipeError, match="did you mean 'thick'"):
        small(rng, pair="thik")
    with pytest.raises(RecipeError, match="domain of the pair 'digits' has no training digits"):
        CycleGAN.build(dataclasses.replace(recipe, model={**recipe.model, "pair": "digits", "digits": (1, 7)}), split(20), rng)


# ---- Figures, samples, pictures ----


def exact(pair="negative"):
    """A model whose translators are the negative itself."""
    model = small(np.random.default_rng(0), pair=pair)
    model.G = model.F = Map(lambda images: -tinygen.Tensor(images))
    return model


def test_the_error_is_that_against_the_true_translation():
    held = split(40, seed=8)
    x = flat(held.images)
    figures = exact().evaluate(x, np.random.default_rng(0), held.labels)
    assert [figures[name] for name in ("error_g", "error_f", "cycle_x", "cycle_y")] == [0, 0, 0, 0]
    assert figures["identity"] == pytest.approx(np.abs(1 - 2 * x).mean(), rel=1e-6)
    assert figures["blank_f"] == pytest.approx(np.abs(x - np.median(x, axis=0)).mean(), rel=1e-6)
    assert figures["blank_g"] == pytest.approx(figures["blank_f"], rel=1e-6)
    assert 0.2 < figures["untrained_g"] < 0.8
    assert 0.2 < figures["untrained_f"] < 0.8

    figures = exact("thick").evaluate(x, np.random.default_rng(0), held.labels)
    wide = to_examples(thick(to_images(x, SHAPE)))
    assert figures["error_g"] == pytest.approx(np.abs(1 - x - wide).mean(), rel=1e-6)
    assert figures["error_f"] == pytest.approx(np.abs(1 - wide - x).mean(), rel=1e-6)
    assert figures["identity"] == pytest.approx(np.abs(wide - x).mean(), rel=1e-6)


def test_two_classes_are_read_by_the_digit_classifier():
    held = tinygen.data.load("mnist5k").test
    recipe = dataclasses.replace(QUICK, model={**QUICK.model, **SMALL, "pair": "digits", "digits": (3, 8)})
    model = CycleGAN.build(recipe, Split(held.images[:0], held.labels[:0]), np.random.default_rng(0))
    model.G = model.F = Map(lambda images: tinygen.Tensor(images))
    chosen = np.isin(held.labels, (3, 8))
    figures = model.evaluate(flat(held.images[chosen]), np.random.default_rng(0), held.labels[chosen])
    assert set(figures) == {"read_g", "read_f", "cycle_x", "cycle_y"}
    assert max(figures.values()) < 0.1  # an 8 that is left as it is is hardly ever read as a 3
    model.digits = (3, 3)
    assert model.evaluate(flat(held.images[chosen]), np.random.default_rng(0), held.labels[chosen])["read_g"] > 0.9


def test_samples_are_translations_of_training_images_that_the_model_keeps():
    recipe = dataclasses.replace(QUICK, model={**QUICK.model, **SMALL})
    train = split(300)
    model = CycleGAN.build(recipe, train, np.random.default_rng(0))
    x, y = model.domains(flat(train.images), train.labels)
    np.testing.assert_array_equal(model.kept_x, x[:KEPT])
    np.testing.assert_array_equal(model.kept_y, y[:KEPT])
    model.G = model.F = Map(lambda images: -tinygen.Tensor(images))
    samples = model.sample(7, np.random.default_rng(0))
    assert samples.shape == (7, 64)
    assert samples.dtype == np.float32
    rows = lambda images: {row.tobytes() for row in to_examples(-images)}
    assert {row.tobytes() for row in samples[:4]} <= rows(model.kept_x)
    assert {row.tobytes() for row in samples[4:]} <= rows(model.kept_y)
    for n in (2 * KEPT, 6 * KEPT):  # each of them equally often
        assert len({row.tobytes() for row in model.sample(n, np.random.default_rng(0))}) == 2 * KEPT


def test_the_picture_shows_each_domain_there_and_back():
    held = split(60, seed=9)
    table = exact().pictures(flat(held.images), np.random.default_rng(0), held.labels)["translations"].examples
    assert table.shape == (6, 12, 64)
    np.testing.assert_allclose(table[1], 1 - table[0], atol=1e-6)
    np.testing.assert_allclose(table[[2, 5]], table[[0, 3]], atol=1e-6)
    np.testing.assert_allclose(table[4], 1 - table[3], atol=1e-6)


# ---- Training ----


def new_run(out, **changes):
    recipe = dataclasses.replace(QUICK, epochs=2, batch_size=4, model={**QUICK.model, **SMALL, "pool": 6, **changes})
    described = {"model": "cyclegan", "recipe_name": "quick", "recipe": recipe, "changes": [], "seed": 1, "device": "cpu"}
    return Run.create(configuration(**described, data={"shape": SHAPE[:2], "folder": None}), out)


def test_a_continued_run_has_the_same_bits_pool_included(tmp_path):
    digits = Dataset("mnist5k", split(40), split(8, seed=4), split(8, seed=5))
    straight, stopped = new_run(tmp_path / "straight"), new_run(tmp_path / "stopped")
    Training(straight, digits).go()

    class Stop(Observer):
        def step(self, progress, figures):
            if progress.step == 7:
                raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        Training(stopped, digits, Stop()).go()
    assert Training(stopped, digits).model.pool_X.filled == 6
    Training(stopped, digits).go()
    ends = [restore(run) for run in (straight, stopped)]
    states = [model.state_dict() for model in ends]
    assert {"pool_X.images", "pool_Y.images", "pool_X.filled", "kept_x", "kept_y"} <= set(states[0])
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


def test_training_lowers_the_error_of_pairs_that_it_never_saw():
    def shrunk(part):  # 8 x 8 blocks of 3 x 3 pixels
        blocks = part.images[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4))
        return Split(blocks.astype(np.uint8), part.labels)

    digits = tinygen.data.load("mnist5k")
    recipe = dataclasses.replace(QUICK, lr=2e-3, batch_size=16, model={**QUICK.model, **SMALL, "channels": (4, 8)})
    model = CycleGAN.build(recipe, shrunk(digits.train), np.random.default_rng(0))
    optimizers, rng = model.optimizers(recipe), np.random.default_rng(1)
    for x, labels in itertools.islice(batches(shrunk(digits.train), recipe, 0, 1), 200):
        model.train_step(x, optimizers, rng, labels)
    held = shrunk(digits.test)
    figures = model.evaluate(flat(held.images), rng, held.labels)
    for direction in "gf":
        assert figures[f"error_{direction}"] < 0.5 * figures[f"untrained_{direction}"]
        assert figures[f"error_{direction}"] < 0.25 * figures["identity"]
