"""NADE (Larochelle and Murray 2011): the loss of a batch of digits with its gradients, and sampling."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

import tinygen
from benchmarks.attempts import Attempts, captured
from benchmarks.device import on_gpu, ours, theirs
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen import data
from tinygen.kernels import nade as kernel
from tinygen.kernels.nade import reference
from tinygen.ops.nade import nade_log_prob

NAMES = ("W", "V", "b", "c")
MARGIN = 1e-3  # between a uniform number and the probability it is compared with: a rounding error changes no pixel


@benchmark(name="nade")
def nade(quick: bool) -> Iterator[Case]:
    """NADE's loss on binary digits and all its gradients: D = 784, H = 500, batch 100."""
    from benchmarks.entries import nade_torch

    batch, pixels, hidden = (3, 32, 5) if quick else (100, 784, 500)
    x, arrays = digits(batch, pixels), parameters(pixels, hidden)
    formulations = {
        "PyTorch: usual loop": nade_torch.usual_loop,
        "PyTorch: loop over unbound rows": nade_torch.unbound_loop,
        "PyTorch: cumulative sums": nade_torch.cumulative_sums,
        "PyTorch: triangular products": nade_torch.triangular_products,
        "PyTorch: distinct states": nade_torch.distinct_states,
    }
    sides = [Side(name, "theirs", _torch_loss(formulation, x, arrays)) for name, formulation in formulations.items()]
    attempts = Attempts(quick)
    attempts.add("PyTorch: compiled blocks", lambda: _torch_loss(nade_torch.compiled_blocks(_unrolled()), x, arrays))
    for name in ("PyTorch: loop over unbound rows", "PyTorch: triangular products"):
        attempts.add_on_gpu(f"{name}, CUDA graph", lambda name=name: captured(_torch_loss(formulations[name], x, arrays)))
    ones = float(x.sum())
    yield Case(
        "nade",
        sides=(
            Side("tinygen", "ours", _tinygen_loss(x, arrays)),
            *sides,
            *attempts.sides,
            Side("reference (NumPy)", "reference", lambda: _loss_and_gradients(reference, x, *arrays.values())),
        ),
        exact=lambda: _loss_and_gradients(reference, *(array.astype(np.float64) for array in (x, *arrays.values()))),
        tolerance=2e-5,
        work=Work(
            # A logit, its share of V's gradient and of its state's, per pixel; state, W's gradient, per pixel that is 1.
            flops=6 * batch * pixels * hidden + 2 * ones * hidden,
            bytes=4 * (x.size + 2 * sum(array.size for array in arrays.values())),
            transcendentals={"sigmoid": (batch + ones) * hidden + x.size, "softplus": x.size},
        ),
        settings=_settings(batch, pixels, hidden) | {"ones_per_image": ones / batch, "data": "mnist5k, threshold"},
        notes=attempts.notes,
    )


def _unrolled() -> int:
    """Pixels that torch.compile unrolls: what is best on the CPU would take a GPU's compiler too long."""
    return 8 if on_gpu() else 16


@benchmark(name="nade-sample")
def nade_sample(quick: bool) -> Iterator[Case]:
    """Sampling from NADE, pixel after pixel: D = 784, H = 500, 64 images at once and a single one."""
    pixels, hidden = (32, 5) if quick else (784, 500)
    arrays = parameters(pixels, hidden)
    arrays["b"] -= 2  # as dark as digits are
    for count in (3, 1) if quick else (64, 1):
        yield _sample_case(count, arrays, quick)


def _sample_case(count: int, arrays: dict[str, np.ndarray], quick: bool) -> Case:
    from benchmarks.entries import nade_torch

    pixels, hidden = arrays["V"].shape
    uniforms, drawn = _uniforms_and_draws(count, arrays)
    here = [ours(array) for array in (np.zeros_like(uniforms), uniforms, *arrays.values())]
    attempts = Attempts(quick)
    attempts.add("PyTorch: compiled blocks", lambda: _torch_sample(nade_torch.compiled_sampler(_unrolled()), uniforms, arrays))
    attempts.add_on_gpu("PyTorch: loop, CUDA graph", lambda: captured(_torch_sample(nade_torch.sample_loop, uniforms, arrays)))

    def sample(module: ModuleType) -> Results:
        return {"x": module.complete(here[0], 0, *here[1:])}

    return Case(
        f"nade-sample {count}",
        sides=(
            Side("tinygen", "ours", lambda: sample(kernel)),
            Side("tinygen: a whole pass per pixel", "reference", lambda: {"x": _whole_passes(uniforms, arrays)}),
            Side("PyTorch: loop", "theirs", _torch_sample(nade_torch.sample_loop, uniforms, arrays)),
            *attempts.sides,
            Side("reference (NumPy)", "reference", lambda: sample(reference)),
        ),
        exact=lambda: {"x": drawn},
        tolerance=0.0,
        work=Work(
            flops=2 * count * pixels * hidden + drawn.sum() * hidden,
            bytes=4 * (arrays["V"].size + drawn.any(0).sum() * hidden + pixels + hidden + 2 * drawn.size),
            transcendentals={"sigmoid": (count + drawn.sum()) * hidden + drawn.size},
        ),
        settings=_settings(count, pixels, hidden) | {"ones_per_image": float(drawn.sum() / count)},
        notes=attempts.notes,
    )


