"""LSTMs as differentiable functions, on the fused kernels: along a sequence, and PixelRNN's two over images."""

from __future__ import annotations

from typing import Any

from tinygen.backend import Array, module_of
from tinygen.kernels import diagonal_lstm as diagonal
from tinygen.kernels import lstm_gate
from tinygen.kernels import row_lstm as row
from tinygen.op import differentiable
from tinygen.ops.elementwise import tanh
from tinygen.ops.linalg import matmul
from tinygen.ops.shape import concatenate, expand_dims, reshape, stack, swapaxes
from tinygen.tensor import Tensor, array_of


def _lstm_gradient(g: Any, y: Any, gates: Any, hidden: Any, cell: Any, weight: Any, needs: tuple, residual: Array) -> tuple:
    size = hidden.shape[-1]
    h, c = y[..., :size], y[..., size:]
    before_h, before_c = (concatenate([expand_dims(s, 0), x[:-1]]) for s, x in ((hidden, h), (cell, c)))
    if isinstance(g, Tensor):
        gates = gates + matmul(before_h, swapaxes(weight, 0, 1))
        g_gates, g_hidden, g_cell = _walk_back(g, gates, before_c, c, weight)
    else:
        g_gates, g_hidden, g_cell = _walk_back_fused(g, residual, before_c, c, weight)
    flat = reshape(g_gates, (-1, 4 * size)), reshape(before_h, (-1, size))
    g_weight = matmul(swapaxes(flat[0], 0, 1), flat[1]) if needs[3] else None
    return g_gates, g_hidden, g_cell, g_weight


def _walk_back_fused(g: Array, activations: Array, before_c: Array, c: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of the pre-activations and of the first state from those of all states."""
    size = c.shape[-1]
    g_gates = module_of(c).empty(activations.shape, c.dtype)
    g_hidden = g_cell = module_of(c).zeros(c.shape[1:], c.dtype)
    for t in reversed(range(len(c))):
        g_hidden, g_cell = g_hidden + g[t, :, :size], g_cell + g[t, :, size:]
        g_gates[t], g_cell = lstm_gate.backward(g_hidden, g_cell, activations[t], before_c[t], c[t])
        g_hidden = g_gates[t] @ weight
    return g_gates, g_hidden, g_cell


def _walk_back(g: Tensor, gates: Tensor, before_c: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same by functions that can be differentiated again.

    Everything that does not wait for the next step is computed for all steps at once; the loop is the rest.
    """
    size = c.shape[-1]
    i, f, u, o = _activate(gates)
    squashed = tanh(c)
    slope_c = o * (1.0 - squashed * squashed)
    slopes = concatenate([u * i * (1.0 - i), before_c * f * (1.0 - f), i * (1.0 - u * u), squashed * o * (1.0 - o)], -1)
    g_gates: list[Any] = [None] * len(c)
    g_hidden, g_cell = 0.0, 0.0
    for t in reversed(range(len(c))):
        g_hidden = g_hidden + g[t, :, :size]
        g_cell = g_cell + g[t, :, size:] + g_hidden * slope_c[t]
        g_gates[t] = concatenate([g_cell, g_cell, g_cell, g_hidden], -1) * slopes[t]
        g_hidden = matmul(g_gates[t], weight)
        g_cell = g_cell * f[t]
    return stack(g_gates), g_hidden, g_cell


def _activate(gates: Tensor) -> list[Tensor]:
    """sigmoid(i), sigmoid(f), tanh(u), sigmoid(o) of gates (..., 4 h).

    One tanh does all four, since sigmoid(x) = tanh(x / 2) / 2 + 1 / 2.
    """
    size = gates.shape[-1] // 4
    scale = module_of(array_of(gates)).full(4 * size, 0.5, gates.dtype)
    scale[2 * size : 3 * size] = 1.0
    y = tanh(gates * scale) * scale + (1.0 - scale)
    return [y[..., k * size : (k + 1) * size] for k in range(4)]


@differentiable(joint=_lstm_gradient)
def lstm(gates: Array, hidden: Array, cell: Array, weight: Array, /) -> tuple[Array, Array]:
    """All steps of one LSTM: (T, B, 2 h), the hidden and the cell state after each step side by side.

    gates (T, B, 4 h): what input and biases give to the gates at every step, in PyTorch's order i, f, g, o; hidden, cell
    (B, h): the state before the first step; weight (4 h, h): from the hidden state to the gates. The formulas are in
    kernels/lstm_gate/reference.py. Can be differentiated twice.
    """
    size = hidden.shape[-1]
    y = module_of(gates).empty((*gates.shape[:2], 2 * size), gates.dtype)
    activations = module_of(gates).empty_like(gates)
    for t in range(len(gates)):
        hidden, cell, activations[t] = lstm_gate.forward(gates[t] + hidden @ weight.T, cell)
        y[t, :, :size], y[t, :, size:] = hidden, cell
    return y, activations


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
