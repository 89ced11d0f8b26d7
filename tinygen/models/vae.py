"""VAE, the variational autoencoder (Kingma and Welling, ICLR 2014; Rezende, Mohamed and Wierstra, ICML 2014).

A latent z explains x, through a decoder network, and an encoder network guesses which z it was:

    p(z) = N(0, I)        p(x | z) = Bernoulli(sigmoid(decoder(z)))  or  N(decoder(z), sigma^2 I)
    q(z | x) = N(mu, diag(e^rho)),   mu, rho = encoder(x)                        rho is ln of the variance

ln p(x) is an integral over z, and what can be had is a bound, the ELBO. With z = mu + e^(rho/2) eps, eps ~ N(0, I), the draw
is a function of the encoder's outputs through which gradients flow (the reparameterization):

    ln p(x) >= E_q ln p(x | z) - KL,     KL = KL(q(z | x) || p(z)) = 1/2 sum(mu^2 + e^rho - 1 - rho)

The importance weighted autoencoder (Burda, Grosse and Salakhutdinov, ICLR 2016) raises a tighter bound, from k draws:

    L_k = E ln (1/k) sum_i w_i,   w_i = p(x | z_i) p(z_i) / q(z_i | x),      ELBO = L_1 <= L_k <= L_{k+1} <= ln p(x)

Training lowers -L_k, in nats (for k = 1 with KL in its closed form); the likelihood is estimated from 5,000 draws. The density
of x and the sampler are one distribution, `output`, so they cannot have different sigmas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from tinygen import Tensor, concatenate, exp, logsumexp, nn, sigmoid
from tinygen.backend import Array, to_device
from tinygen.distributions import Bernoulli, Normal
from tinygen.evaluation import bits_per_dim, importance_log_prob
from tinygen.models.base import Model, Optimizers, pixel_log_odds
from tinygen.models.pictures import Images, Picture, Points, between
from tinygen.models.recipe import Recipe
from tinygen.ops.bernoulli import bernoulli_log_prob
from tinygen.tensor import array_of

if TYPE_CHECKING:
    from tinygen.data import Split

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
SAMPLES = 5000  # draws of z for the likelihood of one example
IWAE = 50  # draws of the bound that is told beside it
EXAMPLES, DRAWS = 100, 20  # whose images are decoded at a time: what fits into the caches
SIDE = 20  # of the manifold's picture

PLAIN = {
    "latent": 20,
    "hidden": (400,),
    "channels": (),
    "activation": "tanh",
    "decoder": "bernoulli",
    "sigma": 0.1,
    "learn_sigma": True,
    "k": 1,
}


class Bound(NamedTuple):
    """L_k of each example and the two parts of its ELBO, E_q ln p(x | z) and KL, (B,) each, in nats."""

    value: Any
    reconstruction: Any
    kl: Any


class VAE(Model):
    """VAE over examples of `shape`.

    Args:
        shape: of an example: (height, width), (height, width, colours), or (dimensions,) where it is no image.
        latent: dimensions of z.
        hidden: units of the encoder's dense layers; the decoder has the same ones in reverse.
        rng: draws the starting weights.
        channels: of the convolutions (4 x 4, stride 2) before them; each halves height and width. None: dense layers alone.
        activation: "tanh" or "relu".
        decoder: "bernoulli" for bits, "gaussian" for real numbers.
        sigma: standard deviation of the Gaussian decoder; where it starts, if `learn_sigma`.
        k: draws in the bound that training raises.
        bias: start of the output biases (dimensions,) of dense layers (log-odds of the pixels, say); None for 0.

    Parameters: those of the networks `encoder` and `decoder`, and log_sigma (1,), a buffer if it is fixed.
    """

    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": Recipe(epochs=60, lr=2e-3, schedule="cosine", valid_every=5, model=PLAIN),
        # A plane of codes, which can be drawn whole.
        "plane": Recipe(
            epochs=100,
            lr=2e-3,
            schedule="cosine",
            valid_every=5,
            model=PLAIN | {"latent": 2, "hidden": (400, 200)},
        ),
        "conv": Recipe(
            epochs=30,
            lr=2e-3,
            schedule="cosine",
            valid_every=5,
            model=PLAIN | {"hidden": (256,), "channels": (32, 64), "activation": "relu"},
        ),
        # The network of Burda et al., section 5 (one stochastic layer), with larger batches and fewer epochs.
        "paper": Recipe(
            data="mnist",
            epochs=400,
            batch_size=100,
            lr=1e-3,
            schedule="cosine",
            valid_every=10,
            target=86.76,
            model=PLAIN | {"latent": 50, "hidden": (200, 200)},
        ),
        "paper-iwae": Recipe(
            data="mnist",
            epochs=50,
            batch_size=100,
            lr=1e-3,
            schedule="cosine",
            valid_every=5,
            target=84.78,
            model=PLAIN | {"latent": 50, "hidden": (200, 200), "k": 50},
        ),
    }
    selected_by = "bound_nll"
    nll_is = "estimate"
    shows_labels = True

    def __init__(
        self,
        shape: Sequence[int],
        latent: int,
        hidden: Sequence[int],
        rng: np.random.Generator,
        channels: Sequence[int] = (),
        activation: str = "tanh",
        decoder: str = "bernoulli",
        sigma: float = 0.1,
        learn_sigma: bool = True,
        k: int = 1,
        bias: Array | None = None,
        dtype: type = np.float32,
    ):
        if min(latent, k, *hidden) < 1:
            raise ValueError(f"latent = {latent}, hidden = {hidden}, k = {k} are out of range: at least 1 each")
        if activation not in ACTIVATIONS or decoder not in ("bernoulli", "gaussian") or not sigma > 0:
            raise ValueError(
                f"activation = {activation!r}, decoder = {decoder!r}, sigma = {sigma}: expected one of "
                f"{', '.join(ACTIVATIONS)}; bernoulli or gaussian; a positive number"
            )
        self.shape, self.latent, self.k = tuple(shape), latent, k
        make = {"activation": ACTIVATIONS[activation], "rng": rng, "dtype": dtype}
        D = math.prod(shape)
        if channels:
            self.encoder, self.decoder = convolutional(shape, channels, hidden, latent, **make)
        else:
            self.encoder = nn.Sequential(*dense([D, *hidden, 2 * latent], **make))
            self.decoder = nn.Sequential(*dense([latent, *reversed(hidden), D], **make))
            self.decoder[-1].bias.data[...] = 0 if bias is None else bias
        self.log_sigma = None
        if decoder == "gaussian":
            log_sigma = np.full(1, math.log(sigma), dtype)
            if learn_sigma:
                self.log_sigma = nn.Parameter(log_sigma)
            else:
                self.register_buffer("log_sigma", log_sigma)

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        bits = recipe.model["decoder"] == "bernoulli"
        return cls(train.images.shape[1:], rng=rng, bias=pixel_log_odds(train) if bits else None, **recipe.model)

    def encode(self, x: Array | Tensor) -> tuple[Tensor, Tensor]:
        """mu and rho (B, latent) of q(z | x), of x (B, D)."""
        y = self.encoder(x.astype(self.dtype))
        return y[:, : self.latent], y[:, self.latent :]

    def output(self, z: Any) -> Bernoulli | Normal:
        """p(x | z) of z (n, latent), over (n, D)."""
        y = self.decoder(z)
        return Bernoulli(y) if self.log_sigma is None else Normal(y, exp(self.log_sigma))

    def mean(self, z: Any) -> Any:
        """E[x | z] of z (n, latent), (n, D)."""
        p = self.output(z)
        return sigmoid(p.logits) if self.log_sigma is None else p.mean

    def log_likelihood(self, x: Array | Tensor, z: Any) -> Any:
        """ln p(x | z) of x (B, D) for each of the draws z (k, B, latent), (k, B) in nats."""
        k, B, _ = z.shape
        p, x = self.output(z.reshape(k * B, -1)), x.astype(self.dtype)
        if self.log_sigma is None:
            return bernoulli_log_prob(x, p.logits).reshape(k, B)
        return p.log_prob(concatenate([x] * k)).sum(-1).reshape(k, B)

    def draw(self, mu: Any, rho: Any, k: int, rng: np.random.Generator) -> tuple[Any, Array]:
        """`k` draws z = mu + e^(rho/2) eps of q(z | x) for each example, (k, B, latent), and their eps."""
        eps = self.own(rng.standard_normal((k, *mu.shape)))
        return mu + exp(0.5 * rho) * eps, eps

    def log_weights(self, x: Array | Tensor, mu: Any, rho: Any, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
        """ln w of `k` draws z ~ q(z | x) for each example, (k, B), and ln p(x | z) in it.

        In ln p(z) - ln q(z | x) = 1/2 sum(eps^2 + rho - z^2) the constants cancel.
        """
        z, eps = self.draw(mu, rho, k, rng)
        log_likelihood = self.log_likelihood(x, z)
        return log_likelihood + 0.5 * (eps * eps + rho - z * z).sum(-1), log_likelihood

    def bound(self, x: Array, rng: np.random.Generator, k: int) -> Bound:
        """L_k by one set of `k` draws for each example of x (B, D); for k = 1 the ELBO with its KL in closed form."""
        x = Tensor(x)  # a copy that nobody else can change, so that the graph need not watch it
        mu, rho = self.encode(x)
        kl = 0.5 * (mu * mu + exp(rho) - 1.0 - rho).sum(-1)
        if k == 1:
            reconstruction = self.log_likelihood(x, self.draw(mu, rho, 1, rng)[0])[0]
            return Bound(reconstruction - kl, reconstruction, kl)
        log_w, log_likelihood = self.log_weights(x, mu, rho, k, rng)
        return Bound(logsumexp(log_w, 0) - math.log(k), log_likelihood.mean(0), kl)

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """-L_k of the batch, in nats per example."""
        return -self.bound(x, rng, self.k).value.mean()

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator) -> dict[str, float]:
        """One update; "reconstruction" and "kl" are the two parts of -ELBO, in nats per example."""
        bound = self.bound(x, rng, self.k)
        loss = -bound.value.mean()
        optimizers.minimize(loss)
        return {"loss": loss.item()} | parts(bound)

    def validate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """What training lowers, "bound_nll" = -L_k, and the parts of -ELBO: cheap, one set of draws for each example."""
        with self.evaluating():
            bounds = [self.bound(batch, rng, self.k) for batch in self.batches(x, EXAMPLES)]
        whole = Bound(*(np.concatenate([array_of(part) for part in parts]) for parts in zip(*bounds)))
        return {"bound_nll": -float(whole.value.mean(dtype=np.float64))} | parts(whole)

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """As `validate`, and "nll", estimated by importance sampling with SAMPLES draws, and "iwae_nll" = -L_50."""
        totals = np.zeros(2)
        with self.evaluating():
            for batch in self.batches(x, EXAMPLES):
                mu, rho = self.encode(batch)

                def log_weights(k: int, batch: Array = batch, mu: Any = mu, rho: Any = rho) -> Any:
                    return self.log_weights(batch, mu, rho, k, rng)[0]

                for i, samples in enumerate((SAMPLES, IWAE)):
                    totals[i] -= float(importance_log_prob(log_weights, samples, DRAWS).sum(dtype=np.float64))
        nll, iwae = (totals / len(x)).tolist()
        return {"nll": nll, "bits_per_dim": bits_per_dim(nll, x.shape[1]), "iwae_nll": iwae} | self.validate(x, rng)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` draws of x ~ p(x | z), z ~ N(0, I), (n, D): bits, or numbers that a Gaussian decoder may put outside [0, 1]."""
        return array_of(self.output(self.own(rng.standard_normal((n, self.latent)))).sample(rng))

    def pictures(self, x: Array, rng: np.random.Generator, labels: Array | None = None) -> dict[str, Picture]:
        """Of images: "means", "manifold", "reconstructions", "interpolation"; where z has two dimensions also "latent".

        * means: E[x | z] of z ~ N(0, I): samples without the noise of their pixels.
        * manifold: E[x | z] on a grid of points of the plane that cut the prior into parts of one probability. Where z has more
          than two dimensions the plane goes through 0 along the first two principal directions of the test set's codes mu.
        * reconstructions: rows in pairs, test examples above and E[x | z = mu(x)] below.
        * interpolation: a test example, E[x | z] on the straight way between the codes of the two, the other.
        * latent: the codes mu of all test examples, by class if the data have classes.
        """
        codes = np.concatenate([to_device(array_of(self.encode(batch)[0]), "cpu") for batch in self.batches(x)])
        found: dict[str, Picture] = {}
        if len(self.shape) > 1:
            chosen = rng.permutation(len(x))
            shown, pairs = table(chosen, 10)[:4], table(chosen, 2)[:8]
            above_below = np.stack([x[shown], self._decoded(codes[shown])], axis=1)
            way = self._decoded(between(*codes[pairs.T], 9))
            found["means"] = Images(self._decoded(rng.standard_normal((10, 10, self.latent))))
            found["manifold"] = Images(self._decoded(plane(codes)))
            found["reconstructions"] = Images(above_below.reshape(-1, *above_below.shape[2:]))
            found["interpolation"] = Images(np.concatenate([x[pairs[:, :1]], way, x[pairs[:, 1:]]], 1))
        if self.latent == 2:
            classes = np.zeros(len(x), int) if labels is None else labels
            groups = {str(c) if labels is not None else "test examples": codes[classes == c] for c in np.unique(classes)}
            found["latent"] = Points({"mean of q(z | x)": groups})
        return found

    def _decoded(self, z: np.ndarray) -> np.ndarray:
        """E[x | z] of z (rows, columns, latent), (rows, columns, D)."""
        return to_device(array_of(self.mean(self.own(z.reshape(-1, self.latent)))), "cpu").reshape(*z.shape[:-1], -1)


