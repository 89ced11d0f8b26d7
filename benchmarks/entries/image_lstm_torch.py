"""PixelRNN's LSTMs in PyTorch: the usual loops of one-dimensional convolutions, and the best that we could find.

The parameters are those of tinygen's ops: x (N, C, H, W), weight_hh (4 h, h, taps), bias (4 h,), and weight_ih (4 h, C) for the
diagonal, (4 h, C, m) for the row LSTM. Each returns the hidden states (N, h, H, W). Those by products take the function of one
step, which may be compiled: their whole loops, unrolled, would take a compiler minutes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, pad

Step = Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def skew(x: Tensor) -> Tensor:
    """Row r of (N, C, H, W) moved r columns to the right: (N, C, H, H + W - 1)."""
    height = x.shape[2]
    padded = pad(x, (0, height))
    return padded.flatten(2)[..., : -height or None].unflatten(2, (height, -1))


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`."""
    height = x.shape[2]
    return pad(x.flatten(2), (0, height)).unflatten(2, (height, -1))[..., :-height]


def gated(gates: Tensor, cell: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """h' and c' from the gates' sums, which lie side by side along `axis`, and c."""
    i, f, g, o = gates.chunk(4, axis)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def diagonal_convolutions(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """The skewed map column by column, a convolution of width 2 for each: as the paper describes it."""
    inputs = skew(conv2d(x, weight_ih[:, :, None, None], bias))
    hidden = cell = x.new_zeros(len(x), weight_hh.shape[1], x.shape[2])
    columns = []
    for gates in inputs.unbind(3):
        hidden, cell = gated(gates + conv1d(pad(hidden, (1, 0)), weight_hh), cell, 1)
        columns.append(hidden)
    return unskew(torch.stack(columns, 3))


def diagonal_step(gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """The states of a diagonal, rows by (example, row of the image), from those of the one before."""
    above = pad(hidden.unflatten(0, (-1, height)), (0, 0, 1, 0))[:, :-1].flatten(0, 1)
    return gated(torch.addmm(gates, torch.cat([above, hidden], 1), weight), cell, 1)


def diagonal_products(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, step: Step = diagonal_step) -> Tensor:
    """Channels last, and one matrix product a diagonal for both neighbours."""
    height, size = x.shape[2], weight_hh.shape[1]
    inputs = skew(conv2d(x, weight_ih[:, :, None, None], bias)).permute(3, 0, 2, 1).flatten(1, 2)
    weight = weight_hh.permute(2, 1, 0).flatten(0, 1)
    hidden = cell = x.new_zeros(inputs.shape[1], size)
    columns = []
    for gates in inputs.unbind():
        hidden, cell = step(gates, hidden, cell, weight, height)
        columns.append(hidden)
    return unskew(torch.stack(columns).unflatten(1, (-1, height)).permute(1, 3, 2, 0).contiguous())


def row_convolutions(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """Row by row, a convolution for each; the inputs' part beforehand, by a masked convolution."""
    taps = weight_ih.shape[2]
    masked = pad(weight_ih, (0, taps - 1))
    inputs = conv2d(x, masked[:, :, None], bias, padding=(0, taps - 1))
    hidden = cell = x.new_zeros(len(x), weight_hh.shape[1], x.shape[3])
    rows = []
    for gates in inputs.unbind(2):
        hidden, cell = gated(gates + conv1d(hidden, weight_hh, padding=weight_hh.shape[2] // 2), cell, 1)
        rows.append(hidden)
    return torch.stack(rows, 2)


def row_step(gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The states of a row, by (example, column of the image), from those of the one above."""
    taps = weight.shape[0] // hidden.shape[1]
    padded = pad(hidden.unflatten(0, (-1, width)), (0, 0, taps // 2, taps // 2))
    seen = torch.cat([padded[:, k : k + width] for k in range(taps)], 2).flatten(0, 1)
    return gated(torch.addmm(gates, seen, weight), cell, 1)


def row_products(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, step: Step = row_step) -> Tensor:
    """Channels last, and one matrix product a row for all neighbours; no masked taps."""
    width, size = x.shape[3], weight_hh.shape[1]
    inputs = conv2d(pad(x, (weight_ih.shape[2] - 1, 0)), weight_ih[:, :, None], bias).permute(2, 0, 3, 1).flatten(1, 2)
    weight = weight_hh.permute(2, 1, 0).flatten(0, 1)
    hidden = cell = x.new_zeros(inputs.shape[1], size)
    rows = []
    for gates in inputs.unbind():
        hidden, cell = step(gates, hidden, cell, weight, width)
        rows.append(hidden)
    return torch.stack(rows).unflatten(1, (-1, width)).permute(1, 3, 0, 2)
