"""Watching adversarial training: a generator that draws few kinds of things, or a game that one side has won, said in words.

No loss of a GAN tells how good its samples are, so these signs are looked at instead, after each validation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinygen.evaluation import DIGITS, Balance, balance_of
from tinygen.models.base import Model

SAMPLES = 1000  # looked at each time
SEPARATED = 0.98  # mean D(x) - mean D(G(z)) from which nothing is left for the generator to learn from
VANISHED = 1e-4  # Euclidean norm of the generator's gradient
DOMINANT = 0.5  # the share of one kind, or of none, that is too much


def look(model: Model, data: str, rng: np.random.Generator) -> Balance | None:
    """How SAMPLES of the model are spread over the kinds that the data set `data` is known to have; else None."""
    if not model.draws_data:
        return None
    with model.evaluating():
        return balance_of(data, model.sample(SAMPLES, rng))


def diagnose(figures: Mapping[str, float], balance: Balance | None = None, kind: str = "modes") -> list[str]:
    """What has gone wrong, a sentence for each sign; empty when nothing has.

    figures: means over the steps since the last look, of which d_real = D(x), d_fake = D(G(z)) and g_norm, the norm of the
    generator's gradient, are judged if they are there. balance: of the samples over classes, called `kind` ("digits").
    """
    signs = []
    if balance is not None:
        count = len(balance.shares)
        if balance.modes < count:
            collapse = "mode collapse: " if 2 * balance.modes <= count else ""
            signs.append(f"{collapse}the generator draws only {balance.modes} of {count} {kind}")
        most = int(balance.shares.argmax())
        if balance.shares[most] > DOMINANT:
            signs.append(f"{balance.shares[most]:.0%} of the samples are of one kind, number {most} of the {kind}")
        if 1 - balance.shares.sum() > DOMINANT:
            signs.append(f"{1 - balance.shares.sum():.0%} of the samples are none of the {kind}")
    real, fake = figures.get("d_real"), figures.get("d_fake")
    if real is not None and fake is not None and real - fake > SEPARATED:
        signs.append(f"D separates perfectly: D(x) = {real:.2f}, D(G(z)) = {fake:.2f}")
    if figures.get("g_norm", VANISHED) < VANISHED:
        signs.append(f"the generator's gradient has vanished: its norm is {figures['g_norm']:.1e}")
    return signs


def kind_of(data: str) -> str:
    """What the classes of a data set are called: "digits" or "modes"."""
    return "digits" if data in DIGITS else "modes"


def training_figures(row: Mapping[str, float]) -> dict[str, float]:
    """The figures that the training steps gave, out of a row of metrics.csv."""
    return {name.removeprefix("train_"): value for name, value in row.items() if name.startswith("train_")}
