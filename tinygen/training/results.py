"""What came of a run: the model that validation picked, and its figures on held-out examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.backend import to_device
from tinygen.data import Dataset, Split
from tinygen.evaluation import DIGITS, sample_figures
from tinygen.models import model_class
from tinygen.models.base import Model
from tinygen.nn.serialize import load_arrays
from tinygen.training.examples import EVALUATION, HELD_OUT_SEED, INITIAL, SAMPLES, check_fit, generator, held_out, labels_for
from tinygen.training.run import Run, RunError, first_below, write_json
from tinygen.training.watch import diagnose, kind_of, look, training_figures

MOST_SAMPLES = 10_000  # as in the papers that quote Parzen windows
DRAWN = 500  # at once


def restore(run: Run, device: str = "cpu") -> Model:
    """The model of `run` that was best on the validation set. Raises RunError when there is none yet."""
    if not run.best_file.exists():
        raise RunError(f"{run.path} has no model yet: go on with it until a validation (tinygen train --resume {run.path})")
    shape = tuple(run.config["data"]["shape"])
    nothing = Split(np.empty((0, *shape), np.uint8), np.empty(0, np.int64))  # the model's size without the data set
    try:
        tensors, _ = load_arrays(run.best_file)
        model = model_class(run.config["model"]).build(run.recipe, nothing, generator(run.config["seed"], INITIAL))
        model.load_state_dict(tensors)
    except ValueError as error:
        raise RunError(f"{run.path} cannot be read: {error}") from error
    return model.to(device).eval()


def measure(run: Run, model: Model, dataset: Dataset, split: str = "test") -> dict[str, float]:
    """The figures of `model` on the split "valid" or "test" of `dataset`, binarized as the run's recipe says."""
    check_fit(dataset, run.recipe)
    part = getattr(dataset, split)
    examples = held_out(part, run.recipe.binarization)
    return model.evaluate(examples, generator(run.config["seed"], EVALUATION), **labels_for(model, part.labels))


def sample_count(dataset: Dataset) -> int:
    """How many samples a model of `dataset` is judged by: 10,000, or as many as there are training examples."""
    return min(MOST_SAMPLES, len(dataset.train))


def measure_samples(
    run: Run, model: Model, dataset: Dataset, split: str = "test", count: int | None = None
) -> dict[str, float] | None:
    """The figures of `count` samples of `model` (evaluation.sample_figures) against the split of `dataset`.

    None for data that are no digits, and for a model that draws something else than the data.
    """
    if dataset.name not in DIGITS or not model.draws_data:
        return None
    count, rng = count or sample_count(dataset), generator(run.config["seed"], SAMPLES)
    with model.evaluating():
        parts = [to_device(model.sample(min(DRAWN, count - start), rng), "cpu") for start in range(0, count, DRAWN)]
    return _against(np.concatenate(parts).astype(np.float32), dataset, run.recipe.binarization, split, model.device)


def measure_training_digits(
    dataset: Dataset, binarization: str, split: str = "test", count: int | None = None
) -> dict[str, float]:
    """The same figures of `count` training digits in the samples' place: what a model can be compared with."""
    chosen = np.random.default_rng(HELD_OUT_SEED).permutation(len(dataset.train))[: count or sample_count(dataset)]
    return _against(held_out(Split(dataset.train.images[chosen]), binarization), dataset, binarization, split, "cpu")


def _against(samples: np.ndarray, dataset: Dataset, binarization: str, split: str, device: str) -> dict[str, float]:
    real = held_out(getattr(dataset, split), binarization)
    return sample_figures(to_device(samples, device), held_out(dataset.valid, binarization), real)


def conclude(run: Run, model: Model, dataset: Dataset) -> dict[str, Any]:
    """Measure the picked model on the test set and write result.json, whose content is returned.

    "seconds" are those of training alone; with a target, "target_passed" is the first row of metrics.csv at which the
    test figure had reached it. What was trained against a discriminator has the figures of its samples as well, and
    "warnings": what the watch says of the picked model.
    """
    recipe, rows = run.recipe, run.rows()
    picked_by = f"valid_{model.selected_by}"
    judged = [row for row in rows if picked_by in row]
    picked = min(judged, key=lambda row: row[picked_by]) if judged else rows[-1]
    result = {
        "model": run.config["model"],
        "data": dataset.name,
        "binarization": recipe.binarization,
        "test": measure(run, model, dataset),
        "test_examples": len(dataset.test),
        "picked_epoch": picked["epoch"],
        "valid": {name.removeprefix("valid_"): value for name, value in picked.items() if name.startswith("valid_")},
        "epochs": rows[-1]["epoch"],
        "seconds": rows[-1]["seconds"],
    }
    if recipe.target is not None:
        last = rows[-1] | {"test_nll": result["test"]["nll"]}  # the only one where validation gave cheaper figures
        passed = first_below([*rows, last], "test_nll", recipe.target)
        result |= {"target": recipe.target, "target_passed": passed and {k: passed[k] for k in ("epoch", "seconds")}}
    if model.adversarial:
        balance = look(model, dataset.name, generator(run.config["seed"], SAMPLES))
        if samples := measure_samples(run, model, dataset):
            result["samples"] = samples
        result["warnings"] = diagnose(training_figures(picked), balance, kind_of(dataset.name))
    write_json(run.result_file, result)
    return result
