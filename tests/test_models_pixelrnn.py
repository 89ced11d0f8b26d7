"""Exact oracles of the Row LSTM and the Diagonal BiLSTM; the kernels' own are in test_kernels_{row,diagonal}_lstm.py."""

import itertools
import math

import numpy as np
import pytest
from pixel_loop import forward as pixel_loop
from scipy import stats

import tinygen
from tinygen import no_grad
from tinygen.models.diagonal_bilstm import DiagonalBiLSTM, DiagonalBiLSTMLayer
from tinygen.models.pixels import PixelModel, colour_of
from tinygen.models.row_lstm import RowLSTM
from tinygen.ops.lstm import diagonal_lstm

MODELS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}
both = pytest.mark.parametrize("kind", MODELS.values(), ids=MODELS)


def model(kind, shape, levels=2, *, hidden=4, layers=2, seed=0, dtype=np.float64):
    """A small model with large parameters, biases too, so that all it sees has a visible effect."""
    rng = np.random.default_rng(seed)
    small = kind(shape, levels, hidden, layers, 8 * shape[2], rng, dtype)
    for _, parameter in small.named_parameters():
        parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
    return small


def every_image(shape, levels=2):
    """All images of that shape, flat, (levels^D, D), with values k / (levels - 1)."""
    return np.array(list(itertools.product(np.arange(levels) / (levels - 1), repeat=math.prod(shape))))


def row_neighbours(r, c, height, width):
    """The pixels of a map that the Row LSTM's state at (r, c) is computed from: its triangle."""
    return [(r - up, s) for up in range(r + 1) for s in range(max(0, c - 1 - up), min(width, c + 1 + up) if up else c + 1)]


def diagonal_neighbours(r, c, height, width):
    """Those of the Diagonal BiLSTM: in the pixel's own row what is to the left, above it everything."""
    return [(s, t) for s in range(r + 1) for t in range(width) if s < r or t <= c]


NEIGHBOURS = {RowLSTM: row_neighbours, DiagonalBiLSTM: diagonal_neighbours}


def expected_support(kind, shape, layers):
    """Boolean (H, W, colours, H, W, colours): which numbers each logit depends on, by following the layers' own reach."""
    height, width, colours = shape
    support = np.zeros((*shape, *shape), bool)
    for r, c, k in np.ndindex(shape):
        # Features of another pixel are seen in all colours, those of the pixel itself up to its own colour.
        seen = {(r, c, k)}
        for _ in range(layers):
            seen |= {
                (s, t, j)
                for r1, c1, k1 in seen
                for s, t in NEIGHBOURS[kind](r1, c1, height, width)
                for j in range(k1 + 1 if (s, t) == (r1, c1) else colours)
            }
        for s, t, j in seen:  # the window of the 7 x 7 convolution with mask A
            for a, b in itertools.product(range(s - 3, s + 1), range(t - 3, t + 4)):
                if 0 <= a < height and 0 <= b < width and (a, b) <= (s, t):
                    support[r, c, k, a, b, : j if (a, b) == (s, t) else colours] = True
    return support


def jacobian_support(small, seed=0):
    """Boolean, as above: where the derivative of any logit of a number with respect to a number of the image is not zero."""
    height, width, colours = small.shape
    support = np.zeros((*small.shape, *small.shape), bool)
    images = tinygen.Tensor(np.random.default_rng(seed).random((16, colours, height, width)), requires_grad=True)
    logits = small.logits(images).sum((0, 1))
    for r, c, k in np.ndindex(small.shape):
        gradient = tinygen.grad(logits[k, r, c], images, retain_graph=True)
        if gradient is not None:
            support[r, c, k] = (gradient.numpy() != 0).any(0).transpose(1, 2, 0)
    return support


CAUSAL = [((4, 4, 1), 1), ((4, 4, 1), 2), ((5, 9, 1), 1), ((3, 12, 1), 2), ((2, 6, 3), 1), ((2, 3, 3), 2)]


@both
@pytest.mark.parametrize(("shape", "layers"), CAUSAL)
def test_a_logit_depends_on_exactly_the_expected_numbers(kind, shape, layers):
    small = model(kind, shape, layers=layers, hidden=3 * shape[2])
    assert (jacobian_support(small) == expected_support(kind, shape, layers)).all()


@both
@pytest.mark.parametrize(("shape", "layers"), CAUSAL)
def test_the_expected_numbers_come_before(kind, shape, layers):
    numbers = math.prod(shape)
    assert not np.triu(expected_support(kind, shape, layers).reshape(numbers, numbers)).any()


