"""Random arrays of every shape, dtype and memory layout, and comparisons with NumPy, for the tests of the functions."""

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from tinygen import Tensor

FLOATS = (np.float32, np.float64)
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}


def given(examples=40, /, **strategies):
    """hypothesis.given with the same examples in every run."""
    fixed = hypothesis.settings(deadline=None, max_examples=examples, derandomize=True, database=None)
    return lambda test: fixed(hypothesis.given(**strategies)(test))


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
filled_shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)
dtypes = st.sampled_from(FLOATS)
layouts = st.sampled_from(["contiguous", "columns", "reversed", "spaced"])
seeds = st.integers(0, 2**32 - 1)


def array_of(shape, dtype, layout, seed, low=-3.0, high=3.0):
    """Random numbers of a shape, in memory of a given layout."""
    array = np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)
    if not array.ndim or layout == "contiguous":
        return array
    if layout == "columns":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1].copy()[::-1]
    wide = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


arrays = st.builds(array_of, shapes, dtypes, layouts, seeds)
filled_arrays = st.builds(array_of, filled_shapes, dtypes, layouts, seeds)


def keeping_layout(array):
    """A Tensor whose memory is laid out as the array's (the constructor would copy)."""
    return Tensor._wrap(array)


def assert_same(found, expected, scale=1.0):
    """Equal values, shape and dtype; Tensor or array."""
    found = found.numpy() if isinstance(found, Tensor) else np.asarray(found)
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if found.dtype.kind in "fc":
        tolerance = TOLERANCE[found.dtype.type] * scale
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(found, expected)


def assert_both_ways(function, expected, *arrays, scale=1.0):
    """`function` gives `expected` for Tensors, as a Tensor, and for plain arrays, as a plain array."""
    result = function(*(keeping_layout(a) for a in arrays))
    assert isinstance(result, Tensor)
    assert_same(result, expected, scale)
    plain = function(*arrays)
    assert not isinstance(plain, Tensor)
    assert_same(plain, expected, scale)
