"""What every model has in common: how it is made, trained by one step, and judged.

A model file defines a subclass, its recipes, and the parts that differ. The training loop and the command line see
only what is written here, so a model with one loss needs `build`, `loss`, `log_prob` and `sample` and nothing else;
a model with several networks (a GAN, say) overrides `optimizers` and `train_step` as well.

Examples are flat: `x` is a float32 array (batch, dimensions) with values in [0, 1], on the model's device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinygen import Tensor, nn, no_grad, optim
from tinygen.backend import Array, device_of, to_device
from tinygen.evaluation import bits_per_dim
from tinygen.models.pictures import Picture
from tinygen.models.recipe import Recipe
from tinygen.models.replayed import Replays

if TYPE_CHECKING:
    from tinygen.data import Split

EVALUATION_BATCH = 500


class Model(nn.Module):
    """Base class of the models; see the module's text for what a subclass must add."""

    RECIPES: ClassVar[Mapping[str, Recipe]] = {}
    # The figure of `validate` whose lowest value on the validation set picks the model; None keeps the last one.
    selected_by: ClassVar[str | None] = "nll"
    # What the figure "nll" is: "exact"; a "bound", which the exact one does not exceed; or an "estimate" of the exact one.
    nll_is: ClassVar[str] = "exact"
    # Whether it is trained against a discriminator: training then watches for a collapse (training/watch.py).
    adversarial: ClassVar[bool] = False
    # Whether `sample` draws from the law of the whole data set, as a translation of some of its images does not: only then
    # are samples held against the data.
    draws_data: ClassVar[bool] = True
    # Whether `train_step`, `evaluate`, `validate` and `pictures` also get the examples' class numbers (batch,), as `labels`.
    uses_labels: ClassVar[bool] = False
    # Whether `pictures` gets them even so, as `labels`: None where the data have none.
    shows_labels: ClassVar[bool] = False

    @classmethod
    def build(cls, recipe: Recipe, train: Split, rng: np.random.Generator) -> Self:
        """A new model: hyperparameters from `recipe.model`, sizes and data-dependent starts from `train`.

        `train` has no examples (but the right shape) when a saved run is loaded: the weights follow at once.
        """
        raise NotImplementedError(f"{cls.__name__} must define build(recipe, train, rng)")

    def loss(self, x: Array, rng: np.random.Generator) -> Tensor:
        """What one training step lowers: a scalar, in nats per example for a likelihood model."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(x, rng), or train_step")

    def log_prob(self, x: Array) -> Tensor:
        """ln p(x) of each example, (batch,), in nats."""
        raise NotImplementedError(f"{type(self).__name__} gives no likelihood")

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """`n` examples drawn from the model, (n, dimensions), values in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} cannot draw samples")

    def illustrate(self, texts: Sequence[str], rng: np.random.Generator) -> Array:
        """A sample of what each of the texts says, (n, dimensions). Raises DataError for a text that it cannot read."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing from a text")

    def complete(self, x: Array, observed: Array, rng: np.random.Generator) -> Array:
        """`x` with the entries where the boolean mask `observed` (dimensions,) is False drawn given the others."""
        raise NotImplementedError(f"{type(self).__name__} cannot fill in pixels")

    def first_half(self, dimensions: int) -> np.ndarray:
        """Boolean mask (dimensions,) of the half that `complete` can be given: the upper half of an image, unless the
        model visits the pixels in another order than row by row."""
        return np.arange(dimensions) < dimensions // 2

    def pictures(self, x: Array, rng: np.random.Generator) -> dict[str, Picture]:
        """What the model has to show besides samples, by name, given held-out examples x (n, dimensions)."""
        return {}

    def optimizers(self, recipe: Recipe) -> Optimizers:
        """The optimizers of one training step, by name. Default: the recipe's, over all parameters, as "model"."""
        return Optimizers({"model": optim_from(recipe, self.parameters())}, clip=recipe.clip)

    def train_step(self, x: Array, optimizers: Optimizers, rng: np.random.Generator) -> dict[str, float]:
        """One update from the batch `x`; returns the figures to log, of which "loss" is shown."""
        value = optimizers.minimize_replayed(self, x) if self.replayed and self.training else None
        if value is None:
            loss = self.loss(x, rng)
            optimizers.minimize(loss)
            value = loss.item()
        return {"loss": value}

    def evaluate(self, x: Array, rng: np.random.Generator) -> dict[str, float]:
        """Figures on held-out examples `x` (n, dimensions): mean "nll" in nats, and "bits_per_dim".

        bits per dimension = nll / (dimensions ln 2). `rng` serves models whose figure is an estimate.
        """
        total = 0.0
        with self.evaluating():
            for batch in self.batches(x):
                total += float(np.sum(self.log_prob(batch).numpy(), dtype=np.float64))
        nll = -total / len(x)
        return {"nll": nll, "bits_per_dim": bits_per_dim(nll, x.shape[1])}

    def validate(self, x: Array, rng: np.random.Generator, **labels: Array) -> dict[str, float]:
        """The figures on held-out examples during training, `selected_by` among them: those of `evaluate`, unless that
        takes too long to be done after every epoch."""
        return self.evaluate(x, rng, **labels)

    def batches(self, x: Array, size: int = EVALUATION_BATCH) -> Iterator[Array]:
        """`x` in parts of at most `size` examples, each on the model's device."""
        for start in range(0, len(x), size):
            yield to_device(x[start : start + size], self.device)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it no graph is recorded, and dropout and batch statistics are off."""
        self.eval()
        try:
            with no_grad():
                yield
        finally:
            self.train()

    @property
    def replayed(self) -> bool:
        """Whether a training step on a GPU may be captured and replayed (replayed.py).

        Then `loss` draws no random number, reads no value on the host and calls the same operations for every batch of a shape;
        and buffers stay where they are: `load_state_dict` writes into them, another array in place of one is not seen.
        """
        return False

    @property
    def device(self) -> str:
        """Where the parameters are: "cpu" or "cuda:N"."""
        return device_of(next(iter(self.parameters()))._data)

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters, and so of what the model computes."""
        return next(iter(self.parameters())).dtype

    def own(self, values: Array) -> Array:
        """`values` as the model computes with them: of its dtype, on its device. What is random is drawn before, on the CPU, so
        that every device gets the same numbers."""
        return to_device(values.astype(self.dtype, copy=False), self.device)


