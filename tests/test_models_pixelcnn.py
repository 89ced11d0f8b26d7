"""PixelCNN's exact oracles, and those of what the image models share; the kernel's own are in test_kernels_masked_conv.py."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tinygen import data, no_grad, optim
from tinygen.models import RecipeError
from tinygen.models.pixelcnn import Block, PixelCNN
from tinygen.models.pixels import MaskedConv2d, PixelModel, colour_of, draw, sees


def model(shape, levels=2, *, hidden=6, blocks=2, head=6, kernel_size=3, seed=0, dtype=np.float64) -> PixelCNN:
    """A small model whose parameters are all of the size of 1, biases too: whatever it can see has a visible effect."""
    rng = np.random.default_rng(seed)
    small = PixelCNN(shape, levels, hidden, blocks, head, rng, kernel_size, dtype)
    for parameter in small.parameters():
        parameter.data[...] = 0.5 * rng.standard_normal(parameter.shape)
    return small


def every_image(shape, levels=2) -> np.ndarray:
    """All images of that shape, flat, (levels^D, D), with values k / (levels - 1)."""
    return np.array(list(itertools.product(np.arange(levels) / (levels - 1), repeat=math.prod(shape))))


# ---- Likelihood ----


@pytest.mark.parametrize(
    ("shape", "levels"),
    [((4, 4, 1), 2), ((2, 2, 1), 5), ((2, 2, 3), 2), ((1, 2, 3), 3), ((2, 1, 3), 3)],
)
def test_probabilities_sum_to_one(shape, levels):
    small, images = model(shape, levels, hidden=3, head=3), every_image(shape, levels)
    total = sum(np.exp(small.log_prob(part).numpy()).sum() for part in np.array_split(images, -(-len(images) // 8192)))
    assert abs(total - 1) < 1e-10


def test_log_prob_is_the_sum_of_the_logs_of_the_conditionals():
    small, x = model((2, 3, 3), 4), np.random.default_rng(0).integers(0, 4, (5, 18)) / 3
    logits = small.logits(small.images(x)).numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for n in range(5):
        image = np.rint(3 * x[n].reshape(2, 3, 3)).astype(int)  # the colour runs fastest
        expected = sum(math.log(p[n, image[r, c, k], k, r, c]) for r, c, k in np.ndindex(2, 3, 3))
        assert small.log_prob(x[n : n + 1]).numpy()[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("colours", "levels"), [(1, 2), (1, 256), (3, 2), (3, 256)])
def test_zero_weights_give_exactly_the_uniform_distribution(colours, levels):
    small = model((4, 5, colours), levels)
    for parameter in small.parameters():
        parameter.data[...] = 0
    x = np.random.default_rng(0).integers(0, levels, (3, 20 * colours)) / (levels - 1)
    np.testing.assert_allclose(small.log_prob(x).numpy(), -20 * colours * math.log(levels), rtol=1e-14)
    assert small.evaluate(x, np.random.default_rng(0))["bits_per_dim"] == pytest.approx(math.log2(levels), rel=1e-14)


def test_loss_is_the_positive_mean_of_minus_log_prob_and_evaluation_agrees_in_parts():
    small, x = model((4, 4, 1)), np.random.default_rng(0).integers(0, 2, (230, 16)).astype(float)
    nll = -small.log_prob(x).numpy().mean()
    assert small.loss(x, None).item() == pytest.approx(nll)
    assert small.evaluate(x, None)["nll"] == pytest.approx(nll)
    assert [len(part) for part in small.batches(x)] == [100, 100, 30]
    assert nll > 0


# ---- What depends on what ----


def support(small: PixelCNN) -> np.ndarray:
    """Boolean (H, W, colours, H, W, colours): which numbers each logit depends on, by changing one number at a time."""
    shape = small.shape
    base = np.random.default_rng(5).random((8, small.colours, small.height, small.width))
    depends = np.zeros((*shape, *shape), bool)
    with no_grad():
        before = small.logits(base).numpy()
        for r, c, k in np.ndindex(shape):
            changed = base.copy()
            changed[:, k, r, c] += 1
            moved = np.abs(small.logits(changed).numpy() - before).max(axis=(0, 1)) > 0
            depends[:, :, :, r, c, k] = moved.transpose(1, 2, 0)
    return depends


def reach(shape, blocks: int, kernel_size: int) -> np.ndarray:
    """The same, expected: from every pixel by following the windows, those of the blocks in turn, then the 7 x 7 one."""
    H, W, colours = shape

    def window(r, c, radius, own):
        rows = [(i, j) for i in range(r - radius, r) for j in range(c - radius, c + radius + 1)]
        rows += [(r, j) for j in range(c - radius, c + own)]
        return {(i, j) for i, j in rows if 0 <= i < H and 0 <= j < W}

    expected = np.zeros((*shape, *shape), bool)
    for r, c in np.ndindex(H, W):
        features = {(r, c)}
        for _ in range(blocks):
            features = set().union(*(window(i, j, kernel_size // 2, 1) for i, j in features))
        for i, j in set().union(*(window(i, j, 3, 0) for i, j in features)):
            expected[r, c, :, i, j, :] = True
        if features > {(r, c)}:  # features of an earlier pixel hold its own earlier colours, for every colour of this one
            for i, j in features - {(r, c)}:
                expected[r, c, :, i, j, : colours - 1] = True
        for mine, theirs in itertools.product(range(colours), repeat=2):
            expected[r, c, mine, r, c, theirs] = theirs < mine
    return expected


@pytest.mark.parametrize("shape", [(9, 13, 1), (7, 9, 3)])
@pytest.mark.parametrize(("blocks", "kernel_size"), [(0, 3), (1, 3), (3, 3), (1, 5)])
def test_each_logit_depends_on_what_its_windows_reach_and_on_nothing_else(shape, blocks, kernel_size):
    found = support(model(shape, hidden=24, blocks=blocks, head=24, kernel_size=kernel_size))
    np.testing.assert_array_equal(found, reach(shape, blocks, kernel_size))
    D = math.prod(shape)
    assert not np.triu(found.reshape(D, D)).any()  # none on itself or a later one


def test_the_blind_spot_lies_to_the_right_and_shrinks_with_every_block():
    for blocks in (1, 2):
        found = support(model((5, 21, 1), blocks=blocks, hidden=12, head=12))[4, 8, 0, :, :, 0]
        for row in range(4):  # the 7 x 7 window goes up one row at least, a block only if it has to
            assert np.flatnonzero(found[row]).max() - 8 == 3 + min(blocks, 3 - row)
        assert np.flatnonzero(found[4]).tolist() == list(range(8 - 3 - blocks, 8))


def test_colours_see_those_before_them():
    assert colour_of(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert sees("B", 4, 5, 1) is None
    assert not sees("A", 4, 5, 1).any()
    np.testing.assert_array_equal(sees("A", 3, 3, 3), np.tril(np.ones((3, 3), bool), -1))
    np.testing.assert_array_equal(sees("B", 3, 3, 3), np.tril(np.ones((3, 3), bool)))
    with pytest.raises(ValueError, match="'A' or 'B'"):
        sees("C", 3, 3, 3)


# ---- Layers and training ----


def test_the_residual_is_added_once():
    rng = np.random.default_rng(0)
    block, u = Block(4, 3, 1, 1.0, rng=rng, dtype=np.float64), rng.standard_normal((2, 8, 5, 5))
    for name, parameter in block.named_parameters():
        if name.startswith("up"):
            parameter.data[...] = 0
    np.testing.assert_array_equal(block(u).numpy(), u)


@pytest.mark.parametrize(("kind", "colours"), [("A", 1), ("B", 1), ("A", 3), ("B", 3)])
def test_masked_weights_stay_out_after_adamw(kind, colours):
    rng = np.random.default_rng(0)
    conv = MaskedConv2d(3, 6, 5, kind, colours, rng=rng, dtype=np.float64)
    x = rng.standard_normal((2, 3, 6, 7))
    optimizer = optim.AdamW(list(conv.parameters()), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss = (conv(x) ** 2).sum()
        loss.backward()
        assert (conv.weight.grad[~conv.mask] == 0).all()
        assert (conv.weight.grad[conv.mask] != 0).all()
        optimizer.step()
    before = conv(x).numpy()
    conv.weight.data[~conv.mask] = np.nan
    np.testing.assert_array_equal(conv(x).numpy(), before)


def test_mask_is_that_of_the_paper():
    mask = MaskedConv2d(1, 1, 5, "A", rng=np.random.default_rng(0)).mask[0, 0]
    assert mask.astype(int).tolist() == [[1] * 5, [1] * 5, [1, 1, 0, 0, 0], [0] * 5, [0] * 5]
    assert MaskedConv2d(1, 1, 5, "B", rng=np.random.default_rng(0)).mask[0, 0, 2].tolist() == [1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="odd"):
        MaskedConv2d(1, 1, 4, "A", rng=np.random.default_rng(0))


@pytest.mark.parametrize(("colours", "levels"), [(1, 2), (3, 256)])
def test_gradient_reaches_every_parameter_descends_and_stays_float32(colours, levels):
    rng = np.random.default_rng(0)
    small = PixelCNN((8, 8, colours), levels, 6, 2, 6, rng)
    x = (rng.integers(0, levels, (8, 64 * colours)) / (levels - 1)).astype(np.float32)
    loss = small.loss(x, rng)
    loss.backward()
    assert loss.dtype == np.float32
    for name, parameter in small.named_parameters():
        assert parameter.grad.dtype == np.float32, name
        assert np.abs(parameter.grad).max() > 0, name
        parameter.data -= 1e-4 * parameter.grad
    assert small.loss(x, rng).item() < loss.item()


# ---- Sampling ----


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    colours=st.sampled_from([1, 3]),
    levels=st.sampled_from([2, 3, 256]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20, deadline=None)
def test_cached_sampler_equals_the_naive_one_on_the_same_uniforms(height, width, colours, levels, dtype, seed):
    rng = np.random.default_rng(seed)
    small = model((height, width, colours), levels, seed=seed, blocks=seed % 3, dtype=dtype)
    uniforms = rng.random((5, colours, height, width)).astype(dtype)
    observed = (np.arange(colours * height * width) < rng.integers(0, colours * height * width + 1)).reshape(height, width, -1)
    observed = observed.transpose(2, 0, 1)
    images = np.where(observed, rng.integers(0, levels, uniforms.shape) / (levels - 1), 0).astype(dtype)
    with no_grad():
        naive = PixelModel.fill(small, images, observed, uniforms)
    cached = small.fill(images, observed, uniforms)
    assert cached.dtype == naive.dtype == dtype
    np.testing.assert_array_equal(cached, naive)
    np.testing.assert_array_equal(cached[:, observed], images[:, observed])


@pytest.mark.parametrize(("shape", "levels"), [((2, 3, 1), 2), ((1, 2, 3), 2), ((1, 1, 3), 4)])
def test_samples_follow_the_model(shape, levels):
    small, images = model(shape, levels, seed=7), every_image(shape, levels)
    p = np.exp(small.log_prob(images).numpy())
    samples = small.sample(20_000, np.random.default_rng(0))
    index = np.rint(samples * (levels - 1)) @ levels ** np.arange(math.prod(shape) - 1, -1, -1)
    assert stats.chisquare(np.bincount(index.astype(int), minlength=len(p)), 20_000 * p).pvalue > 1e-3


def test_completions_follow_the_exact_conditional():
    small, images = model((3, 2, 1), seed=11), every_image((3, 2, 1))
    observed, given_x = np.arange(6) < 3, images[45]
    match = (images[:, observed] == given_x[observed]).all(axis=1)
    p = np.exp(small.log_prob(images[match]).numpy())
    filled = small.complete(np.repeat(given_x[None], 20_000, axis=0), observed, np.random.default_rng(1))
    assert (filled[:, observed] == given_x[observed]).all()
    counts = np.bincount((filled[:, 3:] @ [4, 2, 1]).astype(int), minlength=8)
    assert stats.chisquare(counts, 20_000 * p / p.sum()).pvalue > 1e-3


def test_complete_does_not_look_at_what_it_fills_in():
    small, rng = model((4, 4, 3), 256), np.random.default_rng(0)
    x, other = rng.integers(0, 256, (2, 6, 48)) / 255
    observed = small.first_half(48)
    other[:, observed] = x[:, observed]
    results = [small.complete(images, observed, np.random.default_rng(2)) for images in (x, other)]
    np.testing.assert_array_equal(*results)


def test_complete_refuses_what_is_no_prefix_of_the_raster_order():
    observed = np.zeros(16, bool)
    observed[4] = True
    with pytest.raises(ValueError, match="number 4 is observed but 0, before it, is not"):
        model((4, 4, 1)).complete(np.zeros((1, 16)), observed, np.random.default_rng(0))


def test_draw_inverts_the_cumulative_distribution():
    logits = np.log(np.array([[0.2, 0.5, 0.3]] * 6))
    assert draw(logits, np.array([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 1e-16])).tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert draw(np.zeros((2, 1)), np.array([0.49, 0.5])).tolist() == [1, 0]


# ---- Recipes ----


@pytest.mark.parametrize("name", PixelCNN.RECIPES)
def test_recipes_build_models_of_their_data(name):
    recipe = PixelCNN.RECIPES[name]
    shape = next(source.shape for source in data.info() if source.name == recipe.data)
    built = PixelCNN.build(recipe, data.Split(np.zeros((0, *shape), np.uint8)), np.random.default_rng(0))
    assert built.shape == (*shape, 1)[:3]
    assert (built.levels == 256) == (recipe.binarization == "grey")


def test_levels_must_fit_the_binarization():
    train = data.Split(np.zeros((0, 4, 4), np.uint8))
    for name, levels, fitting in (("quick", "256", "levels=2"), ("grey", "2", "256 levels")):
        recipe = PixelCNN.RECIPES[name].override({"levels": levels})
        with pytest.raises(RecipeError, match=fitting):
            PixelCNN.build(recipe, train, np.random.default_rng(0))
    with pytest.raises(ValueError, match="levels = 1"):
        model((4, 4, 1), 1)
