"""PixelRNN's Diagonal and Row LSTM (van den Oord et al. 2016): all gradients, at the size of MNIST."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import numpy as np

import tinygen
from benchmarks import device
from benchmarks.attempts import Attempts, captured, compiled
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen.kernels.diagonal_lstm import reference as diagonal_reference
from tinygen.kernels.row_lstm import reference as row_reference
from tinygen.ops.lstm import diagonal_lstm, row_lstm

PRODUCTS = "PyTorch: products, channels last"
COMPILED = ((16, 32), (128, 64))  # batch and h of the cases with a compiled side: each takes the compiler several seconds
NAMES = ("x", "weight_ih", "weight_hh", "bias")


@benchmark(name="diagonal-lstm")
def diagonal(quick: bool) -> Iterator[Case]:
    """The Diagonal LSTM of one direction and all its gradients: 28 x 28, batch 16, h = 16, 32, 64; on a GPU batch 128 too."""
    from benchmarks.entries import image_lstm_torch as theirs

    for batch, hidden in _sizes(quick):
        formulations = {
            "PyTorch: conv1d over the skewed map": theirs.diagonal_convolutions,
            PRODUCTS: theirs.diagonal_products,
        }
        shapes = (4 * hidden, 2 * hidden), (4 * hidden, hidden, 2)
        modules = diagonal_lstm, diagonal_reference
        yield _case("diagonal-lstm", quick, batch, hidden, shapes, *modules, formulations, theirs.diagonal_step)


@benchmark(name="row-lstm")
def row(quick: bool) -> Iterator[Case]:
    """The Row LSTM, k = 3, and all its gradients: 28 x 28, batch 16, h = 16, 32, 64; on a GPU batch 128 too."""
    from benchmarks.entries import image_lstm_torch as theirs

    for batch, hidden in _sizes(quick):
        formulations = {
            "PyTorch: conv1d over rows": theirs.row_convolutions,
            PRODUCTS: theirs.row_products,
        }
        shapes = (4 * hidden, 2 * hidden, 2), (4 * hidden, hidden, 3)
        yield _case("row-lstm", quick, batch, hidden, shapes, row_lstm, row_reference, formulations, theirs.row_step)


def _sizes(quick: bool) -> list[tuple[int, int]]:
    """Batch and h of each case: 16 images leave most of a GPU idle."""
    if quick:
        return [(2, 3)]
    return [(16, 16), (16, 32), (16, 64)] + ([(128, 16), (128, 64)] if device.on_gpu() else [])


def _case(
    name: str,
    quick: bool,
    batch: int,
    hidden: int,
    shapes: tuple[tuple[int, ...], ...],
    op: Callable,
    reference: ModuleType,
    formulations: dict[str, Callable],
    step: Callable,
) -> Case:
    side = 5 if quick else 28
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((batch, 2 * hidden, side, side))]
    arrays += [rng.uniform(-1, 1, shape) / np.sqrt(hidden) for shape in (*shapes, (4 * hidden,))]
    arrays = [array.astype(np.float32) for array in arrays]
    g = rng.standard_normal((batch, hidden, side, side)).astype(np.float32)
    cells = batch * side * side
    terms = sum(array[0].size for array in arrays[1:3])  # that each gate sums over
    products = formulations[PRODUCTS]
    attempts = Attempts(quick)
    attempts.add_replayed(lambda: _tinygen(op, arrays, g))
    attempts.add_on_gpu(f"{PRODUCTS}, CUDA graph", lambda: captured(_torch(products, arrays, g)))
    if (batch, hidden) in COMPILED:
        attempts.add_on_gpu(f"{PRODUCTS}, step compiled", lambda: _torch(partial(products, step=compiled(step)), arrays, g))
    return Case(
        f"{name} h={hidden}" + (f", batch {batch}" if batch == 128 else ""),
        sides=(
            Side("tinygen", "ours", _tinygen(op, arrays, g)),
            *(Side(label, "theirs", _torch(function, arrays, g)) for label, function in formulations.items()),
            *attempts.sides,
            Side("reference (NumPy)", "reference", lambda: _reference(reference, arrays, g)),
        ),
        exact=_in_double(reference, products, arrays, g),
        tolerance=2e-5,
        work=Work(
            flops=3 * 2 * cells * terms * 4 * hidden,  # forward, gradient of what is read, gradient of the weights
            bytes=4 * 2 * (sum(array.size for array in arrays) + g.size),
            transcendentals={"sigmoid": 3 * cells * hidden, "tanh": 2 * cells * hidden},
        ),
        settings={"images": f"{side} x {side}", "batch": batch, "h": hidden, "C": 2 * hidden, "dtype": "float32"},
        notes=attempts.notes,
    )


def _in_double(reference: ModuleType, products: Callable, arrays: list[np.ndarray], g: np.ndarray) -> Callable[[], Results]:
    """The reference, or for the large batch, for which it takes too long, PyTorch's products; at batch 16 both are compared."""
    arrays, g = [array.astype(np.float64) for array in arrays], g.astype(np.float64)
    return partial(_reference, reference, arrays, g) if len(g) < 128 else _torch(products, arrays, g)


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
        return _named(y, (tensor.grad for tensor in tensors))

    return run


def _torch(function: Callable, arrays: list[np.ndarray], g: np.ndarray) -> Callable[[], Results]:
    tensors = [device.theirs(array, requires_grad=True) for array in arrays]
    cotangent = device.theirs(g)

    def run() -> Results:
        for tensor in tensors:
            tensor.grad = None
        y = function(*tensors)
        y.backward(cotangent)
        return _named(y, (tensor.grad for tensor in tensors))

    return run
