"""Digits of 4 x 4 pixels, made from larger ones: small enough for a table with a number for each of the 2^16 images."""

from __future__ import annotations

import numpy as np

from .dataset import Dataset, Split

SIDE = 4
BOX = slice(4, 24)  # MNIST's digits fill a box of 20 x 20 pixels in the middle of 28 x 28


def pooled(dataset: Dataset, name: str) -> Dataset:
    """The data set `name`: `dataset` with its images (N, 28, 28) pooled to (N, 4, 4); labels and splits are the same."""
    splits = {part: getattr(dataset, part) for part in ("train", "valid", "test")}
    return Dataset(name, **{part: Split(pool(split.images), split.labels) for part, split in splits.items()})


def pool(images: np.ndarray) -> np.ndarray:
    """uint8 grey images (N, 28, 28) as uint8 (N, 4, 4): means of 5 x 5 pixels, each image stretched to the maximum 255.

    The margin of 4 pixels, which is black around MNIST's digits, is left out. Without the stretching thin strokes would all
    be dark grey, and lost in a binarization; an image that is all black stays so.
    """
    means = images[:, BOX, BOX].reshape(-1, SIDE, 5, SIDE, 5).mean(axis=(2, 4))
    brightest = means.max(axis=(1, 2), keepdims=True)
    return np.rint(means * (255 / np.where(brightest > 0, brightest, 255))).astype(np.uint8)
