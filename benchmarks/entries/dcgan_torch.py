"""DCGAN in PyTorch: the networks, with our names (but for `double`, which torch.nn.Module takes itself), and the step."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu, softplus

from benchmarks.attempts import captured


class Norm(nn.BatchNorm2d):
    """Batch norm with the activation behind it, in place."""

    def __init__(self, channels: int, slope: float):
        super().__init__(channels)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return leaky_relu(y, self.slope, inplace=True) if self.slope else relu(y, inplace=True)


class Generator(nn.Module):
    """z (n, latent) -> images (n, 1, side, side) in (-1, 1)."""

    def __init__(self, latent: int, side: int, channels: Sequence[int]):
        super().__init__()
        smallest = side >> len(channels)
        self.start = (channels[0], smallest, smallest)
        self.project = nn.Linear(latent, channels[0] * smallest**2, bias=False)
        self.norm = Norm(channels[0], 0.0)
        layers = []
        for a, b in pairwise((*channels, 1)):
            layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False), Norm(b, 0.0)]
        self.enlarge = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.enlarge(self.norm(self.project(z).view(-1, *self.start))))


def discriminator(side: int, channels: Sequence[int]) -> nn.Sequential:
    """Images (n, 1, side, side) -> logits (n, 1)."""
    layers = []
    for a, b in pairwise((1, *channels)):
        layers += [
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False),
            Norm(b, 0.2) if layers else nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * (side >> len(channels)) ** 2, 1, bias=False))


class DCGAN(nn.Module):
    """Both, for square grey images; `channels` from the largest maps to the smallest."""

    def __init__(self, latent: int, side: int, channels: Sequence[int]):
        super().__init__()
        self.latent = latent
        self.G = Generator(latent, side, channels[::-1])
        self.D = discriminator(side, channels)


def stepper(
    model: DCGAN, images: Tensor, rng: np.random.Generator, graph: bool, **options: object
) -> Callable[[], dict[str, float]]:
    """A function that makes one move of D and one of G, by fused Adam with these options, and returns the two losses.

    With `graph` both moves are one CUDA graph.
    """
    adam = partial(torch.optim.Adam, fused=True, capturable=graph, **options)
    optimizers = {name: adam(getattr(model, name).parameters()) for name in "DG"}
    z = images.new_zeros(len(images), model.latent)

    def move() -> dict[str, Tensor]:
        fake = model.G(z)
        optimizers["D"].zero_grad()
        d_loss = softplus(-model.D(images)).mean() + softplus(model.D(fake.detach())).mean()
        d_loss.backward()
        optimizers["D"].step()
        model.D.requires_grad_(False)
        optimizers["G"].zero_grad()
        g_loss = softplus(-model.D(fake)).mean()
        g_loss.backward()
        optimizers["G"].step()
        model.D.requires_grad_(True)
        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}

    moved = captured(move, *optimizers.values()) if graph else move

    def step() -> dict[str, float]:
        z.copy_(torch.from_numpy(rng.uniform(-1, 1, z.shape)))
        return {name: loss.item() for name, loss in moved().items()}

    return step
