"""Captions of digits, such as "a thick seven slanted left": made of what is measured in the images, and read back.

Four things can be said of an image: which digit it is, by its label, and three qualities that are measured.

    thickness   2 sum x / sum |grad x|             ink over half the outline: a stroke of width w and length L has
                                                   2 w L / (2 L + 2 w), which is w for a long one. The total variation is
                                                   the outline's length, also of grey edges (the coarea formula).
    slant       -cov(row, column) / var(row)       of the ink: by how many columns the strokes lean to the right for each row
                                                   up, the shear that would take the slant away.
    size        sqrt(height width)                 of the box around the pixels above 1/2.

A quality has two words, each true of a third of the training images: "thin" below the first third's quantile, "thick" above
the second's, neither between; of the size, which takes few values, of a fifth to a third. Each digit has quantiles of its own,
so a thick one is thick for a one, and the shape of a seven is no slant. All digits of MNIST are scaled to fit 20 x 20
pixels, most of them by their height: a small one there is a narrow one.

Facts are an integer array (n, 4): the digit, then thickness, slant and size, each -1 for its first word, 1 for its second and
0 where nothing is said. Captions put facts into words, in one of several orders; tokens are words as numbers, 0 for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.data.formats import DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUALITIES = {"thickness": ("thin", "thick"), "slant": ("left", "right"), "size": ("small", "large")}
# {thickness, size} stand in either order; what is not said leaves no gap.
TEMPLATES = (
    "a {qualities} {digit} {slant}",
    "a {slant} {qualities} {digit}",
    "{digit} {qualities} {slant}",
    "the digit {digit} {slant} {qualities}",
)
SLANTS = ("slanted {}", "leaning {}")
FILLERS = ("a", "the", "digit", "slanted", "leaning")
WORDS = ("", *DIGITS, *(word for pair in QUALITIES.values() for word in pair), *FILLERS)
OMITTED = 0.25  # the share of the qualities that a caption leaves out though they could be said

_NUMBERS = {word: number for number, word in enumerate(WORDS)}
_FACTS = {word: (0, digit) for digit, word in enumerate(DIGITS)} | {
    word: (1 + place, sign) for place, pair in enumerate(QUALITIES.values()) for sign, word in zip((-1, 1), pair)
}


class CaptionError(DataError):
    """A text that is no caption; the message names the word and those that there are."""


def measure(x: Array, shape: Sequence[int]) -> Array:
    """Thickness, slant and size, float (n, 3), of images x (n, height x width) in [0, 1]; all 0 for an image without ink."""
    xp = module_of(x)
    images = x.reshape(len(x), *shape[:2])
    least = xp.finfo(x.dtype).tiny
    padded = xp.pad(images, ((0, 0), (1, 1), (1, 1)))
    down, across = xp.diff(padded, axis=1)[:, :, :-1], xp.diff(padded, axis=2)[:, :-1]
    ink = images.sum(axis=(1, 2))
    thickness = 2 * ink / xp.maximum(xp.sqrt(down**2 + across**2).sum(axis=(1, 2)), least)
    share = images / xp.maximum(ink, least)[:, None, None]
    row, column = (xp.arange(side, dtype=x.dtype) for side in images.shape[1:])
    row = row - (share.sum(axis=2) @ row)[:, None]  # (n, height), from the centre of the ink
    column = column - (share.sum(axis=1) @ column)[:, None]
    variance = (share.sum(axis=2) * row**2).sum(axis=1)
    covariance = (share * row[:, :, None] * column[:, None, :]).sum(axis=(1, 2))
    slant = -covariance / xp.maximum(variance, least)
    size = xp.sqrt(_extent((images > 0.5).any(axis=2)) * _extent((images > 0.5).any(axis=1)))
    return xp.stack([thickness, slant, size.astype(x.dtype)], axis=1)


def _extent(marked: Array) -> Array:
    """How many entries of each row (n, side) lie from the first True to the last one."""
    last = marked.shape[1] - marked[:, ::-1].argmax(axis=1)
    return (last - marked.argmax(axis=1)) * marked.any(axis=1)


def quantiles(measures: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first and second third's quantile of each measure (n, 3), for each digit, float32 (10, 3, 2).

    A digit that does not occur has the quantiles of all.
    """
    found = [measures[labels == digit] if (labels == digit).any() else measures for digit in range(len(DIGITS))]
    return np.stack([np.quantile(part, (1 / 3, 2 / 3), axis=0).T for part in found]).astype(np.float32)


