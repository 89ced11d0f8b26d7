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
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen import anomaly
from tinygen.backend import Array, is_array
from tinygen.guard import fingerprint, owner

if TYPE_CHECKING:
    from tinygen.op import Op


class _Mode(threading.local):
    recording = True


mode = _Mode()
_serial = itertools.count(0, -1)  # downwards, so that the youngest node comes first in a heap
_age = operator.attrgetter("serial")


@contextmanager
def recording(value: bool) -> Iterator[None]:
    """Context in which operations record a graph, or do not; per thread."""
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

    plan = None  # which rules to run, on which of the saved values
    saved: Sequence[Any] | None = ()  # what the rules need; None when freed
    stamps: Sequence[tuple] = ()  # what tells whether the saved values were changed
    grad: Array | None = None
    version = 0  # how often the library wrote into this value in place
    exposed: int | None = None  # fingerprint of the value when somebody outside got hold of its memory
    root: Node | None = None  # for a view, the node whose memory it looks into
    line: str | None = None  # where the operation was called (anomaly mode)

    def __init__(self, spec: tuple, op: Op | None = None, parents: tuple[Node | None, ...] = ()):
        self.spec = spec  # shape and dtype of the output: what a gradient must look like
        self.op = op
        self.parents = parents
        self.serial = next(_serial)

    def storage(self) -> Node:
        """The node that made the memory this one's output lies in (views share it)."""
        return self.root or self

    def expose(self, array: Array) -> None:
        """Take note that somebody outside gets hold of `array`, this node's value, and so of the memory it lies in."""
        storage = self.storage()
        if storage.exposed is None:
            storage.exposed = fingerprint(owner(array))


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
    arrival: exponentially often in a chain of x = x + x. A node is always younger than its arguments, so nothing that is still
    to be visited can send to the youngest node that waits: visiting that one next is such an order. (A loop with a queue, not
    recursion: graphs may be far deeper than Python's stack.)
    """
    targets = None if inputs is None else _leading_to(inputs, roots)
    found: dict[Node, Any] = {} if inputs is None else dict.fromkeys(inputs)
    pending = _Pending()
    for root, start in zip(roots, starts):
        pending.send(root, start, False)
    while pending.queue:
        node = heappop(pending.queue)[1]  # the youngest
        g, owned = pending.sums.pop(node)
        if node in found:
            found[node] = g if owned else g.copy()  # rules may hand on views, or one array twice
        if _apply_rules(node, g, pending, targets, wrap) and not retain:
            node.saved = None
            node.stamps = ()
    for node, (g, owned) in pending.sums.items():  # what is left are the leaves
        if inputs is None or node in found:
            found[node] = g if owned else g.copy()
    if inputs is not None:
        return [found[node] for node in inputs]
    for node, g in found.items():  # only now, so that a walk which fails half-way leaves every gradient as it was
        node.grad = g if node.grad is None else _total(node.grad, g)
    return None


class _Pending:
    """The nodes that wait for their visit, with the sum of what was sent to each."""

    __slots__ = ("queue", "sums")

    def __init__(self) -> None:
        self.queue: list[tuple[int, Node]] = []  # a heap with the youngest node on top
        self.sums: dict[Node, tuple[Any, bool]] = {}  # cotangent, and whether nobody else can see its array

    def send(self, node: Node, share: Any, fresh: bool) -> None:
        """Add `share` to the node's sum, in place only into an array that nobody else can see."""
        held = self.sums.get(node)
        if held is None:
            self.sums[node] = (share, fresh)
            if node.op is not None:  # a leaf has nobody to send to: its sum waits for the end
                heappush(self.queue, (node.serial, node))
        elif held[1]:
            held[0].__iadd__(share)
        else:
            self.sums[node] = (_total(held[0], share), is_array(share))


def _total(a: Any, b: Any) -> Any:
    """a + b, as an array also where NumPy turns 0-d results into scalars."""
    total = a + b
    return np.asarray(total) if isinstance(total, np.generic) else total


def _leading_to(inputs: Sequence[Node], roots: Sequence[Node]) -> set[Node]:
    """The nodes from which a way leads down to one of `inputs`, these included: the others need no gradient."""
    seen = set(roots)
    stack = list(seen)
    while stack:
        new = {parent for parent in stack.pop().parents if parent is not None and parent not in seen}
        seen |= new
        stack += new
    leading = set(inputs)
    for node in sorted(seen, key=_age, reverse=True):  # the oldest first: arguments before what is made of them
        if not leading.isdisjoint(node.parents):
            leading.add(node)
    return leading


def _apply_rules(node: Node, g: Any, pending: _Pending, targets: set[Node] | None, wrap: Callable | None) -> bool:
    """Send each argument of `node` its share of the cotangent `g`; False if no argument needs one."""
    op, plan, parents, saved = node.op, node.plan, node.parents, node.saved
    needs = plan.needs if targets is None else tuple([parent in targets for parent in parents])
    if True not in needs:
        return False
    if saved is None:
        raise RuntimeError(f"the graph through {op.name} was freed by an earlier backward: pass retain_graph=True to that one")
    if wrap and op.once:
        raise RuntimeError(f"{op.name} runs a fused kernel that has no second derivative: use create_graph=False")
    if node.stamps:
        op.check_unchanged(node)
    if wrap:
        saved = _as_tensors(node, wrap)
    values = (g, needs, *saved)
    for i, rule, pick in plan.calls:
        if i is not None and not needs[i]:
            continue
        result = rule(*pick(values))
        for k, share in ((i, result),) if i is not None else enumerate(result):
            if share is None or not needs[k]:
                continue
            if share.__class__ is not np.ndarray and isinstance(share, np.generic):
                share = np.asarray(share)  # NumPy turns 0-d results into scalars
            if anomaly.active:
                anomaly.check_backward(op.name, node.line, g, share)
            parent = parents[k]
            shape, dtype = parent.spec
            if share.shape != shape:
                share = _undo_broadcast(share, shape)
            if share.dtype != dtype:
                share = share.astype(dtype)
            fresh = _is_fresh(share, g, saved if i is not None else (*saved, *result[:k], *result[k + 1 :]))
            pending.send(parent, share, fresh)
    return True


def _is_fresh(share: Any, g: Any, others: Iterable[Any]) -> bool:
    """Whether a rule has just made the array `share`, so that it may be written to; not if it passed it on or looks at it."""
    if (share.__class__ is not np.ndarray and not is_array(share)) or is_array(share.base) or share is g:
        return False
    for other in others:
        if other is share or getattr(other, "base", None) is share:
            return False
        if other.__class__ is tuple and not _is_fresh(share, g, other):
            return False
    return True


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
    if g.shape[extra:] == shape:
        return g.sum(axis=0 if extra == 1 else tuple(range(extra)))
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return g.sum(axis=axes).reshape(shape) if axes else g.reshape(shape)