def parts(bound: Bound) -> dict[str, float]:
    """The means of the two parts of -ELBO, as figures."""
    return {
        "reconstruction": -float(array_of(bound.reconstruction).mean(dtype=np.float64)),
        "kl": float(array_of(bound.kl).mean(dtype=np.float64)),
    }


def table(chosen: np.ndarray, columns: int) -> np.ndarray:
    """`chosen` (n,) as a table (rows, columns), what fills no row left out; a single row of fewer columns where n is less."""
    columns = min(columns, len(chosen))
    return chosen[: len(chosen) // columns * columns].reshape(-1, columns)


def plane(codes: np.ndarray) -> np.ndarray:
    """Points z (SIDE, SIDE, latent) whose two coordinates in a plane through 0 are the prior's quantiles (i + 1/2) / SIDE.

    The first coordinate grows to the right, the second upwards. The plane is that of the first two principal directions of
    `codes` (n, latent); of two dimensions it is the whole space, of one the points are a row (1, SIDE, 1).
    """
    latent = codes.shape[1]
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / SIDE) for i in range(SIDE)])
    if latent == 1:
        return quantiles[None, :, None]
    directions = np.eye(2)
    if latent > 2:
        directions = np.linalg.svd(codes - codes.mean(0), full_matrices=False)[2][:2]
    return np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1) @ directions


