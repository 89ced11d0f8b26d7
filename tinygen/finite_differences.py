"""Slopes of a function that can only be evaluated: what a gradient is checked against.

Every function here looks along a line: `f(t)` is an array of terms whose sum is the quantity at parameter t, and the slope at
t = 0 is wanted. The terms are subtracted before they are summed, so that a large constant part costs no digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

STEPS = 2.0 ** -np.arange(5, 27, 3)  # 0.03 down to 1e-7, each an eighth of the one before
COMPLEX_STEP = 1e-20

Line = Callable[[float], np.ndarray]


class Slope(NamedTuple):
    """An estimate of a slope and of its own error."""

    value: float
    error: float


class Sides(NamedTuple):
    """The slopes on the left and on the right; `kink` says that they differ by more than curvature explains."""

    left: float
    right: float
    kink: bool


def central(f: Line, noise: float = 0.0) -> Slope:
    """The slope of `f` at 0 by central differences, with an error that is measured instead of assumed.

    D(h) = (f(h) - f(-h)) / 2h errs by a h^2 + O(h^4) from curvature and by about noise / h from rounding. For every step
    of the sweep Richardson's (64 D(h/8) - D(h)) / 63 removes a h^2; where three of these in a row agree best, the middle
    one is the answer, and the larger of its two disagreements, plus `noise` / h, is the error. Steps that leave the domain
    (NaN) drop out.

    Args:
        noise: the rounding error of one evaluation, summed over the terms.
    """
    raw: list[float] = []
    best = Slope(float("nan"), float("inf"))
    for h in STEPS.tolist():
        raw.append(float(np.sum(f(h) - f(-h))) / (2 * h))
        if len(raw) < 4:
            continue
        coarse, middle, fine = ((64 * raw[k + 1] - raw[k]) / 63 for k in range(len(raw) - 4, len(raw) - 1))
        error = max(abs(coarse - middle), abs(middle - fine)) + noise / h
        if error < best.error:
            best = Slope(middle, error)
        if best.error <= 4 * noise / h:  # rounding rules from here on: smaller steps can only be worse
            break
    return best


def complex_step(f: Callable[[complex], np.ndarray]) -> float:
    """The slope of an analytic `f` at 0, Im f(ih) / h: no subtraction, so it is exact to rounding (Squire and Trapp 1998)."""
    return float(np.sum(f(1j * COMPLEX_STEP).imag)) / COMPLEX_STEP


def bends(f: Line, start: np.ndarray, scale: float, noise: float = 0.0) -> bool:
    """Whether 0 could be a kink of `f`, where `start` is f(0): a glance at two points, which `one_sided` has to confirm.

    The second difference over h is the difference of the one-sided slopes; where f is smooth it is O(h) against their `scale`.
    """
    h = 2.0**-18
    return not abs(float(np.sum(f(h) - start + (f(-h) - start)))) / h <= 1e-3 * scale + 1e3 * noise / h


def one_sided(f: Line, noise: float = 0.0) -> Sides:
    """The slopes of `f` on either side of 0 by (4 f(h) - f(2h) - 3 f(0)) / 2h, and whether 0 is, or is next to, a kink.

    Where f is smooth the two differ by O(h^2): 4096 times less at a 64th of the step. At a kink the gap does not shrink.
    """
    start = f(0.0)

    def slope(h: float) -> float:
        return float(np.sum(4 * (f(h) - start) - (f(2 * h) - start))) / (2 * h)

    wide, narrow = 2.0**-12, 2.0**-18
    gap = abs(slope(wide) - slope(-wide))
    right, left = slope(narrow), slope(-narrow)
    floor = 1e-4 * (abs(right) + abs(left)) + 1e3 * noise / narrow
    return Sides(left, right, abs(right - left) > max(gap / 64, floor))
