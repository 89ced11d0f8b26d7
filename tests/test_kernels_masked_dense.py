"""The masked dense kernel: NumPy, Numba and CUDA against each other, the sampler against whole passes, what is masked."""

import numpy as np
import pytest
from comparing import array_of as draw
from comparing import dtypes, given, layouts, seeds
from cuda_shim import cuda_on_cpu, needs_compiler
from hypothesis import strategies as st

from tinygen.kernels import masked_dense
from tinygen.kernels.masked_dense import cuda, reference
from tinygen.kernels.masked_dense.plan import HIDDEN, network, staircase
from tinygen.kernels.runtime import configured_numba, jit
from tinygen.kernels.vectormath import sigmoid

TOLERANCE = {np.float32: 3e-6, np.float64: 1e-14}  # of the sum of the terms' magnitudes
BOTH_DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])

problems = {
    "B": st.integers(0, 40),
    "inputs": st.integers(1, 90),
    "outputs": st.integers(1, 90),
    "spread": st.integers(1, 100),
    "strict": st.booleans(),
    "dtype": dtypes,
    "layout": layouts,
    "seed": seeds,
}


def layer(B, inputs, outputs, spread, strict, dtype, layout, seed):
    """x, weight, bias, a cotangent, and the mask's arguments; degrees from 0 to spread - 1."""
    rng = np.random.default_rng(seed)
    shapes = (B, inputs), (outputs, inputs), (outputs,), (B, outputs)
    arrays = [draw(shape, dtype, layout, seed + k) for k, shape in enumerate(shapes)]
    return *arrays, (rng.integers(0, spread, inputs), rng.integers(0, spread, outputs), strict)


def results(module, x, weight, bias, g, mask):
    return (
        module.forward(x, weight, bias, *mask),
        module.input_gradient(g, weight, *mask),
        module.weight_gradient(x, g, *mask),
    )


def assert_close(found, arrays, mask, dtype):
    """Equal to the reference in float64, relative to the same sums of magnitudes."""
    exact = [a.astype(np.float64) for a in arrays]
    expected = results(reference, *exact, mask)
    scales = results(reference, *map(np.abs, exact), mask)
    for f, e, scale in zip(found, expected, scales, strict=True):
        assert f.dtype == dtype
        assert f.shape == e.shape
        assert (np.abs(f - e) <= TOLERANCE[dtype] * scale).all()


@given(40, **problems)
def test_cpu_equals_reference(**sizes):
    *arrays, mask = layer(**sizes)
    assert_close(results(masked_dense, *arrays, mask), arrays, mask, sizes["dtype"])


@needs_compiler
@given(20, **problems)
def test_cuda_equals_reference(**sizes):
    *arrays, mask = layer(**sizes)
    with cuda_on_cpu(seed=sizes["seed"]):
        assert_close(results(cuda, *arrays, mask), arrays, mask, sizes["dtype"])


@needs_compiler
@BOTH_DTYPES
@pytest.mark.parametrize(("B", "inputs", "outputs"), [(64, 64, 64), (17, 33, 65), (65, 8, 130), (16, 129, 9)])
def test_every_tile_on_the_gpu_gives_the_same_bits(B, inputs, outputs, dtype, monkeypatch):
    *arrays, mask = layer(B, inputs, outputs, 40, False, dtype, "contiguous", 2)
    found = []
    for tile in cuda.TILES:
        monkeypatch.setattr(cuda, "TILES", (tile,))
        with cuda_on_cpu():
            found.append(results(cuda, *arrays, mask))
    assert_close(found[0], arrays, mask, dtype)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@BOTH_DTYPES
def test_training_size(dtype):
    *arrays, _ = layer(100, 784, 500, 1, False, dtype, "contiguous", 0)
    mask = np.arange(784), np.arange(500) * 783 // 500, False
    assert_close(results(masked_dense, *arrays, mask), arrays, mask, dtype)