def _whole_passes(uniforms: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Sampling without anything kept from pixel to pixel: all conditionals anew for each, by our own forward pass."""
    x = np.zeros_like(uniforms)
    for d in range(x.shape[1]):
        x[:, d] = uniforms[:, d] < 1 / (1 + np.exp(-kernel.conditionals(x, *arrays.values())[:, d]))
    return x


def digits(count: int, pixels: int) -> np.ndarray:
    """The middle `pixels` of `count` embedded digits in raster order, 1 where grey > 0.5: float32 (count, pixels)."""
    images = data.binarize(data.load("mnist5k").train.images[:count], "threshold").reshape(count, -1)
    start = (images.shape[1] - pixels) // 2
    return np.ascontiguousarray(images[:, start : start + pixels])


def parameters(pixels: int, hidden: int) -> dict[str, np.ndarray]:
    """W, V (pixels, hidden), b (pixels,), c (hidden,), float32, drawn from N(0, 0.05^2)."""
    rng = np.random.default_rng(0)
    shapes = ((pixels, hidden), (pixels, hidden), (pixels,), (hidden,))
    return {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in zip(NAMES, shapes)}


def _settings(batch: int, pixels: int, hidden: int) -> dict[str, Any]:
    return {"D": pixels, "H": hidden, "batch": batch, "dtype": "float32"}


def _named(loss: Any, gradients: Any) -> Results:
    return {"loss": loss, **{f"gradient {name}": gradient for name, gradient in zip(NAMES, gradients)}}


def _loss_and_gradients(module: ModuleType, x: np.ndarray, W: np.ndarray, V: np.ndarray, b: np.ndarray, c: np.ndarray):
    log_prob, residual = module.forward(x, W, V, b, c)
    cotangent = np.full(len(x), -1 / len(x), x.dtype)
    return _named(-log_prob.mean(), module.backward(cotangent, x, W, V, residual))


def _tinygen_loss(x: np.ndarray, arrays: dict[str, np.ndarray]) -> Callable[[], Results]:
    tensors = [tinygen.Tensor(ours(array), requires_grad=True) for array in arrays.values()]
    x = ours(x)

    def run() -> Results:
        for tensor in tensors:
            tensor.grad = None
        loss = -nade_log_prob(x, *tensors).mean()
        loss.backward()
        return _named(loss.detach(), (tensor.grad for tensor in tensors))

    return run


def _torch_loss(logits: Callable, x: np.ndarray, arrays: dict[str, np.ndarray]) -> Callable[[], Results]:
    import torch

    tensors = [theirs(array, requires_grad=True) for array in arrays.values()]
    target = theirs(x)

    def run() -> Results:
        for tensor in tensors:
            tensor.grad = None
        nats = torch.nn.functional.binary_cross_entropy_with_logits(logits(target, *tensors), target, reduction="sum")
        loss = nats / len(target)
        loss.backward()
        return _named(loss.detach(), (tensor.grad for tensor in tensors))

    return run


def _torch_sample(sampler: Callable, uniforms: np.ndarray, arrays: dict[str, np.ndarray]) -> Callable[[], Results]:
    tensors = [theirs(array) for array in (*arrays.values(), uniforms)]
    return lambda: {"x": sampler(*tensors)}


def _uniforms_and_draws(count: int, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Uniform numbers (count, D) that stay `MARGIN` away from the probabilities, and the pixels that they draw."""
    W, V, b, c = (array.astype(np.float64) for array in arrays.values())
    uniforms = np.random.default_rng(1).random((count, len(b)))
    drawn = np.empty_like(uniforms)
    a = np.tile(c, (count, 1))
    for d, u in enumerate(uniforms.T):
        p = 1 / (1 + np.exp(-b[d] - 1 / (1 + np.exp(-a)) @ V[d]))
        drawn[:, d] = u < p
        uniforms[:, d] = np.where(u < p, np.minimum(u, p - MARGIN), np.maximum(u, p + MARGIN))
        a += drawn[:, d : d + 1] * W[d]
    return uniforms.astype(np.float32), drawn
