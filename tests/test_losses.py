"""Losses, normalizations and dropout: values and gradients against PyTorch."""

import numpy as np
import pytest
from comparing import assert_same

import tinygen as tg
from tinygen import Tensor


@pytest.fixture(scope="module")
def functional():
    return pytest.importorskip("torch", reason="PyTorch is in the bench extra").nn.functional


def assert_same_as_torch(function, reference, *arrays, tolerance=1e-12):
    """Values and all gradients of two functions, one on Tensors, the other on torch tensors, in float64."""
    import torch

    ours = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else Tensor(a) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y, z = function(*ours), reference(*theirs)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=tolerance, atol=tolerance)
    g = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    for t, u in zip(ours, theirs):
        if u.grad is not None:
            np.testing.assert_allclose(t.grad, u.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(functional, reduction):
    rng = np.random.default_rng(1)
    x, t, p = rng.standard_normal((5, 4)), rng.standard_normal((5, 4)), rng.random((5, 4))
    options = {"reduction": reduction}
    assert_same_as_torch(lambda x, t: tg.mse_loss(x, t, **options), lambda x, t: functional.mse_loss(x, t, **options), x, t)
    assert_same_as_torch(lambda x, t: tg.l1_loss(x, t, **options), lambda x, t: functional.l1_loss(x, t, **options), x, t)
    assert_same_as_torch(
        lambda x, p: tg.binary_cross_entropy_with_logits(x, p, **options),
        lambda x, p: functional.binary_cross_entropy_with_logits(x, p, **options), x, p,
    )  # fmt: skip
    assert_same_as_torch(
        lambda x, p: tg.cross_entropy(x, p, **options), lambda x, p: functional.cross_entropy(x, p, **options), x, p
    )
    for shape, labels in [((5, 4), (5,)), ((4,), ()), ((5, 4, 3), (5, 3)), ((2, 4, 3, 2), (2, 3, 2))]:
        x, y = rng.standard_normal(shape), rng.integers(0, 4, labels)
        assert_same_as_torch(
            lambda x, y: tg.cross_entropy(x, y, **options), lambda x, y: functional.cross_entropy(x, y, **options), x, y
        )


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_normalizations(functional, shape):
    rng = np.random.default_rng(2)
    x, w, b = rng.standard_normal(shape), rng.standard_normal(3), rng.standard_normal(3)
    mean, variance = rng.standard_normal(3), rng.random(3) + 0.5
    import torch

    for training in (True, False):
        ours, theirs = (mean.copy(), variance.copy()), (torch.tensor(mean), torch.tensor(variance))
        assert_same_as_torch(
            lambda x, w, b, ours=ours, t=training: tg.batch_norm(x, *ours, w, b, t, 0.3, 1e-3),
            lambda x, w, b, theirs=theirs, t=training: functional.batch_norm(x, *theirs, w, b, t, 0.3, 1e-3),
            x, w, b, tolerance=1e-11,
        )  # fmt: skip
        for a, u in zip(ours, theirs):
            np.testing.assert_allclose(a, u.numpy(), rtol=1e-12)
    if len(shape) > 2:
        assert_same_as_torch(
            lambda x, w, b: tg.instance_norm(x, w, b, 1e-3),
            lambda x, w, b: functional.instance_norm(x, None, None, w, b, eps=1e-3), x, w, b, tolerance=1e-11,
        )  # fmt: skip


def test_dropout():
    rng = np.random.default_rng(0)
    x = Tensor(np.ones((200, 200), np.float32), requires_grad=True)
    y = tg.dropout(x, 0.3, rng)
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.7, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.numpy())
    assert_same(tg.dropout(x, 0.3, np.random.default_rng(0)), y.numpy())
    assert tg.dropout(x, 0.3, rng, training=False) is x
    for p in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match="outside"):
            tg.dropout(x, p, rng)
