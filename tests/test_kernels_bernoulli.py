"""The fused likelihood of bits against its specification, and far out where a sigmoid would be 0 or 1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen.kernels import bernoulli
from tinygen.kernels.bernoulli import reference
from tinygen.ops.bernoulli import bernoulli_log_prob


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 7),
    draws=st.integers(0, 5),
    dimensions=st.integers(0, 70),
    dtype=st.sampled_from([np.float32, np.float64]),
    gaps=st.booleans(),
)
def test_cpu_equals_reference(seed, batch, draws, dimensions, dtype, gaps):
    rng = np.random.default_rng(seed)
    step = 2 if gaps else 1
    x = rng.integers(0, 2, (batch, dimensions * step)).astype(dtype)[:, ::step]
    logits = (4 * rng.standard_normal((draws * batch, dimensions * step))).astype(dtype)[:, ::step]
    g = rng.standard_normal(draws * batch * step).astype(dtype)[::step]
    found = bernoulli.log_prob(x, logits), bernoulli.gradient(g, x, logits)
    wide = x.astype(np.float64), logits.astype(np.float64)
    tolerance = {np.float32: 3e-6, np.float64: 1e-14}[dtype]
    for array, exact in zip(found, (reference.log_prob(*wide), reference.gradient(g.astype(np.float64), *wide)), strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, exact, rtol=0, atol=tolerance * max(1, np.abs(exact).max(initial=0)))


def test_many_rows_are_as_few():
    rng = np.random.default_rng(0)
    x, logits = rng.integers(0, 2, (6, 200)).astype(np.float32), rng.standard_normal((600, 200)).astype(np.float32)
    g = rng.standard_normal(600).astype(np.float32)
    whole, gradient = bernoulli.log_prob(x, logits), bernoulli.gradient(g, x, logits)
    for start in (0, 294, 594):
        rows = slice(start, start + 6)
        assert np.array_equal(bernoulli.log_prob(x, logits[rows]), whole[rows])
        assert np.array_equal(bernoulli.gradient(g[rows], x, logits[rows]), gradient[rows])


def test_certain_bits_cost_nothing_and_wrong_ones_their_logit():
    x, logits = np.array([[1, 0], [0, 1]], np.float32), np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    assert bernoulli.log_prob(x, logits).tolist() == [0, -2e4]
    assert bernoulli.gradient(np.ones(2, np.float32), x, logits).tolist() == [[0, 0], [-1, 1]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 3\)"):
        bernoulli.log_prob(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(TypeError, match="float32 and float64"):
        bernoulli.log_prob(np.zeros((2, 3), np.float32), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"zeros and ones only, got 0\.5"):
        bernoulli_log_prob(np.array([[0.5]]), np.zeros((1, 1)))
