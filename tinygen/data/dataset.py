"""What a data set is once it is loaded, how its images become bits, and how it is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass

import numpy as np

BINARIZATIONS = ("fixed", "dynamic", "threshold")


@dataclass(frozen=True, eq=False)
class Split:
    """Part of a data set.

    images: uint8 (N, 28, 28), grey values 0..255, or 0/1 when the data set is binary; or real-valued examples, float32
        (N, ...), such as points of the plane (N, 2); read-only.
    labels: int64 (N,) class numbers, read-only, or None where none exist.
    """

    images: np.ndarray
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.images.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images are {self.images.dtype}, expected uint8 grey values or bits, or float32 real numbers")
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels of shape {self.labels.shape} do not fit {len(self.images)} images")
        for name in ("images", "labels"):
            if (array := getattr(self, name)) is not None:
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in its three splits. `binary`: the images are 0/1 bits, fixed once for all, instead of grey values."""

    name: str
    train: Split
    valid: Split
    test: Split
    binary: bool = False

    @property
    def real(self) -> bool:
        """Whether the examples are real numbers, to be taken as they are."""
        return self.train.images.dtype == np.float32


def binarize(
    images: np.ndarray, mode: str, rng: np.random.Generator | None = None, dtype: np.dtype | type = np.float32
) -> np.ndarray:
    """Return `images` (uint8, any shape) as zeros and ones of `dtype`, same shape.

    The three modes give likelihoods that must never be compared with each other, so a figure carries its mode:

    * "fixed": the data are 0/1 already, one sample drawn once for everybody (Salakhutdinov and Murray, "On the
      quantitative analysis of deep belief networks", ICML 2008); they are only converted.
    * "dynamic": a fresh draw from Bernoulli(grey / 255) at each call (Burda, Grosse, Salakhutdinov, "Importance
      weighted autoencoders", ICLR 2016). Needs `rng`.
    * "threshold": grey / 255 > 0.5.

    Raises ValueError for an unknown mode, for images that are not uint8, for grey values under "fixed", for bits
    (a maximum of 1) under the other two, and for "dynamic" without `rng`.
    """
    if mode not in BINARIZATIONS:
        raise ValueError(f"binarization {mode!r}, expected one of {', '.join(BINARIZATIONS)}")
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}, expected the uint8 of a data set")
    highest = images.max(initial=0)
    if mode == "fixed":
        if highest > 1:
            raise ValueError(f"binarization 'fixed' needs bits, but a value is {highest}: use dynamic or threshold")
        return images.astype(dtype)
    if highest == 1:
        raise ValueError(f"binarization {mode!r} needs grey values 0..255, but the images are bits: use fixed")
    if mode == "threshold":
        return (images > 127).astype(dtype)
    if rng is None:
        raise ValueError("binarization 'dynamic' draws at random: pass rng, a numpy.random.Generator")
    # A uniform float32 is at most 1 - 2^-24, so that 255 always gives 1, and 0 always gives 0.
    return (rng.random(images.shape, dtype=np.float32) * 255 < images).astype(dtype)


def batches(
    examples: int | Sized, batch_size: int, rng: np.random.Generator | None = None, drop_last: bool = False
) -> Iterator[np.ndarray]:
    """Return an iterator of int64 index arrays (batch_size,) that goes once through `examples`, a number or a split.

    With `rng` the order is one random permutation, drawn when this function is called: the state of `rng` afterwards
    does not depend on how far the iterator has been read. Without, the order is 0, 1, 2, ...
    The last batch is shorter where the numbers do not divide, unless `drop_last` leaves it out.
    Raises ValueError when batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}, expected at least 1")
    count = examples if isinstance(examples, int) else len(examples)
    order = np.arange(count) if rng is None else rng.permutation(count)
    stop = count - count % batch_size if drop_last else count
    return (order[start : start + batch_size] for start in range(0, stop, batch_size))
