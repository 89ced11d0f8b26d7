"""The Diagonal BiLSTM of PixelRNN (van den Oord, Kalchbrenner and Kavukcuoglu, ICML 2016, section 3.2).

`pixelrnn.py` has what is around the layers. A layer sweeps over the map twice, along its diagonals. From left to right, at row
r and column c (figure 3; the map need not be skewed, see `kernels/diagonal_lstm`),

    o, f, i, g = K_is x[r, c] + K_ss [h[r-1, c], h[r, c-1]] + b        i, f, o through sigmoid, g through tanh
    c[r, c] = f c[r, c-1] + i g          h[r, c] = o tanh(c[r, c])

and from right to left the same with h[r, c+1] and c[r, c+1], and weights of its own. The left sweep sees all that is above and
to the left. The right one sees the pixels to the right in its own row, which do not exist yet when [r, c] is drawn; so its map
is shifted down by one row before the two are added:

    LSTM(x)[r, c] = left[r, c] + right[r-1, c]

A pixel then depends on all pixels before it in raster order, with one exception. The convolution with mask A leaves a pixel
out of its own features, so the last pixel of a row is in no feature of that row, and a pixel of the next row sees it only where
the window of the input convolution reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.kernels import diagonal_lstm as kernel
from tinygen.models.pixelrnn import PAPER, QUICK, Gates, Layer, PixelRNN
from tinygen.models.recipe import Recipe
from tinygen.ops import pad
from tinygen.ops.lstm import diagonal_lstm
from tinygen.tensor import array_of


class DiagonalBiLSTMLayer(Layer):
    """Both sweeps over a map, added, and up again; see `Layer`."""

    def __init__(self, features: int, hidden: int, colours: int, *, rng: np.random.Generator, dtype: Any = np.float32):
        super().__init__(features, hidden, colours, rng=rng, dtype=dtype)
        self.left = Gates(features, hidden, (), 2, colours, rng=rng, dtype=dtype)
        # These states are read one row further down, where all colours of their pixels are known.
        self.right = Gates(features, hidden, (), 2, colours, masked=False, rng=rng, dtype=dtype)

    def states(self, x: Any) -> Any:
        right = diagonal_lstm(x, *self.right.weights(), reverse=True)
        return diagonal_lstm(x, *self.left.weights()) + pad(right[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))

    def cache(self, images: int, width: int) -> DiagonalCache:
        return DiagonalCache(self, images, width)


class DiagonalCache:
    """What a sampler keeps of one layer: the row above and the current one, of each sweep (see pixelrnn.Cache).

    The right sweep over a row starts at its end, so it waits until the row is known; nobody reads it earlier.
    """

    def __init__(self, layer: DiagonalBiLSTMLayer, images: int, width: int):
        self.left, self.right = (tuple(map(array_of, gates.weights())) for gates in (layer.left, layer.right))
        weight_ih, weight_hh, bias = self.left
        features, hidden = weight_ih.shape[1], weight_hh.shape[1]
        zeros = partial(module_of(bias).zeros, dtype=bias.dtype)
        self.inputs = zeros((width, images, features))
        # Place column + 1 of a row belongs to a pixel, place 0 and the last lie beside the image and stay zero.
        self.above, self.hidden, self.cell, self.from_right = (zeros((width + 2, images, hidden)) for _ in range(4))

    def step(self, x: Array, column: int) -> Array:
        here = column + 1
        self.inputs[column] = x
        neighbours = module_of(x).stack([self.above[here], self.hidden[here - 1]], -1)
        self.hidden[here], self.cell[here] = kernel.step(x, neighbours, self.cell[here - 1], *self.left)
        return self.hidden[here] + self.from_right[here]

    def end_row(self) -> None:
        self.above, self.hidden = self.hidden, self.above
        cell = self.cell[-1]
        for here in range(len(self.inputs), 0, -1):
            neighbours = module_of(cell).stack([self.from_right[here], self.from_right[here + 1]], -1)
            self.from_right[here], cell = kernel.step(self.inputs[here - 1], neighbours, cell, *self.right)


class DiagonalBiLSTM(PixelRNN):
    """Diagonal BiLSTM; the arguments are PixelRNN's."""

    LAYER = DiagonalBiLSTMLayer
    RECIPES: ClassVar[Mapping[str, Recipe]] = {
        "quick": QUICK,
        "paper": replace(PAPER, epochs=12, target=80.75),
        # The deepest model that the paper trained on these digits.
        "paper7": replace(PAPER, lr=4e-3, target=79.20, model=PAPER.model | {"hidden": 16, "layers": 7}),
    }
