"""Distributions against SciPy, enumeration and Monte Carlo; logits far out; draws.

Gradients are checked by the cases in tinygen/checks/distributions.py.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

import tinygen
from tinygen import Tensor
from tinygen.distributions import Bernoulli, Categorical, MixtureOfNormals, Normal, kl_divergence

DRAWS = 40_000


def rng(seed=0):
    return np.random.default_rng(seed)


def value(x):
    return np.asarray(x, np.float64)


def assert_close(ours, theirs, rtol=1e-12, atol=1e-13):
    np.testing.assert_allclose(value(ours), theirs, rtol=rtol, atol=atol)


def assert_mean(samples, mean, axis=0):
    """The samples' mean is within 5 standard errors of `mean`."""
    error = samples.std(axis) / math.sqrt(samples.shape[axis])
    assert (np.abs(samples.mean(axis) - mean) <= 5 * error + 1e-9).all()


def examples(dtype=np.float64):
    """One of each, with a batch of (2, 3)."""
    draw = lambda *shape: rng(len(shape)).standard_normal(shape).astype(dtype)
    return {
        "Bernoulli": Bernoulli(Tensor(2 * draw(2, 3))),
        "Categorical": Categorical(Tensor(draw(2, 3, 4))),
        "Normal": Normal(Tensor(draw(2, 3)), Tensor(np.exp(draw(3)))),
        "MixtureOfNormals": MixtureOfNormals(Tensor(draw(4)), Tensor(draw(2, 3, 4)), Tensor(np.exp(draw(3, 4)))),
    }


# ---- Values ----


def test_bernoulli():
    logits = np.linspace(-6, 6, 9)
    p = 1 / (1 + np.exp(-logits))
    ours, theirs = Bernoulli(Tensor(logits)), stats.bernoulli(p)
    for x in (0, 1):
        assert_close(ours.log_prob(x), theirs.logpmf(x), rtol=1e-11)
    assert_close(ours.log_prob(0.25), 0.25 * theirs.logpmf(1) + 0.75 * theirs.logpmf(0), rtol=1e-11)
    assert_close(ours.entropy(), theirs.entropy(), rtol=1e-11)
    x = rng().integers(0, 2, (4, 9)).astype(np.uint8)
    assert_close(ours.log_prob(x), theirs.logpmf(x), rtol=1e-11)


def test_categorical():
    logits = rng().standard_normal((5, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ours = Categorical(Tensor(logits))
    for k in range(4):
        assert_close(ours.log_prob(k), np.log(p[:, k]))
    x = rng(1).integers(0, 4, (7, 5))
    assert ours.log_prob(x).shape == (7, 5)
    assert_close(ours.log_prob(x), np.log(np.take_along_axis(p[None].repeat(7, 0), x[..., None], -1)[..., 0]))
    assert_close(ours.entropy(), stats.entropy(p, axis=-1))
    assert_close(Categorical(Tensor(logits[0])).log_prob(x), np.log(p[0])[x])


def test_normal():
    mean, scale = rng().standard_normal((5, 1)), np.exp(rng(1).standard_normal(3))
    x = rng(2).standard_normal((4, 5, 3))
    ours, theirs = Normal(Tensor(mean), Tensor(scale)), stats.norm(mean, scale)
    assert_close(ours.log_prob(x), theirs.logpdf(x))
    assert_close(ours.entropy(), theirs.entropy())
    assert ours.entropy().shape == ours.batch == (5, 3)
    assert Normal(Tensor(np.zeros((5, 3))), 2.0).entropy().shape == (5, 3)
    assert_close(Normal(0.1, 2.0).log_prob(x), stats.norm(0.1, 2.0).logpdf(x))


def test_mixture_of_normals():
    logits, means, scales = rng().standard_normal((3, 2, 4))
    mixture = MixtureOfNormals(Tensor(logits), Tensor(3 * means), Tensor(np.exp(scales)))
    x = np.linspace(-9, 9, 14).reshape(7, 2)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    density = (weights * stats.norm(3 * means, np.exp(scales)).pdf(x[..., None])).sum(-1)
    assert_close(mixture.log_prob(x), np.log(density), rtol=1e-11)
    whole, _ = integrate.quad(lambda t: math.exp(mixture.log_prob(t).numpy()[0]), -60, 60, limit=300)
    assert whole == pytest.approx(1, abs=1e-8)
    single = MixtureOfNormals(np.zeros(1), np.array([0.5]), np.array([2.0]))
    assert_close(single.log_prob(x), stats.norm(0.5, 2).logpdf(x))


@pytest.mark.parametrize("name", ["Bernoulli", "Categorical"])
def test_probabilities_sum_to_one(name):
    distribution = examples()[name]
    support = range(2) if name == "Bernoulli" else range(4)
    log_p = np.stack([value(distribution.log_prob(k)) for k in support])
    assert_close(np.exp(log_p).sum(0), 1)
    assert_close(distribution.entropy(), -(np.exp(log_p) * log_p).sum(0))


# ---- Divergences ----


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.1, 1.0, 10.0]))
def test_divergences_by_enumeration(seed, spread):
    """sum p (ln p - ln q) over the support; 0 of a distribution from itself, never negative."""
    draw = lambda *shape: spread * rng(seed).standard_normal(shape)
    for kind, support, a, b in ((Bernoulli, 2, *draw(2, 5)), (Categorical, 4, *draw(2, 5, 4))):
        p, q = kind(Tensor(a)), kind(Tensor(b))
        log_p, log_q = (np.stack([value(d.log_prob(k)) for k in range(support)]) for d in (p, q))
        expected = (np.exp(log_p) * (log_p - log_q)).sum(0)
        assert_close(kl_divergence(p, q), expected, rtol=1e-10, atol=1e-11)
        assert (value(kl_divergence(p, q)) >= -1e-12).all()
        assert_close(kl_divergence(p, p), 0)


