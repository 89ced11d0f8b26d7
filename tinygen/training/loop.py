"""The training loop: the same for every model, which supplies `train_step` and `evaluate`.

    for each epoch:   for each batch:  set the rate, train_step, count
                      now and then:    evaluate on the validation set, keep the model if it is the best so far
                      write a row of metrics.csv, then the checkpoint

What comes next depends only on the seed and on what the checkpoint holds; the clock decides no more than when a
checkpoint is written within an epoch. Hence a run that was killed and continued equals one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from tinygen import optim
from tinygen.anomaly import AnomalyError, detect_anomaly
from tinygen.backend import to_device
from tinygen.data import Dataset
from tinygen.kernels.memory import keep_freed
from tinygen.models import model_class
from tinygen.models.base import NotFiniteError
from tinygen.nn.serialize import save_arrays
from tinygen.training import checkpoint
from tinygen.training.checkpoint import Progress
from tinygen.training.examples import EVALUATION, INITIAL, SAMPLES, STEPS, batches, check_fit, generator, held_out, labels_for
from tinygen.training.interrupt import Interrupted, Interruptions
from tinygen.training.run import Run
from tinygen.training.watch import diagnose, kind_of, look, training_figures


class Diverged(Exception):  # noqa: N818 - what happened, and the way the literature says it
    """A loss, a gradient or a weight became NaN or infinite; the last good checkpoint was kept."""


class OutOfMemory(Exception):  # noqa: N818 - as above
    """The memory of the machine or of its GPU did not suffice for a step; the last checkpoint was kept."""


class Observer:
    """Who watches a run; every method may be left as it is."""

    def begin(self, steps: int, progress: Progress) -> None:
        """Called once; `steps` is the number of training steps of the whole run."""

    def step(self, progress: Progress, figures: Mapping[str, float]) -> None:
        """Called after every training step."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Called after every epoch with its row of metrics.csv."""

    def warning(self, message: str) -> None:
        """Called after the epoch's row with each sign that the training goes wrong."""


