"""`tinygen list`, `data` and `gradcheck`."""

from __future__ import annotations

import argparse
import sys

from tinygen.cli.text import table


def list_models(options: argparse.Namespace) -> int:
    """The registry of models, or one model's recipes side by side: every name there can be given to --set."""
    from tinygen.models import MODELS, model_class

    if options.model is None:
        print(table(["model", "paper", "description"], [[name, e.paper, e.description] for name, e in MODELS.items()]))
        return 0
    recipes = model_class(options.model).RECIPES
    columns = [recipe.settings() for recipe in recipes.values()]
    names = dict.fromkeys(name for settings in columns for name in settings)
    print(table(["setting", *recipes], [[name, *(c.get(name, "") for c in columns)] for name in names]))
    return 0


def data_sets(options: argparse.Namespace) -> int:
    """The data sets and where they were found, or, with `get NAME`, the same for one after making sure it is here."""
    from tinygen import data
    from tinygen.cli.runs import load_data
    from tinygen.models import RecipeError

    if options.action == "get" and options.name is None:
        raise RecipeError(f"get which data set? one of {', '.join(data.available())}")
    if options.action == "get":
        load_data(options.name, options.data_dir)
    sources = [source for source in data.info(options.data_dir) if options.name in (None, source.name)]
    rows = [
        [s.name, *s.sizes, "bits" if s.binary else "real" if s.real else "grey", s.found or "not here yet"] for s in sources
    ]
    print(table(["data set", "train", "valid", "test", "values", "where"], rows))
    if options.action == "get":
        print(f"origin: {sources[0].origin}\nlicence: {sources[0].licence}")
    return 0


def gradcheck(options: argparse.Namespace) -> int:
    """Check gradients by name; the exit code is 1 when one is wrong."""
    from rich.console import Console
    from rich.progress import track

    from tinygen import checks
    from tinygen.cli.runs import usable_device

    device = usable_device(options.device)
    try:
        cases = checks.select(options.names)
    except (KeyError, ValueError) as error:
        from tinygen.models import RecipeError

        raise RecipeError(str(error.args[0])) from None
    console = Console(stderr=True)
    bar = track(cases, "checking", console=console, disable=not sys.stderr.isatty())
    results = [checks.run_case(case, options.seed, device) for case in bar]
    rows = [[r.name, r.inputs, f"{r.worst:.2g}", r.order, f"{r.seconds:.2f}", "ok" if r.ok else "WRONG"] for r in results]
    print(table(["name", "inputs", "worst/tolerance", "order", "seconds", ""], rows))
    wrong = [result for result in results if not result.ok]
    for result in wrong:
        print(f"\n{result.name} (seed {options.seed}):\n{result.message}", file=sys.stderr)
    print(f"{len(results) - len(wrong)} of {len(results)} right, {sum(r.seconds for r in results):.1f} s")
    return 1 if wrong else 0
