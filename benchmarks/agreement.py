"""Do all sides compute the same numbers? Asked before any of them is timed."""

import numpy as np

from benchmarks.device import on_host
from benchmarks.registry import Case, Results


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
    exact = {name: np.array(on_host(value)) for name, value in case.exact().items()}
    found, complaints = {}, []
    for side in case.sides:
        found[side.name] = errors((side.outputs or side.run)(), exact)
        complaints += [
            f"{case.name}: {output} of '{side.name}' is off by {value:.1e}, tolerance {case.tolerance:.0e}"
            for output, value in found[side.name].items()
            if not value <= case.tolerance
        ]
    return found, complaints
