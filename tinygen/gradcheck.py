"""The gradient checker: does the backward pass give the derivative of the forward pass?

The quantity that is differentiated is sum_i <v_i, y_i> with a random cotangent v_i for every output y_i. (The plain sum
hides bugs: the gradient of `softmax(x).sum()` is zero, so a backward that returns zero would pass.) Its gradient by the
engine is compared with slopes of the forward pass

* along every entry where an input is small, along random directions where it is large; if one of these disagrees, the wrong
  entries are found by halving;
* by the complex step where the forward pass is analytic and takes complex arrays (decided by trying), by central differences
  otherwise. Those come with a measured error, which sets the tolerance (tinygen/finite_differences.py);
* at the second order by the same code: the gradient, as a function of inputs and cotangents, is checked like any other.

A point at which the one-sided slopes differ (a kink: relu at 0) proves nothing, so the entry is moved and the check repeated,
a few times at most. What else a backward pass can get wrong, and values do not show, is looked at besides: dtypes, shapes,
devices, memory that is shared or written to, values kept from an earlier call, strides, float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygen import _gradcheck_behaviour as behaviour
from tinygen import finite_differences as differences
from tinygen._gradcheck_function import Function
from tinygen.tensor import Tensor, grad

RELATIVE = 1e-9  # what rounding may do to an analytic gradient in float64, relative to its largest entry
SAFETY = 10  # tolerance over the measured error of the numeric slope
DIRECTIONS = 6
RESAMPLES = 5


class GradcheckError(AssertionError):
    """A gradient is wrong; the message is the report."""


@dataclass(frozen=True)
class Finding:
    """One comparison: the analytic and the numeric slope along one entry of one input, or along one random direction."""

    input: str
    index: tuple[int, ...] | str
    analytic: float
    numeric: float
    tolerance: float
    decided: bool  # whether the numeric slope is accurate enough to tell anything
    sides: differences.Sides | None = None

    @property
    def multiple(self) -> float:
        """The disagreement as a multiple of the tolerance."""
        with np.errstate(all="ignore"):
            multiple = np.float64(abs(self.analytic - self.numeric)) / self.tolerance if self.analytic != self.numeric else 0.0
        return float(multiple) if np.isfinite(multiple) else float("inf")

    @property
    def ok(self) -> bool:
        return self.decided and self.multiple <= 1 and not (self.sides and self.sides.kink)


@dataclass
class Report:
    """What a check found. `ok`, `worst` (the largest multiple of a tolerance) and `str(report)` say it all."""

    name: str
    seed: int
    order: int
    method: str = ""
    findings: list[Finding] = field(default_factory=list)  # the worst five
    compared: int = 0
    worst: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = "passed" if self.ok else "FAILED"
        lines = [
            f"gradient check of {self.name} {verdict}: order {self.order}, {self.compared} comparisons by {self.method}, "
            f"worst {self.worst:.3g} x tolerance"
        ]
        lines += [f"  {problem}" for problem in self.problems]
        if not self.ok and self.findings:
            columns = "  {:<14} {:<14} {:>16} {:>16} {:>12} {:>12} {:>11}"
            lines.append(columns.format("input", "index", "analytic", "numeric", "left slope", "right slope", "x tolerance"))
            for f in self.findings:
                sides = [f"{f.sides.left:.5g}", f"{f.sides.right:.5g}"] if f.sides else ["", ""]
                numbers = [f"{f.analytic:.9g}", f"{f.numeric:.9g}", *sides, f"{f.multiple:.3g}"]
                lines.append(columns.format(f.input, str(f.index), *numbers))
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines) if self.ok else "\n".join([*lines, f"  replay with seed={self.seed}"])


def gradcheck(
    fn: Callable[..., Any],
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    order: int = 1,
    seed: int = 0,
    name: str | None = None,
    max_entries: int = 48,
    complex_step: bool = True,
    float32: bool = True,
    device: str = "cpu",
    raise_on_failure: bool = True,
) -> Report:
    """Check the gradients that the engine gives for `fn` at `inputs` against the slopes of `fn` itself.

        tinygen.gradcheck(lambda x, w: tinygen.tanh(x @ w), {"x": rng.standard_normal((2, 3)), "w": np.eye(3)}, order=2)

    Args:
        fn: takes the inputs as Tensors, in order, and returns a Tensor or a tuple of Tensors. It must be deterministic: draw
            random numbers from a generator that it seeds itself. Constants inside it should be float32, or cast to the input's
            dtype, for float32 to stay float32.
        inputs: arrays or numbers, or a mapping from names to them. Floating ones are checked (in float64); others are passed on
            as they are. The same array twice is passed as one Tensor: `gradcheck(fn, (x, x))` checks `fn(x, x)`.
        order: 2 also checks the gradient of the gradient.
        seed: of the cotangents, the directions and the points near the inputs; a report names it for replay.
        name: of the function in the report (default: its own).
        max_entries: an input with more entries (at the second order, half as many) is checked along random directions.
        complex_step: try the complex step where `fn` takes complex arrays; False where the attempt would be slow.
        float32: also run in float32, compare with float64 within a budget and require float32 results.
        device: where to run, "cpu" or "cuda".
        raise_on_failure: False returns the report of a failure instead of raising it.

    Returns the Report. Raises GradcheckError, with the report as its text, if anything is wrong; ValueError if there is
    nothing to check; whatever `fn` raises.
    """
    if order not in (1, 2):
        raise ValueError(f"order {order} is not supported: expected 1 or 2")
    report = Report(name or getattr(fn, "__name__", type(fn).__name__), seed, order)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        function = Function(fn, *_named(fn, inputs), rng, device)
        if _usable(function, report):
            arrays = _compare(function, report, rng, max_entries, try_complex=complex_step)
            behaviour.examine(function, arrays, report, rng, float32)
            if order == 2 and report.ok:
                second = _gradient_function(function.at(arrays), rng)
                _compare(second, report, rng, max_entries // 2, try_complex=False)  # each evaluation costs several
    report.findings = sorted(report.findings, key=lambda f: (f.ok, -f.multiple))[:5]
    if raise_on_failure and not report.ok:
        raise GradcheckError(str(report))
    return report


def _named(fn: Callable, inputs: Sequence[Any] | Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Names for the report, from the mapping or from fn's own parameters, and the inputs."""
    if isinstance(inputs, Mapping):
        return list(inputs), list(inputs.values())
    inputs = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    names = [f"input {i}" for i in range(len(inputs))]
    try:
        own = [p.name for p in inspect.signature(fn).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):  # a built-in without a signature
        own = []
    return own[: len(names)] + names[len(own) :], inputs


