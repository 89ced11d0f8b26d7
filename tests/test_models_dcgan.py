"""DCGAN: its layers' exact properties, the rules of the paper in its networks, and what it draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen
from tinygen import Tensor, nn
from tinygen.models import Recipe
from tinygen.models.convnets import Generator, halving, to_examples, to_images
from tinygen.models.dcgan import DCGAN
from tinygen.models.pictures import Images

BETAS = {"betas": (0.5, 0.999)}


def model(seed: int = 0, shape=(8, 8, 1), channels=(4, 6), dtype=np.float64) -> DCGAN:
    return DCGAN(shape, 5, channels, np.random.default_rng(seed), dtype=dtype)


# ---- Layers ----


@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(1, 3), outputs=st.integers(1, 3), side=st.sampled_from([2, 4, 6, 14]))
@settings(max_examples=15, deadline=None)
def test_transposed_convolution_is_the_adjoint(seed, inputs, outputs, side):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs, 4, 4))
    x = rng.standard_normal((2, inputs, side, side))
    y = rng.standard_normal((2, outputs, side // 2, side // 2))
    forth = tinygen.conv2d(x, weight, stride=2, padding=1)
    back = tinygen.conv_transpose2d(y, weight, stride=2, padding=1)
    assert np.vdot(forth, y) == pytest.approx(np.vdot(x, back), rel=1e-11, abs=1e-9)


@pytest.mark.parametrize("shape", [(6, 3), (5, 3, 2, 2), (4, 3, 5, 7), (8, 40, 16, 16)], ids=str)
def test_batch_norm_gives_each_channel_the_moments_of_its_parameters(shape):
    rng = np.random.default_rng(0)
    x, axes = 3 + 2 * rng.standard_normal(shape), (0, *range(2, len(shape)))
    weight, bias = rng.standard_normal((2, shape[1]))
    mean, var = np.zeros(shape[1]), np.ones(shape[1])
    y = tinygen.batch_norm(x, mean, var, weight, bias, training=True, momentum=0.25)
    np.testing.assert_allclose(y.mean(axes), bias, atol=1e-12)
    np.testing.assert_allclose(y.var(axes), weight**2 * x.var(axes) / (x.var(axes) + 1e-5), rtol=1e-11)
    np.testing.assert_allclose(mean, 0.25 * x.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(var, 0.75 + 0.25 * x.var(axes, ddof=1), rtol=1e-12)
    leaky = tinygen.batch_norm(x, None, None, weight, bias, training=True, negative_slope=0.2)
    np.testing.assert_allclose(leaky, np.where(y > 0, y, 0.2 * y), rtol=1e-12)


@pytest.mark.parametrize("shape", [(6, 3), (5, 3, 2, 2), (4, 3, 5, 7), (8, 40, 16, 16)], ids=str)
@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0])
def test_the_gradient_through_batch_norm_has_no_mean_and_nothing_along_the_input(shape, slope):
    rng = np.random.default_rng(1)
    x, axes = Tensor(rng.standard_normal(shape), requires_grad=True), (0, *range(2, len(shape)))
    weight, bias = rng.standard_normal((2, shape[1]))
    y = tinygen.batch_norm(x, None, None, weight, bias, training=True, eps=1e-14, negative_slope=slope)
    y.backward(rng.standard_normal(shape))
    assert np.abs(x.grad).max() > 1e-3
    np.testing.assert_allclose(x.grad.sum(axes), 0, atol=1e-9)
    np.testing.assert_allclose((x.grad * x.numpy()).sum(axes), 0, atol=1e-9)


def test_batch_norm_kernel_in_evaluation_and_training_agree_on_its_own_moments():
    layer = nn.BatchNorm2d(3, momentum=1.0, negative_slope=0.2)
    x = np.random.default_rng(2).standard_normal((50, 3, 6, 6)).astype(np.float32)
    trained = layer(x).numpy()
    np.testing.assert_allclose(layer.eval()(x).numpy(), trained, atol=5e-3)  # the running variance is the unbiased one


# ---- The networks ----


@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 4, 3)], ids=str)
def test_images_and_examples_are_the_same_numbers(shape):
    x = np.random.default_rng(0).random((3, np.prod(shape)))
    images = to_images(x, shape)
    assert images.shape == (3, shape[2], *shape[:2])
    np.testing.assert_allclose(images[1, -1, 2, 1], 2 * x.reshape(3, *shape)[1, 2, 1, -1] - 1)
    np.testing.assert_allclose(to_examples(images), x, rtol=1e-14)


@pytest.mark.parametrize("shape", [(8, 8, 1), (4, 12, 3)], ids=str)
def test_samples_are_examples_and_logits_one_each(shape):
    dcgan = model(shape=shape, dtype=np.float32)
    samples = dcgan.sample(7, np.random.default_rng(0))
    assert samples.shape == (7, np.prod(shape))
    assert samples.dtype == np.float32
    assert 0 < samples.min() < samples.max() < 1
    assert dcgan.discriminate(samples, np.random.default_rng(0)).shape == (7, 1)


def test_batch_norm_is_everywhere_but_at_the_generators_output_and_the_discriminators_input():
    dcgan = model(channels=(4, 6))
    generator = [layer for layer in dcgan.G.modules() if not list(layer.children())]
    discriminator = [layer for layer in dcgan.D.modules() if not list(layer.children())]
    kinds = lambda layers: [type(layer).__name__ for layer in layers]
    assert kinds(generator) == ["Sequential", "Dense", "BatchNorm2d", "ConvTranspose2d", "BatchNorm2d", "ConvTranspose2d"]
    assert kinds(discriminator) == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "Flatten", "Dense"]
    slopes = [layer.negative_slope for layer in (*generator, *discriminator) if hasattr(layer, "negative_slope")]
    assert slopes == [0.0, 0.0, 0.2, 0.2]
    assert not any(name.endswith("bias") and "norm" not in name.lower() for name in _without_norms(dcgan))


def _without_norms(dcgan: DCGAN) -> list[str]:
    norms = {id(p) for m in dcgan.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    return [name for name, parameter in dcgan.named_parameters() if id(parameter) not in norms]


def test_weights_start_from_the_papers_normal_distribution():
    dcgan = DCGAN((28, 28, 1), 100, (32, 64), np.random.default_rng(0))
    named = dict(dcgan.named_parameters())
    drawn = np.concatenate([named[name].numpy().ravel() for name in _without_norms(dcgan)])
    assert drawn.size > 100_000
    assert abs(drawn.mean()) < 3e-4
    assert drawn.std() == pytest.approx(0.02, rel=0.01)


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="6 x 8 images cannot be halved 2 times"):
        model(shape=(6, 8, 1))


def test_layers_double_and_halve():
    rng = np.random.default_rng(0)
    images = Generator(3, (12, 20, 2), (5, 4), (7,), rng=rng)(rng.standard_normal((6, 3)).astype(np.float32))
    assert images.shape == (6, 2, 12, 20)
    assert halving(2, (4, 5), rng=rng)(images).shape == (6, 5, 3, 5)


# ---- Training ----


def test_every_parameter_moves_and_stays_float32():
    dcgan = model(dtype=np.float32)
    before = {name: parameter.numpy().copy() for name, parameter in dcgan.named_parameters()}
    optimizers = dcgan.optimizers(Recipe(epochs=1, lr=1e-3, optimizer_options=BETAS))
    figures = dcgan.train_step(np.random.default_rng(0).random((8, 64), np.float32), optimizers, np.random.default_rng(0))
    assert figures.keys() == {"d_loss", "g_loss", "d_real", "d_fake", "d_norm", "g_norm"}
    for name, parameter in dcgan.named_parameters():
        assert parameter.dtype == np.float32
        assert np.abs(parameter.numpy() - before[name]).max() > 0, name


def test_examples_and_fakes_are_standardized_apart():
    """D's logits of a batch do not depend on what else it is shown in the same step."""
    dcgan, rng = model(), np.random.default_rng(3)
    x, other = rng.random((2, 6, 64))
    alone = dcgan.discriminate(x, rng).numpy()
    together = dcgan.discriminate(np.concatenate([x, other]), rng).numpy()[:6]
    dcgan.discriminate(other, rng)
    assert (dcgan.discriminate(x, rng).numpy() == alone).all()
    assert np.abs(together - alone).max() > 1e-6


