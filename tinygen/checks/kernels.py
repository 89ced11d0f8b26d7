"""Cases of the kernels: every function on this machine's processor against the reference, output by output."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygen.checks.images import CONVOLUTIONS
from tinygen.checks.registry import Agreement, Case

Arguments = dict[str, tuple[Any, ...]]


def agreement(name: str, arguments: Callable[[np.random.Generator, np.dtype], Arguments], variant: str = "") -> Iterator[Case]:
    """Cases, in float64 and float32, that compare the functions of the kernel `name` with its reference.

    `arguments(rng, dtype)` maps the name of each function to what it is called with.
    """
    for dtype in (np.float64, np.float32):

        def make(rng: np.random.Generator, dtype: Any = dtype) -> Agreement:
            package = importlib.import_module(f"tinygen.kernels.{name}")
            reference = importlib.import_module(f"tinygen.kernels.{name}.reference")
            fast, expected = {}, {}
            for function, values in arguments(rng, dtype).items():
                fast |= _outputs(function, package, values)
                expected |= _outputs(function, reference, values)
            return Agreement(fast, expected)

        words = ", ".join(word for word in (variant, np.dtype(dtype).name) if word)
        yield Case(f"kernels.{name}[{words}]", "kernel", make, order=0)


def _outputs(function: str, module: Any, values: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """What the function returns, and its array arguments afterwards: it may write into them."""
    values = tuple(value.copy() if isinstance(value, np.ndarray) else value for value in values)
    result = getattr(module, function)(*values)
    results = result if isinstance(result, tuple) else () if result is None else (result,)
    named = {f"{function} output {i}": y for i, y in enumerate(results) if isinstance(y, np.ndarray)}
    return named | {f"{function} argument {i}": v for i, v in enumerate(values) if isinstance(v, np.ndarray)}


def _conv2d(shape: tuple[int, ...], weight_shape: tuple[int, ...], options: dict[str, Any]) -> Callable:
    def arguments(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        from tinygen.kernels.conv2d import output_size

        pair = lambda value: (value, value) if isinstance(value, int) else value
        stride, padding, dilation = (pair(options.get(k, v)) for k, v in (("stride", 1), ("padding", 0), ("dilation", 1)))
        settings = (stride, padding, dilation, options.get("groups", 1))
        out = output_size(shape[2:], weight_shape[2:], stride, padding, dilation)
        x, weight, bias, g = (
            rng.standard_normal(s).astype(dtype)
            for s in (shape, weight_shape, weight_shape[:1], (shape[0], weight_shape[0], *out))
        )
        return {
            "forward": (x, weight, *settings, bias),
            "input_gradient": (g, weight, shape[2:], *settings),
            "weight_gradient": (x, g, weight_shape[2:], *settings),
        }

    return arguments


def _adam(weight_decay: float, decoupled: bool) -> Callable:
    def arguments(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        param, grad, mean, square = rng.standard_normal((4, 1000)).astype(dtype)
        return {"adam_step": (param, grad, mean, square**2, 3, 1e-2, 0.9, 0.999, 1e-8, weight_decay, decoupled)}

    return arguments


def _cases() -> Iterator[Case]:
    for variant, (x, weight, options) in CONVOLUTIONS.items():
        yield from agreement("conv2d", _conv2d(x, weight, options), variant.strip("[]"))
    yield from agreement("conv2d", _conv2d((4, 16, 20, 20), (32, 16, 3, 3), {"padding": 1}), "large")
    yield from agreement("adam", _adam(0.0, False))
    yield from agreement("adam", _adam(0.1, False), "weight decay")
    yield from agreement("adam", _adam(0.1, True), "decoupled")


CASES = list(_cases())
