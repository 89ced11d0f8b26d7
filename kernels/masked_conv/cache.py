"""Where the maps of a `Stepper` lie in memory, the same on the CPU and on the GPU.

Of each layer's input only the last r + 1 rows are kept, as a ring, each with r zero columns on both sides; of its output only
the current pixel. Images are side by side, `width` of them, and so many blocks follow each other as hold all images:

    cache (blocks, size)    input: (r + 1, W + 2 r, C, width)    output: (O, width)

A term of the sum, an input channel and a tap, is then one offset from the pixel's place, which depends on the row only through
its place in the ring. The terms are summed in the order in which `conv2d` sums them, so that every bit is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from .layer import Array, Layer, Size, masked, taps

# Columns of the table of layers: starts in the cache of input and output; input channels, outputs and terms; rows of the ring,
# length of such a row and distance from pixel to pixel; starts of its weights, offsets and biases; relu of the input; start of
# the output that is added, or -1.
FIELDS = (
    "input", "output", "channels", "outs", "terms", "ring", "line", "pixel", "panel", "offset", "bias", "rectified", "skip",
)  # fmt: skip


class Cache:
    """The maps, and what a kernel needs to know to compute the layers at one pixel.

    table: (layers, fields) int64, see FIELDS
    offsets: for each layer, (ring, terms) int64: where a term's number lies, counted from input + column * pixel
    panels: for each layer, its weights in the order of the sums, of `rows` output channels together, then of one at a time
    """

    def __init__(self, xp: ModuleType, layers: Sequence[Layer], images: int, size: Size, width: int, rows: int | None):
        """`rows` None: of all output channels together."""
        self._xp, self._images, self._width = xp, images, width
        table, offsets, panels, self.size = [], [], [], 0
        for index, layer in enumerate(layers):
            outs, channels, k, _ = layer.weight.shape
            places = taps(k, layer.centre is not None)
            pixel = channels * width
            line = (size[1] + k - 1) * pixel if k > 1 else pixel
            skip = table[index - layer.skip][1] if layer.skip else -1
            starts = (sum(map(len, panels)), sum(map(len, offsets)), sum(len(other.bias) for other in layers[:index]))
            sizes = (channels, outs, channels * len(places), k // 2 + 1, line, pixel if k > 1 else 0)
            table.append((self.size, self.size + sizes[3] * line, *sizes, *starts, layer.rectified, skip))
            self.size = table[-1][1] + outs * width
            offsets.append(_offsets(channels, k, places, line, width))
            panels.append(_panels(xp, layer, places, rows or outs))
        self.table = xp.asarray(np.array(table, np.int64))
        self.offsets = xp.asarray(np.concatenate(offsets))
        self.panels = xp.concatenate(panels)
        self.biases = xp.concatenate([layer.bias for layer in layers])
        self.blocks = xp.zeros((-(-images // width), self.size), self.panels.dtype)
        self._first, self._first_row, self._last_row, self._current = layers[0], table[0], table[-1], None
        self._values = xp.zeros((len(self.blocks) * width, layers[0].weight.shape[1]), self.panels.dtype)

    def output(self) -> Array:
        """The last layer's output (N, O)."""
        _, start, _, outs, *_ = self._last_row
        output = self.blocks[:, start : start + outs * self._width].reshape(len(self.blocks), outs, self._width)
        return output.swapaxes(1, 2).copy().reshape(len(self._values), outs)[: self._images]

    def put(self, row: int, column: int, values: Array) -> None:
        """Set a pixel of the first layer's input, (N, C)."""
        self._values[: self._images] = self._xp.maximum(values, 0) if self._first.rectified else values
        self._place(row, column)[...] = self._values.reshape(len(self.blocks), self._width, values.shape[1]).swapaxes(1, 2)
        self._current = row, column

    def enter(self, row: int, column: int) -> None:
        """Make the pixel zero, where the ring still has one of an older row, unless it has been set."""
        if self._current != (row, column):
            self._place(row, column)[...] = 0
            self._current = row, column

    def _place(self, row: int, column: int) -> Array:
        """A pixel of the first layer's input: (blocks, C, width), a view."""
        _, _, channels, _, _, ring, line, pixel, *_ = self._first_row
        start = row % ring * line + (column + ring - 1) * pixel
        return self.blocks[:, start : start + channels * self._width].reshape(len(self.blocks), channels, self._width)


def _offsets(channels: int, k: int, places: tuple[Size, ...], line: int, width: int) -> np.ndarray:
    """Flat (ring, C, taps)."""
    ring = k // 2 + 1
    down, right = np.array(places, np.int64).reshape(-1, 2).T
    rows = (np.arange(ring)[:, None] + down - k // 2) % ring * line
    pixels = (rows + right * channels * width)[:, None]
    return (pixels + np.arange(channels)[:, None] * width).ravel()


def _panels(xp: ModuleType, layer: Layer, places: tuple[Size, ...], rows: int) -> Array:
    """The weights as `Cache` has them; terms in the order (channel, tap)."""
    outs, channels, k, _ = layer.weight.shape
    at = xp.asarray(np.array([a * k + b for a, b in places], np.int64))
    weight = masked(layer.weight, layer.centre).reshape(outs, channels, k * k)[:, :, at].reshape(outs, -1)
    whole = outs // rows * rows
    tiles = weight[:whole].reshape(whole // rows, rows, channels * len(places)).swapaxes(1, 2)
    return xp.concatenate([tiles.ravel(), weight[whole:].ravel()])
