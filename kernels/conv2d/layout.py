"""Which taps of a convolution meet which pixels, and how the CPU kernels lay out images so that a tap is one shifted flat row.

Take one axis of length n, stride s. Tap a of output i reads x[i s + a d - p]. Write a d - p = shift s + phase with
0 <= phase < s: the tap reads entry i + shift of the phase image x[phase::s]. So once the s phases lie apart, a strided
convolution is a sum of shifted copies. The input gradient is the mirror image: its outputs have the phases, r = h mod s, and
output h = i s + r collects g[i + shift] from the taps a for which r + p - a d = shift s.

In two dimensions the rows of phase images that lie side by side (a few small ones make a block) follow each other in memory,
with rows of zeros above and below, and a gap of zeros after each image's row that serves as its right padding and as the left
padding of what comes next. Then (row, image, column) + shift is one flat index plus one flat offset, and the inner loop knows
nothing of edges, strides or dilations: it reads whole vectors, over the gaps too, and the results that belong to gaps are
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .geometry import Pair, Taps


class Axis(NamedTuple):
    """One axis: how the input lies in memory, and which taps reach each grid of outputs."""

    kernel: int
    phases: int  # of the input
    lead: int  # zeros that are read before the first entry
    extent: int  # entries that are read from the first one on
    pitch: int  # distance between the first entries of neighbours
    grids: tuple[tuple[int, int, tuple[tuple[int, int, int], ...]], ...]  # (first output, count, ((tap, phase, shift), ...))


def forward_axis(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """The axis for y from x: one grid of outputs, x in `stride` phases."""
    starts = [a * dilation - padding for a in range(kernel)]
    taps = tuple((a, start % stride, start // stride) for a, start in enumerate(starts))
    return _axis(kernel, stride, size, ((0, out, taps),))


def backward_axis(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """The axis for the gradient of x from that of y: up to `stride` grids of outputs, y in one phase."""
    grids = []
    for r in range(min(stride, size)):
        starts = [(a, r + padding - a * dilation) for a in range(kernel)]
        taps = tuple((a, 0, start // stride) for a, start in starts if start % stride == 0)
        grids.append((r, -(-(size - r) // stride), taps))
    return _axis(kernel, 1, out, tuple(grids))


def _axis(kernel: int, phases: int, size: int, grids: tuple) -> Axis:
    leads, extents = [], []
    for phase in range(phases):
        reads = [(shift, shift + count) for _, count, taps in grids for _, p, shift in taps if p == phase]
        leads.append(max([0] + [-first for first, _ in reads]))
        extents.append(max([-(-(size - phase) // phases)] + [last for _, last in reads]))
    # The zeros before an entry of a phase are those after the neighbour's last one.
    spaced = [-(-(size - phase) // phases) + lead for phase, lead in enumerate(leads)]
    extent = max(extents + [count for _, count, _ in grids])
    return Axis(kernel, phases, max(leads), extent, max([extent] + spaced), grids)


class Layout(NamedTuple):
    """Both axes and all channels: what the kernels need to know about a convolution besides its arrays."""

    images: int  # in a block
    phases_h: int
    phases_w: int
    step_h: int  # between the outputs of a grid
    step_w: int
    pitch: int  # elements from one image to the next
    line: int  # elements from one row to the next
    plane: int  # elements from one plane, that is one phase of one channel of all images, to the next
    group: int  # elements from one group of channels to the next
    start: int  # of the first row in each plane, behind the zeros that lead
    size: int  # of the buffer of a block
    grids: np.ndarray  # (grids, 6): range of its terms, first output row and column, rows and columns of outputs
    sources: np.ndarray  # (terms,): which weight a term takes, counted from the first weight of its output channel
    offsets: np.ndarray  # (terms + spare,): how far from the output's place in the buffer the term's pixel lies


class Window(NamedTuple):
    """The numbers that say which taps meet which pixels, vertical and horizontal; `size` is that of x, `out` that of y."""

    size: Pair
    out: Pair
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    taps: Taps | None = None  # that take part; None: all

    def axes(self, axis: Callable[..., Axis]) -> list[Axis]:
        """The vertical and the horizontal axis, made by `axis`."""
        return [axis(*numbers) for numbers in zip(*self[:6])]

    def has(self, row: int, column: int) -> bool:
        """Whether this tap takes part."""
        return self.taps is None or (row, column) in self.taps


@lru_cache(maxsize=256)
def layout(
    axis: Callable[..., Axis],
    window: Window,
    count: int,
    pixels: int,
    tile: int,
    groups: int,
    channels: int,
    step: int,
    spare: int,
) -> Layout:
    """The layout of `count` images with `groups` times `channels` channels, along axes made by `axis`.

    Small images are joined, up to `pixels` pixels together, to blocks that fill tiles of `tile` pixels best. A term of the sum
    is an input channel of the group and a tap; `step` is the distance between the weights of neighbouring input channels.
    `spare` elements may be read past the last one needed, of the offsets and of the buffer.
    """
    vertical, horizontal = window.axes(axis)
    images = _images_in_block(vertical, horizontal, count, pixels, tile)
    line = images * horizontal.pitch
    start = vertical.lead * line + horizontal.lead
    plane = start + vertical.extent * line
    phases = (vertical.phases, horizontal.phases)
    each = np.arange(channels)[:, None]
    grids, sources, offsets, terms, last = [], [], [np.zeros(0, np.int64)], 0, 0
    for top, rows, downs in vertical.grids:
        for left, columns, rights in horizontal.grids:
            pairs = [(down, right) for down in downs for right in rights if window.has(down[0], right[0])]
            weights = np.array([a * horizontal.kernel + b for (a, _, _), (b, _, _) in pairs], np.int64)
            planes = np.array([p * phases[1] + q for (_, p, _), (_, q, _) in pairs], np.int64)
            shifts = np.array([i * line + j for (_, _, i), (_, _, j) in pairs], np.int64)
            sources.append((each * step + weights).ravel())
            offsets.append(((each * phases[0] * phases[1] + planes) * plane + shifts).ravel())
            grids.append((terms, terms + sources[-1].size, top, left, rows, columns))
            terms += sources[-1].size
            last = max(last, shifts.max(initial=0))
    group = channels * phases[0] * phases[1] * plane
    return Layout(
        images,
        *phases,
        len(vertical.grids),
        len(horizontal.grids),
        horizontal.pitch,
        line,
        plane,
        group,
        start,
        int(start + groups * group + last + spare),
        np.array(grids, np.int64),
        np.concatenate(sources),
        np.concatenate([*offsets, np.zeros(spare, np.int64)]),
    )


def _images_in_block(vertical: Axis, horizontal: Axis, count: int, pixels: int, tile: int) -> int:
    """The number of images in a block with which the blocks have the fewest tiles together; the largest such number."""
    most = max(1, min(count, pixels // (vertical.extent * horizontal.pitch)))
    rows = max(rows for _, rows, _ in vertical.grids)
    # The last block is as long as the others, even where images are missing.
    return min(range(most, 0, -1), key=lambda n: -(-count // n) * -(-rows * n * horizontal.pitch // tile))
