"""PixelRNN (van den Oord et al. 2016): sampling, with the states of earlier pixels kept and with a full pass for each pixel."""

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import device
from benchmarks.registry import Case, Results, Side, Work, benchmark
from tinygen import no_grad
from tinygen.backend import Array
from tinygen.models.diagonal_bilstm import DiagonalBiLSTM
from tinygen.models.pixelrnn import PixelRNN
from tinygen.models.pixels import PixelModel
from tinygen.models.row_lstm import RowLSTM

MARGIN = 1e-3  # between a uniform number and the probability it is compared with: a rounding error changes no pixel
HEAD = 32


@benchmark(name="pixelrnn-sample")
def pixelrnn_sample(quick: bool) -> Iterator[Case]:
    """Sampling 16 images of 28 x 28 from a Diagonal BiLSTM and a Row LSTM of one layer, h = 32, pixel after pixel."""
    for name, kind, inputs, sweeps in (("diagonal-bilstm", DiagonalBiLSTM, 4, 2), ("row-lstm", RowLSTM, 7, 1)):
        yield _case(name, kind, inputs, sweeps, quick)


def _case(name: str, kind: type[PixelRNN], inputs: int, sweeps: int, quick: bool) -> Case:
    """`inputs`: to the gates of each sweep, in multiples of h."""
    count, side, hidden = (2, 4, 3) if quick else (16, 28, 32)
    small, exact = (kind((side, side, 1), 2, hidden, 1, HEAD, np.random.default_rng(0), t) for t in (np.float32, np.float64))
    uniforms, drawn = _uniforms_and_draws(exact, count)
    gates = sweeps * 4 * hidden
    products = 24 * 2 * hidden + gates * inputs * hidden + hidden * 2 * hidden + (2 * hidden + 1) * HEAD
    pixels = count * side * side
    return Case(
        f"pixelrnn-sample {name}",
        sides=(
            Side("tinygen", "ours", _sampler(small, kind.fill, uniforms)),
            Side("full pass for each pixel", "reference", _sampler(small, PixelModel.fill, uniforms)),
        ),
        exact=lambda: {"x": drawn},
        tolerance=0.0,
        work=Work(
            flops=2 * pixels * products,
            bytes=4 * (products + 2 * pixels),
            transcendentals={"sigmoid": pixels * (3 * sweeps * hidden + 1), "tanh": 2 * pixels * sweeps * hidden},
        ),
        settings={"images": f"{side} x {side}", "batch": count, "h": hidden, "layers": 1, "dtype": "float32"},
    )


def _sampler(model: PixelRNN, fill: Callable[..., Array], uniforms: Array) -> Callable[[], Results]:
    model.to(device.name)
    uniforms = device.ours(uniforms.astype(np.float32))
    nothing = device.ours(np.zeros(uniforms.shape, np.float32))

    def run() -> Results:
        with no_grad():
            return {"x": fill(model, nothing, np.zeros(uniforms.shape[1:], bool), uniforms)}

    return run


def _uniforms_and_draws(model: PixelRNN, count: int) -> tuple[Array, Array]:
    """Uniform numbers (count, 1, H, W) that stay `MARGIN` away from the probabilities, and the pixels that they draw."""
    uniforms = np.random.default_rng(1).random((count, 1, model.height, model.width))
    with no_grad():
        drawn = model.fill(np.zeros_like(uniforms), np.zeros(uniforms.shape[1:], bool), uniforms)
        p = 1 / (1 + np.exp(-model.logits(drawn).numpy()[:, 0]))
    return np.where(drawn == 1, np.minimum(uniforms, p - MARGIN), np.maximum(uniforms, p + MARGIN)), drawn
