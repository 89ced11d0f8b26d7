"""Text2Image: the matching-aware game, interpolation, the text encoder, and captions that are answered."""

import dataclasses

import numpy as np
import pytest
import toy

import tinygen as tg
from tinygen import data, nn
from tinygen.cli import main
from tinygen.data import captions
from tinygen.data.captions import CaptionError
from tinygen.models.adversarial import frozen
from tinygen.models.base import Optimizers
from tinygen.models.text2image import Text2Image, TextEncoder
from tinygen.nn.serialize import save_arrays
from tinygen.training import Run, configuration

MODEL = {"latent": 3, "channels": (2, 3), "embedding": 4, "hidden": 5, "width": 3, "interpolation": True}
SMALL = dataclasses.replace(Text2Image.RECIPES["quick"], model=MODEL)


def small(interpolation=True):
    recipe = dataclasses.replace(SMALL, model={**MODEL, "interpolation": interpolation})
    return Text2Image.build(recipe, data.load("mnist5k").train, np.random.default_rng(0)), recipe


def examples(n, split="train"):
    part = getattr(data.load("mnist5k"), split)
    return (part.images[:n] / np.float32(255)).reshape(n, -1), part.labels[:n]


# ---- The game ----


class Table:
    """A D that knows images and texts by their numbers: one logit for each pair."""

    def __init__(self, images, texts):
        self.logits = nn.Parameter(np.zeros((images, texts)))

    def look(self, x):
        return x

    def __call__(self, maps, t):
        return self.logits[maps, t]


def test_the_best_discriminator_is_p_over_p_plus_half_of_the_wrong_and_the_fake():
    rng = np.random.default_rng(0)
    model, _ = small()
    model.D = table = Table(3, 2)
    n = 300
    x, t = rng.integers(0, 3, n), rng.integers(0, 2, n)
    wrong, fake = rng.choice(2, n, p=[0.8, 0.2]), rng.choice(3, n, p=[0.6, 0.3, 0.1])
    for _ in range(500):
        loss, _ = model.discriminator_loss(x, fake, t, wrong)
        table.logits.grad = None
        loss.backward()
        table.logits.data[...] -= 5 * table.logits.grad

    def law(images, texts):
        return np.bincount(2 * images + texts, minlength=6).reshape(3, 2) / n

    p, p_wrong, p_g = law(x, t), law(x, wrong), law(fake, t)
    best = p / (p + (p_wrong + p_g) / 2)
    np.testing.assert_allclose(tg.sigmoid(table.logits.numpy()), best, atol=1e-7)
    lowest = -(p * np.log(best)).sum() - ((p_wrong + p_g) / 2 * np.log(1 - best)).sum()
    assert loss.item() == pytest.approx(lowest, abs=1e-10)


def plain_step(model, x, labels, optimizers, rng):
    """GAN-CLS, algorithm 1 of the paper, written out."""
    t, wrong = model.describe(x, labels, rng)
    z = model.noise(len(x), rng)
    fake = model.G(z, t.detach())
    maps = model.D.look(x)
    s_r, s_w, s_f = model.D(maps, t), model.D(maps, wrong), model.D(model.D.look(fake.detach()), t)
    d_loss = tg.softplus(-s_r).mean() + (tg.softplus(s_w).mean() + tg.softplus(s_f).mean()) / 2
    optimizers.minimize(d_loss, "discriminator")
    with frozen(model.D):
        g_loss = tg.softplus(-model.D(model.D.look(fake), t.detach())).mean()
        optimizers.minimize(g_loss, "generator")
    return d_loss.item(), g_loss.item()