def _usable(function: Function, report: Report) -> bool:
    """Whether the forward pass can be judged at all: the same twice, and finite."""
    first, second = function.terms(function.arrays), function.terms(function.arrays)
    if not np.array_equal(first, second, equal_nan=True):
        report.problems.append("two calls with the same inputs gave different outputs: seed the randomness inside the function")
    elif not np.isfinite(first).all():
        report.problems.append("the outputs are not finite at these inputs: there is no gradient to check")
    return report.ok


def _gradient_function(function: Function, rng: np.random.Generator) -> Function:
    """(inputs, cotangents) -> gradients, as a function to be checked like any other: the second order."""
    count = len(function.arrays)

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [t if t.requires_grad else Tensor(t, requires_grad=True) for t in tensors]
        outputs = function.call(leaves[:count])
        pairs = [(y, v) for y, v in zip(outputs, leaves[count:]) if y.requires_grad]
        ys, vs = zip(*pairs) if pairs else ((), ())
        found = grad(ys, leaves[:count], vs, create_graph=True) if ys else [None] * count
        return tuple(Tensor(x.detach() * 0) if g is None else g for g, x in zip(found, leaves))

    names = [*function.names, *(f"cotangent {i}" for i in range(len(function.cotangents)))]
    return Function(
        gradients, [f"grad, {name}" for name in names], [*function.arrays, *function.cotangents], rng, function.device
    )


def _compare(
    function: Function, report: Report, rng: np.random.Generator, max_entries: int, try_complex: bool
) -> list[np.ndarray]:
    """Compare all gradients with numeric slopes, moving entries off kinks; returns the point at which it was decided."""
    arrays = function.arrays
    for attempt in range(RESAMPLES + 1):
        comparison = _Comparison(function, arrays, rng, try_complex)
        findings = [f for k in range(len(arrays)) for f in comparison.of_input(k, max_entries)]
        kinks = [(f.input, f.index) for f in findings if f.sides and f.sides.kink]
        if not kinks or attempt == RESAMPLES:
            break
        report.notes.append("moved off a kink: " + ", ".join(f"{name}{list(index)}" for name, index in kinks[:5]))
        arrays = [_moved(x, [i for n, i in kinks if n == name], rng) for name, x in zip(function.names, arrays)]
    report.method = report.method or comparison.method
    report.compared += len(findings)
    report.worst = max([report.worst, *(f.multiple for f in findings)])
    report.findings += findings
    for name in function.names:
        wrong = [f for f in findings if f.input == name and not f.ok]
        if wrong and all(f.sides and f.sides.kink for f in wrong):
            report.problems.append(
                f"{name}: the one-sided slopes still differ after {RESAMPLES} moves (a kink, a jump or noise)"
            )
        elif any(f.decided for f in wrong):
            total = sum(f.input == name for f in findings)
            report.problems.append(f"{name}: {len(wrong)} of {total} slopes are wrong")
        elif wrong:
            report.problems.append(
                f"{name}: the numeric slope is too uncertain to decide anything (a noisy or very rough function)"
            )
    return arrays


def _moved(x: np.ndarray, indices: list[tuple[int, ...]], rng: np.random.Generator) -> np.ndarray:
    """x with the entries at `indices` moved by 5 to 20% (of at least 0.1)."""
    x = x.copy()
    for index in indices:
        x[index] += max(abs(x[index]), 0.1) * rng.uniform(0.05, 0.2) * rng.choice([-1, 1])
    return x


