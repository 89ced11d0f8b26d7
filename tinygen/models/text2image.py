"""Text to image: an adversarial generator that draws what a caption says (Reed et al., ICML 2016: GAN-CLS, GAN-INT).

The captions are of digits, "a thick seven slanted left"; `tinygen.data.captions` makes them of the images' own measures.

    t = phi(caption)                 the state of an LSTM after the caption's last word
    G(z, t)                          z and a projection of t, through transposed convolutions
    D(x, t)                          strided convolutions of x; on their smallest maps a projection of t joins every place

GAN-CLS. A D that only tells real from fake need not read the text. Here it sees three kinds of pairs, so that it must:

    D goes down   -E ln D(x, t) - 1/2 E ln (1 - D(x, t')) - 1/2 E ln (1 - D(G(z, t), t))      t': a wrong text of x
    G goes down   -E ln D(G(z, t), t)

which is the mean of two games with the same real pairs. The best D is p / (p + (p_wrong + p_g) / 2), of densities of pairs.
A wrong text differs from the right one in a single thing, the digit or one quality: if it were just that of another image, the
digit would nearly always give it away, and D would never have to look at the rest.

GAN-INT. G is also to draw (t_a + t_b) / 2, of the captions of two examples: points between the captions that there are, for
which no real image exists but about which D has a say all the same. This adds -E ln D(G(z, t_ab), t_ab) to what G goes down.

phi is trained from nothing as a part of D, as only D sees which texts fit which images; to G the embeddings are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinygen import Tensor, broadcast_to, concatenate, nn
from tinygen.backend import Array, module_of, to_device
from tinygen.data import captions
from tinygen.evaluation import digit_classifier
from tinygen.models.adversarial import Adversarial, frozen
from tinygen.models.base import Optimizers
from tinygen.models.convnets import SLOPE, Generator, Shape, halving, image_shape, to_examples, to_images, units, weights
from tinygen.models.pictures import Images, Picture, between
from tinygen.models.recipe import Recipe

if TYPE_CHECKING:
    from tinygen.data import Split

MEASURED = 1000  # images at once
COLUMNS = 10
# The rows of the pictures.
CAPTIONS = (
    "a thin zero slanted right",
    "a thick one slanted left",
    "a large two",
    "a small thick three",
    "a thin four leaning left",
    "a slanted right small five",
    "a large thin six",
    "a thick seven slanted left",
    "the digit eight leaning right thick",
    "nine small thin",
)
SAID = ("a thin {}", "a thick {}", "a {} slanted left", "a {} slanted right", "a small {}", "a large {}")
BETWEEN = (
    ("a thin zero", "a thick zero"),
    ("a seven slanted left", "a seven slanted right"),
    ("a small two", "a large two"),
    ("a three", "a five"),
    ("a thick four", "a thin nine"),
)


class TextEncoder(nn.Module):
    """phi: tokens (n, T), 0 after a caption's last word -> embeddings (n, hidden), whatever the number of zeros."""

    def __init__(self, words: int, embedding: int, hidden: int, *, rng: np.random.Generator, dtype: Any = np.float32):
        self.embedding = nn.Embedding(words, embedding, rng=rng, dtype=dtype)
        self.lstm = nn.LSTM(embedding, hidden, rng=rng, dtype=dtype)
        self.lstm.bias_ih_l0.data[hidden : 2 * hidden] += 1  # forget gates start open: the digit may come early in a caption

    def forward(self, tokens: Array) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens.T))
        last = (tokens != 0).sum(axis=1) - 1
        return states[last, module_of(tokens).arange(len(tokens))]


def projection(hidden: int, width: int, *, rng: np.random.Generator, dtype: Any) -> nn.Sequential:
    """What a player makes of an embedding (n, hidden): (n, width).

    Its weights start large, as phi starts small, at about 0.1: beside maps of size 1 the text would go unnoticed for long.
    """
    return nn.Sequential(
        nn.Dense(hidden, width, init=partial(nn.init.normal, std=1.0), rng=rng, dtype=dtype), nn.LeakyReLU(SLOPE)
    )


class TextGenerator(nn.Module):
    """G: z (n, latent) and t (n, hidden) -> examples (n, dimensions)."""

    def __init__(self, latent: int, hidden: int, width: int, shape: Shape, channels: Sequence[int], **options: Any):
        self.project = projection(hidden, width, **options)
        self.draw = Generator(latent + width, shape, channels[::-1], **options)

    def forward(self, z: Array, t: Array) -> Tensor:
        return to_examples(self.draw(concatenate([z, self.project(t)], axis=1)))


