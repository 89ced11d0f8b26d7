"""PixelRNN's Diagonal and Row LSTM (van den Oord et al. 2016): all gradients, at the size of MNIST."""

from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np

import tinygen
from benchmarks import device
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen.kernels.diagonal_lstm import reference as diagonal_reference
from tinygen.kernels.row_lstm import reference as row_reference
from tinygen.ops.lstm import diagonal_lstm, row_lstm

NAMES = ("x", "weight_ih", "weight_hh", "bias")


@benchmark(name="diagonal-lstm")
def diagonal(quick: bool) -> Iterator[Case]:
    """The Diagonal LSTM of one direction and all its gradients: 28 x 28, batch 16, h = 16, 32, 64."""
    from benchmarks.entries import image_lstm_torch as theirs

    for hidden in (3,) if quick else (16, 32, 64):
        formulations = {
            "PyTorch: conv1d over the skewed map": theirs.diagonal_convolutions,
            "PyTorch: products, channels last": theirs.diagonal_products,
        }
        shapes = (4 * hidden, 2 * hidden), (4 * hidden, hidden, 2)
        yield _case("diagonal-lstm", quick, hidden, shapes, diagonal_lstm, diagonal_reference, formulations)


@benchmark(name="row-lstm")
def row(quick: bool) -> Iterator[Case]:
    """The Row LSTM, k = 3, and all its gradients: 28 x 28, batch 16, h = 16, 32, 64."""
    from benchmarks.entries import image_lstm_torch as theirs

    for hidden in (3,) if quick else (16, 32, 64):
        formulations = {
            "PyTorch: conv1d over rows": theirs.row_convolutions,
            "PyTorch: products, channels last": theirs.row_products,
        }
        shapes = (4 * hidden, 2 * hidden, 2), (4 * hidden, hidden, 3)
        yield _case("row-lstm", quick, hidden, shapes, row_lstm, row_reference, formulations)


def _case(
    name: str,
    quick: bool,
    hidden: int,
    shapes: tuple[tuple[int, ...], ...],
    op: Callable,
    reference: ModuleType,
    formulations: dict[str, Callable],
) -> Case:
    batch, side = (2, 5) if quick else (16, 28)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((batch, 2 * hidden, side, side))]
    arrays += [rng.uniform(-1, 1, shape) / np.sqrt(hidden) for shape in (*shapes, (4 * hidden,))]
    arrays = [array.astype(np.float32) for array in arrays]
    g = rng.standard_normal((batch, hidden, side, side)).astype(np.float32)
    cells = batch * side * side
    terms = sum(array[0].size for array in arrays[1:3])  # that each gate sums over
    return Case(
        f"{name} h={hidden}",
        sides=(
            Side("tinygen", "ours", _tinygen(op, arrays, g)),
            *(Side(label, "theirs", _torch(function, arrays, g)) for label, function in formulations.items()),
            Side("reference (NumPy)", "reference", lambda: _reference(reference, arrays, g)),
        ),
        exact=lambda: _reference(reference, [array.astype(np.float64) for array in arrays], g.astype(np.float64)),
        tolerance=2e-5,
        work=Work(
            flops=3 * 2 * cells * terms * 4 * hidden,  # forward, gradient of what is read, gradient of the weights
            bytes=4 * 2 * (sum(array.size for array in arrays) + g.size),
            transcendentals={"sigmoid": 3 * cells * hidden, "tanh": 2 * cells * hidden},
        ),
        settings={"images": f"{side} x {side}", "batch": batch, "h": hidden, "C": 2 * hidden, "dtype": "float32"},
    )


def _named(y: object, gradients: object) -> Results:
    return {"hidden states": y, **{f"gradient {name}": gradient for name, gradient in zip(NAMES, gradients)}}


def _reference(module: ModuleType, arrays: list[np.ndarray], g: np.ndarray) -> Results:
    y, residual = module.forward(*arrays)
    return _named(y, module.backward(g, *arrays[1:3], residual))


def _tinygen(op: Callable, arrays: list[np.ndarray], g: np.ndarray) -> Callable[[], Results]:
    tensors, g = [tinygen.Tensor(device.ours(array), requires_grad=True) for array in arrays], device.ours(g)

    def run() -> Results:
        for tensor in tensors:
            tensor.grad = None
        y = op(*tensors)
        y.backward(g)
        return _named(y.detach(), (tensor.grad for tensor in tensors))

    return run


def _torch(function: Callable, arrays: list[np.ndarray], g: np.ndarray) -> Callable[[], Results]:
    tensors = [device.theirs(array, requires_grad=True) for array in arrays]
    cotangent = device.theirs(g)

    def run() -> Results:
        for tensor in tensors:
            tensor.grad = None
        y = function(*tensors)
        y.backward(cotangent)
        return _named(y.detach(), (tensor.grad for tensor in tensors))

    return run