class _Comparison:
    """The engine's gradients of one function at one point, against numeric slopes."""

    def __init__(self, function: Function, arrays: list[np.ndarray], rng: np.random.Generator, try_complex: bool):
        self.function, self.arrays, self.rng = function, arrays, rng
        self.gradients = function.gradients(arrays)
        self.start = function.terms(arrays)
        self.size = float(np.abs(self.start).sum())
        self.complex = try_complex and self._analytic()
        self.method = "the complex step" if self.complex else "central differences"

    def _line(self, k: int, direction: np.ndarray, terms: Callable) -> differences.Line:
        before, x, after = self.arrays[:k], self.arrays[k], self.arrays[k + 1 :]
        return lambda t: terms([*before, x + t * direction, *after])

    def _noise(self, k: int) -> float:
        """The rounding error of one evaluation: of the terms, and of input k by way of its slopes."""
        with_input = np.abs(self.gradients[k] * self.arrays[k]).sum()
        return float(np.finfo(np.float64).eps * (self.size + (with_input if np.isfinite(with_input) else 0.0)))

    def _analytic(self) -> bool:
        """Whether the complex step can be trusted here: tried along a random direction of each input, where it must equal
        central differences, and not at a kink, of which it would see one side only.
        """
        for k, x in enumerate(self.arrays):
            direction = self.rng.standard_normal(x.shape)
            line, noise = self._line(k, direction, self.function.terms), self._noise(k)
            exact = self.function.try_complex(self._line(k, direction, self.function.complex_terms))
            if exact is None:
                return False
            slope = differences.central(line, noise)
            scale = max(abs(slope.value), float(np.abs(self.gradients[k]).max(initial=0.0)))
            agrees = abs(exact - slope.value) <= SAFETY * slope.error + RELATIVE * scale
            if not agrees or slope.error > 1e-6 * (scale + self.size) or differences.bends(line, self.start, scale, noise):
                return False
        return True

    def _slope(self, k: int, direction: np.ndarray) -> differences.Slope:
        if self.complex:
            return differences.Slope(differences.complex_step(self._line(k, direction, self.function.complex_terms)), 0.0)
        return differences.central(self._line(k, direction, self.function.terms), self._noise(k))

    def _finding(self, k: int, index: Any, direction: np.ndarray, scale: float) -> Finding:
        analytic = float(np.sum(self.gradients[k] * direction))
        numeric, error = self._slope(k, direction)
        scale = max(scale, abs(numeric))
        tolerance = SAFETY * (error + self._noise(k)) + RELATIVE * scale
        decided = bool(SAFETY * error <= 1e-3 * scale + 1e-6 * self.size)
        return Finding(self.function.names[k], index, analytic, numeric, tolerance, decided)

    def _entry(self, k: int, index: tuple[int, ...]) -> Finding:
        """The comparison along one entry, with the one-sided slopes if it fails or if the entry could be on a kink."""
        unit = np.zeros(self.arrays[k].shape)
        unit[index] = 1.0
        line, scale, noise = self._line(k, unit, self.function.terms), float(np.abs(self.gradients[k]).max()), self._noise(k)
        finding = self._finding(k, index, unit, scale)
        if finding.ok and (self.complex or not differences.bends(line, self.start, max(scale, abs(finding.numeric)), noise)):
            return finding
        sides = differences.one_sided(line, noise)
        return Finding(**(vars(finding) | {"sides": sides}))

    def of_input(self, k: int, max_entries: int) -> list[Finding]:
        """All entries of a small input, random directions of a large one (and the worst entries where one is wrong)."""
        x = self.arrays[k]
        if x.size <= max_entries:
            return [self._entry(k, index) for index in np.ndindex(x.shape)]
        directions = self.rng.standard_normal((DIRECTIONS, *x.shape))
        norm = float(np.linalg.norm(self.gradients[k]))
        findings = [self._finding(k, f"direction {i}", direction, norm) for i, direction in enumerate(directions)]
        if all(f.ok for f in findings):
            return findings
        entries = [self._entry(k, index) for index in self._wrong_entries(k)]
        return [f for f in entries if not f.ok] or findings

    def _wrong_entries(self, k: int, keep: int = 5) -> list[tuple[int, ...]]:
        """The entries that disagree most: halve the input, and go on with the halves whose slopes are furthest apart."""
        shape = self.arrays[k].shape

        def mismatch(block: np.ndarray) -> float:
            direction = np.zeros(shape)
            direction.flat[block] = self.rng.standard_normal(block.size)
            found = abs(float(np.sum(self.gradients[k] * direction)) - self._slope(k, direction).value)
            return found if np.isfinite(found) else float("inf")

        blocks = [np.arange(self.arrays[k].size)]
        while any(block.size > 1 for block in blocks):
            halves = [half for block in blocks for half in np.array_split(block, 2) if half.size]
            blocks = sorted(halves, key=mismatch, reverse=True)[:keep]
        return [tuple(int(i) for i in np.unravel_index(block[0], shape)) for block in blocks]
