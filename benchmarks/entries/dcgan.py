"""DCGAN (Radford et al. 2016): a whole training step, in which both players move."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from benchmarks import device
from benchmarks.attempts import Attempts
from benchmarks.entries.nade import digits
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen.models import Recipe
from tinygen.models.dcgan import DCGAN

STEPS = 2  # compared after so many
LATENT = 100
OPTIONS = {"betas": (0.5, 0.999), "eps": 1e-5}  # with a smaller eps, a gradient that is rounding error would move its weight
LR = 2e-4

Make = Callable[..., tuple[Callable[[], dict[str, float]], Callable[[], dict[str, np.ndarray]]]]


@benchmark(name="dcgan")
def dcgan(quick: bool) -> Iterator[Case]:
    """A step of DCGAN with Adam on 28 x 28 digits, 64 and 128 channels, batch 128."""
    channels, batch = ((2, 3), 3) if quick else ((64, 128), 128)
    yield _case(quick, channels, digits(batch, 784))


def _case(quick: bool, channels: Sequence[int], x: np.ndarray) -> Case:
    model = _model(channels)
    state = model.state_dict()
    makers: dict[str, tuple[Make, str]] = {
        "tinygen": (_tinygen, "ours"),
        "PyTorch": (_torch, "theirs"),
        "PyTorch: channels last": (partial(_torch, channels_last=True), "theirs"),
    }
    sides = [
        Side(name, role, make(channels, state, x)[0], partial(_after, make, channels, state, x))
        for name, (make, role) in makers.items()
    ]
    attempts, graph = Attempts(quick), partial(_torch, graph=True)
    attempts.add_on_gpu("PyTorch: CUDA graph", lambda: graph(channels, state, x)[0], partial(_after, graph, channels, state, x))
    places = [(28 >> k) ** 2 for k in (1, 2)]  # outputs of D's convolutions, inputs of G's
    maps = [16 * a * b * n for (a, b), n in zip(pairwise((1, *channels)), places)]
    project, logit = LATENT * channels[1] * places[1], channels[1] * places[1]
    # G: forward and both gradients, but for that of z. D: three times forward, the weights' gradients twice, and the inputs'
    # twice but for the images', once with them.
    products = 3 * sum(maps) + 2 * project + 8 * (sum(maps) + logit) - 2 * maps[0]
    weights = sum(parameter.size for parameter in model.parameters())
    return Case(
        "dcgan",
        (*sides, *attempts.sides),
        exact=partial(_after, partial(_torch, dtype="float64"), channels, state, x),
        tolerance=5e-3,  # Adam divides by the gradients' magnitude, small ones of which are mostly rounding error
        work=Work(
            flops=2 * len(x) * products,
            bytes=4 * (2 * 3 * weights + x.size),  # weights and two moments, read and written
            transcendentals={"tanh": x.size},
        ),
        settings={
            "channels": list(channels),
            "latent": LATENT,
            "batch": len(x),
            "dtype": "float32",
            "data": "mnist5k, threshold",
        },
        notes=attempts.notes,
    )


def _after(make: Make, *arguments: object) -> Results:
    """Both losses at the last of `STEPS` steps from a fresh start, and the weights after it."""
    step, weights = make(*arguments)
    for _ in range(STEPS):
        losses = step()
    return losses | weights()


def _tinygen(channels: Sequence[int], state: dict, x: np.ndarray):
    model = _model(channels).to(device.name)
    model.load_state_dict(state)
    optimizers = model.optimizers(Recipe(epochs=1, lr=LR, optimizer_options=OPTIONS))
    rng, x = np.random.default_rng(0), device.ours(x)

    def step() -> dict[str, float]:
        figures = model.train_step(x, optimizers, rng)
        return {name: figures[name] for name in ("d_loss", "g_loss")}

    return step, lambda: dict(model.named_parameters())


def _torch(
    channels: Sequence[int],
    state: dict,
    x: np.ndarray,
    dtype: str = "float32",
    channels_last: bool = False,
    graph: bool = False,
):
    import torch

    from benchmarks.entries import dcgan_torch

    layout = {"memory_format": torch.channels_last} if channels_last else {}
    model = dcgan_torch.DCGAN(LATENT, 28, channels)
    model.load_state_dict({name.replace("double", "enlarge"): device.theirs(array) for name, array in state.items()})
    device.moved(model).to(getattr(torch, dtype), **layout)
    images = device.theirs(2 * x - 1, dtype=getattr(torch, dtype)).view(-1, 1, 28, 28).contiguous(**layout)
    step = dcgan_torch.stepper(model, images, np.random.default_rng(0), graph, lr=LR, **OPTIONS)
    weights = {name.replace("enlarge", "double"): parameter.detach() for name, parameter in model.named_parameters()}
    return step, lambda: weights


def _model(channels: Sequence[int]) -> DCGAN:
    return DCGAN((28, 28, 1), LATENT, channels, np.random.default_rng(0))
