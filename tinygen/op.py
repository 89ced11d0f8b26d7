"""Operations: one forward function on plain arrays and, beside it, one gradient rule for each argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from operator import itemgetter
from typing import Any

import numpy as np

from tinygen import anomaly
from tinygen.backend import SCALARS, Array, is_array
from tinygen.graph import Node, mode
from tinygen.guard import changed_since, fingerprint, owner
from tinygen.tensor import Tensor, array_of


class _Plan:
    """For one op and one set of arguments that need gradients: which values to save, which rules to run on which of them."""

    def __init__(self, op: Op, mask: int, count: int):
        wanted = [i for i in range(count) if mask >> i & 1]
        rules = [(None, op.joint)] if op.joint else [(i, op.rules[i]) for i in wanted if op.rules[i]]
        names = sorted({name for _, rule in rules for name in rule.needs} - {"g", "needs"})
        self.slots = [op.source(name) for name in names]
        self.needs = tuple(bool(mask >> i & 1) for i in range(count))
        order = {"g": 0, "needs": 1} | {name: k + 2 for k, name in enumerate(names)}
        self.calls = [(i, rule.function, _picker([order[name] for name in rule.needs])) for i, rule in rules]


def _picker(places: list[int]) -> Callable[[tuple], tuple]:
    """A function that takes the values at `places` out of a tuple."""
    return itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))


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

    def __init__(self, forward: Callable, rules: dict[str, Callable], once: bool, promote: bool):
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
        self.name = forward.__name__.lstrip("_")
        self.arity = len(self.arguments)
        self.rules = [_Rule(rules[name]) if name in rules else None for name in self.arguments]
        self.joint = _Rule(joint) if joint else None
        self.once = once
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
        if len(inputs) != self.arity and not self.variadic:
            inputs = self._sort_out(inputs, options)
        arrays, parents = [], []
        mask, tensors, dtype, mixed, fraction = 0, False, None, False, False
        for value in inputs:
            node = None
            if isinstance(value, Tensor):
                tensors = True
                node, value = value._node, value._data
                if node is not None:
                    mask |= 1 << len(arrays)
            elif value.__class__ is not np.ndarray:
                value = array_of(value)
            if value.__class__ not in SCALARS:
                mixed = mixed or (dtype is not None and value.dtype is not dtype)
                dtype = value.dtype
            elif value.__class__ is float:
                fraction = True
            arrays.append(value)
            parents.append(node)
        if not tensors:  # a NumPy scalar in a gradient rule is a 0-d result, with a dtype to keep
            arrays = [np.asarray(x) if isinstance(x, np.generic) else array for x, array in zip(inputs, arrays)]
        if mixed or (fraction and dtype is not None and dtype.kind in "iub"):
            self._promote(arrays)
        if options:  # weak, as NumPy scalars among the arguments are
            options = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
        try:
            result = self.forward(*arrays, **options)
        except ValueError as error:
            raise self._explained(error, arrays) from None
        if not tensors:
            return result[0] if self.residual else result
        y, residual = result if self.residual else (result, None)
        if y.__class__ is not np.ndarray and not is_array(y):
            y = np.asarray(y)  # NumPy turns 0-d results into scalars
        if anomaly.active:
            anomaly.check_forward(self.name, [*arrays, *options.values()], y)
        return Tensor._wrap(y, self._record(mask, parents, arrays, y, residual, options) if mask else None)

    def _sort_out(self, inputs: tuple, options: dict[str, Any]) -> tuple:
        """Move options that were given by position from `inputs` to `options`; TypeError unless the arguments fit."""
        arity = self.arity
        if len(inputs) < arity:
            raise TypeError(f"{self.name}() takes {arity} array arguments ({', '.join(self.arguments)}), got {len(inputs)}")
        given = dict(zip(self.option_names, inputs[arity:]))
        if len(inputs) - arity > len(given):
            raise TypeError(f"{self.name}() takes {', '.join(self.arguments + self.option_names)}: got {len(inputs)} values")
        if twice := given.keys() & options:
            raise TypeError(f"{self.name}() got {', '.join(sorted(twice))} twice: by position and by name")
        options.update(given)
        return inputs[:arity]

    def _promote(self, arrays: list[Any]) -> None:
        """Cast integer and boolean arrays to the dtype that the floating ones share; beside a Python float, to float32."""
        places = range(len(arrays)) if self.variadic else self.typed
        typed = [i for i in places if type(arrays[i]) not in SCALARS]
        floating = {arrays[i].dtype for i in typed if arrays[i].dtype.kind in "fc"}
        floating = floating or {np.float32 for i in places if type(arrays[i]) is float}
        if floating:
            common = np.result_type(*floating)
            for i in typed:
                if arrays[i].dtype.kind in "iub":
                    arrays[i] = arrays[i].astype(common)

    def _explained(self, error: ValueError, arrays: list[Any]) -> ValueError:
        """The same error, or where NumPy could not broadcast, one that names the op and its arguments' shapes."""
        if len(arrays) == 1 or not str(error).startswith("operands could not be broadcast"):
            return error
        shapes = " and ".join(str(np.shape(array)) for array in arrays)
        return ValueError(f"{self.name}: shapes {shapes} do not fit: from the last, axes must be equal or 1")

    def _record(self, mask: int, parents: list, arrays: list, y: Array, residual: Any, options: dict) -> Node | None:
        """The node of the result `y`, if it can have one; `mask` has a bit set for each argument that has a node."""
        root = None
        if y.base is not None or y is arrays[0]:  # whether a reshape or an index made a view or a copy shows only here
            root = next((p for p, array in zip(parents, arrays) if p is not None and owner(y) is owner(array)), None)
        dtype = y.dtype
        if not mode.recording or dtype.kind not in "fc":
            if root is not None:
                root.expose(y)  # a view without a node cannot tell when its `.data` is taken
            return None
        node = Node((y.shape, dtype), self, tuple(parents))
        if root is not None:
            node.root = root.storage()
        plan = self.plans.get((mask, len(arrays)))
        if plan is None:
            plan = self.plans[mask, len(arrays)] = _Plan(self, mask, len(arrays))
        node.plan = plan
        if plan.slots:
            self._save(node, arrays, y, residual, options)
        if anomaly.active:
            node.line = anomaly.calling_line()
        return node

    def _save(self, node: Node, arrays: list, y: Array, residual: Any, options: dict) -> None:
        """Keep in `node` what its rules will ask for, and what tells whether it was changed by then."""
        parents = node.parents
        saved, stamps = [], []
        for kind, key in node.plan.slots:
            if kind == "argument":
                value, parent = arrays[key], parents[key]
                if (parent is not None or is_array(value)) and (stamp := _stamp(self.arguments[key], value, parent)):
                    stamps.append(stamp)
            elif kind == "arguments":
                value = tuple(arrays)
                found = [_stamp(f"argument {k}", array, parents[k]) for k, array in enumerate(arrays) if is_array(array)]
                stamps += filter(None, found)
            elif kind == "shapes":
                value = tuple([array.shape for array in arrays])
            elif kind == "y":
                value = y
                # Not _stamp(..., node): a node that refers to itself would live until the garbage collector comes.
                stamps.append(_stamp("its result", y, node.root) if node.root else ("its result", y, None, 0, None))
            elif kind == "shape":
                value = getattr(arrays[key], "shape", ())
            elif kind == "dtype":
                value = arrays[key].dtype
            elif kind == "residual":
                value = residual
            else:
                value = options[key] if key in options else self.defaults[key]
            saved.append(value)
        node.saved, node.stamps = saved, stamps

    def check_unchanged(self, node: Node) -> None:
        """Raise RuntimeError if an array that this node's rules are about to read was changed since it was saved."""
        for name, array, storage, version, stamp in node.stamps:
            if storage is None and stamp is None:
                storage = node
            changed = storage is not None and storage.version != version
            if stamp is not None:
                changed = changed or changed_since(array, stamp)
            elif storage.exposed is not None:
                changed = changed or changed_since(owner(array), storage.exposed)
            if changed:
                raise RuntimeError(
                    f"{self.name}: {name}, of shape {array.shape}, was changed in place after the forward pass, "
                    "and its gradient needs the old value: write to a copy, or after backward()"
                )


