"""Examples as models take them, and the random streams of a run.

A run has one seed. Whatever is random draws from a stream of its own, named by a key, so that the batches of epoch 7
are the same whether or not epochs 1 to 6 were run by this process: that is what makes a continued run exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinygen import data
from tinygen.backend import to_device
from tinygen.models import Recipe, RecipeError
from tinygen.models.base import Model

# Streams of a run, the first entry of a key; ("what", epoch) where each epoch has one of its own.
INITIAL, BATCHES, STEPS, EVALUATION, PICTURES, SAMPLES = range(6)
# Held-out digits are binarized with these bits whatever the run's seed, so that figures of two runs can be compared.
HELD_OUT_SEED = 20110411


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random stream `key` of the run `seed`."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def to_examples(images: np.ndarray, binarization: str, rng: np.random.Generator) -> np.ndarray:
    """Images (n, ...) of a data set as float32 (n, dimensions) in [0, 1], binarized as asked ("grey": not at all).

    Real numbers ("real") are taken as they are.
    """
    flat = images.reshape(len(images), -1)
    if binarization == "real":
        return flat
    if binarization == "grey":
        return flat.astype(np.float32) / np.float32(255)
    return data.binarize(flat, binarization, rng)


def labels_for(model: Model, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """The argument `labels` for a model that uses them. Raises RecipeError when it does and the data have none."""
    if not model.uses_labels:
        return {}
    if labels is None:
        raise RecipeError(f"{type(model).__name__} learns from labels and the data have none: choose data with classes")
    return {"labels": to_device(labels, model.device)}


def held_out(split: data.Split, binarization: str) -> np.ndarray:
    """The validation or test examples: the same bits at every call and for every seed."""
    return to_examples(split.images, binarization, np.random.default_rng(HELD_OUT_SEED))


def batches(split: data.Split, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The training batches of one epoch: examples float32 (batch_size, dimensions) and labels (batch_size,), or None.

    They are shuffled and, if dynamic, binarized anew.

    Examples that fill no batch are left out, others each epoch; every batch therefore weighs the same.
    """
    rng = generator(seed, BATCHES, epoch)
    for chosen in data.batches(split, recipe.batch_size, rng, drop_last=True):
        labels = None if split.labels is None else split.labels[chosen]
        yield to_examples(split.images[chosen], recipe.binarization, rng), labels


def check_fit(dataset: data.Dataset, recipe: Recipe) -> None:
    """Raise RecipeError when the data set cannot be used as the recipe says."""
    kind, fitting = "grey values", ("dynamic", "threshold", "grey")
    if dataset.binary or dataset.real:
        kind, fitting = ("bits", ("fixed",)) if dataset.binary else ("real numbers", ("real",))
    if recipe.binarization not in fitting:
        expected = " or ".join(fitting)
        raise RecipeError(f"{dataset.name} holds {kind}, binarization is {recipe.binarization!r}: it must be {expected}")
    if recipe.batch_size > len(dataset.train):
        raise RecipeError(f"batch_size = {recipe.batch_size} is more than the {len(dataset.train)} training examples")