def test_divergence_of_normals_by_quadrature():
    for mean_p, scale_p, mean_q, scale_q in [(0, 1, 0, 1), (1, 0.5, -1, 2), (0.3, 2, 0.1, 0.7)]:
        p, q = (Normal(Tensor(np.float64(m)), Tensor(np.float64(s))) for m, s in ((mean_p, scale_p), (mean_q, scale_q)))
        a, b = stats.norm(mean_p, scale_p), stats.norm(mean_q, scale_q)
        low, high = mean_p - 12 * scale_p, mean_p + 12 * scale_p
        expected, _ = integrate.quad(lambda x, a=a, b=b: a.pdf(x) * (a.logpdf(x) - b.logpdf(x)), low, high)
        assert_close(kl_divergence(p, q), expected, atol=1e-10)
    standard = kl_divergence(Normal(Tensor(np.array([0.5, 0.0])), Tensor(np.array([1.0, 2.0]))), Normal(0.0, 1.0))
    assert_close(standard, [0.125, 0.5 * (4 - 1) - math.log(2)])


@pytest.mark.parametrize("name", ["Bernoulli", "Categorical", "Normal"])
def test_divergence_by_monte_carlo(name):
    p, q = examples()[name], {
        "Bernoulli": Bernoulli(np.float64(0.3)),
        "Categorical": Categorical(np.array([0.1, 0.9, -1.0, 0.0])),
        "Normal": Normal(0.5, 1.5),
    }[name]  # fmt: skip
    x = value(p.sample(rng(5), (DRAWS,)))
    x = x.astype(int) if name == "Categorical" else x
    assert_mean(value(p.log_prob(x)) - value(q.log_prob(x)), value(kl_divergence(p, q)))


def test_what_has_no_closed_form_says_so():
    mixture = examples()["MixtureOfNormals"]
    with pytest.raises(NotImplementedError, match="entropy of MixtureOfNormals has no closed form: average"):
        mixture.entropy()
    with pytest.raises(NotImplementedError, match=r"KL\(MixtureOfNormals \|\| Normal\) has no closed form"):
        kl_divergence(mixture, Normal(0.0, 1.0))
    with pytest.raises(NotImplementedError, match=r"KL\(Bernoulli \|\| Normal\)"):
        kl_divergence(examples()["Bernoulli"], Normal(0.0, 1.0))


# ---- Draws ----


@pytest.mark.parametrize("name", examples())
def test_samples_have_the_entropy_and_the_shape(name):
    distribution = examples()[name]
    assert distribution.sample(rng()).shape == distribution.batch == (2, 3)
    x = distribution.sample(rng(1), (DRAWS,))
    assert x.shape == (DRAWS, 2, 3)
    np.testing.assert_array_equal(np.asarray(distribution.sample(rng(1), (DRAWS,))), np.asarray(x))
    if name != "MixtureOfNormals":
        assert_mean(-value(distribution.log_prob(np.asarray(x))), value(distribution.entropy()))


