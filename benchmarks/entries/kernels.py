"""The kernels that no other benchmark has alone, called without the engine, at sizes that fill a machine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import device
from benchmarks.attempts import Attempts, captured, compiled
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen.kernels import adam, bernoulli, lstm_gate, masked_dense
from tinygen.kernels.adam import reference as adam_reference
from tinygen.kernels.bernoulli import reference as bernoulli_reference
from tinygen.kernels.lstm_gate import reference as lstm_gate_reference
from tinygen.kernels.masked_dense import reference as masked_dense_reference
from tinygen.models.made import MADE

STEPS = 3  # of Adam, compared after so many
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8

Arrays = Sequence[Any]


@dataclass(frozen=True)
class Kernel:
    """Functions and their gradients: the kernel's, called by `compute(module, inputs, cotangents)`, and PyTorch's.

    inputs, cotangents: arrays by name, those of the functions' outputs; gradients are of the inputs in `wanted`
    compute: returns the outputs, then the gradients; `module` is the kernel or its reference
    theirs: the outputs from the inputs
    """

    name: str
    kernel: ModuleType
    reference: ModuleType
    inputs: dict[str, np.ndarray]
    cotangents: dict[str, np.ndarray]
    wanted: tuple[str, ...]
    compute: Callable[[ModuleType, Arrays, Arrays], tuple]
    theirs: Callable[..., tuple]
    work: Work
    settings: dict[str, Any]


@benchmark(name="kernels")
def kernels(quick: bool) -> Iterator[Case]:
    """Kernels alone, forward and backward: Adam, Bernoulli likelihood, LSTM gates, masked dense layers."""
    yield _adam_case(quick)
    for kernel in (_bernoulli(quick), _lstm_gate(quick), *_masked_dense(quick)):
        yield _case(kernel, quick)


# ---- Functions and their gradients ----


def _case(kernel: Kernel, quick: bool) -> Case:
    inputs, cotangents = list(kernel.inputs.values()), list(kernel.cotangents.values())
    here, there = (
        [put(array) for array in (*inputs, *cotangents)] for put in (device.ours, partial(np.asarray, dtype=np.float64))
    )
    n = len(inputs)

    def run(module: ModuleType, arrays: Arrays) -> Results:
        return _named(kernel, kernel.compute(module, arrays[:n], arrays[n:]))

    attempts = Attempts(quick)
    attempts.add_replayed(lambda: partial(run, kernel.kernel, here))
    attempts.add("PyTorch: compiled", lambda: _torch(kernel, compiled(kernel.theirs)))
    attempts.add_on_gpu("PyTorch: CUDA graph", lambda: captured(_torch(kernel, kernel.theirs)))
    return Case(
        f"kernels {kernel.name}",
        sides=(
            Side("tinygen", "ours", lambda: run(kernel.kernel, here)),
            Side("PyTorch", "theirs", _torch(kernel, kernel.theirs)),
            *attempts.sides,
            Side("reference (NumPy)", "reference", lambda: run(kernel.reference, [*inputs, *cotangents])),
        ),
        exact=lambda: run(kernel.reference, there),
        tolerance=1e-5,
        work=kernel.work,
        settings=kernel.settings | {"dtype": "float32"},
        notes=attempts.notes,
    )


def _named(kernel: Kernel, results: Sequence[Any]) -> Results:
    return dict(zip([*kernel.cotangents, *(f"gradient {name}" for name in kernel.wanted)], results, strict=True))


def _torch(kernel: Kernel, function: Callable[..., tuple]) -> Callable[[], Results]:
    import torch

    tensors = {name: device.theirs(array, requires_grad=name in kernel.wanted) for name, array in kernel.inputs.items()}
    cotangents = [device.theirs(array) for array in kernel.cotangents.values()]

    def run() -> Results:
        outputs = function(*tensors.values())
        gradients = torch.autograd.grad(outputs, [tensors[name] for name in kernel.wanted], cotangents)
        return _named(kernel, (*(output.detach() for output in outputs), *gradients))

    return run


def _bernoulli(quick: bool) -> Kernel:
    """A decoder's likelihood, with as many draws of the latent variables as an importance-weighted bound takes."""
    batch, draws, D = (3, 2, 8) if quick else (100, 50, 784)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (draws * batch, D)).astype(np.float32)
    x = (rng.random((batch, D)) < 0.2).astype(np.float32)
    g = rng.standard_normal(len(logits)).astype(np.float32)

    def theirs(x: Any, logits: Any) -> tuple:
        from torch.nn.functional import binary_cross_entropy_with_logits

        every = logits.view(draws, batch, D)
        return (-binary_cross_entropy_with_logits(every, x.expand_as(every), reduction="none").sum(2).view(-1),)

    return Kernel(
        "bernoulli", bernoulli, bernoulli_reference, {"x": x, "logits": logits}, {"log_prob": g}, ("logits",),
        lambda module, inputs, cotangents: (module.log_prob(*inputs), module.gradient(*cotangents, *inputs)),
        theirs,
        Work(
            bytes=4 * (x.size + 2 * logits.size + 2 * g.size),
            transcendentals={"softplus": logits.size, "sigmoid": logits.size},
        ),
        {"batch": batch, "draws": draws, "D": D},
    )  # fmt: skip


