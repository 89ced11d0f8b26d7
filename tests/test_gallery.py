"""Pictures: the pixels are where they belong, and the files are what any PNG reader expects."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tinygen import gallery

ROWS = [
    {"epoch": 1, "step": 10, "train_loss": 9.0, "lr": 0.1, "seconds": 1.0},
    {"epoch": 2, "step": 20, "train_loss": 8.0, "valid_nll": 8.5, "valid_bits_per_dim": 0.2, "lr": 0.1, "seconds": 2.0},
]


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 12),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    gap=st.integers(0, 2),
    columns=st.none() | st.integers(1, 4),
    colour=st.booleans(),
)
def test_grid_puts_every_image_at_its_place(n, height, width, gap, columns, colour):
    shape = (n, height, width) + (3,) * colour
    images = np.random.default_rng(n).random(shape)
    picture = gallery.grid(images, columns, gap)
    across = columns or int(np.ceil(np.sqrt(n)))
    assert picture.dtype == np.uint8
    assert picture.shape[1] == across * (width + gap) + gap
    for i, image in enumerate(images):
        top, left = gap + i // across * (height + gap), gap + i % across * (width + gap)
        found = picture[top : top + height, left : left + width]
        assert np.array_equal(found, np.rint(image * 255).astype(np.uint8))
    assert (picture == gallery.SEPARATOR).sum() >= picture.size - images.size


def test_grid_cuts_off_what_is_no_colour_and_refuses_what_is_no_image():
    assert gallery.grid(np.array([[[-1.0, 2.0]]]), gap=0).tolist() == [[0, 255]]
    for shape in ((3, 4), (0, 3, 4), (2, 3, 4, 2)):
        with pytest.raises(ValueError, match="expected"):
            gallery.grid(np.zeros(shape))


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 9), width=st.integers(1, 9), colour=st.booleans(), scale=st.integers(1, 3))
def test_png_is_read_by_others_as_the_same_pixels(height, width, colour, scale):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width) + (3,) * colour, dtype=np.uint8)
    with Image.open(io.BytesIO(gallery.png(pixels, scale))) as image:
        image.verify()
    with Image.open(io.BytesIO(gallery.png(pixels, scale))) as image:
        assert np.array_equal(np.asarray(image), pixels.repeat(scale, 0).repeat(scale, 1))


def test_png_takes_bytes_only():
    with pytest.raises(TypeError, match="float64, expected uint8"):
        gallery.png(np.zeros((2, 2)))


def test_completions_show_given_completed_and_original():
    originals, completed = np.ones((2, 2, 3)), np.zeros((2, 2, 3))
    observed = np.array([[True] * 3, [False] * 3])
    picture = gallery.completions(originals, observed, completed)
    assert picture.shape == (3 * 3 + 1, 2 * 4 + 1)
    assert picture[1:3, 1].tolist() == [255, 128]
    assert picture[4:6, 1].tolist() == [0, 0]
    assert picture[7:9, 1].tolist() == [255, 255]


def test_curves_share_a_panel_where_they_share_a_unit():
    assert gallery.curves(ROWS) == {"nats": {"train loss": ([1, 2], [9.0, 8.0]), "valid nll": ([2], [8.5])}}
    without_likelihood = [{"epoch": 1, "train_d_loss": 1.0, "train_g_loss": 2.0, "lr": 0.1}]
    assert list(gallery.curves(without_likelihood)) == ["d_loss", "g_loss"]
    over_orders = [{"epoch": 1, "train_loss": 9.0, "valid_order_nll": 8.0, "lr": 0.1}]
    assert gallery.curves(over_orders) == {"nats": {"train loss": ([1], [9.0]), "valid order_nll": ([1], [8.0])}}


def test_the_same_figures_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        gallery.write_curves(tmp_path / name, ROWS, "nade on mnist5k (dynamic)", target=8.0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (640, 420)
        assert not image.text, "no date, no program's name"
