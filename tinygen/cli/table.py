"""`tinygen table`: what the lecture's counting models cost and are worth, on digits of 28 x 28 and of 4 x 4 pixels."""

from __future__ import annotations

import argparse
import math

import numpy as np

from tinygen import data
from tinygen.cli.runs import load_data
from tinygen.cli.text import table
from tinygen.models import model_class
from tinygen.models.counting import LARGEST_TABLE, readable

MODELS = ("independent", "markov", "chain-rule", "full-joint")
SMALL = "mnist5k-4x4"


def show(options: argparse.Namespace) -> int:
    """A table for each data set, whose lines can be compared with each other, and one for a pixel with three colours."""
    for name in dict.fromkeys([options.data, SMALL]):
        dataset = load_data(name, options.data_dir)
        train, test = _examples(dataset, options.binarization)
        height, width = dataset.train.images.shape[1:]
        print(
            f"{name}, {'fixed' if dataset.binary else options.binarization} binarization: {height} x {width} binary pixels; "
            f"counted on {len(train)} digits, {options.alpha:g} added to every count"
        )
        titles = ["model", "states", "parameters", "train nats", "test nats", "test bits/dim"]
        print(
            table(titles, [_uniform(height * width), *(_line(name, train, test, options.alpha) for name in MODELS)]), end="\n\n"
        )
    print("one RGB pixel, 256 values for each of 3 channels")
    print(
        table(
            ["model", "states", "parameters"],
            [[name, f"{256**3:,}", f"{model_class(name).parameters_needed(3, 256):,}"] for name in MODELS],
        )
    )
    print("\nLines of one table can be compared with each other; likelihoods of different images or binarizations cannot.")
    return 0


def _examples(dataset: data.Dataset, binarization: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits to count (training and validation ones: there is nothing to pick) and the test digits, (N, n) in [0, 1].

    Grey values stand for the expectation over their dynamic binarizations, which counting models give exactly.
    """
    parts = [np.concatenate([dataset.train.images, dataset.valid.images]), dataset.test.images]
    if dataset.binary:
        parts = [part.astype(np.float32) for part in parts]
    elif binarization == "threshold":
        parts = [data.binarize(part, "threshold") for part in parts]
    else:
        parts = [part / np.float32(255) for part in parts]
    return tuple(part.reshape(len(part), -1) for part in parts)


def _uniform(pixels: int) -> list[str]:
    nats = f"{pixels * math.log(2):.2f}"
    return ["uniform", f"2^{pixels}", "0", nats, nats, "1.0000"]


def _line(name: str, train: np.ndarray, test: np.ndarray, alpha: float) -> list[str]:
    """Name, parameters, and the figures of the model if its table can be made."""
    kind, pixels = model_class(name), train.shape[1]
    needed = kind.parameters_needed(pixels)
    if needed >= LARGEST_TABLE:
        return [name, f"2^{pixels}", readable(needed), "-", "-", "-"]
    model = kind(pixels, alpha=alpha)
    for batch in model.batches(train):
        model.count(batch)
    nats = [model.expected_nll(examples) for examples in (train, test)]
    return [name, f"2^{pixels}", readable(needed), *(f"{nll:.2f}" for nll in nats), f"{nats[1] / (pixels * math.log(2)):.4f}"]