@given(20, **problems)
def test_what_the_mask_leaves_out_is_not_used_and_has_no_gradient(**sizes):
    x, weight, bias, g, mask = layer(**sizes)
    counts = reference.mask_of(*mask)
    wild = np.where(counts, weight, np.nan)
    expected, found = results(masked_dense, x, weight, bias, g, mask), results(masked_dense, x, wild, bias, g, mask)
    for e, f in zip(expected, found):
        np.testing.assert_array_equal(e, f)
    assert (found[2][~counts] == 0).all()
    assert np.isnan(wild[~counts]).all(), "the weights were written to"


def test_the_mask_is_a_staircase_of_the_sorted_units():
    rng = np.random.default_rng(3)
    for strict in (False, True):
        inputs, outputs = rng.integers(0, 6, 9), rng.integers(0, 6, 7)
        stairs = staircase(inputs, outputs, strict)
        expected = reference.mask_of(inputs, outputs, strict)[stairs.rows][:, stairs.columns]
        np.testing.assert_array_equal(np.arange(9) < stairs.reach[:, None], expected)
        np.testing.assert_array_equal(np.arange(7)[:, None] >= stairs.first, expected)


@BOTH_DTYPES
def test_same_bits_for_any_number_of_threads(dtype):
    numba = configured_numba()
    *arrays, mask = layer(33, 100, 90, 50, False, dtype, "contiguous", 1)
    before, found = numba.get_num_threads(), []
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            found.append(results(masked_dense, *arrays, mask))
    finally:
        numba.set_num_threads(before)
    for other in found[1:]:
        assert [a.tobytes() for a in found[0]] == [a.tobytes() for a in other]


# ---- Sampling ----

networks = {
    "n": st.integers(0, 5),
    "sizes": st.lists(st.integers(1, 30), min_size=1, max_size=4),
    "direct": st.booleans(),
    "share": st.floats(0, 1),
    "dtype": dtypes,
    "seed": seeds,
}


