"""The graph of recorded operations and the walk back along it: the whole of reverse-mode differentiation.

A `Node` stands for one computed value. It knows the operation (an `Op`, see tinygen/op.py), the nodes of the arguments, and
the few values that the gradient rules need. `backpropagate` visits the nodes from the last to the first and applies each op's
rules to the cotangent, that is the derivative of the final scalar with respect to the node's value.

    x = Tensor([1.0, 2.0], requires_grad=True)      a leaf node          x
    y = (x * x).sum()                               two more             x --> multiply --> sum
    y.backward()                                    visits sum, multiply, x and leaves 2x in x.grad

Rules are written with the same functions as any other code. Given arrays they compute arrays; with `create_graph=True` they
are given Tensors, so the backward pass is itself recorded and can be differentiated again: one rule serves every order.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen import anomaly
from tinygen.backend import Array, is_array

if TYPE_CHECKING:
    from tinygen.op import Op


class _Mode(threading.local):
    recording = True


mode = _Mode()
_serial = itertools.count()


@contextmanager
def recording(value: bool) -> Iterator[None]:
    before, mode.recording = mode.recording, value
    try:
        yield
    finally:
        mode.recording = before


def no_grad() -> AbstractContextManager:
    """Context in which operations on Tensors record no graph (`with tinygen.no_grad(): ...`); per thread."""
    return recording(False)


def enable_grad() -> AbstractContextManager:
    """Context that records again inside `no_grad()`; per thread."""
    return recording(True)


class Node:
    """One recorded operation, or a leaf (op None) at which gradients collect."""

    __slots__ = (
        "exposed",
        "grad",
        "line",
        "op",
        "parents",
        "plan",
        "root",
        "saved",
        "serial",
        "spec",
        "stamps",
        "version",
    )

    def __init__(self, spec: tuple, op: Op | None = None, parents: tuple[Node | None, ...] = ()):
        self.spec = spec  # shape and dtype of the output: what a gradient must look like
        self.op = op
        self.parents = parents
        self.saved = ()
        self.stamps = ()
        self.serial = next(_serial)
        self.grad = None
        self.version = 0  # how often the library wrote into this value in place
        self.exposed = None  # fingerprint of the value when `.data` was first handed out
        self.root = None  # for a view, the node whose memory it looks into
        self.line = None

    def storage(self) -> Node:
        """The node that made the memory this one's output lies in (views share it)."""
        return self.root or self


def backpropagate(
    roots: Sequence[Node],
    starts: Sequence[Any],
    inputs: Sequence[Node] | None = None,
    wrap: Callable | None = None,
    retain: bool = False,
) -> list[Any] | None:
    """Walk the graph back from `roots`. Without `inputs` gradients are added to the leaves; with, they are returned.

    With `wrap` (Tensor's constructor from an array and a node) the rules are given Tensors, and their work is recorded in turn.

    Why a topological order? A node's cotangent is the sum of what *all* its consumers send back. Visiting it before the last of
    them has spoken would send an unfinished sum further down, and every path below would have to be walked again for each late
    arrival: exponentially often in a chain of x = x + x. A node is always created after its arguments, so descending creation
    order visits every consumer first, and no other bookkeeping is needed.
    """
    order = _reachable(roots)
    targets = None if inputs is None else _leading_to(order, inputs)
    # Node -> (cotangent, whether this dictionary alone holds its array and may add to it in place).
    pending: dict[Node, tuple[Any, bool]] = {}
    for root, start in zip(roots, starts):
        _send(pending, root, start, False)
    found = {} if inputs is None else dict.fromkeys(inputs)
    while order:
        node = order.pop()
        if node not in pending:
            continue
        g, owned = pending.pop(node)
        if node in found:
            found[node] = g if owned or wrap else _own(g)
        if node.op is None:
            if inputs is None:
                node.grad = (g if owned else _own(g)) if node.grad is None else _own(node.grad + g)
        elif targets is None or node in targets:
            _apply_rules(node, g, pending, targets, wrap)
            if not retain:
                node.saved = None
                node.stamps = ()
    return None if inputs is None else [found[node] for node in inputs]


