"""The Row LSTM of PixelRNN (van den Oord, Kalchbrenner and Kavukcuoglu, ICML 2016, section 3.1).

`pixelrnn.py` has what is around the layers. A layer walks over the map row by row, from the top, all pixels of a row at once:

    o, f, i, g = K_is * x[r] + K_ss * h[r-1] + b        i, f, o through sigmoid, g through tanh
    c[r] = f c[r-1] + i g          h[r] = o tanh(c[r])

with convolutions of width k = 3 along the row. K_is is masked, so only its two taps that end at the pixel are kept, and of the
last one the part that mask B leaves. K_ss is centred and needs no mask: the row above is known. A state therefore depends on a
triangle that widens by one pixel to each side with each row up, and not on all that is above; that is the price for walking
over rows, of which there are fewer than diagonals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.kernels import row_lstm as kernel
from tinygen.models.pixelrnn import PAPER, QUICK, Gates, Layer, PixelRNN
from tinygen.models.recipe import Recipe
from tinygen.ops.lstm import row_lstm
from tinygen.tensor import array_of

WIDTH = 3  # k: how many pixels of the row above, and of the row itself before the mask, a pixel reads
INPUT_TAPS = WIDTH // 2 + 1  # that the mask leaves


class RowLSTMLayer(Layer):
    """One walk over the rows of a map, and up again; see `Layer`."""

    def __init__(self, features: int, hidden: int, colours: int, *, rng: np.random.Generator, dtype: Any = np.float32):
        super().__init__(features, hidden, colours, rng=rng, dtype=dtype)
        self.gates = Gates(features, hidden, (INPUT_TAPS,), WIDTH, colours, rng=rng, dtype=dtype)

    def states(self, x: Any) -> Any:
        return row_lstm(x, *self.gates.weights())

    def cache(self, images: int, width: int) -> RowCache:
        return RowCache(self, images, width)


class RowCache:
    """What a sampler keeps of one layer: the states of the row above and the current row (see pixelrnn.Cache)."""

    def __init__(self, layer: RowLSTMLayer, images: int, width: int):
        self.weights = tuple(map(array_of, layer.gates.weights()))
        weight_ih, weight_hh, bias = self.weights
        zeros = partial(module_of(bias).zeros, dtype=bias.dtype)
        # The images' rows with zeros beside them, as far as a pixel reads.
        self.inputs = zeros((images, weight_ih.shape[1], INPUT_TAPS - 1 + width))
        self.above, self.hidden = (zeros((images, weight_hh.shape[1], width + WIDTH - 1)) for _ in range(2))
        self.cell = zeros((width, images, weight_hh.shape[1]))
        self.cell_above = zeros(self.cell.shape)

    def step(self, x: Array, column: int) -> Array:
        self.inputs[:, :, column + INPUT_TAPS - 1] = x
        inputs = self.inputs[:, :, column : column + INPUT_TAPS]
        above = self.above[:, :, column : column + WIDTH]
        hidden, self.cell[column] = kernel.step(inputs, above, self.cell_above[column], *self.weights)
        self.hidden[:, :, column + WIDTH // 2] = hidden
        return hidden

    def end_row(self) -> None:
        self.above, self.hidden = self.hidden, self.above
        self.cell_above, self.cell = self.cell, self.cell_above


class RowLSTM(PixelRNN):
    """Row LSTM; the arguments are PixelRNN's."""

    LAYER = RowLSTMLayer
    RECIPES: ClassVar[Mapping[str, Recipe]] = {"quick": QUICK, "paper": replace(PAPER, target=80.54)}