def _stamp(name: str, array: Array, node: Node | None) -> tuple | None:
    """What `check_unchanged` compares: a version and, if somebody may hold the array, a fingerprint (see tinygen/guard.py).

    None where there is neither.
    """
    storage = None if node is None else node.storage()
    if storage is not None and storage.exposed is None:
        return name, array, storage, storage.version, None
    whole = owner(array)
    watched = whole if whole.nbytes < array.nbytes else array  # a broadcast view is larger than what it looks at
    stamp = fingerprint(watched)
    if storage is None:
        return None if stamp is None else (name, watched, None, 0, stamp)
    return name, watched, storage, storage.version, stamp


def differentiable(*, once: bool = False, promote: bool = True, **rules: Callable) -> Callable[[Callable], Op]:
    """Make an op of a function on plain arrays; its positional-only arguments (before `/`) are arrays, the others options.

    `rules` holds, for an argument, the function that gives its share of the cotangent; or `joint`, one function that gives a
    tuple with all of them. A rule's parameters name what it needs, and that is all the graph keeps alive: `g` (the cotangent),
    `y` (the result), an argument or option, `<argument>_shape` or `_dtype`, `residual` (a second value the
    forward returns for the rules), `needs` (which arguments want a gradient). A rule may leave broadcasting to be undone by the
    engine.

    once: the rules call code that cannot be differentiated again.
    promote: cast integer arguments to the floating dtype of the others.
    """
    return lambda forward: Op(forward, rules, once, promote)
