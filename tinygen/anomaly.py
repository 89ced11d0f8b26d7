"""Naming the first operation that makes a NaN or an infinity, forward or backward, with the line that called it."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.backend import is_array, module_of

active = 0  # contexts that are open, in all threads together
_PACKAGE = str(Path(__file__).parent)
_MODELS = str(Path(__file__).parent / "models")


class AnomalyError(ArithmeticError):
    """An operation made a NaN or an infinity."""


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Context in which every operation and every gradient rule is checked for NaN and infinity (slow: for debugging).

    Raises AnomalyError that names the operation and the line which called it. An infinity that came in as an input and is only
    passed on (a mask of -inf, say) is no anomaly.
    """
    global active
    active += 1
    try:
        yield
    finally:
        active -= 1


def _worst(array: Any) -> str | None:
    """'NaN' or 'infinity', whichever the array or number holds (NaN first), or None."""
    array = getattr(array, "_data", array)
    if isinstance(array, (float, complex)):
        array = np.asarray(array)
    if not is_array(array) or array.dtype.kind not in "fc":
        return None
    xp = module_of(array)
    if xp.isnan(array).any():
        return "NaN"
    return "infinity" if xp.isinf(array).any() else None


def check_forward(name: str, inputs: Iterable[Any], y: Any) -> None:
    """Raise AnomalyError if `name` turned `inputs` into a worse array `y`, or was fed a NaN."""
    found = _worst(y)
    before = {_worst(array) for array in inputs}
    if found and (found == "NaN" or before == {None}):
        verb = "was given" if "NaN" in before else "made"
        raise AnomalyError(
            f"{name} {verb} a{'n' if found[0] == 'i' else ''} {found} in the forward pass, called at {calling_line()}"
        )


def check_backward(name: str, line: str | None, g: Any, share: Any) -> None:
    """Raise AnomalyError if the gradient rule of `name` turned the cotangent `g` into a worse `share`."""
    found = _worst(share)
    if found and _worst(g) != found:
        where = line or "a line outside detect_anomaly()"
        raise AnomalyError(f"{name} made a{'n' if found[0] == 'i' else ''} {found} in its gradient; it was called at {where}")


def calling_line() -> str:
    """File, number and text of the innermost line outside this package, or in one of its models."""
    frame = sys._getframe(1)
    name = frame.f_code.co_filename
    while frame.f_back is not None and name.startswith(_PACKAGE) and not name.startswith(_MODELS):
        frame = frame.f_back
        name = frame.f_code.co_filename
    number = frame.f_lineno
    return f"{Path(name).name}:{number}: {linecache.getline(name, number).strip()}"
