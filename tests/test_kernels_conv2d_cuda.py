"""The CUDA convolution against its reference: launched on the CPU everywhere, on a GPU where there is one."""

import contextlib

import numpy as np
import pytest
from cuda_shim import cuda_on_cpu, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_conv2d import OPERATIONS, arrays_of, assert_close, problems, run

from tinygen.kernels import runtime
from tinygen.kernels.conv2d import cuda, reference
from tinygen.kernels.tiles import quickest

SETTINGS = ((2, 1), (1, 1), (1, 2), 2)


@contextlib.contextmanager
def emulated(**options):
    """The kernels on the CPU, and no plan left behind that belongs to it."""
    try:
        cuda._plan.cache_clear()
        with cuda_on_cpu(**options):
            yield
    finally:
        cuda._plan.cache_clear()


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(
    problem=problems(most_images=5, most_pixels=12),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 9),
    multiprocessors=st.integers(1, 5),
)
def test_equals_the_reference(problem, dtype, seed, multiprocessors):
    x, weight, g = arrays_of(problem, dtype)
    with emulated(seed=seed, multiprocessors=multiprocessors):
        for operation in OPERATIONS:
            expected = run(reference, operation, x, weight, g, problem[2])
            assert_close(run(cuda, operation, x, weight, g, problem[2]), expected, terms=10)


@needs_compiler
@pytest.mark.parametrize("outs", [3, 8, 9, 16, 17, 32, 33, 48, 64, 65, 70])
def test_full_and_partial_tiles_and_the_bias(outs):
    x, weight, g = arrays_of(((5, 4, 9, 8), (2 * outs, 2, 3, 2), SETTINGS, np.random.default_rng(0)))
    with emulated():
        for operation in OPERATIONS[:2]:
            bias = np.arange(1.0, 1 + (2 * outs if operation == "forward" else 4))
            expected = run(reference, operation, x, weight, g, (*SETTINGS, bias))
            assert_close(run(cuda, operation, x, weight, g, (*SETTINGS, bias)), expected, terms=10)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outs", [9, 48, 65])
@pytest.mark.parametrize("size", [(9, 8), (7, 7)])  # the pixels of an image are whole vectors, or not
def test_every_tile_gives_the_same_bits(outs, size, dtype, monkeypatch):
    settings_ = ((1, 1), (1, 2), (1, 1), 2)
    arrays = arrays_of(((3, 4, *size), (2 * outs, 2, 3, 5), settings_, np.random.default_rng(4)), dtype)
    expected = [run(reference, operation, *arrays, settings_) for operation in OPERATIONS]
    found = []
    for tile in cuda.TILES:
        monkeypatch.setattr(cuda, "TILES", (tile,))
        with emulated():
            found.append([run(cuda, operation, *arrays, settings_) for operation in OPERATIONS])
    for results in found:
        for result, exact in zip(results, expected):
            assert_close(result, exact, terms=outs)
        for result, first in zip(results[:2], found[0]):  # the sums over pixels are split differently
            np.testing.assert_array_equal(result, first)


def test_tiles_are_as_low_as_the_channels_of_pixelcnn_and_fill_the_gpu():
    pixels = 16 * 28 * 28
    assert [quickest(cuda.TILES, outs, pixels, 1, 132).rows for outs in (1, 8, 16, 32, 64)] == [8, 8, 16, 32, 64]
    assert quickest(cuda.TILES, 256, 64 * 4 * 4, 1, 132).rows < 64
    for rows, columns in (16, 32), (16, 384), (32, 16), (64, 64):
        tile, parts, size = cuda._split(rows, columns, 1, 8 * pixels, 132)
        assert tile.rows == rows
        assert parts * np.prod(tile.count(rows, columns)) * tile.warps >= 4 * 132
        assert (parts - 1) * size < 8 * pixels <= parts * size


@needs_compiler
@pytest.mark.parametrize("operation", OPERATIONS)
def test_same_bits_in_whatever_order_threads_run(operation):
    arrays = arrays_of(((5, 4, 9, 8), (70, 2, 3, 2), SETTINGS, np.random.default_rng(1)), np.float32)
    results = []
    for seed in range(4):
        with emulated(seed=seed):
            results.append(run(cuda, operation, *arrays, SETTINGS))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@needs_compiler
def test_non_contiguous_arrays():
    arrays = arrays_of(((3, 4, 9, 8), (6, 2, 3, 2), SETTINGS, np.random.default_rng(2)))
    with emulated():
        for operation in OPERATIONS:
            expected = run(cuda, operation, *arrays, SETTINGS)
            np.testing.assert_array_equal(run(cuda, operation, *map(np.asfortranarray, arrays), SETTINGS), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("x", "weight", "settings_"),
    [
        ((5, 4, 9, 8), (70, 2, 3, 2), SETTINGS),
        ((64, 64, 28, 28), (64, 64, 3, 3), ((1, 1), (1, 1), (1, 1), 1)),
        ((64, 64, 14, 14), (128, 64, 4, 4), ((2, 2), (1, 1), (1, 1), 1)),
        ((32, 1, 28, 28), (8, 1, 7, 7), ((1, 1), (3, 3), (1, 1), 1)),
    ],
    ids=["small", "3x3", "strided", "one channel"],
)
def test_on_a_gpu(x, weight, settings_, dtype):
    try:
        cupy = runtime.cupy()
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    arrays = arrays_of((x, weight, settings_, np.random.default_rng(3)), dtype)
    on_device = [cupy.asarray(array) for array in arrays]
    for operation in OPERATIONS:
        expected = run(reference, operation, *(a.astype(np.float64) for a in arrays), settings_)
        actual = cupy.asnumpy(run(cuda, operation, *on_device, settings_))
        assert actual.dtype == dtype
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
