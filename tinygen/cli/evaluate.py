"""`tinygen evaluate`: several runs side by side, and which of their figures can be compared with which."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tinygen.cli.runs import load_data, usable_device
from tinygen.cli.text import table
from tinygen.data import Dataset
from tinygen.training import Run, measure, measure_samples, measure_training_digits, restore, sample_count

LIKELIHOODS = ("nll", "bits_per_dim")
DECIMALS = {"parzen": 1, "parzen_error": 1, "parzen_sigma": 3, "modes": 0}


class Judged(NamedTuple):
    """A run and what was found: `samples` is None where its samples were not looked at; `kind` is what "nll" is."""

    run: Run
    kind: str
    figures: Mapping[str, float]
    samples: Mapping[str, float] | None
    count: int

    @property
    def tag(self) -> tuple[str, str]:
        """Figures can be compared where these are the same: data set and binarization."""
        return self.run.recipe.data, self.run.recipe.binarization


def evaluate(options: argparse.Namespace) -> int:
    """One line for each run; the figures of samples, where they are asked for or there is no likelihood, below."""
    device = usable_device(options.device)
    judged, datasets = [], {}
    for path in options.runs:
        run = Run.open(path)
        dataset = load_data(run.recipe.data, options.data_dir or run.config["data"]["folder"])
        datasets[run.recipe.data] = dataset
        judged.append(_judge(run, dataset, device, options))
    print(_figures(judged, options.split))
    if any(one.samples for one in judged):
        print(f"\n{_samples(judged, datasets, options)}")
    if said := remarks(judged):
        print("", *said, sep="\n")
    return 0


def _judge(run: Run, dataset: Dataset, device: str, options: argparse.Namespace) -> Judged:
    model = restore(run, device)
    figures, samples = measure(run, model, dataset, options.split), None
    count = options.samples or sample_count(dataset)
    if options.measures or "nll" not in figures:
        samples = measure_samples(run, model, dataset, options.split, count)
    return Judged(run, model.nll_is if "nll" in figures else "-", figures, samples, count)


def _figures(judged: Sequence[Judged], split: str) -> str:
    """The table of the models' own figures, likelihoods first."""
    found = dict.fromkeys(name for one in judged for name in one.figures)
    names = [name for name in LIKELIHOODS if name in found] + [name for name in found if name not in LIKELIHOODS]
    rows = []
    for one in judged:
        shown = [f"{one.figures[name]:.4f}" if name in one.figures else "-" for name in names]
        kind = [one.kind] if "nll" in found else []
        seconds = [row["seconds"] for row in one.run.rows()]
        rows.append([one.run.path, one.run.config["model"], *one.tag, *shown, *kind, *seconds[-1:]])
    titles = ["run", "model", "data", "binarization", *(f"{split} {name}" for name in names)]
    return table([*titles, *(["nll is"] if "nll" in found else []), "seconds"], rows)


def _samples(judged: Sequence[Judged], datasets: Mapping[str, Dataset], options: argparse.Namespace) -> str:
    """The table of the samples' figures, and below the runs those of training digits in their place."""
    looked_at = [one for one in judged if one.samples]
    rows = [[one.run.path, *one.tag, one.count, *_shown(one.samples)] for one in looked_at]
    for name, binarization, count in dict.fromkeys((*one.tag, one.count) for one in looked_at):
        figures = measure_training_digits(datasets[name], binarization, options.split, count)
        rows.append(["training digits", name, binarization, count, *_shown(figures)])
    return table(["samples of", "data", "binarization", "count", *looked_at[0].samples], rows)


def _shown(figures: Mapping[str, float]) -> list[str]:
    return [f"{value:.{DECIMALS.get(name, 4)}f}" for name, value in figures.items()]


def remarks(judged: Sequence[Judged]) -> list[str]:
    """Which figures of these runs can be compared with which, a sentence each."""
    said = []
    likely = [one for one in judged if "nll" in one.figures]
    if len({one.tag for one in likely}) > 1:
        groups = "; ".join(f"{_names(group)} ({', '.join(tag)})" for tag, group in _grouped(likely))
        said.append(f"Likelihoods on different data or binarizations cannot be compared with each other; these can: {groups}.")
    for kind, meaning in {
        "bound": "an upper bound: the model's exact nll is lower or equal",
        "estimate": "an estimate, on average not below the model's exact nll",
    }.items():
        if those := [one for one in likely if one.kind == kind]:
            said.append(f"The nll of {_names(those)} is {meaning}.")
    if looked_at := [one for one in judged if one.samples]:
        said += [
            "Parzen, in nats, is a density of images made of samples: higher is better. It is no likelihood of the model, "
            "cannot be compared with nll, and ranks samples badly: quote it beside another measure.",
            "Frechet: lower is better; precision, recall, density, coverage: higher. What training digits get in the samples' "
            "place is as good as it should become. class_entropy is at most ln 10 = 2.303 nats; modes counts the digits drawn.",
            "Figures of samples can be compared for one data set, binarization and count; those of the classifier's features "
            "with published ones not at all; published Parzen figures are of grey digits of mnist and 10,000 samples.",
        ]
        if len({one.tag for one in looked_at}) > 1:
            groups = "; ".join(f"{_names(group)} ({', '.join(tag)})" for tag, group in _grouped(looked_at))
            said.append(f"Samples that can be compared here: {groups}.")
    return said


def _grouped(judged: Iterable[Judged]) -> list[tuple[tuple[str, str], list[Judged]]]:
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.tag, []).append(one)
    return list(groups.items())


def _names(judged: Iterable[Judged]) -> str:
    return ", ".join(dict.fromkeys(str(one.run.path) for one in judged))
