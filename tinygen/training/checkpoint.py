"""The state of a run that is under way: one safetensors file, tensors plus JSON, so that reading it runs no code.

It holds everything that the next step depends on: parameters and buffers, each optimizer's state, the generator's
state, and how far the run is. A run continued from it is therefore the run that was never stopped, bit for bit.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tinygen.models.base import NotFiniteError, Optimizers
from tinygen.nn.serialize import load_arrays, save_arrays

if TYPE_CHECKING:
    from tinygen.models.base import Model


@dataclass
class Progress:
    """How far a run is: in `epoch` (from 1), `batch` batches are done; `step` counts them over all epochs."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    seconds: float = 0.0  # of training alone: no validation, no checkpoint
    sums: dict[str, float] = field(default_factory=dict)  # of the figures of this epoch's batches
    best: float | None = None  # the lowest validation figure so far, and its epoch
    best_epoch: int = 0
    finished: bool = False


def save(path: str | os.PathLike, model: Model, optimizers: Optimizers, rng: np.random.Generator, progress: Progress):
    """Write the state in one step. Raises NotFiniteError, and leaves the old file, when a tensor is not finite."""
    tensors = {f"model.{name}": array for name, array in model.state_dict().items()}
    for name, optimizer in optimizers.items():
        tensors |= {f"optimizer.{name}.{key}": array for key, array in optimizer.state_dict().items()}
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise NotFiniteError(f"{name} is no longer finite")
    state = {"progress": asdict(progress), "generator": rng.bit_generator.state}
    save_arrays(path, tensors, {"tinygen": json.dumps(state)})


def load(path: str | os.PathLike, model: Model, optimizers: Optimizers, rng: np.random.Generator) -> Progress:
    """Put the saved state into `model`, `optimizers` and `rng`, and return how far the run was.

    Raises FileNotFoundError when there is no such file, ValueError when it is damaged or of another model.
    """
    tensors, metadata = load_arrays(path)
    if "tinygen" not in metadata:
        raise ValueError(f"{path} is no checkpoint: its metadata have no entry 'tinygen'")
    state = json.loads(metadata["tinygen"])
    model.load_state_dict(_under("model.", tensors))
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(_under(f"optimizer.{name}.", tensors))
    rng.bit_generator.state = state["generator"]
    return Progress(**state["progress"])


def _under(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
