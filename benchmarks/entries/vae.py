"""VAE (Kingma and Welling 2014): a whole training step on a batch of digits."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import device
from benchmarks.attempts import Attempts, captured
from benchmarks.entries.nade import digits
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen import optim
from tinygen.kernels.adam import reference as adam
from tinygen.models.base import Optimizers
from tinygen.models.vae import VAE

STEPS = 3  # compared after so many
LR, EPS = 1e-3, 1e-5  # with a smaller eps, a gradient that is rounding error alone would move its weight by LR
LAYERS = ("encoder.0", "encoder.2", "decoder.0", "decoder.2")

State = dict[str, np.ndarray]


@benchmark(name="vae")
def vae(quick: bool) -> Iterator[Case]:
    """A step of a VAE with Adam: 784-400-20-400-784, tanh, Bernoulli decoder, batch 128."""
    (D, H, Z), batch = ((32, 10, 3), 5) if quick else ((784, 400, 20), 128)
    x = digits(batch, D)
    model = VAE((D,), Z, (H,), np.random.default_rng(0))
    state = {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}
    makers = {"tinygen": (_tinygen, "ours"), "reference (NumPy)": (_numpy, "reference")}
    makers |= {
        "PyTorch: Adam, fused": (partial(_torch, fused=True), "theirs"),
        "PyTorch: Adam, foreach": (partial(_torch, foreach=True), "theirs"),
    }
    sides = [
        Side(name, role, make((D, H, Z), state, x)[0], partial(_after, make, (D, H, Z), state, x))
        for name, (make, role) in makers.items()
    ]
    attempts, graph = Attempts(quick), partial(_torch, graph=True, fused=True)
    attempts.add_on_gpu(
        "PyTorch: Adam, fused, CUDA graph",
        lambda: graph((D, H, Z), state, x)[0],
        partial(_after, graph, (D, H, Z), state, x),
    )
    wide = {name: array.astype(np.float64) for name, array in state.items()}
    weights, products = sum(array.size for array in state.values()), D * H + H * 2 * Z + Z * H + H * D
    yield Case(
        f"vae {D}-{H}-{Z}-{H}-{D}",
        (*sides, *attempts.sides),
        exact=partial(_after, _numpy, (D, H, Z), wide, x.astype(np.float64)),
        tolerance=2e-3,  # Adam divides by the gradients' magnitude, small ones of which are mostly rounding error
        work=Work(
            flops=2 * batch * (3 * products - D * H),  # the input needs no gradient
            bytes=4 * (2 * 3 * weights + x.size),  # weights and two moments, read and written
            transcendentals={"softplus": x.size, "sigmoid": x.size, "tanh": 2 * batch * H},
        ),
        settings={"layers": [D, H, Z, H, D], "batch": batch, "dtype": "float32", "data": "mnist5k, threshold"},
        notes=attempts.notes,
    )


def _after(make: Callable, *arguments: Any) -> Results:
    """The loss at the last of `STEPS` steps from a fresh start, and the parameters after it."""
    step, parameters = make(*arguments)
    for _ in range(STEPS):
        loss = step()
    return {"loss": loss, **parameters()}


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """What the model draws in a step."""
    return rng.standard_normal((1, *shape)).astype(np.float32)[0]


def _tinygen(sizes: Sequence[int], state: State, x: np.ndarray) -> tuple[Callable, Callable]:
    D, H, Z = sizes
    model = VAE((D,), Z, (H,), np.random.default_rng(0)).to(device.name)
    model.load_state_dict(state)
    optimizers = Optimizers({"model": optim.Adam(model.parameters(), lr=LR, eps=EPS)})
    rng, x = np.random.default_rng(1), device.ours(x)
    return lambda: model.train_step(x, optimizers, rng)["loss"], model.state_dict


def _torch(
    sizes: Sequence[int], state: State, x: np.ndarray, graph: bool = False, **options: bool
) -> tuple[Callable, Callable]:
    import torch

    functional = torch.nn.functional
    parameters = {name: device.theirs(array, requires_grad=True) for name, array in state.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=LR, eps=EPS, capturable=graph, **options)
    layers = [(parameters[f"{name}.weight"], parameters[f"{name}.bias"]) for name in LAYERS]
    target, rng, shape = device.theirs(x), np.random.default_rng(1), (len(x), sizes[2])
    eps = device.theirs(np.zeros(shape, np.float32))

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        encoded = functional.linear(torch.tanh(functional.linear(target, *layers[0])), *layers[1])
        mu, rho = encoded.chunk(2, dim=1)
        z = mu + torch.exp(0.5 * rho) * eps
        logits = functional.linear(torch.tanh(functional.linear(z, *layers[2])), *layers[3])
        reconstruction = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(x)
        kl = 0.5 * (mu * mu + rho.exp() - 1 - rho).sum() / len(x)
        loss = reconstruction + kl
        loss.backward()
        optimizer.step()
        return loss.detach()

    once = captured(step, optimizer) if graph else step

    def drawn() -> float:
        eps.copy_(torch.from_numpy(_noise(rng, shape)))
        return once().item()

    return drawn, lambda: {name: parameter.detach() for name, parameter in parameters.items()}


def _numpy(sizes: Sequence[int], state: State, x: np.ndarray) -> tuple[Callable, Callable]:
    """The same step with the derivatives written out."""
    p = {name: array.copy() for name, array in state.items()}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in state.items()}
    rng, Z, count = np.random.default_rng(1), sizes[2], 0

    def step() -> float:
        nonlocal count
        count += 1
        eps = _noise(rng, (len(x), Z)).astype(x.dtype)
        apply = lambda name, h: h @ p[f"{name}.weight"].T + p[f"{name}.bias"]
        h = np.tanh(apply("encoder.0", x))
        mu, rho = np.split(apply("encoder.2", h), 2, axis=1)
        z = mu + np.exp(rho / 2) * eps
        d = np.tanh(apply("decoder.0", z))
        logits = apply("decoder.2", d)
        loss = ((np.logaddexp(0, logits) - x * logits).sum() + (mu * mu + np.exp(rho) - 1 - rho).sum() / 2) / len(x)
        inputs, g = {"encoder.0": x, "encoder.2": h, "decoder.0": z, "decoder.2": d}, {}
        g["decoder.2"] = (1 / (1 + np.exp(-logits)) - x) / len(x)
        g["decoder.0"] = g["decoder.2"] @ p["decoder.2.weight"] * (1 - d * d)
        g_z = g["decoder.0"] @ p["decoder.0.weight"]
        g_rho = g_z * eps * np.exp(rho / 2) / 2 + (np.exp(rho) - 1) / (2 * len(x))
        g["encoder.2"] = np.concatenate([g_z + mu / len(x), g_rho], axis=1)
        g["encoder.0"] = g["encoder.2"] @ p["encoder.2.weight"] * (1 - h * h)
        for name, share in g.items():
            for parameter, gradient in (("weight", share.T @ inputs[name]), ("bias", share.sum(0))):
                key = f"{name}.{parameter}"
                adam.adam_step(p[key], gradient, *moments[key], count, LR, 0.9, 0.999, EPS, 0.0, False)
        return float(loss)

    return step, lambda: p