@pytest.mark.parametrize(("shape", "layers"), CAUSAL)
def test_the_diagonal_bilstm_sees_all_predecessors_but_the_end_of_the_row_above_where_it_is_far(shape, layers):
    height, width, colours = shape
    expected = np.tril(np.ones((math.prod(shape),) * 2, bool), -1).reshape(*shape, *shape)
    for r, c in itertools.product(range(1, height), range(width)):
        if c + 3 < width - 1:
            expected[r, c, :, r - 1, width - 1, colours - 1] = False
    assert (expected_support(DiagonalBiLSTM, shape, layers) == expected).all()


def test_the_row_lstm_sees_a_triangle_only():
    seen = expected_support(RowLSTM, (12, 27, 1), 1)[11, 13, 0, :, :, 0]
    columns = [range(9, 13)] + [range(max(0, 9 - up), min(27, 16 + up)) for up in range(1, 12)]
    assert [list(np.flatnonzero(row)) for row in seen[::-1]] == [list(reached) for reached in columns]


class UnshiftedLayer(DiagonalBiLSTMLayer):
    """The mistake of well-known implementations: the right sweep is added where it is."""

    def states(self, x):
        return diagonal_lstm(x, *self.left.weights()) + diagonal_lstm(x, *self.right.weights(), reverse=True)


def test_without_the_shift_the_future_would_be_seen():
    class Unshifted(DiagonalBiLSTM):
        LAYER = UnshiftedLayer

    wrong = model(Unshifted, (3, 3, 1))
    support = jacobian_support(wrong).reshape(9, 9)
    assert np.triu(support, 1).any()
    assert abs(np.exp(wrong.log_prob(every_image((3, 3, 1))).numpy()).sum() - 1) > 1e-3


@both
@pytest.mark.parametrize(
    ("shape", "levels", "layers"),
    [
        ((3, 4, 1), 2, 1),
        ((3, 3, 1), 2, 3),
        ((1, 8, 1), 2, 2),
        ((8, 1, 1), 2, 2),
        ((2, 2, 3), 2, 2),
        ((2, 1, 3), 3, 1),
        ((1, 2, 1), 64, 1),
    ],
)
def test_probabilities_sum_to_one(kind, shape, levels, layers):
    small = model(kind, shape, levels, layers=layers)
    with no_grad():
        log_prob = small.log_prob(every_image(shape, levels)).numpy()
    assert np.ptp(log_prob) > 0.5
    assert abs(np.exp(log_prob).sum() - 1) < 1e-10


@both
@pytest.mark.parametrize(("levels", "nats"), [(2, math.log(2)), (256, math.log(256))])
def test_zero_weights_give_every_level_the_same_probability(kind, levels, nats):
    small = model(kind, (4, 4, 1), levels)
    for parameter in small.parameters():
        parameter.data[...] = 0
    x = np.random.default_rng(0).integers(0, levels, (5, 16)) / (levels - 1)
    np.testing.assert_allclose(small.log_prob(x).numpy(), -16 * nats, rtol=1e-14)


def test_the_states_of_a_diagonal_layer_are_those_of_a_loop_over_pixels():
    height, width = 4, 5
    layer = model(DiagonalBiLSTM, (height, width, 1)).layers[0]
    x = np.random.default_rng(1).standard_normal((2, 8, height, width))
    order = list(np.ndindex(height, width))
    sweeps = {}
    for side, gates in ((-1, layer.left), (1, layer.right)):
        weight_ih, weight_hh, bias = (p.numpy() for p in gates.weights())
        taps = {(-1, 0): weight_hh[..., 0], (0, side): weight_hh[..., 1]}
        ordered = sorted(order, key=lambda pixel: (pixel[0], -side * pixel[1]))
        sweeps[side] = pixel_loop(x, {(0, 0): weight_ih}, taps, (0, side), bias, ordered)[0]
    expected = sweeps[-1]
    expected[:, :, 1:] += sweeps[1][:, :, :-1]
    np.testing.assert_allclose(layer.states(x).numpy(), expected, rtol=0, atol=1e-12)


def test_the_states_of_a_row_layer_are_those_of_a_loop_over_pixels():
    layer = model(RowLSTM, (4, 5, 1)).layers[0]
    x = np.random.default_rng(1).standard_normal((2, 8, 4, 5))
    weight_ih, weight_hh, bias = (p.numpy() for p in layer.gates.weights())
    inputs = {(0, -1): weight_ih[..., 0], (0, 0): weight_ih[..., 1]}
    states = {(-1, side): weight_hh[..., side + 1] for side in (-1, 0, 1)}
    expected = pixel_loop(x, inputs, states, (-1, 0), bias, list(np.ndindex(4, 5)))[0]
    np.testing.assert_allclose(layer.states(x).numpy(), expected, rtol=0, atol=1e-12)