def facts_of(measures: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """All that can be said, int64 (n, 4), of images with these measures (n, 3) and labels (n,), given `quantiles`."""
    low, high = np.moveaxis(thresholds[labels], 2, 0)
    qualities = (measures > high).astype(np.int64) - (measures < low)
    return np.concatenate([labels[:, None], qualities], axis=1)


def omit(facts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`facts` of which each quality is left unsaid with probability OMITTED; the digit never is."""
    said = rng.random((len(facts), len(QUALITIES))) >= OMITTED
    return np.concatenate([facts[:, :1], facts[:, 1:] * said], axis=1)


def contradict(facts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`facts` with one thing said wrong: another digit, in half of the rows, or else the other word of a quality.

    A row that says no quality has another digit.
    """
    wrong = facts.copy()
    priority = rng.random((len(facts), len(QUALITIES))) * (facts[:, 1:] != 0)
    quality = priority.argmax(axis=1)
    digit = (rng.random(len(facts)) < 0.5) | (priority.max(axis=1) == 0)
    other = (facts[:, 0] + rng.integers(1, len(DIGITS), len(facts))) % len(DIGITS)
    wrong[digit, 0] = other[digit]
    rest = np.flatnonzero(~digit)
    wrong[rest, 1 + quality[rest]] *= -1
    return wrong


def say(facts: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A caption for each row of `facts` (n, 4): template, way to say the slant and order of the qualities are drawn."""
    template, slant, swapped = (rng.integers(0, k, len(facts)) for k in (len(TEMPLATES), len(SLANTS), 2))
    return [_caption(*row) for row in zip(facts.tolist(), template.tolist(), slant.tolist(), swapped.tolist())]


def _caption(facts: Sequence[int], template: int, slant: int, swapped: int) -> str:
    said = {name: pair[sign > 0] if sign else "" for (name, pair), sign in zip(QUALITIES.items(), facts[1:], strict=True)}
    qualities = [said["thickness"], said["size"]]
    parts = {
        "digit": DIGITS[facts[0]],
        "slant": SLANTS[slant].format(said["slant"]) if said["slant"] else "",
        "qualities": " ".join(qualities[::-1] if swapped else qualities),
    }
    return " ".join(TEMPLATES[template].format(**parts).split())


def agreement(said: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Of the rows whose facts `said` (n, 4) state a quality, the share where the facts `drawn` (n, 4) state the same: by name.

    A quality that is never said is left out.
    """
    pairs = zip(QUALITIES, said[:, 1:].T, drawn[:, 1:].T, strict=True)
    return {name: float((there == asked)[asked != 0].mean()) for name, asked, there in pairs if asked.any()}


def understand(caption: str) -> np.ndarray:
    """The facts (4,) that a caption states.

    Raises CaptionError for an unknown word, for no digit, and for two words of which only one can be true.
    """
    facts: dict[int, tuple[int, str]] = {}
    for word in caption.lower().replace(",", " ").split():
        if word not in _NUMBERS:
            raise CaptionError(f"the caption {caption!r} has an unknown word, {word!r}: valid: {', '.join(sorted(WORDS[1:]))}")
        if word in _FACTS:
            place, value = _FACTS[word]
            if facts.setdefault(place, (value, word))[0] != value:
                raise CaptionError(f"the caption {caption!r} says both {facts[place][1]!r} and {word!r}: keep one of them")
    if 0 not in facts:
        raise CaptionError(f"the caption {caption!r} names no digit: add one of {', '.join(DIGITS)}")
    return np.array([facts.get(place, (0, ""))[0] for place in range(1 + len(QUALITIES))])


def to_tokens(captions: Sequence[str]) -> np.ndarray:
    """Captions as numbers of WORDS, int64 (n, words of the longest), filled up with 0. Raises CaptionError as `understand`."""
    for caption in captions:
        understand(caption)
    split = [caption.lower().replace(",", " ").split() for caption in captions]
    tokens = np.zeros((len(split), max(map(len, split))), np.int64)
    for row, words in zip(tokens, split, strict=True):
        row[: len(words)] = [_NUMBERS[word] for word in words]
    return tokens


def to_captions(tokens: Any) -> list[str]:
    """The inverse of `to_tokens`, in lower case."""
    return [" ".join(WORDS[number] for number in row if number) for row in tokens.tolist()]
