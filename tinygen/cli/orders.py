"""`tinygen orders`: the same model trained under several orders of the pixels, and the difference that the order makes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tinygen import gallery
from tinygen.cli.text import table
from tinygen.cli.train import asked_for, train
from tinygen.models import MODELS, Recipe, RecipeError, model_class
from tinygen.models.orderings import ORDERINGS
from tinygen.models.recipe import closest
from tinygen.training import Run, RunError


def compare(options: argparse.Namespace) -> int:
    """Train a run for each order, or go on with it, as `tinygen train` does; then a table and a picture of all of them."""
    orders = list(dict.fromkeys(name.strip() for name in options.orders.split(",")))
    if unknown := [name for name in orders if name not in ORDERINGS]:
        raise RecipeError(f"ordering {unknown[0]!r} is unknown: {closest(unknown[0], ORDERINGS)}")
    if not _takes_an_order(options.model):
        able = ", ".join(name for name in MODELS if _takes_an_order(name))
        raise RecipeError(f"{options.model} visits the pixels in no order that could be chosen; models that do: {able}")
    out = Path(options.out or Path("runs", f"{options.model}-orders"))
    wanted = {name: _with_order(options, name, out / name) for name in orders}
    started = {name: run for name, each in wanted.items() if (run := _started(each)) is not None}
    for name, each in wanted.items():
        if name in started and started[name].result_file.exists():
            continue
        if code := train(_resumed(each) if name in started else each):
            return code
        print(flush=True)
    _conclude({name: Run.open(out / name) for name in orders}, out / "orders.png")
    return 0


def _takes_an_order(model: str) -> bool:
    """Whether the model has a hyperparameter `order` that is the name of an ordering."""
    return all(recipe.model.get("order") in ORDERINGS for recipe in model_class(model).RECIPES.values())


def _with_order(options: argparse.Namespace, order: str, out: Path) -> argparse.Namespace:
    """The options of `tinygen train` for one order."""
    return argparse.Namespace(
        **{**vars(options), "set": [*(options.set or ()), f"order={order}"], "out": str(out), "resume": None}
    )


def _resumed(options: argparse.Namespace) -> argparse.Namespace:
    """The options of `tinygen train --resume` for a run that was begun with `options`."""
    nothing = dict.fromkeys(("recipe", "data", "epochs", "set", "seed", "device", "out"))
    return argparse.Namespace(**{**vars(options), **nothing, "resume": options.out})


def _started(options: argparse.Namespace) -> Run | None:
    """The run that lies in the folder already, if it is the one that `options` ask for; RunError if it is another."""
    if not Path(options.out).exists():
        return None
    run = Run.open(options.out)
    _, recipe, _ = asked_for(options)
    same = (run.config["model"], run.config["seed"]) == (options.model, options.seed or 0)
    if not same or Recipe.from_dict(recipe.as_dict()) != run.recipe:
        differences = "; ".join(run.recipe.changes(recipe)) or "model or seed"
        raise RunError(f"{run.path} is a run with other settings ({differences}): choose another --out")
    return run


def _conclude(runs: dict[str, Run], picture: Path) -> None:
    """Print the table, best order first, and draw the validation curves."""
    results = {name: json.loads(run.result_file.read_text()) for name, run in runs.items()}
    runs = dict(sorted(runs.items(), key=lambda item: results[item[0]]["test"]["nll"]))
    names = list(results[next(iter(runs))]["test"])
    rows, curves = [], {}
    for name, run in runs.items():
        result = results[name]
        figures = [f"{result['test'][figure]:.4f}" for figure in names]
        rows.append([name, *figures, result["picked_epoch"], result["epochs"], f"{result['seconds']:.0f}"])
        curves[f"{name}, test {result['test']['nll']:.5g}"] = run.rows()
    titles = ["order", *(f"test {figure}" for figure in names), "picked epoch", "epochs", "seconds"]
    print(table(titles, rows))
    title = f"{result['model']} on {result['data']} ({result['binarization']}) under {len(runs)} orders of the pixels"
    gallery.write_comparison(picture, curves, "valid_nll", "validation, nats", title)
    print(f"picture: {picture}")