@both
def test_the_residual_is_added_once(kind):
    layer = model(kind, (4, 4, 1)).layers[0]
    x = np.random.default_rng(0).standard_normal((2, 8, 4, 4))
    up = layer.up.weight.numpy()[:, :, 0, 0], layer.up.bias.numpy()
    expected = x + np.einsum("oi,nihw->nohw", up[0], layer.states(x).numpy()) + up[1][:, None, None]
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=0, atol=1e-12)


@both
def test_masked_weights_have_no_effect_get_no_gradient_and_are_kept(kind):
    small = model(kind, (3, 3, 3), hidden=6)
    x = np.random.default_rng(0).integers(0, 2, (4, 27)).astype(float)
    before = small.log_prob(x).numpy()
    small.loss(x, np.random.default_rng(0)).backward()
    masked = 0
    gates = [module for module in small.modules() if getattr(module, "masked", False)]
    assert len(gates) == 2
    for weight, mask in [(module.weight_ih, module.mask) for module in gates]:
        out = np.asarray(mask) == 0
        assert (weight.grad[out] == 0).all()
        assert (weight.grad[~out] != 0).any(axis=None)
        weight.data[out] = 1e6
        masked += out.sum()
        last = np.asarray(mask).reshape(4, 6, 12, -1)[..., -1]  # gate, unit, feature, at the pixel itself
        assert (last == (colour_of(12, 3) <= colour_of(6, 3)[:, None])).all()
    assert masked == 2 * 4 * 6 * 12 / 3
    assert (small.log_prob(x).numpy() == before).all()
    assert all((module.weight_ih.data[np.asarray(module.mask) == 0] == 1e6).all() for module in gates)


@both
@pytest.mark.parametrize(
    ("shape", "levels"), [((5, 6, 1), 2), ((4, 5, 1), 256), ((3, 4, 3), 2), ((1, 5, 3), 4), ((5, 1, 1), 2)]
)
def test_the_cached_sampler_draws_what_full_passes_draw(kind, shape, levels):
    small = model(kind, shape, levels, layers=3)
    height, width, colours = shape
    rng = np.random.default_rng(1)
    uniforms = rng.random((7, colours, height, width))
    images = rng.integers(0, levels, uniforms.shape) / (levels - 1)
    for count in (0, math.prod(shape) // 2):
        observed = (np.arange(math.prod(shape)) < count).reshape(shape).transpose(2, 0, 1)
        with no_grad():
            cached, naive = (fill(small, images, observed, uniforms) for fill in (kind.fill, PixelModel.fill))
        assert (cached == naive).all()
        assert (cached[:, observed] == images[:, observed]).all()
        assert (cached[:, ~observed] != images[:, ~observed]).any()


@both
@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 2, 3)])
def test_samples_follow_the_model(kind, shape):
    small = model(kind, shape)
    p = np.exp(small.log_prob(every_image(shape)).numpy())
    samples = small.sample(20_000, np.random.default_rng(0))
    counts = np.bincount((samples @ 2 ** np.arange(5, -1, -1)).astype(int), minlength=64)
    assert stats.chisquare(counts, 20_000 * p).pvalue > 1e-3


@both
def test_completions_follow_the_exact_conditional(kind):
    small = model(kind, (2, 3, 1), seed=2)
    states = every_image((2, 3, 1))
    observed = np.arange(6) < 3
    match = states[(states[:, :3] == states[45, :3]).all(1)]
    p = np.exp(small.log_prob(match).numpy())
    filled = small.complete(np.repeat(states[45:46], 20_000, axis=0), observed, np.random.default_rng(1))
    assert (filled[:, :3] == states[45, :3]).all()
    counts = np.bincount((filled[:, 3:] @ [4, 2, 1]).astype(int), minlength=8)
    assert stats.chisquare(counts, 20_000 * p / p.sum()).pvalue > 1e-3


@both
def test_training_descends_and_reaches_every_parameter(kind):
    small, rng = model(kind, (4, 4, 1), dtype=np.float32), np.random.default_rng(0)
    x = (rng.random((64, 16)) < np.linspace(0.1, 0.9, 16)).astype(np.float32)
    loss = small.loss(x, rng)
    loss.backward()
    assert loss.dtype == np.float32
    for name, parameter in small.named_parameters():
        assert parameter.grad.dtype == np.float32
        assert np.abs(parameter.grad).max() > 0, name
    optimizers = small.optimizers(kind.RECIPES["quick"])
    for _ in range(10):
        small.train_step(x, optimizers, rng)
    assert small.loss(x, rng).item() < loss.item()
    assert small.sample(2, rng).dtype == np.float32


@both
def test_sizes_that_make_no_model_are_refused(kind):
    with pytest.raises(ValueError, match="hidden, layers and head must be at least 1, got 0, 1 and 4"):
        kind((3, 3, 1), 2, 0, 1, 4, np.random.default_rng(0))
