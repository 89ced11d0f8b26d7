"""The plain LSTM layer (Hochreiter and Schmidhuber 1997): all gradients, the rows of digits read as a sequence."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import tinygen
from benchmarks import device
from benchmarks.attempts import Attempts, captured, compiled
from benchmarks.registry import Case, Results, Side, Work, benchmark


@benchmark(name="lstm")
def lstm(quick: bool) -> Iterator[Case]:
    """An LSTM layer and all its gradients: 28 steps of 28 numbers, batch 64, h = 64, 128."""
    steps, batch, width = (5, 2, 4) if quick else (28, 64, 28)
    for hidden in (3,) if quick else (64, 128):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((steps, batch, width)).astype(np.float32)
        g = rng.standard_normal((steps, batch, hidden)).astype(np.float32)
        shapes = (4 * hidden, width), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)
        parameters = [(rng.uniform(-1, 1, shape) / np.sqrt(hidden)).astype(np.float32) for shape in shapes]
        names = [f"{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        yield _case(quick, x, g, dict(zip(names, parameters)))


def _case(quick: bool, x: np.ndarray, g: np.ndarray, parameters: dict[str, np.ndarray]) -> Case:
    cells, width, hidden = x.shape[0] * x.shape[1], x.shape[2], g.shape[2]
    read = sum(array.size for array in (x, *parameters.values()))
    attempts = Attempts(quick)
    attempts.add_on_gpu("PyTorch: a loop of LSTM cells, CUDA graph", lambda: captured(_torch(_loop, x, g, parameters)))
    attempts.add_on_gpu(
        "PyTorch: a loop of LSTM cells, step compiled",
        lambda: _torch(partial(_loop, step=compiled(_step)), x, g, parameters),
    )
    return Case(
        f"lstm h={hidden}",
        sides=(
            Side("tinygen", "ours", _tinygen(x, g, parameters)),
            Side("PyTorch: nn.LSTM", "theirs", _torch(_whole, x, g, parameters)),
            Side("PyTorch: a loop of LSTM cells", "theirs", _torch(_loop, x, g, parameters)),
            *attempts.sides,
        ),
        exact=lambda: _torch(_loop, x, g, parameters, "float64")(),
        tolerance=2e-5,
        work=Work(
            flops=3 * 2 * cells * (width + hidden) * 4 * hidden,  # forward, gradient of what is read, gradient of the weights
            bytes=4 * 2 * (read + g.size),
            transcendentals={"sigmoid": 3 * cells * hidden, "tanh": 2 * cells * hidden},
        ),
        settings={"T": x.shape[0], "batch": x.shape[1], "in": width, "h": hidden, "dtype": "float32"},
        notes=attempts.notes,
    )


def _results(y: Any, tensors: dict[str, Any]) -> Results:
    return {"hidden states": y, **{f"gradient {name}": tensor.grad for name, tensor in tensors.items()}}


def _tinygen(x: np.ndarray, g: np.ndarray, parameters: dict[str, np.ndarray]) -> Callable[[], Results]:
    layer = tinygen.nn.LSTM(x.shape[2], g.shape[2], rng=np.random.default_rng(0))
    layer.load_state_dict(parameters)
    layer.to(device.name)
    tensors = {"x": tinygen.Tensor(device.ours(x), requires_grad=True)} | dict(layer.named_parameters())
    cotangent = device.ours(g)

    def run() -> Results:
        for tensor in tensors.values():
            tensor.grad = None
        y, _ = layer(tensors["x"])
        y.backward(cotangent)
        return _results(y, tensors)

    return run


def _torch(
    forward: Callable, x: np.ndarray, g: np.ndarray, parameters: dict[str, np.ndarray], dtype: str = "float32"
) -> Callable[[], Results]:
    import torch

    layer = device.moved(torch.nn.LSTM(x.shape[2], g.shape[2], dtype=getattr(torch, dtype)))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(device.theirs(parameters[name]))
    tensors = {"x": device.theirs(x, dtype=getattr(torch, dtype), requires_grad=True)} | dict(layer.named_parameters())
    cotangent = device.theirs(g, dtype=getattr(torch, dtype))

    def run() -> Results:
        for tensor in tensors.values():
            tensor.grad = None
        y = forward(layer, tensors["x"])
        y.backward(cotangent)
        return _results(y, tensors)

    return run


def _whole(layer: Any, x: Any) -> Any:
    return layer(x)[0]


def _step(gates: Any, hidden: Any, cell: Any, weight: Any) -> tuple[Any, Any]:
    from benchmarks.entries.image_lstm_torch import gated

    return gated(gates + hidden @ weight.T, cell, 1)


def _loop(layer: Any, x: Any, step: Callable = _step) -> Any:
    """The equations as they stand: the inputs' part for all steps at once, then step by step."""
    import torch

    inputs = x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0
    hidden = cell = x.new_zeros(x.shape[1], layer.hidden_size)
    states = []
    for gates in inputs.unbind():
        hidden, cell = step(gates, hidden, cell, layer.weight_hh_l0)
        states.append(hidden)
    return torch.stack(states)