def test_without_interpolation_it_is_plain_cls_and_with_it_only_the_generator_moves_otherwise():
    (x, labels), rngs = examples(8), [np.random.default_rng(5) for _ in range(3)]
    (plain, recipe), (without, _), (mixed, _) = small(False), small(False), small(True)
    optimizers = [model.optimizers(recipe) for model in (plain, without, mixed)]
    for step in range(2):
        d_loss, g_loss = plain_step(plain, x, labels, optimizers[0], rngs[0])
        found = without.train_step(x, optimizers[1], rngs[1], labels)
        assert (found["d_loss"], found["g_loss"]) == pytest.approx((d_loss, g_loss), rel=1e-5)
        if step == 0:
            also = mixed.train_step(x, optimizers[2], rngs[2], labels)
            assert also["d_loss"] == found["d_loss"]
            assert also["g_loss"] > found["g_loss"] + 0.1
    for name, expected in plain.state_dict().items():
        np.testing.assert_allclose(without.state_dict()[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def test_interpolation_asks_for_the_mean_of_two_captions():
    model, _ = small()
    rng = np.random.default_rng(0)
    z, t = model.noise(3, rng), rng.standard_normal((3, 5)).astype(np.float32)
    asked = []
    draw = model.G.forward
    model.G.forward = lambda z, t: asked.append(t) or draw(z, t)
    model.generator_loss(model.G(z, t), z, t)
    np.testing.assert_array_equal(asked[0], t)
    np.testing.assert_allclose(asked[1], [(t[0] + t[2]) / 2, (t[1] + t[0]) / 2, (t[2] + t[1]) / 2], rtol=1e-6)


class Watched(Optimizers):
    """Optimizers that note what each update changed and where gradients lay."""

    def minimize(self, loss, name="model"):
        before = self.model.state_dict()
        norm = super().minimize(loss, name)
        after = self.model.state_dict()
        parameters = dict(self.model.named_parameters())
        changed = {key for key in parameters if (before[key] != after[key]).any()}
        self.seen.append((name, changed, {key for key, value in parameters.items() if value.grad is not None}))
        if name == "discriminator":
            self.model.zero_grad()
        return norm


def test_each_player_moves_alone_and_the_text_encoder_with_the_discriminator():
    model, recipe = small()
    optimizers = Watched(model.optimizers(recipe))
    optimizers.model, optimizers.seen = model, []
    x, labels = examples(8)
    figures = model.train_step(x, optimizers, np.random.default_rng(0), labels)
    (first, d_changed, d_graded), (second, g_changed, g_graded) = optimizers.seen
    assert (first, second) == ("discriminator", "generator")
    D, G = ({name for name, _ in model.named_parameters() if name.startswith(part)} for part in ("D.", "G."))
    assert d_graded == D
    assert g_graded == G
    assert d_changed <= D
    assert g_changed <= G
    assert {name for name in D if "encoder" in name} == {name for name in d_changed if "encoder" in name}
    assert set(figures) == {"d_loss", "g_loss", "d_real", "d_wrong", "d_fake", "d_norm", "g_norm"}
    assert all(np.isfinite(value) for value in figures.values())


# ---- Texts ----


def test_the_encoder_gives_the_state_after_the_last_word():
    encoder = TextEncoder(9, 4, 5, rng=np.random.default_rng(0), dtype=np.float64)
    cell = nn.LSTMCell(4, 5, rng=np.random.default_rng(0), dtype=np.float64)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in encoder.lstm.state_dict().items()})
    tokens = np.array([[3, 1, 0, 0], [8, 2, 4, 5], [6, 0, 0, 0]])
    found = encoder(tokens).numpy()
    for row, expected in zip(tokens, found, strict=True):
        state = None
        for token in row[row > 0]:
            state = cell(encoder.embedding(np.array([token])), state)
        np.testing.assert_allclose(expected, state[0].numpy()[0], rtol=1e-12)
    np.testing.assert_allclose(encoder(tokens[[0]][:, :2]).numpy()[0], found[0], rtol=1e-12)


def test_right_captions_say_what_is_measured_and_wrong_ones_do_not():
    model, _ = small()
    x, labels = examples(200)
    said = []
    model.encode = lambda texts: said.append(texts) or np.zeros((len(texts), 5))
    model.describe(x, labels, np.random.default_rng(0))
    right, wrong = (np.stack([captions.understand(text) for text in part]) for part in (said[0][:200], said[0][200:]))
    facts = model.facts(x, labels)
    np.testing.assert_array_equal(right[:, 0], labels)
    stated = right != 0
    np.testing.assert_array_equal(right[stated], facts[stated])
    np.testing.assert_array_equal((right != wrong).sum(axis=1), 1)


