"""MADE (Germain et al. 2015): a whole training step on a batch of digits, and sampling."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import device
from benchmarks.attempts import Attempts, captured
from benchmarks.entries.nade import MARGIN, digits
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen import no_grad, optim
from tinygen.kernels import masked_dense as kernel
from tinygen.kernels.adam import reference as adam
from tinygen.kernels.masked_dense import reference
from tinygen.models.base import Optimizers
from tinygen.models.made import MADE

STEPS = 3  # compared after so many
LR, EPS = 1e-3, 1e-5  # with a smaller eps, a gradient that is rounding error alone would move its weight by LR

State = dict[str, np.ndarray]


@benchmark(name="made")
def made(quick: bool) -> Iterator[Case]:
    """A step of MADE with Adam: 784-500-500-784, batch 100, raster order."""
    sizes, batch = ((32, 10, 12), 3) if quick else ((784, 500, 500), 100)
    yield _step_case(quick, sizes, digits(batch, sizes[0]))


@benchmark(name="made-sample")
def made_sample(quick: bool) -> Iterator[Case]:
    """Sampling from MADE, pixel after pixel: 64 images, 784-500-784 and 784-500-500-784."""
    for hidden in ((10,), (10, 12)) if quick else ((500,), (500, 500)):
        yield _sample_case(3 if quick else 64, (32 if quick else 784, *hidden))


# ---- A training step ----


def _step_case(quick: bool, sizes: Sequence[int], x: np.ndarray) -> Case:
    from benchmarks.entries import made_torch

    model = _model(sizes)
    state, masks = _state(model), _masks(model)
    makers = {"tinygen": (_tinygen, "ours"), "reference (NumPy)": (_numpy, "reference")}
    makers |= {name: (partial(_torch, layer), "theirs") for name, layer in made_torch.FORMULATIONS.items()}
    sides = [
        Side(name, role, make(sizes, state, masks, x)[0], partial(_after, make, sizes, state, masks, x))
        for name, (make, role) in makers.items()
    ]
    attempts = Attempts(quick)
    for name in ("PyTorch: weight * mask", "PyTorch: weights kept masked"):
        graph = partial(_torch, made_torch.FORMULATIONS[name], graph=True)
        attempts.add_on_gpu(
            f"{name}, CUDA graph",
            lambda graph=graph: graph(sizes, state, masks, x)[0],
            partial(_after, graph, sizes, state, masks, x),
        )
    weights, products = sum(array.size for array in state.values()), [float(mask.sum()) for mask in masks]
    wide = {name: array.astype(np.float64) for name, array in state.items()}
    return Case(
        "made",
        (*sides, *attempts.sides),
        exact=partial(_after, _numpy, sizes, wide, masks, x.astype(np.float64)),
        tolerance=2e-3,  # Adam divides by the gradients' magnitude, small ones of which are mostly rounding error
        work=Work(
            flops=2 * len(x) * (3 * sum(products) - products[0]),  # the input needs no gradient
            bytes=4 * (2 * 3 * weights + x.size),  # weights and two moments, read and written
            transcendentals={"softplus": x.size, "sigmoid": x.size},
        ),
        settings={"layers": [*sizes, sizes[0]], "batch": len(x), "dtype": "float32", "data": "mnist5k, threshold"},
        notes=attempts.notes,
    )


def _after(make: Callable, *arguments: Any) -> Results:
    """The loss at the last of `STEPS` steps from a fresh start, and the weights that count after it."""
    masks = dict(zip(_weights(arguments[1]), arguments[2]))
    step, parameters = make(*arguments)
    for _ in range(STEPS):
        loss = step()
    found = {name: device.on_host(array) for name, array in parameters().items()}
    return {"loss": loss} | {name: array * masks.get(name, 1) for name, array in found.items()}


def _weights(state: State) -> list[str]:
    return [name for name in state if name.endswith("weight")]


def _tinygen(sizes: Sequence[int], state: State, masks: Sequence[np.ndarray], x: np.ndarray) -> tuple[Callable, Callable]:
    model = _model(sizes).to(device.name)
    model.load_state_dict(state, strict=False)
    optimizers = Optimizers({"model": optim.Adam(model.parameters(), lr=LR, eps=EPS)})
    rng, x = np.random.default_rng(0), device.ours(x)
    return lambda: model.train_step(x, optimizers, rng)["loss"], lambda: _state(model)


def _torch(
    layer: Callable, sizes: Sequence[int], state: State, masks: Sequence[np.ndarray], x: np.ndarray, graph: bool = False
) -> tuple[Callable, Callable]:
    import torch

    from benchmarks.entries import made_torch

    counts = dict(zip(_weights(state), masks))  # a formulation may rely on zeros where the mask is
    masked = {name: np.where(counts.get(name, True), array, 0) for name, array in state.items()}
    parameters = {name: device.theirs(array, dtype=torch.float32, requires_grad=True) for name, array in masked.items()}
    layers = [layer(device.theirs(mask, dtype=torch.float32)) for mask in masks]
    optimizer = torch.optim.Adam(parameters.values(), lr=LR, eps=EPS, fused=True, capturable=graph)
    target = device.theirs(x)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        logits = made_torch.logits(target, list(parameters.values()), layers)
        nats = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        loss = nats / len(target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if graph:
        step = captured(step, optimizer)
    return lambda: step().item(), lambda: {name: parameter.detach() for name, parameter in parameters.items()}


def _numpy(sizes: Sequence[int], state: State, masks: Sequence[np.ndarray], x: np.ndarray) -> tuple[Callable, Callable]:
    """The same step with the derivatives written out."""
    parameters = {name: array.copy() for name, array in state.items()}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in state.items()}
    names = [(name, name.replace("weight", "bias")) for name in _weights(state)]
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        inputs, h = [], x
        for k, (weight, bias) in enumerate(names):
            inputs.append(np.maximum(h, 0) if k else h)
            h = inputs[-1] @ (parameters[weight] * masks[k]).T + parameters[bias]
        loss = float((np.logaddexp(0, h) - x * h).sum() / len(x))
        g, gradients = (1 / (1 + np.exp(-h)) - x) / len(x), {}
        for k, (weight, bias) in reversed(list(enumerate(names))):
            gradients[weight], gradients[bias] = g.T @ inputs[k] * masks[k], g.sum(0)
            g = g @ (parameters[weight] * masks[k]) * (inputs[k] > 0)
        for name, gradient in gradients.items():
            adam.adam_step(parameters[name], gradient, *moments[name], count, LR, 0.9, 0.999, EPS, 0.0, False)
        return loss

    return step, lambda: parameters


# ---- Sampling ----


def _sample_case(count: int, sizes: Sequence[int]) -> Case:
    import torch

    from benchmarks.entries import made_torch

    model = _model(sizes)
    model.output.bias.data[...] = -2  # as dark as digits are
    state, masks, degrees = _state(model), _masks(model), model.degrees(0)
    names = _weights(state)
    weights, biases = [state[name] for name in names], [state[name.replace("weight", "bias")] for name in names]
    wide = [[array.astype(np.float64) for array in arrays] for arrays in (weights, biases)]
    uniforms, drawn = _uniforms_and_draws(count, *wide, degrees)
    nothing = np.zeros_like(uniforms)
    put = device.ours
    given = put(nothing), 0, put(uniforms), [put(w) for w in weights], [put(b) for b in biases], degrees
    tensors = [device.theirs(array) for pair in zip(weights, biases) for array in pair]
    target, zeros_and_ones = device.theirs(uniforms), [device.theirs(mask, dtype=torch.float32) for mask in masks]
    layers = [made_torch.usual(mask) for mask in zeros_and_ones]
    incremental = made_torch.incremental_sampler(zeros_and_ones)
    hidden = sum(sizes[1:])
    return Case(
        f"made-sample {'-'.join(map(str, (*sizes, sizes[0])))}",
        sides=(
            Side("tinygen", "ours", lambda: {"x": kernel.complete(*given)}),
            Side("tinygen: a whole pass per pixel", "reference", lambda: {"x": _whole_passes(model, uniforms)}),
            Side("PyTorch: a whole pass per pixel", "theirs", lambda: {"x": made_torch.sample(target, tensors, layers)}),
            Side("PyTorch: incremental", "theirs", lambda: {"x": incremental(target, tensors)}),
            Side(
                "reference (NumPy)",
                "reference",
                lambda: {"x": reference.complete(nothing, 0, uniforms, weights, biases, degrees)},
            ),
        ),
        exact=lambda: {"x": drawn},
        tolerance=0.0,
        work=Work(
            flops=2 * count * float(sum(mask.sum() for mask in masks)),
            bytes=4 * (float(sum(mask.sum() for mask in masks)) + hidden + sizes[0] + 2 * drawn.size),
            transcendentals={"sigmoid": drawn.size},
        ),
        settings={
            "layers": [*sizes, sizes[0]],
            "batch": count,
            "dtype": "float32",
            "ones_per_image": float(drawn.sum() / count),
        },
    )


def _whole_passes(model: MADE, uniforms: np.ndarray) -> np.ndarray:
    """Sampling as it is usually written, on our own forward pass."""
    x = np.zeros_like(uniforms)
    with no_grad():
        for d in range(x.shape[1]):
            x[:, d] = uniforms[:, d] < 1 / (1 + np.exp(-model.logits(x).numpy()[:, d]))
    return x


def _uniforms_and_draws(count: int, weights: list, biases: list, degrees: list) -> tuple[np.ndarray, np.ndarray]:
    """Uniform numbers (count, D) that stay `MARGIN` away from the probabilities, and the pixels that they draw."""
    uniforms = np.random.default_rng(1).random((count, len(biases[-1])))
    drawn = np.zeros_like(uniforms)
    masked = [w * reference.mask_of(a, b, False) for w, a, b in zip(weights, degrees, degrees[1:])]
    masked.append(weights[-1] * reference.mask_of(degrees[-1], degrees[0], True))
    first = np.tile(biases[0], (count, 1))
    for d, u in enumerate(uniforms.T):
        h = np.maximum(first, 0)
        for weight, bias in zip(masked[1:-1], biases[1:]):
            h = np.maximum(h @ weight.T + bias, 0)
        p = 1 / (1 + np.exp(-(h @ masked[-1][d] + biases[-1][d])))
        drawn[:, d] = u < p
        uniforms[:, d] = np.where(u < p, np.minimum(u, p - MARGIN), np.maximum(u, p + MARGIN))
        first += drawn[:, d : d + 1] * masked[0][:, d]
    return uniforms.astype(np.float32), drawn


# ---- The model ----


def _model(sizes: Sequence[int]) -> MADE:
    """A MADE of sizes[0] pixels, with hidden layers of sizes[1:]."""
    return MADE(sizes[0], sizes[1:], np.random.default_rng(0))


def _state(model: MADE) -> State:
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def _masks(model: MADE) -> list[np.ndarray]:
    degrees = model.degrees(0)
    masks = [reference.mask_of(a, b, False) for a, b in pairwise(degrees)]
    return [*masks, reference.mask_of(degrees[-1], degrees[0], True)]
