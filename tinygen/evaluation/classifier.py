"""A classifier of handwritten digits, trained with this engine: it reads samples, and its features measure them.

Its weights come with the package (`digits.safetensors`, half precision); `digits.json` beside them says how they were made
and how often it errs. It was trained on grey digits and on digits whose pixels were drawn as bits, so that it reads grey
samples and the binary ones of explicit models alike; on digits moved by a few pixels; and on images that are no digits. Without
these its features, which need only tell digit from digit, would put noise amid the digits, and call it precise.

A caution. The embedded digits (`mnist5k`) come from MNIST's training set, so a network trained on that set has seen them, and
would be surer of them than of new ones. They were therefore all left out of its training: errors on any part of mnist5k and
on MNIST's test set are of digits that it never saw. It did see the other training digits of `mnist`: features of these lie a
little further from those of test digits than features of new digits would.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tinygen import nn
from tinygen.backend import Array, device_of, module_of, to_device
from tinygen.graph import no_grad
from tinygen.nn.serialize import load_arrays

WEIGHTS = Path(__file__).with_name("digits.safetensors")
SIDE, DIGITS, FEATURES = 28, 10, 64
BATCH = 500


class DigitClassifier(nn.Module):
    """Two 3 x 3 convolutions, each halved in size by a maximum, a dense layer of 64 features, a dense layer of 11 logits.

    forward(x): examples (n, 784) in [0, 1], or images (n, 1, 28, 28), to logits (n, 11): the ten digits, and none of them.
    Gradients flow to x.
    """

    def __init__(self, *, rng: np.random.Generator, dtype: Any = np.float32):
        options = {"rng": rng, "dtype": dtype}
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, **options),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, **options),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25, rng=rng),
            nn.Dense(32 * 7 * 7, FEATURES, **options),
            nn.ReLU(),
        )
        self.head = nn.Dense(FEATURES, DIGITS + 1, **options)

    def features(self, x: Any) -> Any:
        """What the last layer sees of x, (n, 64), none below 0."""
        return self.body(x.reshape((len(x), 1, SIDE, SIDE)))

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x))

    def read(self, x: Array) -> tuple[Array, np.ndarray]:
        """Features (n, 64) on the classifier's device and digits int64 (n,), on the CPU, of any number of examples.

        What is read as no digit is -1. There is no graph; call `eval` before, as `digit_classifier` has done.
        """
        device = device_of(self.head.weight.data)
        features, digits = [], []
        with no_grad():
            for start in range(0, len(x), BATCH):
                found = self.features(to_device(x[start : start + BATCH], device))
                features.append(found.data)
                digits.append(to_device(self.head(found).data, "cpu").argmax(axis=1))
        digits = np.concatenate(digits)
        return module_of(features[0]).concatenate(features), np.where(digits == DIGITS, -1, digits)

    def error(self, x: Array, labels: np.ndarray) -> float:
        """The share of the examples that are not read as the digits that `labels` (n,) says."""
        return float((self.read(x)[1] != labels).mean())


@functools.cache
def digit_classifier(device: str = "cpu") -> DigitClassifier:
    """The classifier that comes with the package, on `device` and in evaluation mode: one for everybody, not to be trained."""
    classifier = DigitClassifier(rng=np.random.default_rng(0))
    classifier.load_state_dict(load_arrays(WEIGHTS)[0])
    return classifier.to(device).eval()