def test_thresholds_are_the_training_sets_and_go_with_the_weights():
    model, recipe = small()
    x, labels = examples(4000)
    np.testing.assert_allclose(model.thresholds, captions.quantiles(captions.measure(x, (28, 28)), labels))
    nothing = data.Split(np.empty((0, 28, 28), np.uint8), np.empty(0, np.int64))
    again = Text2Image.build(recipe, nothing, np.random.default_rng(1))
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(again.thresholds, model.thresholds)
    texts = ["a thick seven slanted left", "two"]
    model.eval(), again.eval()
    drawn = [each.illustrate(texts, np.random.default_rng(3)) for each in (model, again, again)]
    assert drawn[0].shape == (2, 784)
    assert drawn[0].dtype == np.float32
    assert drawn[0].min() >= 0
    assert drawn[0].max() <= 1
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[1], drawn[2])
    with pytest.raises(CaptionError, match="unknown word, 'fat'"):
        model.illustrate(["a fat seven"], np.random.default_rng(0))


def test_agreement_is_whole_for_the_images_that_were_described_and_a_third_by_chance():
    model, _ = small()
    x, labels = examples(500, "test")
    # A model that shows the very images that the captions came from, then one that shows another of the same digit.
    place = np.argsort(labels, kind="stable")
    other = np.empty_like(x)
    other[place] = x[place.reshape(10, -1)[:, np.roll(np.arange(50), 1)].ravel()]
    shown = iter([x, other])
    model.illustrate = lambda texts, rng: next(shown)
    right, chance = (model.evaluate(x, np.random.default_rng(0), labels) for _ in range(2))
    assert right == {"digit": pytest.approx(1, abs=0.03), "thickness": 1, "slant": 1, "size": 1}
    for quality in captions.QUALITIES:
        assert chance[quality] == pytest.approx(1 / 3, abs=0.12)


def test_samples_are_of_all_digits_and_pictures_have_a_row_for_each_caption():
    model, _ = small()
    asked = []
    encode = model.encode
    model.encode = lambda texts: asked.append(texts) or encode(texts)
    with model.evaluating():
        assert model.sample(200, np.random.default_rng(0)).shape == (200, 784)
    assert {captions.understand(text)[0] for text in asked[0]} == set(range(10))
    pictures = model.pictures(*[examples(2)[0], np.random.default_rng(0)], labels=examples(2)[1])
    assert {name: picture.examples.shape for name, picture in pictures.items()} == {
        "captions": (10, 10, 784),
        "words": (6, 10, 784),
        "interpolation": (5, 10, 784),
    }
    ends = pictures["interpolation"].examples
    assert np.abs(ends[:, 0] - ends[:, -1]).max(axis=1).min() > 0


# ---- The command line ----


@pytest.fixture
def run(tmp_path):
    model, recipe = small()
    about = {"model": "text2image", "recipe_name": "quick", "changes": [], "seed": 0, "device": "cpu"}
    made = Run.create(configuration(**about, recipe=recipe, data={"shape": (28, 28), "folder": None}), tmp_path / "run")
    save_arrays(made.best_file, model.state_dict())
    return made


def test_a_text_is_drawn_and_named_beside_its_row(run, capsys):
    texts = ["a thick seven slanted left", "a small two"]
    line = ["sample", str(run.path), "-n", "3", *(part for text in texts for part in ("--text", text))]
    assert main(line) == 0
    picture = run.path / "texts-0.png"
    assert capsys.readouterr().out == f"row 1: {texts[0]}\nrow 2: {texts[1]}\n{picture}\n"
    first = picture.read_bytes()
    assert main(line) == 0
    assert picture.read_bytes() == first
    assert main([*line, "--seed", "1", "--out", str(picture)]) == 0
    assert picture.read_bytes() != first


def test_a_text_that_cannot_be_drawn_costs_one_line(run, capsys, tmp_path, monkeypatch):
    assert main(["sample", str(run.path), "--text", "a fat seven"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("tinygen: the caption 'a fat seven' has an unknown word, 'fat': valid: a, digit, eight,")
    assert error.count("\n") == 1
    toy.register(monkeypatch)
    about = {"model": "toy", "recipe_name": "quick", "changes": [], "seed": 0, "device": "cpu"}
    recipe = toy.Toy.RECIPES["quick"]
    other = Run.create(configuration(**about, recipe=recipe, data={"shape": (28, 28), "folder": None}), tmp_path / "toy")
    save_arrays(other.best_file, toy.Toy(784).state_dict())
    assert main(["sample", str(other.path), "--text", "a seven"]) == 1
    assert capsys.readouterr().err == f"tinygen: {other.path} cannot be given a text: Toy draws nothing from a text\n"
