"""What a case is, how cases are found by name, run, and counted against everything public."""

from __future__ import annotations

import difflib
import functools
import importlib
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.gradcheck import gradcheck

KINDS = ("op", "loss", "distribution", "layer", "kernel", "model")

# Public, but without a gradient or a value to check.
EXEMPT = {
    "nn.Module": "the base class of layers",
    "nn.Parameter": "a leaf tensor, part of every layer's case",
    "nn.init": "draws initial weights",
    "nn.load": "reads a file",
    "nn.load_arrays": "reads a file",
    "nn.save": "writes a file",
    "nn.save_arrays": "writes a file",
}


@dataclass(frozen=True)
class Agreement:
    """What the two sides of a kernel gave, output by output, and the dtype that they computed in."""

    fast: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One thing to check. `make(rng)` gives (fn, inputs) for `tinygen.gradcheck`, or, for a kernel, an `Agreement`.

    The name is what is checked, with a variant in brackets where there are several: "softmax", "softmax[axis 0]",
    "nn.Dense", "kernels.conv2d[stride]", "models.nade".
    """

    name: str
    kind: str
    make: Callable[[np.random.Generator], tuple[Callable, Mapping[str, Any]] | Agreement]
    order: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What is checked: the name without the variant."""
        return self.name.partition("[")[0]


@dataclass(frozen=True)
class Result:
    """How a case went: `worst` is the largest error as a multiple of its tolerance, `message` the report of a failure."""

    name: str
    inputs: str
    worst: float
    order: int
    seconds: float
    ok: bool
    message: str = ""


@functools.cache
def cases() -> dict[str, Case]:
    """All cases by name, ops first."""
    found: dict[str, Case] = {}
    parts = (
        "ops", "shaping", "images", "losses", "distributions", "layers", "kernels", "masked_conv", "masked_dense", "recurrence",
        "models", "adversarial", "captioned", "translation",
    )  # fmt: skip
    for part in parts:
        for case in importlib.import_module(f"tinygen.checks.{part}").CASES:
            if case.name in found or case.kind not in KINDS:
                raise ValueError(f"case {case.name!r} of kind {case.kind!r}: expected a new name and one of {KINDS}")
            found[case.name] = case
    return found


def select(names: Iterable[str] = ()) -> list[Case]:
    """The cases that any of `names` means: one case, those of a subject ("softmax", "Dense"), a kind, or a pattern ("conv*").

    No names select everything. Raises ValueError, with what is close, for a name that means nothing.
    """
    chosen: dict[str, Case] = {}
    for name in names:
        found = {case.name: case for case in cases().values() if _means(name, case)}
        if not found:
            known = sorted(
                {part for case in cases().values() for part in (case.subject, case.subject.rpartition(".")[2], case.kind)}
            )
            near = difflib.get_close_matches(name, known, n=3)
            hint = (
                f"did you mean {', '.join(near)}?" if near else f"kinds: {', '.join(KINDS)}; patterns such as 'conv*' work too"
            )
            raise ValueError(f"nothing to check is called {name!r}: {hint}")
        chosen |= found
    return list((chosen or cases()).values())


def _means(name: str, case: Case) -> bool:
    return name in (case.name, case.kind) or any(
        fnmatchcase(known, name) for known in (case.subject, case.subject.rpartition(".")[2])
    )


def run_case(case: Case, seed: int = 0, device: str = "cpu") -> Result:
    """Run one case, the engine's on `device`; an exception that it raises is a failure with its traceback as the message."""
    start = time.perf_counter()
    inputs = ""
    try:
        made = case.make(np.random.default_rng(seed))
        if isinstance(made, Agreement):
            inputs = ", ".join(made.reference)
            worst, message = _disagreement(made)
        else:
            fn, values = made
            inputs = _summary(values)
            options = {"order": case.order, "device": device, **case.options}
            report = gradcheck(fn, values, seed=seed, name=case.name, raise_on_failure=False, **options)
            worst, message = report.worst, "" if report.ok else str(report)
    except Exception:  # whatever is wrong with one case, the others are to run
        worst, message = float("inf"), traceback.format_exc()
    return Result(case.name, inputs, worst, case.order, time.perf_counter() - start, not message, message)


def _summary(values: Mapping[str, Any]) -> str:
    """Names and shapes: "x(3, 4) weight(2, 4) + 3 more"."""
    shown = [f"{name}({', '.join(map(str, np.shape(value)))})" for name, value in values.items()]
    return " ".join(shown if len(shown) <= 3 else [*shown[:2], f"+ {len(shown) - 2} more"])


def _disagreement(made: Agreement) -> tuple[float, str]:
    """The largest difference as a multiple of its tolerance (1e-10 in float64, 1e-4 in float32, of the largest entry)."""
    worst, lines = 0.0, []
    for name, expected in made.reference.items():
        found = made.fast[name]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            return float("inf"), f"{name} is {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}"
        tolerance = (1e-4 if expected.dtype == np.float32 else 1e-10) * max(float(np.abs(expected).max(initial=0.0)), 1e-30)
        error = np.abs(found.astype(np.float64) - expected)
        multiple = float(error.max(initial=0.0)) / tolerance
        worst = max(worst, multiple if np.isfinite(multiple) else float("inf"))
        if not multiple <= 1:
            index = tuple(map(int, np.unravel_index(np.argmax(error), error.shape)))
            lines.append(f"{name}{index}: {found[index]!r}, reference {expected[index]!r}, {multiple:.3g} x tolerance")
    return worst, "\n".join(lines)


def missing() -> list[str]:
    """Everything public that has no case and no exemption: ops, layers, kernel folders, models."""
    from tinygen import kernels, models, nn, ops

    folders = [path.parent.name for folder in kernels.__path__ for path in Path(folder).glob("*/__init__.py")]
    public = [
        *ops.__all__,
        *(f"nn.{name}" for name in nn.__all__),
        *(f"kernels.{name}" for name in folders),
        *(f"models.{name}" for name in models.MODELS),
    ]
    covered = {case.subject for case in cases().values()} | set(EXEMPT)
    return sorted(set(public) - covered)
