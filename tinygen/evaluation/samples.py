"""A model judged by its samples alone: what models without a likelihood have instead of one.

The figures hold for one data set, one binarization and one number of samples. Beside a model's stand those of as many training
examples in its place: no model that learnt the law, and did not learn the test set by heart, can be expected to do better.
"""

from __future__ import annotations

import numpy as np

from tinygen.backend import Array, device_of, to_device
from tinygen.data.densities import DENSITIES
from tinygen.evaluation.classifier import digit_classifier
from tinygen.evaluation.features import Balance, class_balance, frechet_distance, precision_recall
from tinygen.evaluation.likelihood import parzen

DIGITS = ("mnist5k", "mnist", "binarized-mnist")  # the data sets that the digit classifier can read


def sample_figures(samples: Array, valid: Array, test: Array) -> dict[str, float]:
    """What digits `samples` (n, 784) are worth as an image of `test` (m, 784), all float32 in [0, 1], on the samples' device.

    parzen, parzen_error, parzen_sigma: mean and standard error, in nats, and the width picked on `valid`. From the digit
    classifier's features: frechet (a squared distance); precision, recall, density and coverage, from as many samples as test
    examples, whichever are fewer, since they need two sets of one size. From its answers: classified, the share of the samples
    that are read as a digit; modes, the number of digits that at least 1% are read as; class_entropy in nats, at most ln 10.
    """
    device = device_of(samples)
    valid, test = to_device(valid, device), to_device(test, device)
    density = parzen(samples, valid, test)
    classifier = digit_classifier(device)
    fake, labels = classifier.read(samples)
    real, _ = classifier.read(test)
    size = min(len(fake), len(real))
    return {
        "parzen": density.mean,
        "parzen_error": density.standard_error,
        "parzen_sigma": density.sigma,
        "frechet": frechet_distance(fake, real),
        **precision_recall(real[:size], fake[:size]),
        **class_balance(labels).figures(),
    }


def balance_of(data: str, samples: Array) -> Balance | None:
    """How `samples` (n, dimensions) are spread over the kinds that the data set `data` has; None where these are not known.

    The kinds are the ten digits, or, of points of the plane, the centres of the density; a point beyond the reach of all
    centres has no kind.
    """
    if data in DIGITS:
        return class_balance(digit_classifier(device_of(samples)).read(samples)[1])
    density = DENSITIES.get(data)
    if density is None or density.centres is None:
        return None
    away = np.linalg.norm(to_device(samples, "cpu")[:, None] - density.centres, axis=-1)
    labels = np.where(away.min(axis=1) <= density.reach, away.argmin(axis=1), -1)
    return class_balance(labels, len(density.centres))