class Training:
    """A run under way: model, optimizers, generator and progress, from the checkpoint where there is one."""

    def __init__(self, run: Run, dataset: Dataset, observer: Observer | None = None, checkpoint_seconds: float = 60.0):
        self.run, self.recipe, self.seed = run, run.recipe, run.config["seed"]
        check_fit(dataset, self.recipe)
        self.dataset, self.observer, self.checkpoint_seconds = dataset, observer or Observer(), checkpoint_seconds
        self.batches_per_epoch = len(dataset.train) // self.recipe.batch_size
        kind = model_class(run.config["model"])
        self.model = kind.build(self.recipe, dataset.train, generator(self.seed, INITIAL)).to(run.config["device"])
        self.optimizers = self.model.optimizers(self.recipe)
        self.rng = generator(self.seed, STEPS)
        self.progress, self.rows = Progress(), []
        if run.checkpoint_file.exists():
            self.progress = checkpoint.load(run.checkpoint_file, self.model, self.optimizers, self.rng)
            self.rows = [row for row in run.rows() if row["epoch"] < self.progress.epoch]
        splits = {"valid": dataset.valid} if self.recipe.target is None else {"valid": dataset.valid, "test": dataset.test}
        self.held_out = {
            name: (held_out(split, self.recipe.binarization), labels_for(self.model, split.labels))
            for name, split in splits.items()
        }

    def go(self) -> None:
        """Train to the end of the recipe. Raises Interrupted after a signal, Diverged after a NaN, OutOfMemory; all saved."""
        keep_freed()
        # NumPy's warnings of an overflow would only repeat what `diverged` says better.
        with Interruptions() as interruptions, np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            try:
                self.save()
                self.observer.begin(self.recipe.epochs * self.batches_per_epoch, self.progress)
                while not self.progress.finished:
                    self.train_epoch(interruptions)
                    self.finish_epoch()
                    interruptions.check()
            except NotFiniteError as error:
                raise self.diverged(str(error)) from None
            except MemoryError as error:  # NumPy's and CuPy's are kinds of it
                raise self.out_of_memory(error) from None
            except Interrupted:
                self.save()
                raise

    def train_epoch(self, interruptions: Interruptions) -> None:
        """The steps of this epoch that are still to do."""
        progress = self.progress
        self.model.train()
        todo = batches(self.dataset.train, self.recipe, self.seed, progress.epoch)
        started = time.perf_counter()
        for examples, labels in islice(todo, progress.batch, None):
            figures = self.train_step(to_device(examples, self.run.config["device"]), labels_for(self.model, labels))
            for name, value in figures.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.batch += 1
            progress.step += 1
            progress.seconds += time.perf_counter() - started
            self.observer.step(progress, figures)
            if time.monotonic() - self.saved_at > self.checkpoint_seconds:
                self.save()
            interruptions.check()
            started = time.perf_counter()

    def train_step(self, x: Any, labels: Mapping[str, Any]) -> dict[str, float]:
        """One update, at the rate of the schedule."""
        self.optimizers.set_lr(self.lr_factor(self.progress.step))
        return self.finite(lambda: self.model.train_step(x, self.optimizers, self.rng, **labels), self.rng)

    def lr_factor(self, step: int) -> float:
        """What the schedule makes of the starting rate at update `step`, counted from 0."""
        return optim.SCHEDULES[self.recipe.schedule](step, self.recipe.epochs * self.batches_per_epoch)

    def finite(self, compute: Callable[[], dict[str, float]], rng: np.random.Generator) -> dict[str, float]:
        """The figures that `compute` gives. If one is NaN or infinite, it is done again with every op checked.

        Raises NotFiniteError, which names the op that was the first to go wrong.
        """
        before = rng.bit_generator.state
        try:
            figures = compute()
            for name, value in figures.items():
                if not math.isfinite(value):
                    raise NotFiniteError(f"{name} became {value}")
            return figures
        except NotFiniteError as error:
            for name, parameter in self.model.state_dict().items():
                if not np.isfinite(parameter).all():
                    raise NotFiniteError(f"{error}: the update before made {name} infinite or NaN") from None
            rng.bit_generator.state = before
            try:
                with detect_anomaly(), suppress(NotFiniteError):
                    compute()
            except AnomalyError as cause:
                raise NotFiniteError(f"{error}: {cause}") from None
            raise

    def finish_epoch(self) -> None:
        """Close the epoch: figures, the best model, the row of metrics.csv, and last the checkpoint."""
        progress = self.progress
        row = {"epoch": progress.epoch, "step": progress.step}
        row |= {f"train_{name}": total / progress.batch for name, total in progress.sums.items()}
        last, warnings = progress.epoch == self.recipe.epochs, []
        if last or progress.epoch % self.recipe.valid_every == 0:
            row |= self.evaluate()
            if self.model.adversarial:
                warnings = self.watch(row)
            self.keep_if_best(row)
        row |= {"lr": self.recipe.lr * self.lr_factor(progress.step - 1), "seconds": round(progress.seconds, 3)}
        self.rows.append(row)
        progress.epoch, progress.batch, progress.sums, progress.finished = progress.epoch + 1, 0, {}, last
        self.run.write_rows(self.rows)
        self.save()
        self.observer.epoch(row)
        for message in warnings:
            self.observer.warning(message)

    def watch(self, row: dict[str, Any]) -> list[str]:
        """Add to the row how the samples are spread over the kinds that there are; the signs that something goes wrong."""
        balance = look(self.model, self.dataset.name, generator(self.seed, SAMPLES, self.progress.epoch))
        if balance is not None:
            row |= {f"valid_{name}": value for name, value in balance.figures().items()}
        return diagnose(training_figures(row), balance, kind_of(self.dataset.name))

    def evaluate(self) -> dict[str, float]:
        """The model's figures on the validation set (and the test set when the recipe has a target)."""
        rng = generator(self.seed, EVALUATION, self.progress.epoch)
        figures = {}
        for split, (examples, labels) in self.held_out.items():
            found = self.finite(partial(self.model.validate, examples, rng, **labels), rng)
            figures |= {f"{split}_{name}": value for name, value in found.items()}
        return figures

    def keep_if_best(self, row: Mapping[str, Any]) -> None:
        """Write best.safetensors if no earlier validation was better (or if this model is not picked by a figure)."""
        figure = row.get(f"valid_{self.model.selected_by}")
        if figure is None or self.progress.best is None or figure < self.progress.best:
            self.progress.best, self.progress.best_epoch = figure, self.progress.epoch
            save_arrays(self.run.best_file, self.model.state_dict(), {"epoch": str(self.progress.epoch)})

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.run.checkpoint_file, self.model, self.optimizers, self.rng, self.progress)
        self.saved_at = time.monotonic()

    def diverged(self, what: str) -> Diverged:
        """The error for a run that cannot go on, with what is left of it."""
        p = self.progress
        return Diverged(
            f"stopped in epoch {p.epoch} at step {p.step}: {what}. The last good checkpoint is kept in "
            f"{self.run.checkpoint_file}; try a lower lr or a clip on the gradient (--set lr=... --set clip=...)"
        )

    def out_of_memory(self, error: MemoryError) -> OutOfMemory:
        """The error for a run whose batches are too large, with what is left of it."""
        p, smaller = self.progress, max(1, self.recipe.batch_size // 2)
        return OutOfMemory(
            f"out of memory on {self.run.config['device']} in epoch {p.epoch} at step {p.step} ({error}). The last checkpoint "
            f"is kept in {self.run.checkpoint_file}; train anew with a smaller batch (--set batch_size={smaller}), or go on "
            f"where there is more memory: tinygen train --resume {self.run.path}"
        )