def test_it_learns_what_the_examples_look_like():
    """A bright upper half in all examples: untrained samples are grey, trained ones bright above and dark below."""
    dcgan, rng = DCGAN((4, 4, 1), 3, (8,), np.random.default_rng(0)), np.random.default_rng(1)
    optimizers = dcgan.optimizers(Recipe(epochs=1, lr=2e-3, optimizer_options=BETAS))

    def contrast() -> float:
        with dcgan.evaluating():
            samples = dcgan.sample(50, np.random.default_rng(2)).reshape(50, 2, 8)
        return float((samples[:, 0] - samples[:, 1]).mean())

    assert abs(contrast()) < 0.1
    pattern = np.repeat([0.9, 0.1], 8).astype(np.float32)
    for _ in range(150):
        x = np.clip(pattern + 0.05 * rng.standard_normal((16, 16)), 0, 1).astype(np.float32)
        dcgan.train_step(x, optimizers, rng)
    assert contrast() == pytest.approx(0.8, abs=0.25)


def test_walks_lead_from_one_draw_to_another():
    dcgan = model(dtype=np.float32)
    walks = dcgan.pictures(np.zeros((1, 64), np.float32), np.random.default_rng(4))["walks"]
    assert isinstance(walks, Images)
    rows = len(walks.examples)
    assert walks.examples.shape[2] == 64
    ends = dcgan.noise(2 * rows, np.random.default_rng(4)).reshape(2, rows, -1)
    with dcgan.evaluating():
        first, last = (to_examples(dcgan.G(z)).numpy() for z in ends)
    np.testing.assert_allclose(walks.examples[:, 0], first, atol=1e-6)
    np.testing.assert_allclose(walks.examples[:, -1], last, atol=1e-6)
    assert np.abs(np.diff(walks.examples, axis=1)).max() < np.abs(last - first).max()
