"""A run is a folder: what was asked (config.json), what happened (metrics.csv), the weights, and pictures.

Every file is replaced in one step, so a reader, or the next process after a crash, never meets half of one. The folder
itself appears together with its config.json, and an existing one is never taken for a new run.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import tinygen
from tinygen.backend import describe_gpu, load_cupy
from tinygen.models import MODELS, Recipe
from tinygen.models.recipe import closest
from tinygen.nn.serialize import write_atomically

FORMAT = 1
VERSIONS_OF = ("numpy", "numba", "scipy", "safetensors")


class RunError(Exception):
    """A run cannot be made, read or continued; the message says why and what to do."""


class Run:
    """A run's folder and its configuration; the files' names are the attributes below."""

    def __init__(self, path: str | os.PathLike, config: Mapping[str, Any]):
        self.path = Path(path)
        self.config = config
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.csv"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.best_file = self.path / "best.safetensors"
        self.result_file = self.path / "result.json"
        self.samples_picture = self.path / "samples.png"
        self.curves_picture = self.path / "curves.png"

    @classmethod
    def create(cls, config: Mapping[str, Any], out: str | os.PathLike | None = None) -> Run:
        """A new folder that holds `config`: at `out`, else at the first free of runs/MODEL, runs/MODEL-2, ...

        Raises RunError when `out` exists and is not an empty folder.
        """
        if out is not None:
            return cls._create(Path(out), config)
        number = 1
        while True:
            path = Path("runs", config["model"] + (f"-{number}" if number > 1 else ""))
            if not path.exists():
                return cls._create(path, config)
            number += 1

    @classmethod
    def _create(cls, path: Path, config: Mapping[str, Any]) -> Run:
        hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        hidden.mkdir(parents=True)
        try:
            write_json(hidden / "config.json", config)
            os.rename(hidden, path)  # fails when `path` is a file or a folder that is not empty
        except OSError:
            if not path.exists():
                raise
            raise RunError(
                f"{path} exists already and is never overwritten: continue it (--resume {path}) or choose another --out"
            ) from None
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return cls(path, config)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Run:
        """The run in the folder `path`. Raises RunError when there is none, or none that this version can read."""
        file = Path(path) / "config.json"
        try:
            config = json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{path} is no run: there is no {file}; `tinygen train` makes one") from None
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}") from None
        if config.get("format") != FORMAT:
            raise RunError(f"{file} has format {config.get('format')}; this version reads format {FORMAT}")
        if config["model"] not in MODELS:
            raise RunError(f"{file} names a model {config['model']!r}: {closest(config['model'], MODELS)}")
        return cls(path, config)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run, changes included."""
        return Recipe.from_dict(self.config["recipe"])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder meanwhile (RunError if one does); freed at any death."""
        import fcntl

        folder = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is training in {self.path}") from None
            for remnant in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
                remnant.unlink(missing_ok=True)
            yield
        finally:
            os.close(folder)

    def rows(self) -> list[dict[str, Any]]:
        """metrics.csv, one dictionary per epoch; figures that an epoch lacks are left out."""
        if not self.metrics_file.exists():
            return []
        with open(self.metrics_file, newline="") as file:
            return [{name: _number(text) for name, text in row.items() if text} for row in csv.DictReader(file)]

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace metrics.csv; floats are written so that reading gives the same bits."""
        text = io.StringIO()
        writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics_file, text.getvalue().encode())


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names in `rows`, those of training before those of validation, seconds last; stable otherwise."""
    order = ("epoch", "step", "train_", "valid_", "test_", "lr", "seconds")
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=lambda name: next(i for i, start in enumerate(order) if name.startswith(start)))


def first_below(rows: Sequence[Mapping[str, Any]], column: str, target: float) -> Mapping[str, Any] | None:
    """The first row whose `column` is at most `target`, or None."""
    return next((row for row in rows if row.get(column, target + 1) <= target), None)


def configuration(
    *, model: str, recipe_name: str, recipe: Recipe, changes: Sequence[str], seed: int, device: str, data: Mapping
) -> dict[str, Any]:
    """What config.json holds: all that is needed to repeat the run, and what it was run with."""
    return {
        "format": FORMAT,
        "model": model,
        "recipe_name": recipe_name,
        "changes": list(changes),
        "recipe": recipe.as_dict(),
        "seed": seed,
        "device": device,
        "data": dict(data),
        "versions": versions(device),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()}
        | ({} if device == "cpu" else {"gpu": describe_gpu(device)}),
    }


def versions(device: str) -> dict[str, str]:
    """The versions of Python and of the packages whose code decides the bits of a run on `device`."""
    found = {package: metadata.version(package) for package in VERSIONS_OF}
    cupy = {} if device == "cpu" else {"cupy": load_cupy().__version__}
    return {"tinygen": tinygen.__version__, "python": platform.python_version(), **found, **cupy}


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, in one step."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
