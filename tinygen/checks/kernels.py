"""Cases of the kernels: what they give on this machine's processor against the reference, output by output.

That their gradients are the derivatives of their values is checked where the ops call them: conv2d among the ops, NADE's
log-likelihood among the models.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.checks.images import CONVOLUTIONS
from tinygen.checks.registry import Agreement, Case

Run = Callable[[ModuleType, np.random.Generator, type], dict[str, np.ndarray]]


def agreement(kernel: str, run: Run, variant: str = "") -> Iterator[Case]:
    """Cases in float64 and float32. `run(module, rng, dtype)` gives the outputs of a kernel's module by name; it is called
    with the kernel's package and with its reference, and with generators that draw the same.
    """
    for dtype in (np.float64, np.float32):

        def make(rng: np.random.Generator, dtype: type = dtype) -> Agreement:
            fast = importlib.import_module(f"tinygen.kernels.{kernel}")
            reference = importlib.import_module(f"tinygen.kernels.{kernel}.reference")
            seed = rng.integers(2**32)
            return Agreement(*(run(side, np.random.default_rng(seed), dtype) for side in (fast, reference)))

        words = ", ".join(word for word in (variant, np.dtype(dtype).name) if word)
        yield Case(f"kernels.{kernel}[{words}]", "kernel", make, order=0)


def _conv2d(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], options: dict[str, Any]) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        chosen = {"stride": 1, "padding": 0, "dilation": 1} | options
        settings = {name: (n, n) if isinstance(n, int) and name != "groups" else n for name, n in chosen.items()}
        x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in (x_shape, weight_shape, weight_shape[:1]))
        y = module.forward(x, weight, bias=bias, **settings)
        g = rng.standard_normal(y.shape).astype(dtype)
        g_x = module.input_gradient(g, weight, x_shape[2:], **settings)
        g_weight = module.weight_gradient(x, g, weight_shape[2:], **settings)
        return {"forward": y, "input_gradient": g_x, "weight_gradient": g_weight}

    return run


def _nade(batch: int, dimensions: int, hidden: int, layout: str = "C") -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        def draw(*shape: int) -> np.ndarray:
            return np.array(rng.standard_normal(shape), dtype, order=layout)

        x = np.array(rng.integers(0, 2, (batch, dimensions)), dtype, order=layout)
        uniforms = np.array(rng.random((batch, dimensions)), dtype, order=layout)
        W, V, b, c, g = draw(dimensions, hidden), draw(dimensions, hidden), draw(dimensions), draw(hidden), draw(batch)
        log_prob, residual = module.forward(x, W, V, b, c)
        gradients = dict(zip(("gW", "gV", "gb", "gc"), module.backward(g, x, W, V, residual)))
        completed = module.complete(x, dimensions // 3, uniforms, W, V, b, c)
        return {"log_prob": log_prob, "logits": residual[0], **gradients, "complete": completed}

    return run


def _adam(weight_decay: float, decoupled: bool) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        param, grad, mean, square = rng.standard_normal((4, 1000)).astype(dtype)
        square *= square
        module.adam_step(param, grad, mean, square, 3, 1e-2, 0.9, 0.999, 1e-8, weight_decay, decoupled)
        return {"param": param, "grad": grad, "exp_avg": mean, "exp_avg_sq": square}

    return run


def _batch_norm(shape: tuple[int, ...], slope: float) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        weight, bias = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(2))
        mean, variance = module.moments(x)
        y = module.forward(x, mean, variance, weight, bias, 1e-5, slope)
        gradients = module.backward(g, x, mean, variance, weight, bias, 1e-5, slope)
        return {"mean": mean, "variance": variance, "y": y} | dict(zip(("g_x", "g_weight", "g_bias"), gradients))

    return run


def _bernoulli(batch: int, draws: int, dimensions: int, layout: str = "C") -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        x = np.array(rng.integers(0, 2, (batch, dimensions)), dtype, order=layout)
        logits = np.array(3 * rng.standard_normal((draws * batch, dimensions)), dtype, order=layout)
        g = rng.standard_normal(draws * batch).astype(dtype)
        return {"log_prob": module.log_prob(x, logits), "gradient": module.gradient(g, x, logits)}

    return run


def _cases() -> Iterator[Case]:
    for variant, (x, weight, options) in CONVOLUTIONS.items():
        yield from agreement("conv2d", _conv2d(x, weight, options), variant.strip("[]"))
    yield from agreement("conv2d", _conv2d((4, 16, 20, 20), (32, 16, 3, 3), {"padding": 1}), "large")
    yield from agreement("batch_norm", _batch_norm((3, 4, 5, 7), 0.2))
    yield from agreement("batch_norm", _batch_norm((6, 5), 0.0), "matrix, ReLU")
    yield from agreement("batch_norm", _batch_norm((8, 40, 16, 16), 1.0), "large")
    yield from agreement("bernoulli", _bernoulli(5, 3, 7))
    yield from agreement("bernoulli", _bernoulli(2, 1, 40, "F"), "Fortran-ordered")
    yield from agreement("bernoulli", _bernoulli(7, 12, 300), "large")
    yield from agreement("nade", _nade(5, 12, 7))
    yield from agreement("nade", _nade(1, 17, 1), "one example, one hidden unit")
    yield from agreement("nade", _nade(5, 12, 7, "F"), "Fortran-ordered")
    yield from agreement("nade", _nade(33, 100, 70), "large")
    yield from agreement("adam", _adam(0.0, False))
    yield from agreement("adam", _adam(0.1, False), "weight decay")
    yield from agreement("adam", _adam(0.1, True), "decoupled")


CASES = list(_cases())
