"""Pictures: the pixels are where they belong, and the files are what any PNG reader expects."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tinygen import gallery
from tinygen.models.pictures import Images, Lines, Maps, Points

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


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_a_table_of_examples_is_drawn_row_by_row(tmp_path, shape):
    examples = np.random.default_rng(0).random((2, 3, np.prod(shape)))
    gallery.write_picture(tmp_path / "a.png", Images(examples), shape)
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image)[:: gallery.image_scale(shape), :: gallery.image_scale(shape)]
    assert pixels.shape[:2] == (2 * 5 + 1, 3 * 6 + 1)
    for row in range(2):
        for column in range(3):
            found = pixels[1 + 5 * row : 5 + 5 * row, 1 + 6 * column : 6 + 6 * column]
            assert np.array_equal(found, np.rint(examples[row, column].reshape(shape) * 255))


def drawn_axes(monkeypatch, tmp_path, picture):
    """The axes that matplotlib is given, colour bars left out, and the size of the file's picture."""
    figures, write = [], gallery._write_figure
    monkeypatch.setattr(gallery, "_write_figure", lambda path, figure: (figures.append(figure), write(path, figure)))
    gallery.write_picture(tmp_path / "a.png", picture, (28, 28))
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    return [axes for axes in figures[0].axes if axes.get_label() != "<colorbar>"]


def test_points_share_their_axes(monkeypatch, tmp_path):
    near, far = np.zeros((3, 2)), np.array([[10.0, -10.0], [4.0, 5.0]])
    left, right = drawn_axes(monkeypatch, tmp_path, Points({"prior": {"z": near}, "codes": {"0": near, "1": far}}))
    assert [axes.get_title() for axes in (left, right)] == ["prior", "codes"]
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim()[1] > 10
    assert left.get_ylim()[0] < -10
    assert np.array_equal(right.collections[1].get_offsets(), far)
    assert left.get_legend() is None
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["0", "1"]


def test_lines_are_drawn_at_their_places(monkeypatch, tmp_path):
    x = np.linspace(0, 1, 5)
    (axes,) = drawn_axes(monkeypatch, tmp_path, Lines(x, {"optimum": {"D": x**2, "D*": x}}))
    assert [np.array_equal(line.get_xydata(), np.stack([x, y], 1)) for line, y in zip(axes.lines, (x**2, x))] == [True, True]


def test_maps_have_their_first_row_below(monkeypatch, tmp_path):
    values, points = np.arange(6.0).reshape(2, 3), np.array([[0.5, 0.0]])
    picture = Maps({"D": values, "D*": -values}, (-1.0, 2.0, -3.0, 4.0), {"data": points})
    panels = drawn_axes(monkeypatch, tmp_path, picture)
    for axes, expected in zip(panels, (values, -values), strict=True):
        (image,) = axes.images
        assert np.array_equal(image.get_array(), expected)
        assert image.origin == "lower"
        assert image.get_extent() == [-1.0, 2.0, -3.0, 4.0]
        assert (*axes.get_xlim(), *axes.get_ylim()) == (-1.0, 2.0, -3.0, 4.0)
        assert np.array_equal(axes.collections[0].get_offsets(), points)
