"""The Diagonal LSTM in NumPy: the specification of the fused kernels, beside the paper.

Van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", section 3.2 and figure 3. Each row of the
map is moved one column to the right of the row above. A column of the skewed map then holds a diagonal of the image, and

    o, f, i, g = K_is * x_d + K_ss * h_{d-1} + bias        i, f, o through sigmoid, g through tanh
    c_d = f c_{d-1} + i g          h_d = o tanh(c_d)

walks over its columns d. K_is is a 1 x 1 convolution, K_ss a 2 x 1 convolution: a pixel sees the state of its upper neighbour
and of its left one, and goes on with the cell state of the left one. States outside the image are zero.

    x (N, C, H, W)    weight_ih (4 h, C)    weight_hh (4 h, h, 2), for the upper and the left neighbour    bias (4 h,)

The rows of the weights belong to the gates in PyTorch's order i, f, g, o. `reverse` walks from right to left.
"""

import numpy as np

from ..lstm_gate import reference as gate

Residual = tuple[np.ndarray, ...]


def skew(x: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., H, H + W - 1): row r moved r columns to the right, zeros around it."""
    height, width = x.shape[-2:]
    skewed = np.zeros((*x.shape[:-1], height + width - 1), x.dtype)
    for r in range(height):
        skewed[..., r, r : r + width] = x[..., r, :]
    return skewed


def unskew(skewed: np.ndarray) -> np.ndarray:
    """(..., H, H + W - 1) -> (..., H, W): the inverse of `skew`."""
    height = skewed.shape[-2]
    width = skewed.shape[-1] - height + 1
    return np.stack([skewed[..., r, r : r + width] for r in range(height)], axis=-2)


def forward(
    x: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray, reverse: bool = False
) -> tuple[np.ndarray, Residual]:
    """h (N, h, H, W) and what `backward` needs: x, and for each diagonal the activations, c and h, (N, H, ...)."""
    # Zeros skewed in beside the image make i g = 0, so the states there stay zero.
    skewed = skew(np.einsum("jc,nchw->njhw", weight_ih, _turn(x, reverse)) + bias[:, None, None])
    hidden = np.zeros((len(x), x.shape[2], weight_hh.shape[1]), x.dtype)
    cell, steps = hidden, []
    for gates in skewed.transpose(3, 0, 2, 1):
        gates = gates + _down(hidden) @ weight_hh[..., 0].T + hidden @ weight_hh[..., 1].T
        hidden, cell, activations = gate.forward(gates, cell)
        steps.append((activations, cell, hidden))
    activations, cells, states = map(np.array, zip(*steps))
    return _turn(unskew(states.transpose(1, 3, 2, 0)), reverse), (x, activations, cells, states)


def backward(
    g: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, residual: Residual, reverse: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of x, weight_ih, weight_hh and bias from that of h (N, h, H, W): backpropagation through time."""
    x, activations, cells, states = residual
    g_states = skew(_turn(g, reverse)).transpose(3, 0, 2, 1)
    zeros = np.zeros_like(states[0])
    g_hidden, g_cell = zeros, zeros
    g_gates, g_hh = np.empty_like(activations), np.zeros_like(weight_hh)
    for d in reversed(range(len(states))):
        before, cell = (states[d - 1], cells[d - 1]) if d else (zeros, zeros)
        g_gates[d], g_cell = gate.backward(g_states[d] + g_hidden, g_cell, activations[d], cell, cells[d])
        g_hidden = _up(g_gates[d] @ weight_hh[..., 0]) + g_gates[d] @ weight_hh[..., 1]
        g_hh[..., 0] += np.tensordot(g_gates[d], _down(before), ((0, 1), (0, 1)))
        g_hh[..., 1] += np.tensordot(g_gates[d], before, ((0, 1), (0, 1)))
    g_map = unskew(g_gates.transpose(1, 3, 2, 0))
    g_ih = np.einsum("njhw,nchw->jc", g_map, _turn(x, reverse))
    return _turn(np.einsum("jc,njhw->nchw", weight_ih, g_map), reverse), g_ih, g_hh, g_map.sum(axis=(0, 2, 3))


def step(
    x: np.ndarray,
    hidden: np.ndarray,
    cell: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """h and c (N, h) at one pixel of N images, from x (N, C) there, the hidden states of its upper and its left neighbour
    (N, h, 2), and the cell state of the left one (N, h); zeros stand for a neighbour outside the image."""
    gates = x @ weight_ih.T + np.einsum("jht,nht->nj", weight_hh, hidden) + bias
    return gate.forward(gates, cell)[:2]


def _turn(x: np.ndarray, reverse: bool) -> np.ndarray:
    return x[..., ::-1] if reverse else x


def _down(states: np.ndarray) -> np.ndarray:
    """(N, H, h) with the state of the row above in each row."""
    return np.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def _up(states: np.ndarray) -> np.ndarray:
    return np.pad(states, ((0, 0), (0, 1), (0, 0)))[:, 1:]
