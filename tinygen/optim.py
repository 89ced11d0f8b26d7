"""Gradient descent: SGD, Adagrad, RMSprop, Adam and AdamW with PyTorch's formulas, schedules, gradient clipping.

An optimizer calls its rule on flat arrays. On the CPU a large parameter is updated where it lies; small ones of one dtype are
gathered into a single array, updated by one call and copied back: in a tiny network calls cost more than arithmetic. On a GPU a
call costs more than nearly any arithmetic: there all parameters of a dtype are moved into one array, for good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import numpy as np

from tinygen.backend import Array, module_of, to_device
from tinygen.groups import Group, ResidentGroup
from tinygen.kernels.adam import adam_step
from tinygen.tensor import Tensor

SMALL = 1 << 14  # elements; above it the copying costs more than the call it saves
ROW = 1 << 13  # elements summed by one BLAS call: few enough that BLAS stays on one thread, so the bits never change


class Optimizer:
    """Base class: `step()` applies the subclass's rule to every parameter that has a gradient, and to no other.

    Args:
        parameters: Tensors with requires_grad=True, such as `module.parameters()`. Move a module to its device first; on a GPU
            take `.data` of a parameter afterwards, as the optimizer gives it a new place in memory.
        lr: the learning rate; assign `optimizer.lr` to change it.
        weight_decay: added to the gradient as `weight_decay * parameter` (AdamW: see there).

    Raises ValueError for a setting out of its range, for no parameters, or for a parameter given twice.
    """

    slots: ClassVar[tuple[str, ...]] = ()  # names of the arrays kept for each parameter

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        self.parameters = list(parameters)
        self.lr = _in_range("lr", lr)
        self.weight_decay = _in_range("weight_decay", weight_decay)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__} was given no parameters")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ValueError(f"{type(self).__name__} was given a parameter twice; module.parameters() yields each once")
        for i, p in enumerate(self.parameters):
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                raise ValueError(f"parameter {i} is no Tensor made with requires_grad=True: {p!r:.60}")
        self.steps = [0] * len(self.parameters)  # how many updates each parameter has had
        self._groups = _grouped(self.parameters, self.slots)

    def _update(self, param: Array, grad: Array, state: Mapping[str, Array], step: int) -> None:
        """Change the flat arrays `param` and `state` in place, not `grad`: update number `step`, 1 for the first."""
        raise NotImplementedError

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self._step({})

    def clipped_step(self, max_norm: float) -> float:
        """`clip_grad_norm` and `step` in one, which takes fewer calls on a GPU; returns the norm before.

        A norm that is not finite leaves the parameters as they are. Whether `.grad` is scaled afterwards is left open.
        """
        gathered = {group: group.gradient() for group in self._groups if group.resident and self._together(group)}
        taken = {i for group in gathered for i in group.members}
        others = [p.grad for i, p in enumerate(self.parameters) if i not in taken and p.grad is not None]
        norm = _clip([*gathered.values(), *others], max_norm)
        if math.isfinite(norm):
            self._step(gathered)
        return norm

    def whole_group(self) -> ResidentGroup | None:
        """The group, on a GPU, that all parameters lie in and are updated in by one call; None where there is no such one."""
        group = self._groups[0]
        whole = len(self._groups) == 1 and group.resident and group.in_place and len(set(self.steps)) == 1
        return group if whole else None

    def gathered_step(self, group: ResidentGroup, norm: float, max_norm: float) -> None:
        """`clipped_step` where `group`, that of `whole_group`, has gathered the gradients, and the norm is known and finite."""
        _scale([group.gathered], norm, max_norm)
        self._step({group: group.gathered})

    def _step(self, gathered: Mapping[Group, Array]) -> None:
        """`step`, with the gradients of the groups in `gathered` as they are there."""
        for group in self._groups:
            ready = group.members
            if self._together(group):
                grad = gathered[group] if group in gathered else group.gradient()
                self._update(group.gather(), grad, group.state, self.steps[ready[0]] + 1)
                group.scatter()
            else:
                ready = [i for i in ready if self.parameters[i].grad is not None]
                for i in ready:
                    self._update_one(i, group.views[i])
            for i in ready:
                self.steps[i] += 1
                self.parameters[i].bump()

    def _together(self, group: Group) -> bool:
        """Whether one call of the rule can update the whole group."""
        alike = len({self.steps[i] for i in group.members}) == 1 < len(group.members)
        return alike and group.in_place and all(self.parameters[i].grad is not None for i in group.members)

    def _update_one(self, i: int, state: Mapping[str, Array]) -> None:
        parameter = self.parameters[i]
        flat = parameter._data.reshape(-1)
        self._update(flat, parameter.grad.reshape(-1), state, self.steps[i] + 1)
        if not parameter._data.flags.c_contiguous:  # then `flat` was a copy
            parameter._data[...] = flat.reshape(parameter.shape)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of everything the optimizer has learned, as NumPy arrays: "index.step" and "index.slot".

        A slot has its parameter's shape. The settings (lr, betas, ...) are the caller's: they are not in it.
        """
        state = {f"{i}.step": np.array(count, np.int64) for i, count in enumerate(self.steps)}
        for name, array in self._arrays():
            state[name] = np.array(to_device(array, "cpu"))
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state_dict()` of an optimizer of the same class over parameters of the same shapes.

        Raises ValueError that lists what is missing, unexpected or of the wrong shape; nothing has been changed then.
        """
        expected = {f"{i}.step": () for i in range(len(self.steps))} | {name: a.shape for name, a in self._arrays()}
        problems = [f"missing: {name}" for name in expected if name not in state]
        problems += [f"unexpected: {name}" for name in state if name not in expected]
        problems += [
            f"wrong shape: {name} is {state[name].shape}, expected {shape}"
            for name, shape in expected.items()
            if name in state and state[name].shape != shape
        ]
        if problems:
            raise ValueError(f"{type(self).__name__} cannot load this state:\n  " + "\n  ".join(problems))
        self.steps = [int(state[f"{i}.step"]) for i in range(len(self.steps))]
        for name, array in self._arrays():
            array[...] = module_of(array).asarray(state[name])

    def _arrays(self) -> Iterable[tuple[str, Array]]:
        for group in self._groups:
            for i, slots in group.views.items():
                yield from ((f"{i}.{slot}", flat.reshape(self.parameters[i].shape)) for slot, flat in slots.items())


class SGD(Optimizer):
    """param <- param - lr b, with b <- momentum b + g; or, `nesterov`, g + momentum b for b (Sutskever et al. 2013)."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ):
        self.momentum = _in_range("momentum", momentum)
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise ValueError("nesterov=True needs a momentum above 0")
        self.slots = ("momentum_buffer",) if momentum else ()
        super().__init__(parameters, lr, weight_decay)

    def _update(self, param: Array, grad: Array, state: Mapping[str, Array], step: int) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        if self.momentum:
            buffer = state["momentum_buffer"]
            buffer *= self.momentum
            buffer += grad
            grad = grad + self.momentum * buffer if self.nesterov else buffer
        param -= self.lr * grad


class Adagrad(Optimizer):
    """param <- param - lr g / (sqrt(s) + eps), with s <- s + g^2 (Duchi et al. 2011).

    With `lr_decay`, lr is divided by 1 + lr_decay t after t updates.
    """

    slots = ("sum",)

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ):
        self.lr_decay = _in_range("lr_decay", lr_decay)
        self.eps = _in_range("eps", eps)
        super().__init__(parameters, lr, weight_decay)

    def _update(self, param: Array, grad: Array, state: Mapping[str, Array], step: int) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        total = state["sum"]
        total += grad * grad
        param -= self.lr / (1 + (step - 1) * self.lr_decay) * grad / (module_of(param).sqrt(total) + self.eps)


class RMSprop(Optimizer):
    """param <- param - lr b, with b <- momentum b + g / (sqrt(s) + eps), s <- alpha s + (1 - alpha) g^2 (Hinton 2012).

    `centered` subtracts the square of g's running mean from s (Graves 2013, equations 38 to 45).
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
    ):
        self.alpha = _in_range("alpha", alpha, 1)
        self.eps = _in_range("eps", eps)
        self.momentum = _in_range("momentum", momentum)
        self.centered = centered
        self.slots = ("square_avg", *["grad_avg"] * centered, *["momentum_buffer"] * bool(momentum))
        super().__init__(parameters, lr, weight_decay)

    def _update(self, param: Array, grad: Array, state: Mapping[str, Array], step: int) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        spread = state["square_avg"]
        spread *= self.alpha
        spread += (1 - self.alpha) * grad * grad
        if self.centered:
            mean = state["grad_avg"]
            mean += (1 - self.alpha) * (grad - mean)
            spread = spread - mean * mean
        move = grad / (module_of(param).sqrt(spread) + self.eps)
        if self.momentum:
            buffer = state["momentum_buffer"]
            buffer *= self.momentum
            buffer += move
            move = buffer
        param -= self.lr * move


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), one fused kernel; the formula is in `kernels/adam/reference.py`."""

    slots = ("exp_avg", "exp_avg_sq")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        self.betas = tuple(_in_range("each of betas", beta, 1) for beta in betas)
        self.eps = _in_range("eps", eps)
        super().__init__(parameters, lr, weight_decay)

    def _update(self, param: Array, grad: Array, state: Mapping[str, Array], step: int) -> None:
        adam_step(
            param,
            grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            step,
            self.lr,
            *self.betas,
            self.eps,
            self.weight_decay,
            self.decoupled,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: parameters first shrink by 1 - lr weight_decay (Loshchilov and Hutter 2019)."""

    decoupled = True

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay)


OPTIMIZERS = {"sgd": SGD, "adagrad": Adagrad, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def constant(step: int, total: int) -> float:
    """1 at every step."""
    return 1.0


def cosine_decay(step: int, total: int, *, final: float = 0.0) -> float:
    """final + (1 - final) (1 + cos(pi step / total)) / 2, from 1 to `final` (Loshchilov and Hutter 2017, eq. 5)."""
    return final + (1 - final) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


def linear_decay(step: int, total: int, *, final: float = 0.0) -> float:
    """From 1 at step 0 in a straight line to `final` at step `total`."""
    return 1 - (1 - final) * min(step / total, 1.0)


def step_decay(step: int, total: int, *, parts: int = 3, factor: float = 0.1) -> float:
    """factor^k in the k-th of `parts` equal parts of the training, counted from 0."""
    return factor ** min(step * parts // total, parts - 1)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine_decay,
    "linear": linear_decay,
    "step": step_decay,
}
"""`SCHEDULES[name](step, total)` is the fraction of the first learning rate for update `step` of `total`, from 0."""


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients in place so that their common Euclidean norm is at most `max_norm` (Pascanu et al. 2013).

    Returns the norm before. Where it is above `max_norm` the factor is max_norm / (norm + 1e-6), as in PyTorch; an
    infinite `max_norm` only measures. A norm that is not finite leaves the gradients as they are: look at it.
    """
    return _clip([p.grad for p in parameters if p.grad is not None], max_norm)


def _clip(grads: list[Array], max_norm: float) -> float:
    squares = [sum_of_squares(grad) for grad in grads]
    norm = math.sqrt(float(sum(squares[1:], squares[0]))) if squares else 0.0
    _scale(grads, norm, max_norm)
    return norm


def _scale(grads: list[Array], norm: float, max_norm: float) -> None:
    if math.isfinite(norm) and (factor := max_norm / (norm + 1e-6)) < 1:
        for grad in grads:
            grad *= factor


def _grouped(parameters: list[Tensor], slots: tuple[str, ...]) -> list[Group]:
    """The parameters by dtype, to be updated together; on the CPU the large ones alone."""
    groups: dict[object, list[int]] = {}
    for i, p in enumerate(parameters):
        alone = p.device == "cpu" and p.size > SMALL
        groups.setdefault(i if alone else (p.device, p.dtype), []).append(i)
    resident = [len(members) > 1 and parameters[members[0]].device != "cpu" for members in groups.values()]
    kinds = [ResidentGroup if there else Group for there in resident]
    return [kind(parameters, members, slots) for kind, members in zip(kinds, groups.values())]


def _in_range(name: str, value: float, below: float = math.inf) -> float:
    if not 0 <= value < below:
        raise ValueError(f"{name} = {value} is out of range: expected at least 0 and below {below}")
    return value


def sum_of_squares(array: Array) -> Array:
    """The sum of the squares as a 0-d array, so that a GPU is waited for only once; long rows are summed in float64."""
    flat = array.ravel(order="K")
    xp = module_of(flat)
    if xp is not np or flat.size <= ROW:
        return xp.dot(flat, flat)
    whole = flat.size - flat.size % ROW
    rows = flat[:whole].reshape(-1, ROW)
    return np.vecdot(rows, rows).sum(dtype=np.float64) + np.dot(flat[whole:], flat[whole:])
