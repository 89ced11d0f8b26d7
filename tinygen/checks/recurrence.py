"""Cases of the LSTMs: the gradients of their ops, and their kernels against the references."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from tinygen.checks.inputs import check, normal
from tinygen.checks.kernels import Run, agreement
from tinygen.checks.registry import Case
from tinygen.ops.lstm import diagonal_lstm, lstm, row_lstm

Shapes = tuple[tuple[int, ...], ...]  # of x, weight_ih, weight_hh and bias


def _diagonal(batch: int, channels: int, hidden: int, height: int, width: int) -> Shapes:
    return (batch, channels, height, width), (4 * hidden, channels), (4 * hidden, hidden, 2), (4 * hidden,)


def _row(batch: int, channels: int, hidden: int, height: int, width: int, k: int = 3, m: int = 2) -> Shapes:
    return (batch, channels, height, width), (4 * hidden, channels, m), (4 * hidden, hidden, k), (4 * hidden,)


def _kernel(shapes: Shapes, *options: bool) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        def draw(*shape: int) -> np.ndarray:
            return (0.5 * rng.standard_normal(shape)).astype(dtype)

        x, weight_ih, weight_hh, bias = (draw(*shape) for shape in shapes)
        y, residual = module.forward(x, weight_ih, weight_hh, bias, *options)
        gradients = module.backward(draw(*y.shape), weight_ih, weight_hh, residual, *options)
        hidden, cell = draw(len(x), *weight_hh.shape[1:]), draw(len(x), weight_hh.shape[1])
        state = module.step(draw(len(x), *weight_ih.shape[1:]), hidden, cell, weight_ih, weight_hh, bias)
        names = ("g_x", "g_weight_ih", "g_weight_hh", "g_bias", "step_hidden", "step_cell")
        return {"hidden": y, **dict(zip(names, (*gradients, *state)))}

    return run


def _gate(rows: int, hidden: int) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        gates, cell, *cotangents = (rng.standard_normal((rows, n * hidden)).astype(dtype) for n in (4, 1, 1, 1))
        out, after, activations = module.forward(gates, cell)
        g_gates, g_cell = module.backward(*cotangents, activations, cell, after)
        return {"hidden": out, "cell": after, "activations": activations, "g_gates": g_gates, "g_cell": g_cell}

    return run


def _cases() -> Iterator[Case]:
    yield check("lstm", lstm, gates=normal(3, 2, 8), hidden=normal(2, 2), cell=normal(2, 2), weight=normal(8, 2))
    names = ("x", "weight_ih", "weight_hh", "bias")
    for variant, sizes in {"": (2, 3, 2, 3, 4), "[one pixel]": (1, 1, 1, 1, 1), "[empty batch]": (0, 2, 2, 2, 3)}.items():
        inputs = dict(zip(names, (normal(*shape) for shape in _diagonal(*sizes))))
        yield check(f"diagonal_lstm{variant}", diagonal_lstm, order=1, **inputs)
        inputs = dict(zip(names, (normal(*shape) for shape in _row(*sizes))))
        yield check(f"row_lstm{variant}", row_lstm, order=1, **inputs)
    inputs = dict(zip(names, (normal(*shape) for shape in _diagonal(2, 2, 3, 4, 3))))
    yield check("diagonal_lstm[reverse]", lambda *arrays: diagonal_lstm(*arrays, reverse=True), order=1, **inputs)
    inputs = dict(zip(names, (normal(*shape) for shape in _row(2, 2, 3, 3, 6, k=5, m=3))))
    yield check("row_lstm[wide]", row_lstm, order=1, **inputs)
    yield from agreement("lstm_gate", _gate(5, 7))
    yield from agreement("lstm_gate", _gate(700, 50), "large")
    yield from agreement("diagonal_lstm", _kernel(_diagonal(3, 4, 5, 6, 7)))
    yield from agreement("diagonal_lstm", _kernel(_diagonal(3, 4, 5, 6, 7), True), "reverse")
    yield from agreement("diagonal_lstm", _kernel(_diagonal(9, 32, 16, 12, 12)), "large")
    yield from agreement("row_lstm", _kernel(_row(3, 4, 5, 6, 7)))
    yield from agreement("row_lstm", _kernel(_row(9, 32, 16, 12, 12)), "large")


CASES = list(_cases())
