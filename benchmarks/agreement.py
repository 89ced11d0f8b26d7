"""Do all sides compute the same numbers? Asked before any of them is timed."""

from dataclasses import replace

import numpy as np

from benchmarks.device import on_host
from benchmarks.registry import Case, Results, Side


def error(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude of `exact`; inf for a NaN or another shape."""
    got, exact = on_host(got).astype(np.float64), np.asarray(exact, dtype=np.float64)
    if got.shape != exact.shape:
        return np.inf
    difference = np.abs(got - exact).max(initial=0.0)
    if np.isnan(difference):
        return np.inf
    scale = np.abs(exact).max(initial=0.0)
    return float(difference / scale) if scale > 0 else float(difference)


def errors(got: Results, exact: Results) -> dict[str, float]:
    """The error of each named output. A side that leaves an output out, or adds one, raises KeyError."""
    if set(got) != set(exact):
        raise KeyError(f"outputs {sorted(got)} were returned where {sorted(exact)} were expected")
    return {name: error(got[name], exact[name]) for name in exact}


def disagreements(case: Case) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Run every side once. Returns side -> output -> error, and one line for each error above the tolerance."""
    exact = _exact(case)
    found, complaints = {}, []
    for side in case.sides:
        found[side.name], above = _checked(case, side, exact)
        complaints += above
    return found, complaints


def sound(case: Case) -> tuple[Case | None, dict[str, dict[str, float]], list[str]]:
    """The same, but a side that fails or disagrees leaves the case, with a note of it: where a second try is dear.

    Returns the case with the sides that are left (None if ours is not among them), their errors, and the lines.
    """
    exact = _exact(case)
    found, complaints = {}, []
    for side in case.sides:
        try:
            off, above = _checked(case, side, exact)
        except Exception as error:
            off, above = {}, [f"{case.name}: '{side.name}' fails: {first_line(error)}"]
        if above:
            complaints += above
        else:
            found[side.name] = off
    left = tuple(side for side in case.sides if side.name in found)
    if all(side.role != "ours" for side in left):
        return None, found, complaints
    return replace(case, sides=left, notes=(*case.notes, *complaints)), found, complaints


def _exact(case: Case) -> dict[str, np.ndarray]:
    return {name: np.array(on_host(value)) for name, value in case.exact().items()}


def _checked(case: Case, side: Side, exact: Results) -> tuple[dict[str, float], list[str]]:
    """The errors of one side, and a line for each above the tolerance."""
    found = errors((side.outputs or side.run)(), exact)
    return found, [
        f"{case.name}: {output} of '{side.name}' is off by {value:.1e}, tolerance {case.tolerance:.0e}"
        for output, value in found.items()
        if not value <= case.tolerance
    ]


def first_line(error: Exception) -> str:
    """The error's type and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
