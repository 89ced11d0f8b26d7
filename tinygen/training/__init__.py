"""Training any model: the loop, checkpoints from which a run goes on exactly, and the run's folder."""

from tinygen.training.examples import check_fit, generator, held_out
from tinygen.training.interrupt import Interrupted
from tinygen.training.loop import Diverged, Observer, OutOfMemory, Training
from tinygen.training.results import conclude, measure, measure_samples, measure_training_digits, restore, sample_count
from tinygen.training.run import Run, RunError, configuration, first_below, versions

__all__ = [
    "Diverged",
    "Interrupted",
    "Observer",
    "OutOfMemory",
    "Run",
    "RunError",
    "Training",
    "check_fit",
    "conclude",
    "configuration",
    "first_below",
    "generator",
    "held_out",
    "measure",
    "measure_samples",
    "measure_training_digits",
    "restore",
    "sample_count",
    "versions",
]