def test_frequencies():
    logits = np.array([[0.0, 1.0, -2.0, -math.inf], [-math.inf, 0.0, -math.inf, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    x = Categorical(logits).sample(rng(), (DRAWS,))
    assert x.dtype == np.int64
    counts = np.stack([(x == k).sum(0) for k in range(4)], -1)
    assert (counts[p == 0] == 0).all()
    for row in range(2):
        kept = p[row] > 0
        assert stats.chisquare(counts[row, kept], DRAWS * p[row, kept]).pvalue > 1e-4
    bits = Bernoulli(np.array([-1.0, 0.0, 3.0], np.float32)).sample(rng(), (DRAWS,))
    assert bits.dtype == np.float32
    assert set(np.unique(bits)) == {0, 1}
    assert_mean(bits.astype(np.float64), 1 / (1 + np.exp([1.0, 0.0, -3.0])))


def test_continuous_samples():
    x = np.asarray(Normal(1.0, 2.0).sample(rng(), (DRAWS,)))
    assert x.dtype == np.float32
    assert stats.kstest(x, stats.norm(1, 2).cdf).pvalue > 1e-4
    weights, means, scales = np.array([0.2, 0.5, 0.3]), np.array([-3.0, 0.0, 4.0]), np.array([0.5, 1.0, 2.0])
    mixture = MixtureOfNormals(np.log(weights), means, scales)
    cdf = lambda t: (weights * stats.norm(means, scales).cdf(np.asarray(t)[..., None])).sum(-1)
    assert stats.kstest(mixture.sample(rng(), (DRAWS,)), cdf).pvalue > 1e-4


def test_certain_draws():
    far = np.array([1e4, -1e4])
    np.testing.assert_array_equal(Bernoulli(far).sample(rng(), (100,)), np.tile([1.0, 0.0], (100, 1)))
    assert (Categorical(far).sample(rng(), (100,)) == 0).all()


def test_reparameterized_gradients():
    """d/dmean and d/dscale of E x^2 = mean^2 + scale^2 through the draws."""
    mean, scale = (Tensor(np.array(v), requires_grad=True) for v in (0.7, 1.3))
    x = Normal(mean, scale).sample(rng(), (DRAWS,))
    noise = (x.numpy() - 0.7) / 1.3
    (x * x).mean().backward()
    assert_close(mean.grad, (2 * x.numpy()).mean(), rtol=1e-10)
    assert_close(scale.grad, (2 * x.numpy() * noise).mean(), rtol=1e-10)
    assert mean.grad == pytest.approx(1.4, abs=0.05)
    assert scale.grad == pytest.approx(2.6, abs=0.1)
    with tinygen.no_grad():
        assert not Normal(mean, scale).sample(rng()).requires_grad


# ---- Edges, dtypes, errors ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_out_logits_are_finite_and_exact(dtype):
    logits = Tensor(np.array([1e4, -1e4, 0.0, 30.0], dtype), requires_grad=True)
    p, q = Bernoulli(logits), Bernoulli(Tensor(np.array([-1e4, -1e4, 0.0, -30.0], dtype), requires_grad=True))
    tail = math.log1p(math.exp(-30))
    assert_close(p.log_prob(1), [0, -1e4, -math.log(2), -tail], rtol=1e-6)
    assert_close(p.log_prob(0), [-1e4, 0, -math.log(2), -30 - tail], rtol=1e-6)
    assert_close(p.entropy(), [0, 0, math.log(2), math.exp(-30) * 31], rtol=1e-6)
    assert_close(kl_divergence(p, q), [1e4, 0, 0, 30], rtol=1e-6)
    (p.log_prob(1).sum() + p.entropy().sum() + kl_divergence(p, q).sum()).backward()
    assert np.isfinite(logits.grad).all()
    assert np.isfinite(q.logits.grad).all()
    equal = Bernoulli(Tensor(np.zeros(3, dtype), requires_grad=True))
    equal.log_prob(np.array([0, 1, 1])).sum().backward()
    np.testing.assert_array_equal(equal.logits.grad, [-0.5, 0.5, 0.5])

    a = Tensor(np.array([[1e4, -1e4, 0.0], [5.0, 5.0, 5.0]], dtype), requires_grad=True)
    b = Tensor(np.array([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]], dtype), requires_grad=True)
    p, q = Categorical(a), Categorical(b)
    assert_close(p.log_prob(1), [-2e4, -math.log(3)], rtol=1e-6)
    assert_close(p.entropy(), [0, math.log(3)], rtol=1e-6)
    assert_close(kl_divergence(p, q), [2e4, 0], rtol=1e-6, atol=1e-6)
    (p.log_prob(1).sum() + p.entropy().sum() + kl_divergence(p, q).sum()).backward()
    assert np.isfinite(a.grad).all()
    assert np.isfinite(b.grad).all()


def test_excluded_categories():
    """Logits of -inf: probability 0, no share in the entropy, an infinite divergence only where p puts mass."""
    a = Tensor(np.array([0.0, -math.inf, 0.0]), requires_grad=True)
    b = Tensor(np.array([1.0, -math.inf, 0.0]), requires_grad=True)
    p, q = Categorical(a), Categorical(b)
    assert_close(p.log_prob(np.array([0, 1])), [-math.log(2), -math.inf])
    assert_close(p.entropy(), math.log(2))
    expected = 0.5 * math.log(0.5 / (math.e / (1 + math.e))) + 0.5 * math.log(0.5 * (1 + math.e))
    assert_close(kl_divergence(p, q), expected)
    (p.entropy() + kl_divergence(p, q)).backward()
    assert np.isfinite(a.grad).all()
    assert np.isfinite(b.grad).all()
    assert value(kl_divergence(Categorical(np.zeros(3)), q)) == math.inf


def test_mixture_far_from_every_component():
    means = Tensor(np.array([0.0, 1.0], np.float32), requires_grad=True)
    mixture = MixtureOfNormals(Tensor(np.array([1e4, -1e4], np.float32)), means, Tensor(np.ones(2, np.float32)))
    y = mixture.log_prob(np.array([1e4, 0.0], np.float32))
    assert_close(y, [-5e7, -0.5 * math.log(2 * math.pi)], rtol=1e-6)
    y.sum().backward()
    assert_close(means.grad, [1e4, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", examples())
def test_float32_stays_float32(name):
    distribution = examples(np.float32)[name]
    x = distribution.sample(rng())
    assert x.dtype == (np.int64 if name == "Categorical" else np.float32)
    assert distribution.log_prob(np.asarray(x)).dtype == np.float32
    if name != "MixtureOfNormals":
        assert distribution.entropy().dtype == np.float32
        assert kl_divergence(distribution, distribution).dtype == np.float32
    assert Normal(0.0, 1.0).log_prob(np.zeros(3, np.float32)).dtype == np.float32


def test_arrays_in_arrays_out():
    for plain in (
        Bernoulli(np.zeros(3)).log_prob(np.ones(3)),
        Categorical(np.zeros((2, 3))).entropy(),
        Normal(np.zeros(3), np.ones(3)).sample(rng()),
        MixtureOfNormals(np.zeros(2), np.zeros(2), np.ones(2)).log_prob(np.zeros(4)),
        kl_divergence(Normal(np.zeros(3), 1.0), Normal(0.0, 1.0)),
    ):
        assert type(plain) is np.ndarray


def test_errors():
    with pytest.raises(ValueError, match=r"scale must be positive, its smallest element is -0\.5"):
        Normal(0.0, np.array([1.0, -0.5]))
    with pytest.raises(ValueError, match="scale must be positive"):
        MixtureOfNormals(np.zeros(2), np.zeros(2), np.zeros(2))
    with pytest.raises(TypeError, match="logits must have a floating dtype, not int64"):
        Bernoulli(np.array([1, 2]))
    with pytest.raises(ValueError, match=r"Categorical takes logits \(\.\.\., K\)"):
        Categorical(1.0)
    with pytest.raises(TypeError, match="takes integers, not float64"):
        Categorical(np.zeros(3)).log_prob(np.array([1.0]))
    with pytest.raises(IndexError, match="takes 0 to 2, got -1 to 3"):
        Categorical(np.zeros(3)).log_prob(np.array([-1, 3]))
