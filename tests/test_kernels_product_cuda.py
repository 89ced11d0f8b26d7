"""The CUDA product of matrices against NumPy's: launched on the CPU everywhere, on a GPU where there is one."""

import numpy as np
import pytest
from cuda_shim import cuda_on_cpu, needs_compiler
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_kernels_conv2d import assert_close

from tinygen.kernels import product_cuda, runtime
from tinygen.kernels.product_cuda import product

SIDES = [(False, False), (False, True), (True, False), (True, True)]
BOTH_DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def factors(rows, depth, columns, dtype, turned=(False, False), seed=0):
    """Matrices of random numbers, each the transpose of a C-contiguous one where it is `turned`."""
    rng, shapes = np.random.default_rng(seed), ((rows, depth), (depth, columns))
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    return [np.asfortranarray(array) if turn else array for array, turn in zip(arrays, turned)]


def check(a, b):
    expected = (a.astype(np.float64) @ b.astype(np.float64)).astype(a.dtype)
    found = product(a, b)
    assert found.flags.c_contiguous
    assert_close(found, expected, terms=10)


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*3 * [st.integers(0, 200)]),
    dtype=st.sampled_from([np.float32, np.float64]),
    turned=st.sampled_from(SIDES),
    seed=st.integers(0, 9),
    multiprocessors=st.integers(1, 5),
)
@example(shape=(64, 3000, 36), dtype=np.float32, turned=(True, False), seed=1, multiprocessors=132)
@example(shape=(7, 5003, 9), dtype=np.float64, turned=(True, False), seed=2, multiprocessors=132)
def test_equals_numpys(shape, dtype, turned, seed, multiprocessors):
    with cuda_on_cpu(seed=seed, multiprocessors=multiprocessors):
        check(*factors(*shape, dtype, turned, seed))


@needs_compiler
@BOTH_DTYPES
@pytest.mark.parametrize("turned", SIDES)
@pytest.mark.parametrize("tile", product_cuda.TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_full_and_partial_tiles_in_every_layout(tile, turned, dtype, monkeypatch):
    monkeypatch.setattr(product_cuda, "TILES", (tile,))
    for multiprocessors in (1, 40):  # the sums whole, and in parts
        with cuda_on_cpu(multiprocessors=multiprocessors):
            for rows, depth, columns in (1, 1, 1), (64, 64, 64), (65, 150, 66), (31, 33, 100), (128, 129, 1):
                check(*factors(rows, depth, columns, dtype, turned))


@needs_compiler
@pytest.mark.parametrize("turned", SIDES)
@pytest.mark.parametrize("shape", [(70, 20, 66), (33, 900, 36)])
def test_same_bits_in_whatever_order_threads_run(shape, turned):
    arrays, results = factors(*shape, np.float32, turned), []
    for seed in range(1, 4):
        with cuda_on_cpu(seed=seed):  # which runs the threads in the order of their indices, too
            results.append(product(*arrays))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@needs_compiler
def test_other_layouts_are_copied():
    (a, b), wide = factors(20, 30, 40, np.float64), np.zeros((30, 80))
    wide[:, ::2] = b
    with cuda_on_cpu():
        np.testing.assert_array_equal(product(a, wide[:, ::2]), product(a, np.asfortranarray(b)))


def test_long_sums_are_split_and_short_ones_are_not():
    pixels = 16 * 28 * 28
    for h in (16, 32, 64):
        for rows, columns, depth in (pixels, 4 * h, 2 * h), (pixels, 2 * h, 4 * h):
            assert product_cuda._split(rows, columns, depth, 132)[1:] == (1, depth)
        for batches in (1, 8):
            tile, parts, size = product_cuda._split(4 * h, 2 * h, batches * pixels, 132)
            assert parts * np.prod(tile.count(4 * h, 2 * h)) * tile.warps >= 2 * 132
            assert (parts - 1) * size < batches * pixels <= parts * size


@pytest.mark.gpu
@BOTH_DTYPES
@pytest.mark.parametrize("turned", SIDES)
@pytest.mark.parametrize("shape", [(65, 150, 66), (12544, 32, 64), (12544, 64, 36), (64, 100352, 36), (256, 12544, 128)])
def test_on_a_gpu(shape, turned, dtype):
    try:
        cupy = runtime.cupy()
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    a, b = factors(*shape, dtype, turned)
    on_device = [cupy.asarray(array.T).T if turn else cupy.asarray(array) for array, turn in zip((a, b), turned)]
    found, again = (product(*on_device).get() for _ in range(2))
    np.testing.assert_array_equal(found, again)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
