"""Captions: what is measured in images, how it is said, and that it is read back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen import data
from tinygen.data import DataError, captions
from tinygen.data.captions import DIGITS, QUALITIES, measure

SHAPE = (28, 28)


def measured(image):
    thickness, slant, size = measure(np.asarray(image, float).reshape(1, -1), np.shape(image))[0]
    return {"thickness": thickness, "slant": slant, "size": size}


@pytest.fixture(scope="module")
def digits():
    train = data.load("mnist5k").train
    return train.images.reshape(len(train), -1) / np.float32(255), train.labels


# ---- Measures ----


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 16), st.integers(0, 16))
def test_a_bar(height, width, top, left):
    image = np.zeros(SHAPE)
    image[top : top + height, left : left + width] = 1
    found = measured(image)
    outline = 2 * (height + width) - (2 - np.sqrt(2))  # forward differences cut one corner
    assert found["thickness"] == pytest.approx(2 * height * width / outline)
    assert found["slant"] == pytest.approx(0, abs=1e-12)
    assert found["size"] == pytest.approx(np.sqrt(height * width))


def test_a_long_stroke_is_as_thick_as_it_is_wide_and_grey_ink_counts_by_its_grey():
    image = np.zeros((400, 12))
    image[1:-1, 4:7] = 1
    assert measured(image)["thickness"] == pytest.approx(3, rel=0.01)
    # An edge that runs through the middle of a column of pixels: 3.5 wide.
    image[1:-1, 7] = 0.5
    assert measured(image)["thickness"] == pytest.approx(3.5, rel=0.01)


@given(st.integers(-2, 2), st.integers(1, 3))
def test_slant_is_the_shear_of_an_upright_stroke(shear, width):
    image = np.zeros((9, 40))
    for up in range(9):
        image[8 - up, 18 + shear * up : 18 + shear * up + width] = 1
    assert measured(image)["slant"] == pytest.approx(shear, abs=1e-12)
    assert measured(image[:, ::-1])["slant"] == pytest.approx(-shear, abs=1e-12)


def test_faint_ink_does_not_make_an_image_larger_and_no_ink_measures_nothing():
    image = np.zeros(SHAPE)
    image[4:10, 3:9] = 1
    image[20, 20] = 0.4
    assert measured(image)["size"] == 6
    assert measured(np.zeros(SHAPE)) == {"thickness": 0, "slant": 0, "size": 0}


def test_measures_keep_the_dtype_and_take_colours_apart_from_nothing():
    x = np.random.default_rng(0).random((3, 28 * 20))
    for dtype in (np.float32, np.float64):
        assert measure(x.astype(dtype), (28, 20, 1)).dtype == dtype
    np.testing.assert_allclose(measure(x.astype(np.float32), (28, 20)), measure(x, (28, 20, 1)), rtol=1e-4)


def test_a_digit_made_thicker_sheared_or_smaller_measures_so(digits):
    x = digits[0][:60].astype(float)
    images = x.reshape(-1, *SHAPE)
    before = measure(x, SHAPE)
    wider = np.maximum(images, np.roll(images, 1, axis=2))
    assert (measure(wider.reshape(60, -1), SHAPE)[:, 0] > before[:, 0]).all()
    wide = np.pad(images, ((0, 0), (0, 0), (14, 14)))
    sheared = np.stack([np.roll(wide[:, row], 14 - row, axis=1) for row in range(28)], axis=1)
    np.testing.assert_allclose(measure(sheared.reshape(60, -1), (28, 56))[:, 1], before[:, 1] + 1, rtol=1e-9)
    halved = np.pad(images[:, ::2, ::2], ((0, 0), (7, 7), (7, 7)))
    assert (measure(halved.reshape(60, -1), SHAPE)[:, 2] < 0.65 * before[:, 2]).all()


# ---- What is said ----


def test_a_third_of_each_digit_has_each_word(digits):
    x, labels = digits
    measures = measure(x, SHAPE)
    thresholds = captions.quantiles(measures, labels)
    assert thresholds.shape == (10, 3, 2)
    assert thresholds.dtype == np.float32
    facts = captions.facts_of(measures, labels, thresholds)
    np.testing.assert_array_equal(facts[:, 0], labels)
    for digit in range(10):
        for place, least in ((1, 0.32), (2, 0.32), (3, 0.18)):  # boxes have few sizes: many are at the quantile itself
            for sign in (-1, 1):
                assert least < (facts[labels == digit, place] == sign).mean() <= 1 / 3 + 1e-9
    # The words are about the measures: thick ones have more of it than thin ones of the same digit.
    sevens = labels == 7
    for place in range(3):
        high, low = (measures[sevens & (facts[:, 1 + place] == sign), place] for sign in (1, -1))
        assert low.max() < thresholds[7, place, 0] <= thresholds[7, place, 1] < high.min()


def test_a_digit_that_does_not_occur_has_the_quantiles_of_all():
    measures = np.random.default_rng(0).random((50, 3))
    thresholds = captions.quantiles(measures, np.zeros(50, np.int64))
    np.testing.assert_allclose(thresholds[4], thresholds[0])


facts = st.tuples(st.integers(0, 9), *[st.integers(-1, 1)] * 3)


@given(st.lists(facts, min_size=1, max_size=6), st.integers(0, 999))
def test_captions_are_read_back(rows, seed):
    rows = np.array(rows)
    said = captions.say(rows, np.random.default_rng(seed))
    np.testing.assert_array_equal([captions.understand(caption) for caption in said], rows)
    tokens = captions.to_tokens(said)
    assert tokens.dtype == np.int64
    assert captions.to_captions(tokens) == said


def test_the_order_of_the_words_is_drawn():
    said = captions.say(np.tile([7, 1, -1, 1], (2000, 1)), np.random.default_rng(0))
    assert len(set(said)) == 16
    assert {"a thick large seven slanted left", "a leaning left large thick seven"} < set(said)
    assert set(captions.say(np.tile([4, 0, 0, 0], (200, 1)), np.random.default_rng(0))) == {"a four", "four", "the digit four"}


def test_qualities_are_left_out_but_never_the_digit():
    rows = np.tile([3, 1, -1, 0], (4000, 1))
    kept = captions.omit(rows, np.random.default_rng(0))
    np.testing.assert_array_equal(kept[:, 0], 3)
    np.testing.assert_allclose((kept != 0).mean(axis=0), [1, 1 - captions.OMITTED, 1 - captions.OMITTED, 0], atol=0.03)
    assert set(kept[:, 2]) == {-1, 0}


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_a_wrong_caption_says_one_thing_wrong(seed):
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.integers(0, 10, (600, 1)), rng.integers(-1, 2, (600, 3))], axis=1)
    before = rows.copy()
    wrong = captions.contradict(rows, rng)
    np.testing.assert_array_equal(rows, before)
    differs = wrong != rows
    np.testing.assert_array_equal(differs.sum(axis=1), 1)
    np.testing.assert_array_equal(wrong[:, 1:][differs[:, 1:]], -rows[:, 1:][differs[:, 1:]])
    silent = (rows[:, 1:] == 0).all(axis=1)
    assert differs[silent, 0].all()
    assert differs[~silent, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert ((wrong[:, 0] >= 0) & (wrong[:, 0] < 10)).all()


def test_agreement_counts_what_is_said():
    said = np.array([[1, 1, 0, 0], [2, 1, -1, 0], [3, -1, 0, 0], [4, 0, 1, 0]])
    drawn = np.array([[1, 1, 1, 1], [2, 0, -1, 1], [3, -1, 0, 1], [4, 1, -1, 1]])
    assert captions.agreement(said, drawn) == {"thickness": pytest.approx(2 / 3), "slant": 0.5}


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a fat seven", r"unknown word, 'fat': valid: a, digit, eight, .*, zero$"),
        ("a thick digit", "names no digit: add one of zero, one, .*nine"),
        ("", "names no digit"),
        ("a thin thick seven", "says both 'thin' and 'thick': keep one"),
        ("seven eight", "says both 'seven' and 'eight'"),
    ],
)
def test_what_is_no_caption_is_one_clear_line(caption, message):
    with pytest.raises(DataError, match=message) as error:
        captions.to_tokens(["a seven", caption])
    assert "\n" not in str(error.value)


def test_capitals_commas_and_repetition_are_read():
    np.testing.assert_array_equal(captions.understand("Seven, thick, slanted LEFT, thick"), [7, 1, -1, 0])
    assert captions.to_captions(captions.to_tokens(["A Thick seven", "two"])) == ["a thick seven", "two"]


def test_every_word_can_be_said_and_none_twice():
    assert len(set(captions.WORDS)) == len(captions.WORDS)
    rows = np.stack(np.meshgrid(range(10), *[(-1, 1)] * 3), axis=-1).reshape(-1, 4).repeat(20, axis=0)
    used = {word for caption in captions.say(rows, np.random.default_rng(0)) for word in caption.split()}
    assert used == set(captions.WORDS[1:])
    assert len(DIGITS) == 10
    assert list(QUALITIES) == ["thickness", "slant", "size"]
