"""The command `tinygen`: its options, and how its errors reach the user. Each command's work is in a module beside this.

Options that change a recipe default to None, so that what the recipe says stands unless the user says otherwise.
argparse is enough for this, and starts in a few milliseconds; a command's own imports happen when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import tinygen

DESCRIPTION = "Deep generative models: train them, judge them, look at what they draw."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code: 0, 1 for an error, 2 for a wrong command line, 128 + signal."""
    options = parser().parse_args(arguments)
    module, _, function = options.location.partition(":")
    try:
        command: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f"tinygen.cli.{module}"), function)
        return command(options)
    except KeyboardInterrupt:
        return complain("stopped", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        return complain(f"out of memory ({error}): ask for fewer images at once, or for another --device", 1)
    except Exception as error:
        if isinstance(error, expected_errors()):
            return complain(str(error), 1)
        raise


def complain(message: str, code: int) -> int:
    """Print `message` as one line on stderr and return `code`."""
    print("tinygen:", " ".join(message.split()), file=sys.stderr)
    return code


def expected_errors() -> tuple[type[Exception], ...]:
    """The errors that a user can cause and whose message says what to do; any other is a bug and shows its traceback."""
    from tinygen.data import DataError
    from tinygen.models import RecipeError
    from tinygen.training import Diverged, OutOfMemory, RunError

    return DataError, RecipeError, RunError, Diverged, OutOfMemory, OSError


class Parser(argparse.ArgumentParser):
    """argparse's parser, except that a wrong command line costs one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(f"{message} (`{self.prog} --help` tells more)", 2))


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(prog="tinygen", description=DESCRIPTION, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"tinygen {tinygen.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, location: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(location=location)
        return command

    command = add("list", "tools:list_models", "list the models, or the recipes and settings of one")
    command.add_argument("model", nargs="?", metavar="MODEL", help="show what can be set for this model")

    _add_train(add("train", "train:train", "train a model, or go on with a run that was stopped"))

    _add_orders(add("orders", "orders:compare", "train a model under several orders of the pixels and compare them"))

    command = add("evaluate", "evaluate:evaluate", "measure trained runs on the held-out digits")
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    command.add_argument("--split", choices=("valid", "test"), default="test", help="default: %(default)s")
    command.add_argument(
        "--measures",
        action="store_true",
        help="judge samples too, as is always done where there is no nll: Parzen, Frechet, precision, recall, class balance",
    )
    command.add_argument("--samples", type=positive, metavar="N", help="how many samples to judge (at most 10,000 by default)")
    _add_place(command)

    command = add("sample", "runs:sample", "draw samples from a trained run into a picture")
    _add_picture(command, None, "number of samples (default: 100 images, 2000 points of the plane, 10 for each text)")
    command.add_argument(
        "--text",
        action="append",
        metavar="CAPTION",
        help='draw what it says ("a thick seven slanted left"); repeat for more rows',
    )

    command = add("complete", "runs:complete", "show halves of test digits to a run and let it fill in the others")
    _add_picture(command, 10, "number of digits (default: 10)")

    command = add("table", "table:show", "what counting models cost and are worth: parameters and likelihoods on digits")
    command.add_argument("--data", metavar="NAME", default="mnist5k", help="data set of the first table (default: %(default)s)")
    command.add_argument("--binarization", choices=("dynamic", "threshold"), default="dynamic", help="default: %(default)s")
    command.add_argument("--alpha", type=amount, default=1.0, help="what is added to every count (default: %(default)g)")
    command.add_argument("--data-dir", metavar="FOLDER", help="where to look for data sets first, and to put downloads")

    command = add("gradcheck", "tools:gradcheck", "check the gradients of every op, layer, kernel and model")
    command.add_argument("names", nargs="*", metavar="NAME", help="check only what has this name (default: everything)")
    command.add_argument("--seed", type=natural, default=0, help="of the random inputs (default: %(default)s)")
    command.add_argument("--device", metavar="cpu|cuda", default="cpu", help="where to check (default: cpu)")

    command = add("data", "tools:data_sets", "list the data sets, or download one")
    command.add_argument("action", nargs="?", choices=("get",), help="get NAME: make sure that the data set is here")
    command.add_argument("name", nargs="?", metavar="NAME", help="name of a data set")
    command.add_argument("--data-dir", metavar="FOLDER", help="where to look first, and to put downloads")
    return top


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", nargs="?", metavar="MODEL", help="its name (`tinygen list`); not needed with --resume")
    _add_recipe(command)
    add("--out", metavar="FOLDER", help="the run's new folder (default: the first free of runs/MODEL, runs/MODEL-2, ...)")
    add("--resume", metavar="RUN", help="go on with this run, exactly as if it had not been stopped")


def _add_orders(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", metavar="MODEL", help="its name; it must have a setting 'order' (`tinygen list MODEL`)")
    add("--orders", metavar="A,B,...", default="raster,column,spiral,random", help="default: %(default)s")
    _add_recipe(command)
    add("--out", metavar="FOLDER", help="a run for each order in it; the same command goes on with it (runs/MODEL-orders)")


def _add_recipe(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--recipe", metavar="NAME", help="quick: minutes on a laptop; paper: the paper's set-up; or another (default: quick)")
    add("--data", metavar="NAME", help="data set, instead of the recipe's (`tinygen data`)")
    add("--epochs", metavar="N", help="instead of the recipe's")
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        help="change one setting of the recipe (`tinygen list MODEL` shows them); repeat for more",
    )
    add("--seed", type=natural, help="of everything random (default: 0)")
    add("--checkpoint-seconds", type=float, default=60.0, metavar="S", help="longest time between two checkpoints (60)")
    _add_place(command, default=None)


def _add_place(command: argparse.ArgumentParser, default: str | None = "cpu") -> None:
    command.add_argument("--device", metavar="cpu|cuda", default=default, help="where to compute (default: cpu)")
    command.add_argument("--data-dir", metavar="FOLDER", help="where to look for data sets first, and to put downloads")


def _add_picture(command: argparse.ArgumentParser, count: int | None, help: str) -> None:
    command.add_argument("run", metavar="RUN", help="folder of a run")
    command.add_argument("-n", type=positive, default=count, dest="count", help=help)
    command.add_argument("--seed", type=natural, default=0, help="default: %(default)s")
    command.add_argument("--out", metavar="FILE.png", help="the picture (default: in the run's folder)")
    _add_place(command)


def natural(text: str) -> int:
    """The whole number, at least 0, that `text` is."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def positive(text: str) -> int:
    """The whole number, at least 1, that `text` is."""
    if natural(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def amount(text: str) -> float:
    """The finite number, at least 0, that `text` is."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return value
