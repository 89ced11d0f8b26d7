"""`tinygen train`: make a run or go on with one, then tell and draw what came of it."""

from __future__ import annotations

import argparse
import math
import shutil
import sys

from tinygen import gallery
from tinygen.cli import complain
from tinygen.cli.progress import observer
from tinygen.cli.runs import draw_pictures, draw_samples, has_pictures, load_data, usable_device
from tinygen.cli.text import duration, figures
from tinygen.data import Dataset
from tinygen.models import Recipe, RecipeError, model_class
from tinygen.models.recipe import closest
from tinygen.training import Interrupted, Run, RunError, Training, check_fit, conclude, configuration, restore, versions


def train(options: argparse.Namespace) -> int:
    """Train to the end of the recipe, or to a signal; see `tinygen train --help`."""
    run, dataset = _continued(options) if options.resume else _new(options)
    config, recipe = run.config, run.recipe
    print(
        f"{config['model']} on {recipe.data} ({recipe.binarization}), recipe {config['recipe_name']}, "
        f"seed {config['seed']}, {config['device']}, in {run.path}",
        *(f"  {change}" for change in config["changes"]),
        sep="\n",
        flush=True,
    )
    with run.lock():
        watch = observer(recipe.epochs, _dimensions(run))
        try:
            training = Training(run, dataset, watch, options.checkpoint_seconds)
        except (ValueError, TypeError, MemoryError) as error:
            if not options.resume:
                shutil.rmtree(run.path)  # made by this command a moment ago, and nothing was trained
            raise RunError(f"{run.path} cannot be trained: {error}") from error
        try:
            with watch:
                training.go()
        except Interrupted as stop:
            return complain(_how_to_go_on(run, f"stopped by {stop} at step {training.progress.step}"), 128 + stop.signal)
        try:
            _finish(run, dataset)
        except KeyboardInterrupt:
            return complain(_how_to_go_on(run, "training is complete; stopped before its figures and pictures"), 130)
    return 0


def _new(options: argparse.Namespace) -> tuple[Run, Dataset]:
    """The folder of a new run, made only after everything in it was found to be possible."""
    if options.model is None:
        raise RunError("train which model? `tinygen list` shows them; --resume RUN goes on with a run")
    name, recipe, changes = asked_for(options)
    device = usable_device(options.device or "cpu")
    dataset = load_data(recipe.data, options.data_dir)
    check_fit(dataset, recipe)
    config = configuration(
        model=options.model,
        recipe_name=name,
        recipe=recipe,
        changes=changes,
        seed=options.seed or 0,
        device=device,
        data={"shape": dataset.train.images.shape[1:], "folder": options.data_dir},
    )
    return Run.create(config, options.out), dataset


def _continued(options: argparse.Namespace) -> tuple[Run, Dataset]:
    """The run to go on with, which stays what it is: only the place of the data may be told anew."""
    run = Run.open(options.resume)
    fixed = ("recipe", "data", "epochs", "set", "seed", "device", "out")
    if given := [f"--{name}" for name in fixed if getattr(options, name) is not None]:
        raise RunError(f"{', '.join(given)} cannot go with --resume: a run keeps the settings in its config.json")
    if options.model not in (None, run.config["model"]):
        raise RunError(f"{run.path} is a run of {run.config['model']}, not of {options.model}")
    usable_device(run.config["device"])
    before, now = run.config["versions"], versions(run.config["device"])
    for package in now:
        if before.get(package) != now[package]:
            print(f"{package} was {before.get(package)}, is {now[package]}: bits may differ", file=sys.stderr)
    return run, load_data(run.recipe.data, options.data_dir or run.config["data"]["folder"])


def asked_for(options: argparse.Namespace) -> tuple[str, Recipe, list[str]]:
    """The name of the recipe on the command line, that recipe with every change made to it, and the changes in words."""
    recipes = model_class(options.model).RECIPES
    name = options.recipe or "quick"
    if name not in recipes:
        raise RecipeError(f"{options.model} has no recipe {name!r}: {closest(name, recipes)}")
    recipe = recipes[name].override(_assignments(options))
    return name, recipe, recipes[name].changes(recipe)


def _assignments(options: argparse.Namespace) -> dict[str, str]:
    """Every change of the recipe on the command line, name to text."""
    changes = {name: getattr(options, name) for name in ("data", "epochs") if getattr(options, name) is not None}
    for assignment in options.set or ():
        name, equals, value = assignment.partition("=")
        if not equals:
            raise RecipeError(f"--set {assignment!r} has no '=': expected NAME=VALUE")
        if name in changes:
            raise RecipeError(f"{name} is set twice: {changes[name]} and {value}")
        changes[name] = value
    return changes


def _dimensions(run: Run) -> int | None:
    """The number of values in an example, if the model's loss is a likelihood of bits or grey values."""
    if model_class(run.config["model"]).selected_by != "nll" or run.recipe.binarization == "real":
        return None
    return math.prod(run.config["data"]["shape"])


def _finish(run: Run, dataset: Dataset) -> None:
    """Figures and pictures of the picked model."""
    model = restore(run, run.config["device"])
    result = conclude(run, model, dataset)
    drawn = draw_samples(run, model, None, run.config["seed"], run.samples_picture)
    if has_pictures(model):
        drawn += draw_pictures(run, model, dataset, run.config["seed"], run.path)
    title = f"{result['model']} on {result['data']} ({result['binarization']})"
    gallery.write_curves(run.curves_picture, run.rows(), title, run.recipe.target)
    print(
        f"test: {figures(result['test'])} ({result['data']}, {result['binarization']}, {result['test_examples']} "
        f"examples), the model of epoch {result['picked_epoch']}; {duration(result['seconds'])} of training"
    )
    if run.recipe.target is not None:
        passed = result["target_passed"]
        when = f"after {passed['seconds']:.1f} s of training, epoch {passed['epoch']}" if passed else "never"
        print(f"target of {run.recipe.target:g} nats on the test set passed: {when}")
    print("pictures:", *drawn, run.curves_picture)


def _how_to_go_on(run: Run, what: str) -> str:
    return f"{what}; everything is saved, go on with: tinygen train --resume {run.path}"