def sampling_problem(n, sizes, direct, share, dtype, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (scale * rng.standard_normal(shape)).astype(dtype)
    D = sizes[0]
    degrees = [rng.permutation(D), *(rng.integers(0, max(D - 1, 1), units) for units in sizes[1:])]
    weights = [normal(b, a) for a, b in zip(sizes, (*sizes[1:], D))]
    biases = [normal(len(weight)) for weight in weights]
    x = rng.integers(0, 2, (n, D)).astype(dtype)
    uniforms = rng.random((n, D)).astype(dtype)
    return x, round(share * D), uniforms, weights, biases, degrees, normal(D, D) if direct else None


@jit
def _sigmoid(x):
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = sigmoid(x[i])
    return y


def whole_passes(x, start, uniforms, weights, biases, degrees, direct):
    """D passes of the fast `forward`, each of which draws one pixel."""
    x = x.copy()
    order = np.argsort(degrees[0])
    for j in order[start:]:
        h = x
        for weight, bias, before, after in zip(weights[:-1], biases[:-1], degrees[:-1], degrees[1:]):
            h = np.maximum(masked_dense.forward(h, weight, bias, before, after), 0)
        logits = masked_dense.forward(h, weights[-1], biases[-1], degrees[-1], degrees[0], True)
        if direct is not None:
            logits += masked_dense.forward(x, direct, None, degrees[0], degrees[0], True)
        x[:, j] = uniforms[:, j] < _sigmoid(logits[:, j].copy())
    return x


@given(40, **networks)
def test_the_sampler_draws_what_whole_passes_draw(**sizes):
    """On the same uniforms the same samples, in float32 too: every sum has the same bits."""
    problem = sampling_problem(**sizes)
    np.testing.assert_array_equal(masked_dense.complete(*problem), whole_passes(*problem))


def test_the_sampler_draws_what_whole_passes_draw_where_one_bit_decides():
    """Uniforms that are the probabilities themselves: a logit off by one unit in the last place would turn pixels over."""
    for seed in range(3):
        problem = list(sampling_problem(9, (40, 30, 25), True, 0.0, np.float32, seed, scale=0.3))
        x, _, uniforms, weights, biases, degrees, direct = problem
        order = np.argsort(degrees[0])
        for i, j in enumerate(order):  # p of each pixel, along the way that these uniforms lead
            x = whole_passes(x, i, uniforms, weights, biases, degrees, direct) if i % 8 == 0 else x
            h = x
            for weight, bias, before, after in zip(weights[:-1], biases[:-1], degrees[:-1], degrees[1:]):
                h = np.maximum(masked_dense.forward(h, weight, bias, before, after), 0)
            logits = masked_dense.forward(h, weights[-1], biases[-1], degrees[-1], degrees[0], True)
            logits += masked_dense.forward(x, direct, None, degrees[0], degrees[0], True)
            p = _sigmoid(logits[:, j].copy())
            uniforms[:, j] = np.where(np.arange(9) % 2, p, np.nextafter(p, np.float32(0)))
            x[:, j] = uniforms[:, j] < p
        np.testing.assert_array_equal(masked_dense.complete(*problem), x)


@given(30, **networks)
def test_the_sampler_equals_the_reference(**sizes):
    problem = sampling_problem(**sizes | {"dtype": np.float64})
    np.testing.assert_array_equal(masked_dense.complete(*problem), reference.complete(*problem))


@needs_compiler
@given(15, **networks)
def test_the_sampler_on_the_gpu_equals_the_reference(**sizes):
    problem = sampling_problem(**sizes | {"dtype": np.float64})
    with cuda_on_cpu(seed=sizes["seed"]):
        found = cuda.complete(*problem)
    np.testing.assert_array_equal(found, reference.complete(*problem))


@BOTH_DTYPES
def test_more_examples_than_fill_a_vector(dtype):
    problem = sampling_problem(300, (20, 15), False, 0.25, dtype, 5)
    np.testing.assert_array_equal(masked_dense.complete(*problem), whole_passes(*problem))


def test_every_unit_is_computed_once_after_what_it_needs():
    degrees = [np.array([3, 1, 0, 2]), np.array([2, 0, 0, 1]), np.array([1, 2, 0])]
    plan = network(degrees, direct=True)
    known = set()
    places = []
    for kind, _, first, seen, place, _ in plan.units:
        assert set(range(first, first + seen)) <= known
        if kind == HIDDEN or (place < 4 and kind == 1):
            known.add(int(place))
            places.append(int(place))
    assert sorted(places) == list(range(11)) == list(range(plan.rows))


def test_unobserved_pixels_and_needless_uniforms_are_not_looked_at():
    x, _, uniforms, *rest = sampling_problem(4, (12, 9), True, 0.5, np.float32, 2)
    order = np.argsort(rest[2][0])
    expected = masked_dense.complete(x, 5, uniforms, *rest)
    x[:, order[5:]], uniforms[:, order[:5]] = np.nan, np.nan
    np.testing.assert_array_equal(masked_dense.complete(x, 5, uniforms, *rest), expected)
    assert np.isnan(x[:, order[5:]]).all(), "x was written to"


# ---- Arguments ----


def test_wrong_shapes_and_dtypes_are_named():
    x, weight, bias, g, mask = layer(4, 6, 5, 4, False, np.float32, "contiguous", 0)
    with pytest.raises(ValueError, match=r"weight must have shape \(5, 6\)"):
        masked_dense.forward(x, weight.T.copy(), bias, *mask)
    with pytest.raises(ValueError, match=r"x must have shape \(4, 6\), got \(4, 5\)"):
        masked_dense.forward(x[:, 1:], weight, bias, *mask)
    with pytest.raises(TypeError, match="x must be float32 like the other arrays, got float64"):
        masked_dense.forward(x.astype(np.float64), weight, bias, *mask)
    with pytest.raises(TypeError, match="float32 or float64, got int64"):
        masked_dense.forward(x.astype(int), weight.astype(int), None, *mask)
    with pytest.raises(ValueError, match=r"g must have shape \(4, 5\)"):
        masked_dense.weight_gradient(x, g[:, 1:], *mask)
    x, _, *rest = sampling_problem(2, (5, 3), False, 0.0, np.float32, 0)
    with pytest.raises(ValueError, match="start must be between 0 and the 5 pixels, got 6"):
        masked_dense.complete(x, 6, *rest)
    with pytest.raises(ValueError, match="as many weights, biases and degrees"):
        masked_dense.complete(x, 0, rest[0], rest[1], rest[2][1:], rest[3])
