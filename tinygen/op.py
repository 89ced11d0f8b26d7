"""Operations: one forward function on plain arrays and, beside it, one gradient rule for each argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import update_wrapper
from typing import Any

import numpy as np

from tinygen import anomaly
from tinygen.backend import SCALARS, Array, is_array
from tinygen.graph import Node, mode
from tinygen.guard import fingerprint, owner
from tinygen.tensor import Tensor, array_of


class _Plan:
    """For one op and one set of arguments that need gradients: which values to save, which rules to run on which of them."""

    def __init__(self, op: Op, mask: int, count: int):
        wanted = [i for i in range(count) if mask >> i & 1]
        rules = [(None, op.joint)] if op.joint else [(i, op.rules[i]) for i in wanted if op.rules[i]]
        names = sorted({name for _, rule in rules for name in rule.needs} - {"g", "needs"})
        self.slots = [op.source(name) for name in names]
        self.needs = tuple(bool(mask >> i & 1) for i in range(count))
        self.joint = bool(op.joint)
        order = {"g": 0, "needs": 1} | {name: k + 2 for k, name in enumerate(names)}
        self.calls = [(i, rule, tuple(order[name] for name in rule.needs)) for i, rule in rules]


class _Rule:
    """A gradient rule and the names of the values it asks for."""

    __slots__ = ("function", "needs")

    def __init__(self, function: Callable):
        self.function = function
        self.needs = tuple(inspect.signature(function).parameters)


class Op:
    """A differentiable function: one forward on plain arrays, one rule per differentiable argument.

    Made by the decorator `differentiable`. Called with at least one Tensor it returns a Tensor (and records, where a gradient
    may be needed); called with arrays only it is just its forward.
    """

    def __init__(self, forward: Callable, rules: dict[str, Callable], once: bool, view: bool, promote: bool):
        parameters = inspect.signature(forward).parameters.values()
        self.arguments = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self.variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self.option_names = [p.name for p in parameters if p.name not in self.arguments and p.name != self.variadic]
        self.defaults = {p.name: p.default for p in parameters if p.name in self.option_names}
        unknown = set(rules) - set(self.arguments) - {"joint"}
        if unknown:
            raise TypeError(f"{forward.__name__} has rules for {sorted(unknown)}, which are not positional-only arguments")
        joint = rules.get("joint")
        self.forward = forward
        self.name = forward.__name__
        self.arity = len(self.arguments)
        self.rules = [_Rule(rules[name]) if name in rules else None for name in self.arguments]
        self.joint = _Rule(joint) if joint else None
        self.once = once
        self.view = view
        self.residual = any("residual" in rule.needs for rule in [*self.rules, self.joint] if rule)
        # An argument without a rule (an index, a condition) keeps its own dtype.
        typed = [i for i, rule in enumerate(self.rules) if rule or joint]
        self.typed = typed if promote and len(typed) > 1 else []
        self.plans: dict[tuple[int, int], _Plan] = {}
        update_wrapper(self, forward)

    def source(self, name: str) -> tuple[str, Any]:
        """Where the value that a rule calls `name` comes from."""
        if name in ("y", "residual"):
            return name, None
        if name in self.arguments:
            return "argument", self.arguments.index(name)
        if name.endswith("_shape") and name[:-6] in self.arguments:
            return "shape", self.arguments.index(name[:-6])
        if name.endswith("_dtype") and name[:-6] in self.arguments:
            return "dtype", self.arguments.index(name[:-6])
        if self.variadic and name == self.variadic:
            return "arguments", None
        if self.variadic and name == self.variadic + "_shapes":
            return "shapes", None
        if name in self.option_names:
            return "option", name
        raise TypeError(f"a rule of {self.name} asks for {name!r}, which is no argument, option, g, y, residual or *_shape")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        arity = self.arity
        if len(inputs) != arity and not self.variadic:
            if len(inputs) < arity:
                raise TypeError(f"{self.name}() takes {arity} array arguments ({', '.join(self.arguments)}), got {len(inputs)}")
            options.update(zip(self.option_names, inputs[arity:]))
            inputs = inputs[:arity]
        tensors = False
        mask = 0
        for i, value in enumerate(inputs):
            if isinstance(value, Tensor):
                tensors = True
                if value._node is not None:
                    mask |= 1 << i
        if tensors:
            arrays = [array_of(value) for value in inputs]
        else:  # a NumPy scalar in a gradient rule is a 0-d result, with a dtype to keep
            arrays = [np.asarray(value) if isinstance(value, np.generic) else array_of(value) for value in inputs]
        if self.typed or self.variadic:
            self._promote(arrays, self.typed or range(len(arrays)))
        result = self.forward(*arrays, **options)
        if not tensors:
            return result[0] if self.residual else result
        y, residual = result if self.residual else (result, None)
        if y.__class__ is not np.ndarray and not is_array(y):
            y = np.asarray(y)  # NumPy turns 0-d results into scalars
        if anomaly.active:
            anomaly.check_forward(self.name, arrays, y)
        if not mask or not mode.recording or y.dtype.kind not in "fc":
            return Tensor._wrap(y)
        return Tensor._wrap(y, self._record(mask, inputs, arrays, y, residual, options))

    @staticmethod
    def _promote(arrays: list[Any], typed: Iterable[int]) -> None:
        dtypes = {arrays[i].dtype for i in typed if type(arrays[i]) not in SCALARS}
        if len(dtypes) > 1 and any(dtype.kind in "fc" for dtype in dtypes):
            common = np.result_type(*(dtype for dtype in dtypes if dtype.kind in "fc"))
            for i in typed:
                if type(arrays[i]) not in SCALARS and arrays[i].dtype.kind in "iub":
                    arrays[i] = arrays[i].astype(common)

    def _record(self, mask: int, inputs: Sequence, arrays: list, y: Array, residual: Any, options: dict) -> Node:
        count = len(arrays)
        plan = self.plans.get((mask, count))
        if plan is None:
            plan = self.plans[mask, count] = _Plan(self, mask, count)
        parents = tuple([x._node if isinstance(x, Tensor) else None for x in inputs])
        node = Node((y.shape, y.dtype), self, parents)
        # Whether a reshape or an index made a view or a copy shows only in the result.
        if self.view and parents[0] is not None and owner(y) is owner(arrays[0]):
            node.root = parents[0].storage()
        saved, stamps = [], []
        for kind, key in plan.slots:
            if kind == "argument":
                value = arrays[key]
                stamps += _stamp(self.arguments[key], value, parents[key])
            elif kind == "arguments":
                value = tuple(arrays)
                for k, array in enumerate(arrays):
                    stamps += _stamp(f"argument {k}", array, parents[k])
            elif kind == "shapes":
                value = tuple(array.shape for array in arrays)
            elif kind == "y":
                value = y
                stamps.append(("its result", y, node.storage(), 0, None))
            elif kind == "shape":
                value = getattr(arrays[key], "shape", ())
            elif kind == "dtype":
                value = arrays[key].dtype
            elif kind == "residual":
                value = residual
            else:
                value = options[key] if key in options else self.defaults[key]
            saved.append(value)
        node.saved, node.stamps, node.plan = saved, stamps, plan
        if anomaly.active:
            node.line = anomaly.calling_line()
        return node

    def check_unchanged(self, node: Node) -> None:
        """Raise RuntimeError if an array that this node's rules are about to read was changed since it was saved."""
        for name, array, storage, version, stamp in node.stamps:
            if storage is None:
                changed = fingerprint(array) != stamp
            elif storage.version != version:
                changed = True
            else:
                before = storage.exposed if stamp is None else stamp
                changed = before is not None and fingerprint(owner(array)) != before
            if changed:
                raise RuntimeError(
                    f"{self.name}: {name}, of shape {array.shape}, was changed in place after the forward pass, "
                    "and its gradient needs the old value: write to a copy, or after backward()"
                )