def _lstm_gate(quick: bool) -> Kernel:
    rows, h = (3, 4) if quick else (4096, 512)
    rng = np.random.default_rng(0)
    gates, cell, g_hidden, g_after = (rng.standard_normal((rows, width)).astype(np.float32) for width in (4 * h, h, h, h))

    def compute(module: ModuleType, inputs: Arrays, cotangents: Arrays) -> tuple:
        hidden, after, activations = module.forward(*inputs)
        return hidden, after, *module.backward(*cotangents, activations, inputs[1], after)

    def theirs(gates: Any, cell: Any) -> tuple:
        from benchmarks.entries.image_lstm_torch import gated

        return gated(gates, cell, 1)

    return Kernel(
        "lstm_gate", lstm_gate, lstm_gate_reference, {"gates": gates, "cell": cell}, {"hidden": g_hidden, "after": g_after},
        ("gates", "cell"), compute, theirs,
        Work(bytes=4 * 2 * (gates.size + 3 * cell.size), transcendentals={"sigmoid": 3 * cell.size, "tanh": 2 * cell.size}),
        {"batch": rows, "h": h},
    )  # fmt: skip


def _masked_dense(quick: bool) -> Iterator[Kernel]:
    """MADE's first layer and the last one of its best network."""
    D, batch = (8, 3) if quick else (784, 100)
    for hidden, last in ((5, False), (6, True)) if quick else ((500, False), (2000, True)):
        rng = np.random.default_rng(0)
        pixels, units = MADE(D, (hidden,), rng).degrees(0)
        degrees = (units, pixels, True) if last else (pixels, units, False)
        mask = masked_dense_reference.mask_of(*degrees).astype(np.float32)
        outs, ins = mask.shape
        x, weight, bias, g = (
            rng.standard_normal(shape).astype(np.float32) for shape in ((batch, ins), mask.shape, outs, (batch, outs))
        )

        def compute(module: ModuleType, inputs: Arrays, cotangents: Arrays, degrees: tuple = degrees) -> tuple:
            x, weight, bias, _ = inputs
            (g,) = cotangents
            y = module.forward(x, weight, bias, *degrees)
            return y, module.input_gradient(g, weight, *degrees), module.weight_gradient(x, g, *degrees), g.sum(0)

        def theirs(x: Any, weight: Any, bias: Any, mask: Any) -> tuple:
            from benchmarks.entries.made_torch import usual

            return (usual(mask)(x, weight, bias),)

        yield Kernel(
            f"masked_dense {ins} to {outs}", masked_dense, masked_dense_reference,
            {"x": x, "weight": weight, "bias": bias, "mask": mask}, {"y": g}, ("x", "weight", "bias"), compute, theirs,
            Work(flops=6 * batch * float(mask.sum()), bytes=4 * 2 * (x.size + weight.size + bias.size + g.size)),
            {"batch": batch, "in": ins, "out": outs},
        )  # fmt: skip


# ---- Adam ----


def _adam_case(quick: bool) -> Case:
    n = 100 if quick else 10_000_000
    rng = np.random.default_rng(0)
    param, grad = 0.05 * rng.standard_normal(n, np.float32), rng.standard_normal(n, np.float32)
    makers: dict[str, tuple[Callable, str]] = {
        "tinygen": (partial(_adam, adam, put=device.ours), "ours"),
        "PyTorch: Adam, fused": (partial(_torch_adam, fused=True), "theirs"),
        "PyTorch: Adam, foreach": (partial(_torch_adam, foreach=True), "theirs"),
        "reference (NumPy)": (partial(_adam, adam_reference, put=np.copy), "reference"),
    }
    sides = [
        Side(name, role, make(param, grad)[0], partial(_after, make, param, grad)) for name, (make, role) in makers.items()
    ]
    attempts = Attempts(quick)
    attempts.add("PyTorch: compiled", lambda: _compiled_adam(param, grad)[0], partial(_after, _compiled_adam, param, grad))
    return Case(
        "kernels adam",
        (*sides, *attempts.sides),
        exact=partial(_after, partial(_adam, adam_reference, put=np.copy), *(a.astype(np.float64) for a in (param, grad))),
        tolerance=1e-6,
        work=Work(bytes=4 * 7 * n),  # parameter and both moments, read and written; the gradient, read
        settings={"parameters": n, "dtype": "float32"},
        notes=attempts.notes,
    )


def _after(make: Callable, *arrays: np.ndarray) -> Results:
    """The parameters after `STEPS` steps from a fresh start."""
    step, parameters = make(*arrays)
    for _ in range(STEPS):
        step()
    return {"parameters": parameters}


def _adam(module: ModuleType, param: np.ndarray, grad: np.ndarray, put: Callable) -> tuple[Callable, Any]:
    param, grad, *moments = (put(array) for array in (param.copy(), grad, np.zeros_like(param), np.zeros_like(param)))
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        module.adam_step(param, grad, *moments, count, LR, BETA1, BETA2, EPS, 0.0, False)

    return step, param


def _torch_adam(param: np.ndarray, grad: np.ndarray, **options: bool) -> tuple[Callable, Any]:
    import torch

    parameter = device.theirs(param, requires_grad=True)
    parameter.grad = device.theirs(grad)
    return torch.optim.Adam([parameter], lr=LR, betas=(BETA1, BETA2), eps=EPS, **options).step, parameter.detach()


def _compiled_adam(param: np.ndarray, grad: np.ndarray) -> tuple[Callable, Any]:
    """The update written out; the count is a tensor, for which nothing is compiled anew."""
    arrays = param, grad, np.zeros_like(param), np.zeros_like(param), np.zeros((), np.float32)
    tensors = [device.theirs(array) for array in arrays]

    @compiled
    def update(param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, count: Any) -> None:
        count += 1
        exp_avg.lerp_(grad, 1 - BETA1)
        exp_avg_sq.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        m_hat, v_hat = exp_avg / (1 - BETA1**count), exp_avg_sq / (1 - BETA2**count)
        param.sub_(LR * m_hat / (v_hat.sqrt() + EPS))

    return partial(update, *tensors), tensors[0]
