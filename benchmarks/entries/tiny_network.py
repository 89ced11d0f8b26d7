"""A tiny network's whole training step: forward, backward, Adam. Nearly all of it is the engine's overhead."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import tinygen
from benchmarks import device
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen import nn, optim
from tinygen.kernels.adam import reference as adam

STEPS = 3  # compared after so many
LR = 1e-3


@benchmark(name="tiny-network")
def tiny_network(quick: bool) -> Iterator[Case]:
    """Adam steps of networks with a few hundred to a few thousand weights, batch 32."""
    for sizes in ((2, 16, 16, 1), (64, 64, 10)):
        yield _case(sizes, batch=32)


def _case(sizes: tuple[int, ...], batch: int) -> Case:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, sizes[0]), np.float32)
    target = rng.standard_normal((batch, sizes[-1]), np.float32)
    state = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        state[f"{2 * i}.weight"] = rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        state[f"{2 * i}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    makers = {
        "tinygen": _tinygen,
        "PyTorch: Adam": partial(_torch, foreach=False),
        "PyTorch: Adam, foreach": partial(_torch, foreach=True),
        "PyTorch: Adam, fused": partial(_torch, fused=True),
        "reference (NumPy)": _numpy,
    }
    roles = {"tinygen": "ours", "reference (NumPy)": "reference"}
    sides = tuple(
        Side(name, roles.get(name, "theirs"), make(sizes, state, x, target)[0], partial(_after, make, sizes, state, x, target))
        for name, make in makers.items()
    )
    wide = {name: array.astype(np.float64) for name, array in state.items()}
    weights = sum(array.size for array in state.values())
    products = sum(a * b for a, b in pairwise(sizes))
    return Case(
        f"network {'-'.join(map(str, sizes))}",
        sides,
        exact=partial(_after, _numpy, sizes, wide, x.astype(np.float64), target.astype(np.float64)),
        tolerance=1e-4,
        work=Work(
            flops=2 * batch * (3 * products - sizes[0] * sizes[1]),  # the input needs no gradient
            bytes=4 * (2 * 3 * weights + x.size + target.size),  # weights and two moments, read and written
            transcendentals={"tanh": batch * sum(sizes[1:-1])},
        ),
        settings={"layers": list(sizes), "batch": batch, "activation": "tanh", "loss": "mse", "dtype": "float32"},
    )


def _after(make: Callable, *arguments: Any) -> Results:
    """The loss at the last of `STEPS` steps from a fresh start, and the parameters after it."""
    step, parameters = make(*arguments)
    for _ in range(STEPS):
        loss = step()
    return {"loss": loss.detach() if hasattr(loss, "detach") else loss, **parameters()}


def _tinygen(sizes: tuple[int, ...], state: dict, x: np.ndarray, target: np.ndarray) -> tuple[Callable, Callable]:
    rng = np.random.default_rng(0)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Dense(a, b, rng=rng), nn.Tanh())]
    network = nn.Sequential(*layers[:-1])
    network.load_state_dict(state)
    network.to(device.name)
    optimizer = optim.Adam(network.parameters(), lr=LR)
    x, target = tinygen.Tensor(device.ours(x)), tinygen.Tensor(device.ours(target))

    def step():
        optimizer.zero_grad()
        loss = tinygen.mse_loss(network(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step, network.state_dict


def _torch(sizes: tuple[int, ...], state: dict, x: np.ndarray, target: np.ndarray, **options: bool):
    import torch

    layers = [layer for a, b in pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.Tanh())]
    network = device.moved(torch.nn.Sequential(*layers[:-1]))
    network.load_state_dict({name: device.theirs(array) for name, array in state.items()})
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, **options)
    x, target = device.theirs(x), device.theirs(target)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step, network.state_dict


def _numpy(sizes: tuple[int, ...], state: dict, x: np.ndarray, target: np.ndarray) -> tuple[Callable, Callable]:
    """The same step with the derivatives written out."""
    parameters = {name: array.copy() for name, array in state.items()}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in state.items()}
    last = len(sizes) - 2
    count = 0

    def step():
        nonlocal count
        count += 1
        activations = [x]
        for i in range(last + 1):
            z = activations[-1] @ parameters[f"{2 * i}.weight"].T + parameters[f"{2 * i}.bias"]
            activations.append(z if i == last else np.tanh(z))
        difference = activations.pop() - target
        g = 2 * difference / difference.size
        for i in range(last, -1, -1):
            weight, h = parameters[f"{2 * i}.weight"], activations.pop()
            gradients = {f"{2 * i}.weight": g.T @ h, f"{2 * i}.bias": g.sum(0)}
            g = (g @ weight) * (1 - h * h) if i else None
            for name, gradient in gradients.items():
                adam.adam_step(parameters[name], gradient, *moments[name], count, LR, 0.9, 0.999, 1e-8, 0.0, False)
        return np.mean(difference * difference)

    return step, lambda: parameters