def _stamp(name: str, value: Any, parent: Node | None) -> list[tuple]:
    """What `check_unchanged` compares: version and, if somebody may hold the array, fingerprint (see tinygen/guard.py)."""
    if parent is None:
        return [(name, value, None, 0, fingerprint(value))] if is_array(value) else []
    storage = parent.storage()
    return [(name, value, storage, storage.version, None if storage.exposed is None else fingerprint(owner(value)))]


def differentiable(
    *, once: bool = False, view: bool = False, promote: bool = True, **rules: Callable
) -> Callable[[Callable], Op]:
    """Make an op of a function on plain arrays; its positional-only arguments (before `/`) are arrays, the others options.

    `rules` holds, for an argument, the function that gives its share of the cotangent; or `joint`, one function that gives a
    tuple with all of them. A rule's parameters name what it needs, and that is all the graph keeps alive: `g` (the cotangent),
    `y` (the result), an argument or option, `<argument>_shape` or `_dtype`, `residual` (a second value the
    forward returns for the rules), `needs` (which arguments want a gradient). A rule may leave broadcasting to be undone by the
    engine.

    once: the rules call code that cannot be differentiated again. view: the result may share the first argument's memory.
    promote: cast integer arguments to the floating dtype of the others.
    """
    return lambda forward: Op(forward, rules, once, view, promote)
