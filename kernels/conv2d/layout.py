"""How the CPU kernels lay out images so that every tap of a convolution reads one shifted flat row.

Take one axis of length n, stride s. Tap a of output i reads x[i s + a d - p]. Write a d - p = shift s + phase with
0 <= phase < s: the tap reads entry i + shift of the phase image x[phase::s]. So once the s phases lie apart, a strided
convolution is a sum of shifted copies. The input gradient is the mirror image: its outputs have the phases, r = h mod s, and
output h = i s + r collects g[i + shift] from the taps a for which r + p - a d = shift s.

In two dimensions the rows of phase images that lie side by side (a few small ones make a block) follow each other in memory,
with a gap of zeros after each image's row that serves as its right padding and the left padding of what comes next; rows of
zeros after the last row serve the channel above and the one below. Then (row, image, column) + shift is one flat index plus one
flat offset, and the inner loop knows nothing of edges, strides or dilations: it reads whole vectors, over the gaps too, and the
results that belong to gaps are dropped.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """One axis: how the input lies in memory, and which taps reach each grid of outputs."""

    kernel: int
    phases: int  # of the input
    length: int  # of one phase
    lead: int  # zeros that are read before the first entry
    pitch: int  # distance between the first entries of neighbours
    grids: tuple[tuple[int, int, tuple[tuple[int, int, int], ...]], ...]  # (first output, count, ((tap, phase, shift), ...))


def forward_axis(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """The axis for y from x: one grid of outputs, x in `stride` phases."""
    starts = [a * dilation - padding for a in range(kernel)]
    taps = tuple((a, start % stride, start // stride) for a, start in enumerate(starts))
    return _axis(kernel, stride, -(-size // stride), [(0, out, taps)])


def backward_axis(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """The axis for the gradient of x from that of y: up to `stride` grids of outputs, y in one phase."""
    grids = []
    for r in range(min(stride, size)):
        starts = [(a, r + padding - a * dilation) for a in range(kernel)]
        taps = tuple((a, 0, start // stride) for a, start in starts if start % stride == 0)
        grids.append((r, -(-(size - r) // stride), taps))
    return _axis(kernel, 1, out, grids)


def _axis(kernel: int, phases: int, length: int, grids: list) -> Axis:
    shifts = [shift for _, _, taps in grids for _, _, shift in taps]
    lead = max(0, -min(shifts, default=0))
    reach = max(count + max([0, *(shift for _, _, shift in taps)]) for _, count, taps in grids)
    return Axis(kernel, phases, length, lead, max(length + lead, reach), tuple(grids))


class Layout(NamedTuple):
    """Both axes and all channels: what the kernels need to know about a convolution besides its arrays."""

    images: int  # in a block
    phases_h: int
    phases_w: int
    step_h: int  # between the outputs of a grid
    step_w: int
    rows: int  # of a plane, that is one phase of one channel of all images
    pitch: int  # elements from one image to the next
    line: int  # elements from one row to the next
    plane: int  # elements from one plane to the next
    group: int  # elements from one group of channels to the next
    start: int  # of the first plane in the buffer, behind the zeros that lead
    size: int  # of the buffer of a block
    grids: np.ndarray  # (grids, 6): range of its terms, first output row and column, rows and columns of outputs
    sources: np.ndarray  # (terms,): which weight a term takes, counted from the first weight of its output channel
    offsets: np.ndarray  # (terms + padding,): how far from the output's place in the buffer the term's pixel lies


def images_in_block(vertical: Axis, horizontal: Axis, count: int, pixels: int, tile: int) -> int:
    """How many of `count` images, up to `pixels` pixels together, fill tiles of `tile` pixels best."""
    most = max(1, min(count, pixels // (vertical.pitch * horizontal.pitch)))
    rows = max(count for _, count, _ in vertical.grids)
    return min(range(most, 0, -1), key=lambda n: -(-rows * n * horizontal.pitch // tile) * tile / n)


@lru_cache(maxsize=256)
def layout(vertical: Axis, horizontal: Axis, images: int, groups: int, channels: int, step: int, padding: int) -> Layout:
    """The layout for blocks of `images` images with `groups` times `channels` channels.

    A term of the sum is an input channel of the group and a tap; `step` is the distance between the weights of neighbouring
    input channels. `padding` elements may be read past the last one needed, of the offsets and of the buffer.
    """
    line = images * horizontal.pitch
    plane = vertical.pitch * line
    phases = (vertical.phases, horizontal.phases)
    each = np.arange(channels)[:, None]
    grids, sources, offsets, terms, last = [], [], [np.zeros(0, np.int64)], 0, 0
    for top, rows, downs in vertical.grids:
        for left, columns, rights in horizontal.grids:
            pairs = [(down, right) for down in downs for right in rights]
            weights = np.array([a * horizontal.kernel + b for (a, _, _), (b, _, _) in pairs], np.int64)
            planes = np.array([p * phases[1] + q for (_, p, _), (_, q, _) in pairs], np.int64)
            shifts = np.array([i * line + j for (_, _, i), (_, _, j) in pairs], np.int64)
            sources.append((each * step + weights).ravel())
            offsets.append(((each * phases[0] * phases[1] + planes) * plane + shifts).ravel())
            grids.append((terms, terms + sources[-1].size, top, left, rows, columns))
            terms += sources[-1].size
            last = max(last, shifts.max(initial=0))
    start = vertical.lead * line + horizontal.lead
    group = channels * phases[0] * phases[1] * plane
    return Layout(
        images,
        *phases,
        len(vertical.grids),
        len(horizontal.grids),
        vertical.pitch,
        horizontal.pitch,
        line,
        plane,
        group,
        start,
        int(start + groups * group + last + padding),
        np.array(grids, np.int64),
        np.concatenate(sources),
        np.concatenate([*offsets, np.zeros(padding, np.int64)]),
    )
