"""How training is shown: a bar on a terminal, a line per epoch elsewhere (a file, a pipe, a CI log)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Self

from tinygen.cli.text import duration, loss_and_bits
from tinygen.training import Observer
from tinygen.training.checkpoint import Progress


def observer(epochs: int, dimensions: int | None) -> Lines | Bar:
    """The observer that suits stderr; `dimensions` is that of an example when the loss is a likelihood, else None."""
    return (Bar if sys.stderr.isatty() else Lines)(epochs, dimensions)


class Lines(Observer):
    """One line on stdout per epoch."""

    def __init__(self, epochs: int, dimensions: int | None):
        self.epochs, self.dimensions = epochs, dimensions

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def begin(self, steps: int, progress: Progress) -> None:
        self.steps = steps

    def epoch(self, row: Mapping[str, Any]) -> None:
        left = row["seconds"] / row["step"] * (self.steps - row["step"])
        parts = [f"epoch {row['epoch']}/{self.epochs}", f"step {row['step']}", self.train_figures(row)]
        if valid := valid_figures(row):
            parts.append(valid)
        parts.append(f"{duration(row['seconds'])}, about {duration(left)} left" if left else duration(row["seconds"]))
        print("  ".join(parts), flush=True)

    def warning(self, message: str) -> None:
        print(f"warning: {message}", flush=True)

    def train_figures(self, row: Mapping[str, Any]) -> str:
        """The training figures of a row: of a likelihood model just the loss."""
        figures = {name.removeprefix("train_"): row[name] for name in row if name.startswith("train_")}
        if "loss" in figures:
            return loss_and_bits(figures["loss"], self.dimensions)
        return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


class Bar(Lines):
    """A bar on stderr with epoch, step, loss, validation figure and the time left."""

    def begin(self, steps: int, progress: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        super().begin(steps, progress)
        self.valid = ""
        columns = "{task.description}", BarColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn()
        self.bar = RichProgress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True))
        self.task = self.bar.add_task("", total=steps, completed=progress.step, figures="")
        self.bar.start()

    def __exit__(self, *exception: object) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()

    def step(self, progress: Progress, figures: Mapping[str, float]) -> None:
        means = {f"train_{name}": total / progress.batch for name, total in progress.sums.items()}
        self.bar.update(
            self.task,
            completed=progress.step,
            description=f"epoch {progress.epoch}/{self.epochs} step {progress.step}",
            figures=f"{self.train_figures(means)}  {self.valid}",
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        self.valid = valid_figures(row) or self.valid

    def warning(self, message: str) -> None:
        self.bar.console.print(f"warning: {message}", markup=False, highlight=False)


def valid_figures(row: Mapping[str, Any]) -> str:
    """ "valid 93.10 nats" when this row has a likelihood, else its other validation figures."""
    if "valid_nll" in row:
        return f"valid {row['valid_nll']:.2f} nats"
    return " ".join(f"{name} {value:.4g}" for name, value in row.items() if name.startswith("valid_"))