# ---- The networks ----


class Reshape(nn.Module):
    """x (n, ...) -> (n, *shape), its axes then put in the order `axes`."""

    def __init__(self, shape: Sequence[int], axes: Sequence[int] | None = None):
        self.shape = tuple(shape)
        self.axes = axes and tuple(axes)

    def forward(self, x: Any) -> Any:
        y = x.reshape(len(x), *self.shape)
        return y if self.axes is None else y.transpose(self.axes)


def dense(sizes: Sequence[int], activation: type[nn.Module], rng: np.random.Generator, dtype: Any) -> list[nn.Module]:
    """Dense layers of these sizes with activations between them, Glorot's weights and biases of 0."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Dense(a, b, rng=rng, init=nn.init.glorot_uniform, dtype=dtype), activation()]
        layers[-2].bias.data[...] = 0
    return layers[:-1]


def convolutional(
    shape: Sequence[int],
    channels: Sequence[int],
    hidden: Sequence[int],
    latent: int,
    activation: type[nn.Module],
    rng: np.random.Generator,
    dtype: Any,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of images: convolutions that halve the sides, dense layers, and the same way back.

    Raises ValueError where the sides cannot be halved so often.
    """
    height, width, colours = (*shape, 1)[:3]
    parts = 2 ** len(channels)
    if len(shape) not in (2, 3) or height % parts or width % parts:
        raise ValueError(f"{len(channels)} convolutions cannot halve examples of shape {shape}: choose fewer channels")
    inner = (channels[-1], height // parts, width // parts)
    sizes = [math.prod(inner), *hidden]
    settings = {"kernel_size": 4, "stride": 2, "padding": 1, "rng": rng, "dtype": dtype}
    down: list[nn.Module] = [Reshape((height, width, colours), (0, 3, 1, 2))]
    up: list[nn.Module] = [*dense([latent, *reversed(sizes)], activation, rng, dtype), Reshape(inner)]
    for a, b in pairwise((colours, *channels)):
        down += [nn.Conv2d(a, b, **settings), activation()]
    for a, b in pairwise((*reversed(channels), colours)):
        up += [activation(), nn.ConvTranspose2d(a, b, **settings)]
    down += [Reshape(sizes[:1]), *dense([*sizes, 2 * latent], activation, rng, dtype)]
    up += [Reshape((colours, height, width), (0, 2, 3, 1)), Reshape((math.prod(shape),))]
    return nn.Sequential(*down), nn.Sequential(*up)
