"""`tinygen sample` and `complete`: what a trained run draws."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tinygen import data, gallery
from tinygen.backend import gpu, to_device
from tinygen.models import RecipeError
from tinygen.models.base import Model
from tinygen.models.pictures import Lines
from tinygen.models.recipe import closest
from tinygen.training import Run, RunError, check_fit, generator, held_out, restore
from tinygen.training.examples import PICTURES, labels_for

LINE, PLANE = (1,), (2,)  # the shapes of examples that are points
IMAGES, POINTS = 100, 2000  # how many samples a picture shows
COLUMNS = 10  # samples of each text
BINS = 60  # of a histogram


def sample(options: argparse.Namespace) -> int:
    """Draw samples into a picture, and beside it what else the model has to show; with texts, only what they say."""
    run = Run.open(options.run)
    out = _picture(options, run, f"{'texts' if options.text else 'samples'}-{options.seed}.png")
    model = restore(run, usable_device(options.device))
    if options.text:
        print(*draw_texts(run, model, options.text, options.count or COLUMNS, options.seed, out), sep="\n")
        return 0
    drawn = draw_samples(run, model, options.count, options.seed, out)
    if has_pictures(model):
        drawn += draw_pictures(run, model, _data_of(run, options), options.seed, out.parent, f"-{options.seed}")
    if not drawn:
        raise RunError(f"{run.path} has nothing to draw: {run.config['model']} draws no samples by itself")
    print(*drawn, sep="\n")
    return 0


def complete(options: argparse.Namespace) -> int:
    """Fill in halves of test digits: rows of what was given, what the model made of it, and the original."""
    run = Run.open(options.run)
    out = _picture(options, run, f"completions-{options.seed}.png")
    model = restore(run, usable_device(options.device))
    dataset = _data_of(run, options)
    check_fit(dataset, run.recipe)
    rng = generator(options.seed, PICTURES)
    examples = held_out(dataset.test, run.recipe.binarization)
    if options.count > len(examples):
        raise RunError(f"-n {options.count} is more than the {len(examples)} test digits")
    examples = examples[np.sort(rng.permutation(len(examples))[: options.count])]
    shape = tuple(run.config["data"]["shape"])
    if shape == PLANE:
        raise RunError(f"{run.path} cannot be completed in a picture: its data are points of the plane")
    observed = model.first_half(examples.shape[1])
    try:
        with model.evaluating():
            completed = to_device(model.complete(to_device(examples, model.device), observed, rng), "cpu")
    except NotImplementedError as error:
        raise RunError(f"{run.path} cannot be completed: {error}") from error
    originals, completed = examples.reshape(-1, *shape), completed.reshape(-1, *shape)
    gallery.write_png(out, gallery.completions(originals, observed.reshape(shape), completed), gallery.image_scale(shape))
    print(out)
    return 0


def draw_samples(run: Run, model: Model, count: int | None, seed: int, out: Path) -> list[Path]:
    """Draw `count` samples of `model` into the picture `out`: images as a grid, points beside the data's.

    None stands for IMAGES or POINTS of them. The density on the plane is drawn too, if the model has one. Returns what was
    written: [out], or nothing of a model that draws no samples by itself.
    """
    shape = tuple(run.config["data"]["shape"])
    count = count or (POINTS if shape in (LINE, PLANE) else IMAGES)
    with model.evaluating():
        try:
            samples = to_device(model.sample(count, generator(seed, PICTURES)), "cpu").reshape(count, *shape)
        except NotImplementedError:
            return []
        if shape in (LINE, PLANE):
            points = load_data(run.recipe.data, run.config["data"]["folder"]).test.images[:POINTS]
        if shape == PLANE:
            gallery.write_plane(out, points, samples, _density(model))
        elif shape == LINE:
            gallery.write_picture(out, _histograms(points, samples), shape)
        else:
            gallery.write_png(out, gallery.grid(samples), gallery.image_scale(shape))
    return [out]


def draw_texts(run: Run, model: Model, texts: Sequence[str], count: int, seed: int, out: Path) -> list[str | Path]:
    """Draw `count` samples of what each text says into the picture `out`, a row each; returns what to print of it."""
    shape = tuple(run.config["data"]["shape"])
    try:
        with model.evaluating():
            samples = model.illustrate([text for text in texts for _ in range(count)], generator(seed, PICTURES))
    except NotImplementedError as error:
        raise RunError(f"{run.path} cannot be given a text: {error}") from error
    pictures = to_device(samples, "cpu").reshape(-1, *shape)
    gallery.write_png(out, gallery.grid(pictures, columns=count), gallery.image_scale(shape))
    return [*(f"row {row}: {text}" for row, text in enumerate(texts, 1)), out]


def has_pictures(model: Model) -> bool:
    """Whether the model has something to show besides samples."""
    return type(model).pictures is not Model.pictures


def draw_pictures(run: Run, model: Model, dataset: data.Dataset, seed: int, folder: Path, suffix: str = "") -> list[Path]:
    """Draw what `model` has to show besides samples, given the test set: `folder`/NAME`suffix`.png; returns the paths."""
    check_fit(dataset, run.recipe)
    examples = held_out(dataset.test, run.recipe.binarization)
    labels = {"labels": dataset.test.labels} if model.shows_labels else labels_for(model, dataset.test.labels)
    with model.evaluating():
        pictures = model.pictures(examples, generator(seed, PICTURES), **labels)
    paths = [folder / f"{name}{suffix}.png" for name in pictures]
    for path, picture in zip(paths, pictures.values()):
        gallery.write_picture(path, picture, run.config["data"]["shape"])
    return paths


def _histograms(points: np.ndarray, samples: np.ndarray) -> Lines:
    """The densities of numbers (n, 1): the shares that fall between neighbouring edges, in the data's range with a margin."""
    margin = 0.1 * (points.max() - points.min())
    edges = np.linspace(points.min() - margin, points.max() + margin, BINS + 1)
    lines = {name: np.histogram(x, edges)[0] / len(x) / np.diff(edges) for name, x in (("data", points), ("samples", samples))}
    return Lines((edges[1:] + edges[:-1]) / 2, {"density": lines})


def _density(model: Model) -> Callable[[np.ndarray], np.ndarray] | None:
    """ln p(x) as a function of points on the CPU, or None for a model that has no likelihood."""

    def log_prob(x: np.ndarray) -> np.ndarray:
        return np.concatenate([model.log_prob(part).numpy() for part in model.batches(x)])

    try:
        log_prob(np.zeros((1, *PLANE), np.float32))
    except NotImplementedError:
        return None
    return log_prob


def load_data(name: str, folder: str | None) -> data.Dataset:
    """The data set `name`, downloaded if need be. Raises RecipeError for an unknown name, DataError for no data."""
    if name not in data.available():
        raise RecipeError(f"no data set {name!r}: {closest(name, data.available())}")
    return data.load(name, folder)


def usable_device(device: str) -> str:
    """`device`, if this machine has it, from now on the one that CuPy computes on; else RunError."""
    try:
        if device != "cpu":
            gpu(device).use()
    except (RuntimeError, ValueError) as error:
        raise RunError(str(error)) from None
    return device


def _data_of(run: Run, options: argparse.Namespace) -> data.Dataset:
    return load_data(run.recipe.data, options.data_dir or run.config["data"]["folder"])


def _picture(options: argparse.Namespace, run: Run, name: str) -> Path:
    out = Path(options.out) if options.out else run.path / name
    if out.suffix.lower() != ".png":
        raise RunError(f"--out {out} must end in .png")
    return out