class NotFiniteError(ArithmeticError):
    """A loss or a gradient became NaN or infinite; the parameters were left as they were before that update."""


class Optimizers(dict):
    """A model's optimizers by name, with the recipe's bound on the gradient's norm.

    `minimize` is the whole update, so that a model with several networks reads as its losses:
    `optimizers.minimize(discriminator_loss, "discriminator")`.
    """

    def __init__(self, optimizers: Mapping[str, Any], clip: float | None = None):
        super().__init__(optimizers)
        self.clip = clip
        # The schedule multiplies these, so each optimizer may have a rate of its own.
        self.base_lr = {name: optimizer.lr for name, optimizer in self.items()}
        self._replays = Replays()

    def set_lr(self, factor: float) -> None:
        """Give every optimizer `factor` times the rate that it was made with."""
        for name, optimizer in self.items():
            optimizer.lr = self.base_lr[name] * factor

    def minimize(self, loss: Tensor, name: str = "model") -> float:
        """Backward, clip, one step of the optimizer `name`; returns the gradient's Euclidean norm before clipping.

        Raises NotFiniteError, without changing a parameter, when the loss or its gradient is not finite.
        """
        _check_finite("the loss", loss.item())
        optimizer = self[name]
        optimizer.zero_grad()
        loss.backward()
        norm = optimizer.clipped_step(self._max_norm)
        _check_finite("the gradient's norm", norm)
        return norm

    def minimize_replayed(self, model: Model, x: Array) -> float | None:
        """As `minimize` of the model's loss of the batch `x`, by replaying a CUDA graph; returns the loss.

        None, with nothing changed, where there can be no such graph.
        """
        optimizer = self["model"]
        step = self._replays.step(model, optimizer, x)
        if step is None:
            return None
        value, norm = step(x)
        _check_finite("the loss", value)
        _check_finite("the gradient's norm", norm)
        optimizer.gathered_step(step.group, norm, self._max_norm)
        return value

    @property
    def _max_norm(self) -> float:
        return math.inf if self.clip is None else self.clip


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise NotFiniteError(f"{name} became {value}")


def optim_from(recipe: Recipe, parameters: Any, **changes: Any) -> Any:
    """The optimizer that `recipe` names, over `parameters`; `changes` (such as lr=...) replace its options."""
    options = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, **recipe.optimizer_options, **changes}
    return optim.OPTIMIZERS[recipe.optimizer](parameters, **options)


def pixel_log_odds(train: Split) -> np.ndarray:
    """ln p/(1 - p) of each pixel's mean over `train`, (dimensions,) float32: the start of a model's output biases.

    p is smoothed by one pixel on and one off, p = (sum x + 1) / (n + 2), so that it is never 0 or 1.
    """
    white = 255 if train.images.max(initial=0) > 1 else 1  # grey values or bits
    on = train.images.sum(axis=0, dtype=np.float64).reshape(-1) / white
    p = (on + 1) / (len(train) + 2)
    return np.log(p / (1 - p)).astype(np.float32)
