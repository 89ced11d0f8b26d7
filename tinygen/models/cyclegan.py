"""CycleGAN: translation between two kinds of images, learnt without a single pair (Zhu, Park, Isola and Efros, ICCV 2017).

There are images x of a domain X and images y of a domain Y, and nobody says which y belongs to which x. Two translators and
two discriminators play:

    G: X -> Y,   F: Y -> X         D_Y tells y from G(x),   D_X tells x from F(y)

    L_game      E_x (D_Y(G(x)) - 1)^2  +  E_y (D_X(F(y)) - 1)^2            translations look like their domain
    L_cycle     E_x |F(G(x)) - x|_1    +  E_y |G(F(y)) - y|_1              and can be undone
    L_identity  E_y |G(y) - y|_1       +  E_x |F(x) - x|_1                 and what is there already stays

    G and F go down   L_game + lambda (L_cycle + iota L_identity)                              lambda = 10, iota = 1/2
    D_Y goes down     (E_y (D_Y(y) - 1)^2 + E_x D_Y(G(x))^2) / 2, and D_X likewise

|.|_1 is a mean over pixels, whose values are in [-1, 1] here. L_identity is for domains that differ in places; where every
pixel has to change, as in a negative, it pulls against the game, and iota is 0. L_cycle alone leaves the choice open: between
n images and n others all n! bijections, each with its inverse, cost nothing. Which of them is learnt is left to the game, and
to what networks of small filters do easily.

The discriminators judge patches: D's output is a map, each entry of which sees a square of the image (`footprint`), and the
game's means run over the map. Fakes reach them through a `Pool` of earlier ones, so that a translator cannot run in circles.

The two domains here are made from one set of digits (`PAIRS`), in one of two ways. Either each digit belongs to X or, changed
by a known map T, to Y, but never to both: the parity of the sum of its grey values decides, in every epoch alike. Training
therefore meets no pair, and yet the true translation of held-out digits is known, from which the error of G and F is measured.
Or X and Y are the digits of two classes, where no true translation exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinygen import Tensor, abs, max_pool2d, nn, tanh
from tinygen.backend import Array, module_of, to_device
from tinygen.evaluation import digit_classifier
from tinygen.models.adversarial import frozen, least_squares, squared_errors
from tinygen.models.base import Model, Optimizers, optim_from
from tinygen.models.convnets import SLOPE, Shape, image_shape, smallest, to_examples, to_images, weights
from tinygen.models.pictures import Images, Picture
from tinygen.models.recipe import Recipe, RecipeError, closest

if TYPE_CHECKING:
    from tinygen.data import Split

KEPT = 50  # training images of each domain that a model carries along, to show what it does
COLUMNS = 12  # of the picture


def thick(images: Array) -> Array:
    """The largest value of each pixel's 3 x 3 neighbourhood."""
    return max_pool2d(images, 3, stride=1, padding=1)


# T of images (n, C, H, W) with values in [-1, 1], as everywhere in the networks.
PAIRS: Mapping[str, Callable[[Array], Array] | None] = {
    "negative": lambda images: -images,
    "thick": thick,
    "outline": lambda images: thick(images) - images - 1,  # -1 is black
    "digits": None,
}


class Translator(nn.Sequential):
    """Images (n, colours, H, W) to images of the same shape, in (-1, 1); the paper's network, padded with zeros.

    A 7 x 7 convolution; 3 x 3 ones of stride 2, each followed by more channels on a map of half the side; `blocks` residual
    blocks; the way back by transposed convolutions; a 7 x 7 convolution and tanh.
    """

    def __init__(
        self, colours: int, channels: Sequence[int], blocks: int, *, rng: np.random.Generator, dtype: Any = np.float32
    ):
        options = {"bias": False, "init": weights, "rng": rng, "dtype": dtype}
        layers = [nn.Conv2d(colours, channels[0], 7, padding=3, **options), nn.InstanceNorm2d(channels[0]), nn.ReLU()]
        for a, b in pairwise(channels):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1, **options), nn.InstanceNorm2d(b), nn.ReLU()]
        layers += [Residual(channels[-1], **options) for _ in range(blocks)]
        for a, b in pairwise(channels[::-1]):
            up = nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1, **options)
            layers += [up, nn.InstanceNorm2d(b), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(channels[0], colours, 7, padding=3, **options | {"bias": True}))

    def forward(self, images: Any) -> Any:
        return tanh(super().forward(images))


class Residual(nn.Module):
    """x + f(x), where f is two 3 x 3 convolutions with instance norm and a ReLU in between (He et al. 2016)."""

    def __init__(self, channels: int, **options: Any):
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, **options) for _ in range(2))
        self.f = nn.Sequential(first, nn.InstanceNorm2d(channels), nn.ReLU(), second, nn.InstanceNorm2d(channels))

    def forward(self, x: Any) -> Any:
        return x + self.f(x)


