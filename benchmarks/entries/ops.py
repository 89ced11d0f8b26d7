"""Single ops, forward and backward: the engine's overhead on a few numbers, and its throughput on many."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinygen
from benchmarks import device
from benchmarks.attempts import Attempts, compiled
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen.kernels.conv2d import reference as convolution


@dataclass(frozen=True)
class Op:
    """An op as tinygen and PyTorch write it, and as a NumPy function (g, *arrays) -> (y, *gradients)."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    reference: Callable[..., tuple[np.ndarray, ...]]
    flops: float = 0
    transcendentals: dict[str, float] = field(default_factory=dict)
    tolerance: float = 1e-5
    fusible: bool = False  # by torch.compile, which has nothing to gain from a single product or a mere pass


@benchmark(name="ops")
def ops(quick: bool) -> Iterator[Case]:
    """Single ops, forward and backward: overhead on 32 numbers, throughput on a million, convolutions."""
    for op in (*_dense_ops(quick), *_convolutions(quick)):
        yield _case(op, quick)


def _case(op: Op, quick: bool) -> Case:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in op.shapes]
    y_shape = np.shape(op.ours(*arrays))
    g = rng.standard_normal(y_shape, np.float32) if y_shape else np.array(0.5, np.float32)
    ours = _through(op.ours, [tinygen.Tensor(device.ours(a), requires_grad=True) for a in arrays], device.ours(g))

    def theirs(function: Callable) -> Callable[[], Results]:
        return _through(function, [device.theirs(a, requires_grad=True) for a in arrays], device.theirs(g))

    attempts = Attempts(quick)
    if op.fusible:
        attempts.add_replayed(lambda: ours)
        attempts.add_on_gpu("PyTorch: compiled", lambda: theirs(compiled(op.theirs)))
    elements = 2 * sum(array.size for array in arrays) + 2 * g.size  # inputs and gradients, output and cotangent
    return Case(
        op.name,
        sides=(
            Side("tinygen", "ours", ours),
            Side("PyTorch", "theirs", theirs(op.theirs)),
            *attempts.sides,
            Side("reference (NumPy)", "reference", lambda: _named(op.reference(g, *arrays))),
        ),
        exact=lambda: _named(op.reference(g.astype(np.float64), *(a.astype(np.float64) for a in arrays))),
        tolerance=op.tolerance,
        work=Work(op.flops, elements * g.itemsize, op.transcendentals),
        settings={"shapes": " ".join("x".join(map(str, shape)) for shape in op.shapes), "dtype": "float32"},
        notes=attempts.notes if op.fusible else (),
    )


def _named(results: tuple) -> Results:
    return {"y" if i == 0 else f"gradient {i}": value for i, value in enumerate(results)}


def _through(function: Callable, tensors: list[Any], g: Any) -> Callable[[], Results]:
    """Forward and backward by either engine: the two have the same interface."""

    def run() -> Results:
        for tensor in tensors:
            tensor.grad = None
        y = function(*tensors)
        y.backward(g)
        return _named((y, *(tensor.grad for tensor in tensors)))

    return run


def _dense_ops(quick: bool) -> Iterator[Op]:
    import torch

    n, rows = (8, 4) if quick else (512, 1000)
    square = (rows, rows)
    yield Op("add", ((32,), (32,)), tinygen.add, torch.add, lambda g, a, b: (a + b, g, g))
    yield Op(f"matmul {n}", ((n, n), (n, n)), tinygen.matmul, torch.matmul, lambda g, a, b: (a @ b, g @ b.T, a.T @ g), 6 * n**3)
    yield Op("sum", (square,), tinygen.sum, torch.sum, lambda g, x: (x.sum(), np.full_like(x, g)))
    exponentials = {"exp": rows * rows}
    yield Op("exp", (square,), tinygen.exp, torch.exp, _exp, transcendentals=exponentials)
    yield Op(
        "softmax", (square,), lambda x: tinygen.softmax(x, 1), lambda x: torch.softmax(x, 1), _softmax,
        transcendentals=exponentials, fusible=True,
    )  # fmt: skip
    yield Op(
        "logsumexp", (square,), lambda x: tinygen.logsumexp(x, 1), lambda x: torch.logsumexp(x, 1), _logsumexp,
        transcendentals=exponentials,
    )  # fmt: skip
    x_shape, channels = ((4, 2, 3, 3), 2) if quick else ((64, 64, 28, 28), 64)
    yield Op(
        "batch_norm", (x_shape, (channels,), (channels,)),
        lambda x, weight, bias: tinygen.batch_norm(x, weight=weight, bias=bias, training=True),
        lambda x, weight, bias: torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True),
        _batch_norm, tolerance=5e-5, fusible=True,
    )  # fmt: skip


def _exp(g: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    y = np.exp(x)
    return y, g * y


def _softmax(g: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    y = np.exp(x - x.max(1, keepdims=True))
    y /= y.sum(1, keepdims=True)
    return y, y * (g - (g * y).sum(1, keepdims=True))


def _logsumexp(g: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    highest = x.max(1, keepdims=True)
    exponentials = np.exp(x - highest)
    total = exponentials.sum(1, keepdims=True)
    return (highest + np.log(total))[:, 0], g[:, None] * exponentials / total


def _batch_norm(g: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    axes = (0, 2, 3)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    standard = (x - mean) / np.sqrt(variance + 1e-5)
    scale, shift = weight[:, None, None], bias[:, None, None]
    along = (g * standard).mean(axes, keepdims=True)
    gx = scale * (g - g.mean(axes, keepdims=True) - standard * along) / np.sqrt(variance + 1e-5)
    return standard * scale + shift, gx, (g * standard).sum(axes), g.sum(axes)


def _convolutions(quick: bool) -> Iterator[Op]:
    """The models' shapes: a first layer, a residual block, a strided layer. (in, out, kernel, stride, padding)."""
    from torch.nn.functional import conv2d

    batch, size = (2, 6) if quick else (16, 28)
    for inputs, outputs, k, stride, padding in ((1, 64, 7, 1, 3), (64, 64, 3, 1, 1), (64, 128, 4, 2, 1)):
        if quick:
            inputs, outputs = min(inputs, 2), 3
        steps = {"stride": stride, "padding": padding}
        pairs = {name: (value, value) for name, value in steps.items()}

        def reference(g, x, weight, pairs=pairs):
            gx = convolution.input_gradient(g, weight, x.shape[2:], **pairs)
            return convolution.forward(x, weight, **pairs), gx, convolution.weight_gradient(x, g, weight.shape[2:], **pairs)

        starts = np.arange(-padding, size + padding - k + 1, stride)[:, None]
        taps = ((starts + np.arange(k) >= 0) & (starts + np.arange(k) < size)).sum()  # along one axis, without the padding
        yield Op(
            f"conv2d {inputs} to {outputs}, {k}x{k}, stride {stride}",
            ((batch, inputs, size, size), (outputs, inputs, k, k)),
            lambda x, weight, steps=steps: tinygen.conv2d(x, weight, **steps),
            lambda x, weight, steps=steps: conv2d(x, weight, **steps),
            reference,
            flops=6 * batch * outputs * inputs * taps**2,
            tolerance=2e-5,
            fusible=True,
        )