class TextDiscriminator(nn.Module):
    """D, and phi with it. `look` gives the maps of examples, which can be judged with several texts."""

    def __init__(self, encoder: TextEncoder, hidden: int, width: int, shape: Shape, channels: Sequence[int], **options: Any):
        self.shape, self.encoder = shape, encoder
        self.halve = halving(shape[2], channels, **options)
        self.project = projection(hidden, width, **options)
        self.join = nn.Sequential(
            nn.Conv2d(channels[-1] + width, channels[-1], 1, **options),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Dense(units(shape, channels), 1, init=weights, **options),
        )

    def look(self, x: Array | Tensor) -> Tensor:
        """The smallest maps of examples x (n, dimensions)."""
        return self.halve(to_images(x, self.shape))

    def forward(self, maps: Tensor, t: Array | Tensor) -> Tensor:
        """Logits (n, 1) that the examples of these maps are real and fit the embeddings t (n, hidden)."""
        t = self.project(t)
        everywhere = broadcast_to(t.reshape((*t.shape, 1, 1)), (*t.shape, *maps.shape[2:]))
        return self.join(concatenate([maps, everywhere], axis=1))


class Text2Image(Adversarial):
    """GAN-CLS, and with `interpolation` GAN-INT-CLS, for images of digits.

    Args:
        shape: (H, W, C), whose sides divide by 2^len(channels).
        latent: numbers in z.
        channels: of the maps, from the largest maps to the smallest; G has them the other way round.
        embedding: of a word; hidden: of a caption, the LSTM's units; width: what G and D each project that to.
        interpolation: whether G is also to draw what lies between two captions.
        rng: draws the starting weights.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(
            data="mnist5k",
            binarization="grey",
            epochs=45,
            batch_size=32,
            lr=5e-4,
            schedule="cosine",
            valid_every=5,
            optimizer_options={"betas": (0.5, 0.999)},
            model={"latent": 50, "channels": (32, 64), "embedding": 32, "hidden": 64, "width": 32, "interpolation": True},
        ),
        "paper": Recipe(
            data="mnist",
            binarization="grey",
            epochs=50,
            batch_size=64,
            lr=2e-4,
            optimizer_options={"betas": (0.5, 0.999)},
            model={"latent": 100, "channels": (64, 128), "embedding": 64, "hidden": 128, "width": 128, "interpolation": True},
        ),
    }
    uses_labels: ClassVar[bool] = True

    def __init__(
        self,
        shape: Shape,
        latent: int,
        channels: Sequence[int],
        embedding: int,
        hidden: int,
        width: int,
        rng: np.random.Generator,
        interpolation: bool = True,
        dtype: type = np.float32,
    ):
        options = {"rng": rng, "dtype": dtype}
        self.shape, self.latent, self.interpolation = shape, latent, interpolation
        self.G = TextGenerator(latent, hidden, width, shape, channels, **options)
        encoder = TextEncoder(len(captions.WORDS), embedding, hidden, **options)
        self.D = TextDiscriminator(encoder, hidden, width, shape, channels, **options)
        # captions.quantiles of the training set: where thin ends and thick begins, for each digit.
        self.register_buffer("thresholds", np.zeros((len(captions.DIGITS), len(captions.QUALITIES), 2), np.float32))

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        shape = image_shape(train)
        model = cls(shape, rng=rng, **recipe.model)
        if len(train):
            parts = (train.images[i : i + MEASURED] / np.float32(255) for i in range(0, len(train), MEASURED))
            measures = np.concatenate([captions.measure(part, shape) for part in parts])
            model.thresholds[...] = captions.quantiles(measures, train.labels)
        return model

    def noise(self, n: int, rng: np.random.Generator) -> Array:
        """z ~ N(0, 1), (n, latent)."""
        return self.own(rng.standard_normal((n, self.latent)))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """phi of captions, (n, hidden). Raises captions.CaptionError for what is no caption."""
        return self.D.encoder(to_device(captions.to_tokens(texts), self.device))

    def facts(self, x: Array, digits: np.ndarray) -> np.ndarray:
        """All that can be said of examples x (n, dimensions) of these digits (n,): captions.facts_of, (n, 4), on the CPU."""
        measures = to_device(captions.measure(x, self.shape), "cpu")
        return captions.facts_of(measures, to_device(digits, "cpu"), to_device(self.thresholds, "cpu"))

    def describe(self, x: Array, labels: Array, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Embeddings t and t' (n, hidden) of a right and of a wrong caption for each example."""
        right = captions.omit(self.facts(x, labels), rng)
        wrong = captions.contradict(right, rng)
        t = self.encode(captions.say(right, rng) + captions.say(wrong, rng))
        return t[: len(x)], t[len(x) :]

    def discriminator_loss(
        self, x: Array, fake: Array, t: Tensor, wrong: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """What D goes down, and the logits of (x, t), (x, wrong) and (fake, t)."""
        maps = self.D.look(x)
        logits = real, mistaken, drawn = self.D(maps, t), self.D(maps, wrong), self.D(self.D.look(fake), t)
        return (self.game.discriminator(real, mistaken) + self.game.discriminator(real, drawn)) / 2, logits

    def generator_loss(self, fake: Tensor, z: Array, t: Array) -> Tensor:
        """What G goes down, given fake = G(z, t). Each example's caption is paired with that of the one before it."""
        loss = self.game.generator(self.D(self.D.look(fake), t))
        if self.interpolation:
            middle = (t + module_of(t).roll(t, 1, axis=0)) / 2
            loss = loss + self.game.generator(self.D(self.D.look(self.G(z, middle)), middle))
        return loss

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator, labels: Array) -> dict[str, float]:
        """One move of D, one of G. d_wrong: mean D(x, t') of wrong texts; the other figures as in `Adversarial`."""
        t, wrong = self.describe(x, labels, rng)
        z = self.noise(len(x), rng)
        fake = self.G(z, t._data)
        d_loss, logits = self.discriminator_loss(x, fake._data, t, wrong)
        d_norm = optimizers.minimize(d_loss, "discriminator")
        with frozen(self.D):
            g_loss = self.generator_loss(fake, z, t._data)
            g_norm = optimizers.minimize(g_loss, "generator")
        names = ("d_real", "d_wrong", "d_fake")
        judged = {name: float(self.game.output(logit._data).mean()) for name, logit in zip(names, logits, strict=True)}
        return {"d_loss": d_loss.item(), "g_loss": g_loss.item(), **judged, "d_norm": d_norm, "g_norm": g_norm}

    def evaluate(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, float]:
        """How far what is drawn agrees with captions, those of the held-out examples x (n, dimensions), a sample for each.

        "digit": the share of the samples that the digit classifier reads as the digit that was asked for (only for images
        that it can read). "thickness", "slant", "size": of the samples whose caption states the quality, the share that
        measures so; by chance, as real images of the digit whatever the caption, a third would, and for the size a quarter.
        """
        said = captions.omit(self.facts(to_device(x, self.device), labels), rng)
        with self.evaluating():
            texts = captions.say(said, rng)
            parts = (texts[i : i + MEASURED] for i in range(0, len(texts), MEASURED))
            samples = module_of(self.thresholds).concatenate([self.illustrate(part, rng) for part in parts])
        figures = {}
        if self.shape == (28, 28, 1):
            figures["digit"] = float((digit_classifier(self.device).read(samples)[1] == said[:, 0]).mean())
        return figures | captions.agreement(said, self.facts(samples, said[:, 0]))

    def illustrate(self, texts: Sequence[str], rng: np.random.Generator) -> Array:
        """A sample for each caption, (n, dimensions). Raises captions.CaptionError for what is no caption."""
        return self.G(self.noise(len(texts), rng), self.encode(texts)._data)._data

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` samples of captions drawn at random, all digits and all words equally often."""
        qualities = rng.integers(-1, 2, (n, len(captions.QUALITIES)))
        facts = np.concatenate([rng.integers(0, len(captions.DIGITS), (n, 1)), qualities], axis=1)
        return self.illustrate(captions.say(facts, rng), rng)

    def pictures(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, Picture]:
        """captions: samples of each of CAPTIONS, a row each. words: all digits as each of SAID, with one z for a column.
        interpolation: on a straight line from the first to the second of each pair of BETWEEN, with one z for a row."""
        words = [phrase.format(digit) for phrase in SAID for digit in captions.DIGITS]
        with self.evaluating():
            rows = self.illustrate([text for text in CAPTIONS for _ in range(COLUMNS)], rng)
            z = self.noise(len(captions.DIGITS), rng)
            varied = self.G(module_of(z).tile(z, (len(SAID), 1)), self.encode(words)._data)._data
            t = between(*(self.encode(texts)._data for texts in zip(*BETWEEN)), COLUMNS).reshape(len(BETWEEN) * COLUMNS, -1)
            blended = self.G(self.noise(len(BETWEEN), rng).repeat(COLUMNS, axis=0), t)._data
        tables = {"captions": (CAPTIONS, rows), "words": (SAID, varied), "interpolation": (BETWEEN, blended)}
        return {
            name: Images(to_device(shown, "cpu").reshape(len(row), -1, x.shape[1])) for name, (row, shown) in tables.items()
        }
