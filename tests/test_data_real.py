"""Real-valued data: every density is the law of its points, and patches are what they say."""

import numpy as np
import pytest
from scipy import stats

from tinygen import data
from tinygen.data import Dataset, Split
from tinygen.data.densities import DENSITIES, PATCH
from tinygen.models import Recipe, RecipeError
from tinygen.training import check_fit
from tinygen.training.examples import batches, held_out

EDGES = np.linspace(-4, 4, 1601)  # the checkerboard's and the moons' edges are among them
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
CELL = (EDGES[1] - EDGES[0]) ** 2
PLANE = [name for name, density in DENSITIES.items() if density.dimensions == 2]


def on_a_grid(name: str) -> np.ndarray:
    """p(x) at the middles of the cells, [row of y, column of x]."""
    return np.exp(DENSITIES[name].log_prob(np.stack(np.meshgrid(MIDDLES, MIDDLES), axis=-1)))


@pytest.mark.parametrize("name", PLANE)
def test_a_density_integrates_to_one(name):
    assert abs(on_a_grid(name).sum() * CELL - 1) < 1e-6


@pytest.mark.parametrize("name", PLANE)
def test_points_follow_their_density(name):
    points = DENSITIES[name].draw(40_000, np.random.default_rng(3))
    coarse = EDGES[::50]  # 32 x 32 cells
    counts = np.histogram2d(points[:, 1], points[:, 0], bins=[coarse, coarse])[0]
    expected = 40_000 * CELL * on_a_grid(name).reshape(32, 50, 32, 50).sum(axis=(1, 3))
    assert counts.sum() == 40_000
    likely = expected > 5
    observed = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(expected[likely], max(40_000 - expected[likely].sum(), 1e-9))
    if expected[-1] < 5:
        assert observed[-1] <= 15
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_points_of_the_line_follow_their_density_which_integrates_to_one():
    density = DENSITIES["peaks"]
    assert density.dimensions == 1
    cumulated = np.cumsum(np.exp(density.log_prob(MIDDLES[:, None]))) * (EDGES[1] - EDGES[0])
    assert abs(cumulated[-1] - 1) < 2e-5  # a few of a hundred thousand lie beyond the edges
    points = density.draw(40_000, np.random.default_rng(3))
    assert stats.kstest(points[:, 0], lambda x: np.interp(x, EDGES[1:], cumulated)).pvalue > 1e-3
    assert np.exp(density.log_prob(density.centres)) == pytest.approx([0.2793, 0.4790, 0.3991], abs=2e-3)


@pytest.mark.parametrize("name", DENSITIES)
def test_points_are_loaded_by_name_as_the_same_points_each_time(name):
    first, second = data.load(name), data.load(name)
    assert first.real
    assert not first.binary
    for part in ("train", "valid", "test"):
        points = getattr(first, part).images
        assert points.dtype == np.float32
        assert points.shape == (len(points), DENSITIES[name].dimensions)
        assert np.array_equal(points, getattr(second, part).images)
    source = next(source for source in data.info() if source.name == name)
    assert [len(first.train), len(first.valid), len(first.test)] == [*source.sizes]
    assert source.shape == first.train.images.shape[1:]
    # On the line float32 numbers are few enough for two points to be equal by chance.
    assert np.isin(first.test.images, first.train.images).all(axis=1).mean() < (0.01 if source.shape == (1,) else 1e-9)


def test_patches_are_squares_of_the_digits_with_noise_below_one_grey_value():
    dataset, digits = data.load("mnist5k-patches"), data.load("mnist5k")
    for part, count in (("valid", 30), ("test", 30)):
        found = getattr(dataset, part).images
        assert found.dtype == np.float32
        assert found.shape[1:] == (PATCH, PATCH)
        assert found.min() >= 0
        assert found.max() <= 1
        noise = found * 256 - np.floor(found * 256)
        assert stats.kstest(noise[::7].ravel().astype(float), "uniform").pvalue > 1e-3
        squares = np.lib.stride_tricks.sliding_window_view(getattr(digits, part).images, (PATCH, PATCH), axis=(1, 2))
        whole = np.floor(found[:count] * 256).astype(np.uint8)
        for patch in whole:
            same = squares[..., 3, 3] == patch[3, 3]
            assert (squares[same] == patch).all(axis=(1, 2)).any()
            assert patch.mean() >= 64


def test_real_numbers_are_taken_as_they_are():
    dataset = data.load("moons")
    recipe = Recipe(epochs=1, lr=1.0, batch_size=7, binarization="real")
    check_fit(dataset, recipe)
    assert np.array_equal(held_out(dataset.valid, "real"), dataset.valid.images)
    known = {point.tobytes() for point in dataset.train.images}
    batch, labels = next(batches(dataset.train, recipe, 0, 0))
    assert labels is None
    assert batch.shape == (7, 2)
    assert batch.dtype == np.float32
    assert all(point.tobytes() in known for point in batch)
    image = data.load("mnist5k-patches").valid
    assert held_out(image, "real").shape == (len(image), PATCH * PATCH)


def test_real_numbers_and_images_are_not_taken_for_each_other():
    with pytest.raises(RecipeError, match="moons holds real numbers, binarization is 'dynamic': it must be real"):
        check_fit(data.load("moons"), Recipe(epochs=1, lr=1.0))
    grey = Split(np.arange(4, dtype=np.uint8).reshape(1, 2, 2))
    with pytest.raises(RecipeError, match=r"grey values, binarization is 'real': it must be dynamic or threshold or grey"):
        check_fit(Dataset("digits", grey, grey, grey), Recipe(epochs=1, lr=1.0, binarization="real"))
    with pytest.raises(ValueError, match="float64, expected uint8 grey values or bits, or float32"):
        Split(np.zeros((3, 2)))
