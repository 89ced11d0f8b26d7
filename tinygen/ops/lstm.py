"""PixelRNN's two LSTMs over images as differentiable functions, on the fused kernels."""

from __future__ import annotations

from typing import Any

from tinygen.backend import Array
from tinygen.kernels import diagonal_lstm as diagonal
from tinygen.kernels import row_lstm as row
from tinygen.op import differentiable


def _diagonal_gradients(g: Array, weight_ih: Array, weight_hh: Array, residual: Any, reverse: bool) -> tuple:
    return diagonal.backward(g, weight_ih, weight_hh, residual, reverse)


@differentiable(once=True, joint=_diagonal_gradients)
def diagonal_lstm(x: Array, weight_ih: Array, weight_hh: Array, bias: Array, /, reverse: bool = False) -> tuple[Array, Any]:
    """Hidden states (N, h, H, W) of an LSTM that walks over images (N, C, H, W) along their diagonals.

    weight_ih (4 h, C) meets the input at a pixel; weight_hh (4 h, h, 2) the states of the pixel above it and of the one to its
    left, or to its right with `reverse`, whose cell state it goes on with; bias (4 h,). A pixel's state depends on all pixels
    above it and to that side, itself included. Gates in PyTorch's order i, f, g, o. Van den Oord et al. 2016, section 3.2; the
    formulas are in kernels/diagonal_lstm/reference.py. Raises ValueError for shapes that do not fit. No second derivative.
    """
    return diagonal.forward(x, weight_ih, weight_hh, bias, reverse)


def _row_gradients(g: Array, weight_ih: Array, weight_hh: Array, residual: Any) -> tuple:
    return row.backward(g, weight_ih, weight_hh, residual)


@differentiable(once=True, joint=_row_gradients)
def row_lstm(x: Array, weight_ih: Array, weight_hh: Array, bias: Array, /) -> tuple[Array, Any]:
    """Hidden states (N, h, H, W) of an LSTM that walks over images (N, C, H, W) row by row, from the top.

    weight_ih (4 h, C, m) meets the input at the m pixels of a row that end at the pixel itself: a convolution of width 2 m - 1
    with its right half masked. weight_hh (4 h, h, k), k odd, meets the k states around the pixel in the row above; bias (4 h,).
    A pixel's state depends on the triangle of pixels above it. Gates in PyTorch's order i, f, g, o. Van den Oord et al. 2016,
    section 3.1; the formulas are in kernels/row_lstm/reference.py. Raises ValueError for shapes that do not fit. No second
    derivative.
    """
    return row.forward(x, weight_ih, weight_hh, bias)