def patch_discriminator(
    colours: int, channels: Sequence[int], *, rng: np.random.Generator, dtype: Any = np.float32
) -> nn.Sequential:
    """PatchGAN: images (n, colours, H, W) to a map (n, 1, H', W') of verdicts on squares of side `footprint(len(channels))`.

    4 x 4 convolutions, one for each of `channels` and a last one for the verdict; all but the last two have stride 2.
    """
    options = {"padding": 1, "init": weights, "rng": rng, "dtype": dtype}
    layers = nn.Sequential()
    for i, (a, b) in enumerate(pairwise((colours, *channels))):
        layers.append(nn.Conv2d(a, b, 4, stride=2 if i < len(channels) - 1 else 1, bias=i == 0, **options))
        if i > 0:
            layers.append(nn.InstanceNorm2d(b))
        layers.append(nn.LeakyReLU(SLOPE))
    return layers.append(nn.Conv2d(channels[-1], 1, 4, **options))


def footprint(layers: int) -> int:
    """The side of the square that an entry of a PatchGAN's map sees: 16, 34, 70 for 2, 3, 4 layers (the paper has 70).

    Going back through a convolution, r pixels of its output are seen to come from (r - 1) stride + 4 of its input. Beyond the
    square only instance norm looks: at the mean and the variance of each channel.
    """
    side = 4 + 3  # what the two layers of stride 1 see
    for _ in range(layers - 1):
        side = 2 * (side - 1) + 4
    return side


class Pool(nn.Module):
    """The last fakes of a translator, more or less (Shrivastava et al., CVPR 2017, section 2.3).

    Until there are `size`, each is kept and returned. From then on, each is returned with probability 1/2; else it takes the
    place of one drawn from the pool, which is returned.
    """

    def __init__(self, size: int, shape: Shape, dtype: Any = np.float32):
        height, width, colours = shape
        self.register_buffer("images", np.zeros((size, colours, height, width), dtype))
        self.register_buffer("filled", np.array(0, np.int64))

    def exchange(self, fakes: Array, rng: np.random.Generator) -> Array:
        """What a discriminator is shown in place of `fakes` (n, C, H, W): as many, these or earlier ones."""
        shown, size = fakes.copy(), len(self.images)
        for i in range(len(fakes)):
            if self.filled < size:
                self.images[int(self.filled)] = fakes[i]
                self.filled += 1
            elif size and rng.random() < 0.5:
                slot = rng.integers(size)
                shown[i], self.images[slot] = self.images[slot].copy(), fakes[i]
        return shown


def distance(a: Any, b: Any) -> Any:
    """Mean |a - b| over all entries."""
    return abs(a - b).mean()


SMALL = Recipe(
    data="mnist5k",
    binarization="grey",
    epochs=2,
    batch_size=8,
    lr=2e-4,
    optimizer_options={"betas": (0.5, 0.999)},
    schedule="linear",
    model={
        "pair": "negative",
        "digits": (3, 8),
        "channels": (8, 16),
        "blocks": 1,
        "patches": (16, 32),
        "cycle": 10.0,
        "identity": 0.0,
        "pool": 50,
    },
)