def _own(g: Any) -> Array:
    """`g` as an array of its own (rules may hand on views, and NumPy's 0-d results are scalars)."""
    return g.copy() if is_array(g) else np.array(g)


def _reachable(roots: Iterable[Node]) -> list[Node]:
    """All nodes at or below `roots`, oldest first. A loop, not recursion: graphs may be far deeper than Python's stack."""
    seen = set(roots)
    stack = list(seen)
    while stack:
        for parent in stack.pop().parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return sorted(seen, key=lambda node: node.serial)


def _leading_to(order: list[Node], inputs: Sequence[Node]) -> set[Node]:
    """The nodes of `order` (oldest first) below which one of `inputs` lies: the others need no gradient."""
    wanted = set(inputs)
    above: set[Node] = set()
    for node in order:
        if any(parent in wanted or parent in above for parent in node.parents):
            above.add(node)
    return above | wanted


def _apply_rules(node: Node, g: Any, pending: dict, targets: set[Node] | None, wrap: Callable | None) -> None:
    op, plan = node.op, node.plan
    if node.saved is None:
        raise RuntimeError(f"the graph through {op.name} was freed by an earlier backward: pass retain_graph=True to that one")
    if wrap and op.once:
        raise RuntimeError(f"{op.name} runs a fused kernel that has no second derivative: use create_graph=False")
    if node.stamps:
        op.check_unchanged(node)
    saved = _as_tensors(node, wrap) if wrap else node.saved
    needs = plan.needs if targets is None else tuple(p in targets for p in node.parents)
    values = (g, needs, *saved)
    for i, rule, positions in plan.calls:
        if i is not None and not needs[i]:
            continue
        result = rule.function(*[values[k] for k in positions])
        for k, share in enumerate(result) if plan.joint else ((i, result),):
            if share is None or not needs[k]:
                continue
            if isinstance(share, np.generic):
                share = np.asarray(share)  # NumPy turns 0-d results into scalars
            if anomaly.active:
                anomaly.check_backward(op.name, node.line, g, share)
            parent = node.parents[k]
            shape, dtype = parent.spec
            if share.shape != shape:
                share = _undo_broadcast(share, shape)
            if share.dtype != dtype:
                share = share.astype(dtype)
            # Only an array that the rule has just made, not one it passed on or looked at, may be written to.
            fresh = (
                share.__class__ is np.ndarray and share.base is None and share is not g and not any(share is v for v in saved)
            )
            if plan.joint and fresh:
                fresh = sum(share is other for other in result) == 1
            _send(pending, parent, share, fresh)


def _as_tensors(node: Node, wrap: Callable) -> list[Any]:
    """The saved values with their places in the graph, for rules that are to be differentiated again."""
    values = []
    for (kind, key), value in zip(node.plan.slots, node.saved):
        if kind == "y":
            value = wrap(value, node)
        elif kind == "arguments":
            value = tuple(wrap(v, p) if p is not None else v for v, p in zip(value, node.parents))
        elif kind == "argument" and node.parents[key] is not None:
            value = wrap(value, node.parents[key])
        values.append(value)
    return values


def _undo_broadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of broadcasting `shape` up to `g.shape`: every copy adds its share, so the copied axes are summed.

    The one place where broadcasting is undone; g is an array or a Tensor.
    """
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return g.sum(axis=axes).reshape(shape) if axes else g.reshape(shape)


def _send(pending: dict, node: Node, share: Any, fresh: bool) -> None:
    """Add `share` to what is pending at `node`, in place only into an array that nobody else can see."""
    held = pending.get(node)
    if held is None:
        pending[node] = (share, fresh)
    elif held[1] and held[0].__class__ is np.ndarray:
        held[0].__iadd__(share)
    else:
        pending[node] = (held[0] + share, is_array(share))
