"""The smallest model that trains, for tests of the loop and the command line: independent pixels."""

import sys
from typing import ClassVar

import numpy as np

import tinygen
from tinygen import models, nn
from tinygen.models import Recipe
from tinygen.models.base import Model, pixel_log_odds


class Toy(Model):
    """Independent pixels, p(x_i = 1) = sigmoid(bias_i), learnt by gradient descent; training flips some bits."""

    RECIPES: ClassVar = {
        "quick": Recipe(epochs=3, lr=0.05, batch_size=100, model={"start": 0.0, "flips": 0.01, "from_data": False}),
        "paper": Recipe(epochs=5, lr=0.05, optimizer="sgd", optimizer_options={"momentum": 0.5}, model={"flips": 0.0}),
    }

    def __init__(self, dimensions, start=0.0, flips=0.0, from_data=False):
        self.bias = nn.Parameter(np.full(dimensions, start, np.float32))
        self.flips = flips

    @classmethod
    def build(cls, recipe, train, rng):
        model = cls(int(np.prod(train.images.shape[1:])), **recipe.model)
        if recipe.model.get("from_data"):
            model.bias.data[...] = pixel_log_odds(train)
        return model

    def loss(self, x, rng):
        flipped = np.where(rng.random(x.shape) < self.flips, 1 - x, x).astype(x.dtype)
        return -self.log_prob(flipped).mean()

    def log_prob(self, x):
        logits = tinygen.broadcast_to(self.bias, x.shape)
        return -tinygen.softplus(tinygen.where(x > 0.5, -logits, logits)).sum(axis=1)

    def sample(self, n, rng):
        p = tinygen.sigmoid(self.bias.numpy())
        return (rng.random((n, p.size)) < p).astype(np.float32)

    def complete(self, x, observed, rng):
        return np.where(observed, x, self.sample(len(x), rng))


def register(monkeypatch):
    """Let the registry of models know `toy` for the time of a test."""
    monkeypatch.setitem(sys.modules, "tinygen.models.toy", sys.modules[__name__])
    monkeypatch.setitem(models.MODELS, "toy", models.Entry("toy:Toy", "independent pixels", "none"))
