"""Training steps replayed as a CUDA graph: the loss, its gradients and their norm; the update follows by itself.

Only the update takes numbers of the host that change from step to step (the rate, the count), and only after the norm is known.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from tinygen import anomaly
from tinygen.backend import Array, module_of
from tinygen.groups import ResidentGroup
from tinygen.optim import Optimizer, sum_of_squares
from tinygen.replay import Replay

if TYPE_CHECKING:
    from tinygen.models.base import Model


class ReplayedStep:
    """The gradients of `model.loss` for batches like `x`, gathered in `group`, which holds all parameters of the optimizer.

    Each parameter's `.grad` is an array of the graph, which the next replay overwrites.
    """

    def __init__(self, model: Model, optimizer: Optimizer, group: ResidentGroup, x: Array):
        self.group = group
        self._model, self._optimizer = model, optimizer
        # What the graph reads must stay alive, and a buffer may be replaced by another one.
        self._buffers = [getattr(module, name) for module in model.modules() for name in module._buffers]
        self._replay = Replay(self._differentiate, x)
        self._grads = [p.grad for p in optimizer.parameters]

    def _differentiate(self, x: Array) -> Array:
        self._optimizer.zero_grad()
        loss = self._model.loss(x, None)
        loss.backward()
        figures = module_of(x).empty(2, np.float64)  # which holds both of any dtype as they are
        figures[0] = loss._data
        figures[1] = sum_of_squares(self.group.copied_gradient())
        return figures

    def __call__(self, x: Array) -> tuple[float, float]:
        """The loss, and the gradients' Euclidean norm."""
        loss, squares = self._replay(x).get().tolist()
        for parameter, grad in zip(self._optimizer.parameters, self._grads):
            parameter.grad = grad  # a step without the graph may have put another one there
        return loss, math.sqrt(squares)


class Replays:
    """Makes replayed steps: one at a time, and no more after one could not be captured."""

    def __init__(self) -> None:
        self._step: ReplayedStep | None = None
        self._made_for: tuple = ()
        self._given_up = False

    def step(self, model: Model, optimizer: Optimizer, x: Array) -> ReplayedStep | None:
        """The step for batches like `x`; None where it has to be done without a graph: on the CPU, where the parameters do not
        lie in one array, while operations are checked one by one, or after a capture has failed, of which a warning tells."""
        if self._given_up or anomaly.active or module_of(x) is np:
            return None
        group = optimizer.whole_group()
        if group is None:
            return None
        wanted = model, optimizer, x.shape, x.dtype
        if wanted != self._made_for:
            self._step, self._made_for = None, ()  # frees the memory of the one before
            try:
                self._step, self._made_for = ReplayedStep(model, optimizer, group, x), wanted
            except Exception as error:  # whatever it is: without a graph a step is slower, not wrong
                self._given_up = True
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                warnings.warn(f"training goes on without a CUDA graph, more slowly ({reason})", RuntimeWarning, stacklevel=2)
        return self._step
