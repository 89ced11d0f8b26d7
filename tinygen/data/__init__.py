"""Data sets of images and of real numbers: `load` one by name, `binarize` its images, go through it in `batches`."""

from .catalogue import Source, available, info, load
from .dataset import BINARIZATIONS, Dataset, Split, batches, binarize
from .formats import DataError

__all__ = [
    "BINARIZATIONS",
    "DataError",
    "Dataset",
    "Source",
    "Split",
    "available",
    "batches",
    "binarize",
    "info",
    "load",
]
