"""What a backward pass can get wrong besides the values: the gradient checker's second half."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen._gradcheck_function import Function
from tinygen.backend import device_of, module_of, to_device
from tinygen.tensor import Tensor

if TYPE_CHECKING:
    from tinygen.gradcheck import Report

SAME = 1e-9  # what another order of summation may change in float64, relative to the largest entry
BUDGET = 32  # how much further than rounding the inputs once may float32 be from float64


def examine(function: Function, arrays: list[np.ndarray], report: Report, rng: np.random.Generator, float32: bool) -> None:
    """Add to `report.problems` whatever `function`, at the point `arrays`, does that it should not."""
    report.problems += _contract(function, arrays)
    report.problems += _layouts(function, arrays)
    if float32:
        multiples = dict(_float32(function, arrays, report.problems, rng))
        report.worst = max([report.worst, *multiples.values()])
        for name, multiple in multiples.items():
            if multiple > 1:
                report.problems.append(f"{name}: float32 is {multiple:.3g} times its error budget away from float64")


def _contract(function: Function, arrays: list[np.ndarray]) -> Iterator[str]:
    """Shapes, dtypes and devices of gradients; nothing written to, nothing shared; a second backward gives the same."""
    leaves, outputs = function.recorded(arrays)
    seeds = [function.seed(y, v.copy()) for y, v in zip(outputs, function.cotangents)]
    before = [y.numpy().copy() for y in outputs]
    first = _backward(leaves, outputs, seeds)
    copies = [None if g is None else g.copy() for g in first]
    second = _backward(leaves, outputs, seeds)
    for name, leaf, g in zip(function.names, leaves, first):
        if g is not None:
            found, expected = (g.shape, g.dtype, device_of(g)), (leaf.shape, leaf.dtype, leaf.device)
            if found != expected:
                yield f"{name}: the gradient has shape, dtype and device {found}, expected {expected}"
    for name, a, b, copy in zip(function.names, first, second, copies):
        if a is None or b is None:
            if a is not b:
                yield f"{name}: a second backward through the same graph depends on other inputs"
            continue
        if not _equal(b, copy):
            yield f"{name}: a second backward through the same graph gives another gradient"
        if not _equal(a, copy):
            yield f"{name}: a second backward writes into the first one's gradient"
    for name, a, b in zip(function.names, copies, function.gradients(arrays)):
        if a is not None and not _close(to_device(a, "cpu"), b):
            yield f"{name}: backward() and grad() give different gradients"
    yield from _written(function, arrays, leaves, seeds, zip(outputs, before))
    yield from _shared(function, leaves, outputs, seeds, first, second)


def _backward(leaves: Sequence[Tensor], outputs: Sequence[Tensor], seeds: Sequence[Any]) -> list[Any]:
    """The gradients that `backward` leaves in `.grad`, with the graph kept."""
    for leaf in leaves:
        leaf.grad = None
    for y, v in zip(outputs, seeds):
        if y.requires_grad:
            y.backward(v, retain_graph=True)
    return [leaf.grad for leaf in leaves]


def _written(
    function: Function,
    arrays: list[np.ndarray],
    leaves: Sequence[Tensor],
    seeds: Sequence[Any],
    results: Iterable[tuple[Tensor, np.ndarray]],
) -> Iterator[str]:
    """What a forward and a backward pass changed in place: inputs, constants, results (with copies of them), cotangents."""
    changed = [(name, leaf._data, x) for name, x, leaf in zip(function.names, arrays, leaves)]
    changed += [(f"constant {name}", array, copy) for name, array, copy in function.constants]
    changed += [(f"output {i}", y._data, before) for i, (y, before) in enumerate(results)]
    changed += [(f"cotangent {i}", seed, v) for i, (v, seed) in enumerate(zip(function.cotangents, seeds))]
    for name, now, before in changed:
        if not _equal(now, before):
            yield f"{name} was written to"


def _shared(
    function: Function,
    leaves: Sequence[Tensor],
    outputs: Sequence[Tensor],
    seeds: Sequence[Any],
    first: Sequence[Any],
    second: Sequence[Any],
) -> Iterator[str]:
    """Gradients that share memory with one another or with anything else, and outputs with those of another call."""
    gradients = [(f"the gradient of {name}", g) for name, g in zip(function.names, first) if g is not None]
    again = [(f"that of {name} by a second backward", g) for name, g in zip(function.names, second) if g is not None]
    others = [(name, x._data) for name, x in zip(function.names, leaves)]
    others += [(f"cotangent {i}", v) for i, v in enumerate(seeds)]
    results = [(f"output {i}", y._data) for i, y in enumerate(outputs)]
    later = [
        (f"{name} of another call", y._data) for (name, _), y in zip(results, function.recorded([x.numpy() for x in leaves])[1])
    ]
    for (name, a), (other, b) in itertools.chain(
        itertools.combinations(gradients, 2),
        itertools.product(gradients, again + others + results),
        itertools.product(results, later),
    ):
        if module_of(a).may_share_memory(a, b):
            yield f"{name} shares memory with {other}"


def _layouts(function: Function, arrays: list[np.ndarray]) -> Iterator[str]:
    """The same gradients whatever the strides of inputs and cotangents are."""
    expected = function.gradients(arrays)
    # Every other element, backwards, of leaves twice as long.
    leaves = [function.tensor(_spaced(x), requires_grad=True) for x in arrays]
    outputs = function.call([leaf[..., ::-2] if leaf.ndim else leaf for leaf in leaves])
    found = function.pull_back(leaves, outputs, [_spaced(v)[..., ::-2] if v.ndim else v for v in function.cotangents])
    yield from _differing("strided", function.names, found, [_spaced(g) for g in expected])

    columns = [np.array(x, order="F") for x in arrays]
    leaves, outputs = function.recorded(columns)
    found = function.pull_back(leaves, outputs, [np.array(v, order="F") for v in function.cotangents])
    yield from _differing("Fortran-ordered", function.names, found, expected)

    ones = [np.ones(v.shape) for v in function.cotangents]
    constant = [np.broadcast_to(1.0, v.shape) for v in function.cotangents]  # what the gradient of sum() looks like
    expected, found = (function.pull_back(*function.recorded(arrays), seeds) for seeds in (ones, constant))
    yield from _differing("broadcast", function.names, found, expected)


def _spaced(x: np.ndarray) -> np.ndarray:
    """An array of twice the length of which `x` is the [..., ::-2] part, zeros between."""
    if not x.ndim:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]))
    wide[..., ::-2] = x
    return wide


def _differing(layout: str, names: Sequence[str], found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Iterator[str]:
    for name, a, b in zip(names, found, expected):
        if not _close(a, b):
            yield f"{name}: {layout} arrays give another gradient than contiguous ones"


def _float32(
    function: Function, arrays: list[np.ndarray], problems: list[str], rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Outputs and gradients in float32 against float64 at the same point: (name, multiple of the error budget).

    The budget is measured: how far the float64 results move when inputs and cotangents move by a rounding of float32,
    plus one rounding of the results themselves, all times BUDGET.
    """
    eps = float(np.finfo(np.float32).eps)
    single = [x.astype(np.float32) for x in arrays]
    single_seeds = [v.astype(np.float32) for v in function.cotangents]
    exact, seeds = ([x.astype(np.float64) for x in group] for group in (single, single_seeds))

    leaves, outputs = function.recorded(single)
    names = [f"output {i}" for i in range(len(outputs))] + list(function.names)
    for name, y in zip(names, outputs):
        if y.dtype != np.float32:
            problems.append(f"{name} is {y.dtype} for float32 inputs, expected float32")
    low = [y.numpy() for y in outputs] + function.pull_back(leaves, outputs, single_seeds)

    def results(points: list[np.ndarray], cotangents: list[np.ndarray]) -> list[np.ndarray]:
        leaves, outputs = function.recorded(points)
        return [y.numpy() for y in outputs] + function.pull_back(leaves, outputs, cotangents)

    def rounded(group: list[np.ndarray]) -> list[np.ndarray]:
        return [x * (1 + eps * rng.uniform(-1, 1, x.shape)) for x in group]

    high = results(exact, seeds)
    nearby = [results(rounded(exact), rounded(seeds)) for _ in range(3)]
    overall = max(float(np.abs(r).max(initial=0.0)) for r in high)
    for k, name in enumerate(names):
        movement = max(float(np.abs(near[k] - high[k]).max(initial=0.0)) for near in nearby)
        scale = float(np.abs(high[k]).max(initial=0.0)) + 0.01 * overall
        error = float(np.abs(low[k] - high[k]).max(initial=0.0))
        budget = BUDGET * (movement + eps * scale)
        yield name, 0.0 if error == 0 else error / budget if np.isfinite(error) and budget > 0 else float("inf")


def _equal(a: Any, b: Any) -> bool:
    a, b = to_device(a, "cpu"), to_device(b, "cpu")
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=0, atol=SAME * float(np.abs(b).max(initial=0.0)), equal_nan=True)