class CycleGAN(Model):
    """CycleGAN for images of `shape` (H, W, C).

    Args:
        shape: (H, W, C); the sides divide by 2^(len(channels) - 1).
        pair: of `PAIRS`, how the two domains are made.
        digits: the two classes that are the domains of the pair "digits".
        channels: of a translator's maps, from the full side to the smallest.
        blocks: a translator's residual blocks.
        patches: channels of a discriminator.
        cycle: lambda.
        identity: iota, as a multiple of lambda.
        pool: the size of each pool.
        rng: draws the starting weights.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": SMALL,
        "thick": replace(SMALL, model=SMALL.model | {"pair": "thick", "identity": 0.5}),
        "outline": replace(SMALL, model=SMALL.model | {"pair": "outline", "identity": 0.5}),
        "digits": replace(SMALL, epochs=60, batch_size=64, model=SMALL.model | {"pair": "digits", "identity": 0.5}),
        "paper": replace(
            SMALL,
            data="mnist",
            epochs=20,
            model=SMALL.model
            | {"pair": "outline", "channels": (64, 128, 256), "blocks": 6, "patches": (64, 128, 256), "identity": 0.5},
        ),
    }
    adversarial: ClassVar[bool] = True
    draws_data: ClassVar[bool] = False
    selected_by: ClassVar[str | None] = None  # only an error of known pairs could pick, and it is not to be trained for
    uses_labels: ClassVar[bool] = True

    def __init__(
        self,
        shape: Shape,
        pair: str,
        digits: tuple[int, int],
        channels: Sequence[int],
        blocks: int,
        patches: Sequence[int],
        cycle: float,
        identity: float,
        pool: int,
        rng: np.random.Generator,
        dtype: type = np.float32,
    ):
        if pair not in PAIRS:
            raise RecipeError(f"pair {pair!r} is unknown: {closest(pair, PAIRS)}")
        smallest(shape, len(channels) - 1)  # raises where a side cannot be halved so often
        self.shape, self.pair, self.digits, self.cycle, self.identity = shape, pair, digits, cycle, identity
        self.fresh = partial(Translator, shape[2], channels, blocks, dtype=dtype)
        self.G, self.F = self.fresh(rng=rng), self.fresh(rng=rng)
        self.D_X, self.D_Y = (patch_discriminator(shape[2], patches, rng=rng, dtype=dtype) for _ in range(2))
        self.pool_X, self.pool_Y = Pool(pool, shape, dtype), Pool(pool, shape, dtype)
        for name in ("kept_x", "kept_y"):
            self.register_buffer(name, np.zeros((KEPT, *self.pool_X.images.shape[1:]), dtype))

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        if recipe.binarization != "grey":
            raise RecipeError(
                f"binarization is {recipe.binarization!r} and must be 'grey': the domain of a digit is read off its grey values"
            )
        model = cls(image_shape(train), **recipe.model, rng=rng)
        if len(train):
            some = train.images[: 100 * KEPT].reshape(-1, np.prod(model.shape)).astype(np.float32) / np.float32(255)
            labels = None if train.labels is None else train.labels[: 100 * KEPT]
            for kept, domain in zip((model.kept_x, model.kept_y), model.domains(some, labels)):
                if not len(domain):
                    raise RecipeError(f"a domain of the pair {model.pair!r} has no training digits")
                kept[...] = np.resize(domain, kept.shape)  # repeats them when there are too few
        return model

    # ---- The two domains ----

    def truth(self, images: Array) -> Array:
        """T(x) of images (n, C, H, W)."""
        return PAIRS[self.pair](images)

    def domains(self, x: Array, labels: Array | None) -> tuple[Array, Array]:
        """The images of X and those of Y, (n, C, H, W), that examples x (batch, dimensions) become; no example both."""
        images = to_images(x, self.shape)
        if PAIRS[self.pair] is None:
            return tuple(images[labels == digit] for digit in self.digits)
        even = module_of(x).rint(255 * x).astype(np.int64).sum(axis=1) % 2 == 0
        return images[even], self.truth(images[~even])

    def held_out(self, x: Array, labels: Array | None) -> tuple[Array, Array]:
        """Images of X and of Y to be measured on: every example x and its true translation, where there is one."""
        if PAIRS[self.pair] is None:
            return self.domains(x, labels)
        images = to_images(x, self.shape)
        return images, self.truth(images)

    # ---- The game ----

    def cycle_loss(self, x: Any, y: Any, Gx: Any, Fy: Any) -> Any:
        """L_cycle, given the translations G(x) and F(y)."""
        return distance(self.F(Gx), x) + distance(self.G(Fy), y)

    def translators_loss(self, x: Any, y: Any) -> tuple[Tensor, Tensor, Tensor]:
        """What G and F go down, for images x and y; with it G(x) and F(y)."""
        Gx, Fy = self.G(x), self.F(y)
        game = least_squares(self.D_Y(Gx)) + least_squares(self.D_X(Fy))
        kept = self.cycle_loss(x, y, Gx, Fy)
        if self.identity:
            kept = kept + self.identity * (distance(self.G(y), y) + distance(self.F(x), x))
        return game + self.cycle * kept, Gx, Fy

    def discriminators_loss(self, x: Any, y: Any, Gx: Any, Fy: Any) -> tuple[Tensor, Tensor, Tensor]:
        """What D_X and D_Y go down, given fakes; with it the means of both networks' verdicts on images and on fakes."""
        real, fake = (self.D_X(x), self.D_Y(y)), (self.D_X(Fy), self.D_Y(Gx))
        loss = squared_errors(real[0], fake[0]) + squared_errors(real[1], fake[1])
        return loss, (real[0].mean() + real[1].mean()) / 2, (fake[0].mean() + fake[1].mean()) / 2

    def optimizers(self, recipe: Recipe) -> Optimizers:
        """The recipe's optimizer twice: one for both translators, one for both discriminators."""
        players = {"translators": (self.G, self.F), "discriminators": (self.D_X, self.D_Y)}
        return Optimizers(
            {name: optim_from(recipe, [p for network in two for p in network.parameters()]) for name, two in players.items()},
            recipe.clip,
        )

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator, labels: Array) -> dict[str, float]:
        """One move of G and F, then one of D_X and D_Y, on fakes that went through the pools.

        Figures: g_loss and d_loss, each of two networks; d_real and d_fake, the discriminators' mean verdicts, before they
        moved; g_norm and d_norm, the gradients'.
        """
        x, y = self.domains(x, labels)
        x, y = x if len(x) else self.kept_x[:1], y if len(y) else self.kept_y[:1]  # a batch may have none of a domain
        with frozen(self.D_X, self.D_Y):
            g_loss, Gx, Fy = self.translators_loss(x, y)
            g_norm = optimizers.minimize(g_loss, "translators")
        shown = self.pool_Y.exchange(Gx._data, rng), self.pool_X.exchange(Fy._data, rng)
        d_loss, real, fake = self.discriminators_loss(x, y, *shown)
        d_norm = optimizers.minimize(d_loss, "discriminators")
        return {
            "g_loss": g_loss.item(),
            "d_loss": d_loss.item(),
            "d_real": real.item(),
            "d_fake": fake.item(),
            "g_norm": g_norm,
            "d_norm": d_norm,
        }

    # ---- What came of it ----

    def translate(self, network: nn.Module, images: Array) -> Array:
        """What `network`, G or F say, makes of any number of images (n, C, H, W)."""
        with self.evaluating():
            return module_of(images).concatenate([network(part)._data for part in self.batches(images)])

    def validate(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, float]:
        """Mean errors per pixel, the difference of black and white being 1, on held-out examples.

        cycle_x = |F(G(x)) - x| and cycle_y = |G(F(y)) - y|. With a known T, y = T(x): error_g = |G(x) - y| and error_f =
        |F(y) - x|. With two classes: read_g and read_f, the shares of the translations that the digit classifier reads as
        the class meant.
        """
        x, y = self.held_out(to_device(x, self.device), labels)
        Gx, Fy = self.translate(self.G, x), self.translate(self.F, y)
        figures = {"cycle_x": error(self.translate(self.F, Gx), x), "cycle_y": error(self.translate(self.G, Fy), y)}
        if PAIRS[self.pair] is not None:
            return {"error_g": error(Gx, y), "error_f": error(Fy, x), **figures}
        read = digit_classifier(self.device).read
        a, b = self.digits
        return {
            "read_g": float((read(to_examples(Gx))[1] == b).mean()),
            "read_f": float((read(to_examples(Fy))[1] == a).mean()),
            **figures,
        }

    def evaluate(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, float]:
        """The figures of `validate`, and with a known T what error_g and error_f are to be compared with:

        untrained_g and untrained_f, of translators with freshly drawn weights; identity, of leaving every image as it is;
        blank_g and blank_f, of the one picture that is best for all: the medians of y and of x, which no network could know.
        """
        figures = self.validate(x, rng, labels)
        if PAIRS[self.pair] is None:
            return figures
        x, y = self.held_out(to_device(x, self.device), labels)
        G, F = (self.fresh(rng=rng).to(self.device) for _ in range(2))
        median = partial(module_of(x).median, axis=0)
        baselines = {"untrained_g": error(self.translate(G, x), y), "untrained_f": error(self.translate(F, y), x)}
        return {**figures, **baselines, "identity": error(x, y), "blank_g": error(median(y), y), "blank_f": error(median(x), x)}

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` translations, (n, dimensions), of training images that the model carries along: first G(x), then as many F(y)."""
        first, second = (
            to_device(np.resize(rng.permutation(KEPT), count), self.device)  # over again where there are too few
            for count in (n - n // 2, n // 2)
        )
        Gx, Fy = self.translate(self.G, self.kept_x[first]), self.translate(self.F, self.kept_y[second])
        return to_examples(module_of(Gx).concatenate([Gx, Fy]))

    def pictures(self, x: Array, rng: np.random.Generator, labels: Array) -> dict[str, Picture]:
        """translations: rows x, G(x), F(G(x)) and y, F(y), G(F(y)), of held-out examples, never both from one."""
        x, y = (domain[:COLUMNS] for domain in self.domains(to_device(x, self.device), labels))
        Gx, Fy = self.translate(self.G, x), self.translate(self.F, y)
        rows = [x, Gx, self.translate(self.F, Gx), y, Fy, self.translate(self.G, Fy)]
        columns = min(len(x), len(y))
        return {"translations": Images(np.stack([to_device(to_examples(row[:columns]), "cpu") for row in rows]))}


def error(a: Array, b: Array) -> float:
    """Mean |a - b| per pixel of images in [-1, 1], as a share of the difference of black and white."""
    return float(abs(a - b).mean(dtype=np.float64)) / 2
