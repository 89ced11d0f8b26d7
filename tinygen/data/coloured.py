"""Digits in colour: real grey digits painted in one colour on a ground of another, for models of RGB images."""

from __future__ import annotations

import numpy as np

from .dataset import Dataset, Split

SEED = 256
# Red, green, blue, and their mixtures: the digit's colour is one of these, the ground's another.
PALETTE = np.array(
    [
        [215, 40, 40],
        [40, 165, 60],
        [40, 80, 215],
        [235, 200, 40],
        [160, 50, 180],
        [60, 195, 215],
        [245, 245, 245],
        [20, 20, 20],
    ],
    np.uint8,
)


def coloured(dataset: Dataset, name: str) -> Dataset:
    """The data set `name`: `dataset` with its images (N, H, W) in colour, (N, H, W, 3); labels and splits are the same.

    The colours of an image depend on its place in the data set only: they are the same at every call and on every machine.
    """
    parts = ("train", "valid", "test")
    splits = [getattr(dataset, part) for part in parts]
    # A bit generator's stream, unlike the numbers that a Generator makes of it, is promised never to change.
    drawn = np.random.PCG64(SEED).random_raw(sum(map(len, splits)))
    pairs = np.split(drawn, np.cumsum([len(split) for split in splits])[:-1])
    return Dataset(name, **{p: Split(paint(s.images, d), s.labels) for p, s, d in zip(parts, splits, pairs)})


def paint(images: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """uint8 grey images (N, H, W) as uint8 (N, H, W, 3): 0 becomes the ground's colour, 255 the digit's, linear between.

    Each integer of `drawn` (N,) stands for one of the pairs of two different colours of the palette.
    """
    colours = len(PALETTE)
    digit, other = np.divmod(drawn % (colours * (colours - 1)), colours - 1)
    ground = PALETTE[(digit + 1 + other) % colours].astype(np.float64)[:, None, None]
    ink = images[..., None] / 255
    return np.rint(ground + (PALETTE[digit][:, None, None] - ground) * ink).astype(np.uint8)
