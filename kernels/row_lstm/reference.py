"""The Row LSTM in NumPy: the specification of the fused kernels, beside the paper.

Van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", section 3.1. Row after row of pixels,

    o, f, i, g = K_is * x_r + K_ss * h_{r-1} + bias        i, f, o through sigmoid, g through tanh
    c_r = f c_{r-1} + i g          h_r = o tanh(c_r)

with K_is and K_ss convolutions along the row. K_ss has an odd width k and is centred on the pixel. K_is is masked in the paper:
its right half is zero, and only the m taps that end at the pixel itself are kept here. Beyond the image all is zero.

    x (N, C, H, W)    weight_ih (4 h, C, m)    weight_hh (4 h, h, k)    bias (4 h,)

The rows of the weights belong to the gates in PyTorch's order i, f, g, o.
"""

import numpy as np

from ..lstm_gate import reference as gate

Residual = tuple[np.ndarray, ...]


def forward(x: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, Residual]:
    """h (N, h, H, W) and what `backward` needs: x, and for each row of the image the activations, c and h, (N, W, ...)."""
    inputs = x.transpose(2, 0, 3, 1)
    hidden = np.zeros((len(x), x.shape[3], weight_hh.shape[1]), x.dtype)
    cell, steps = hidden, []
    for row in inputs:
        gates = bias + _convolve(row, weight_ih, *_causal(weight_ih)) + _convolve(hidden, weight_hh, *_centred(weight_hh))
        hidden, cell, activations = gate.forward(gates, cell)
        steps.append((activations, cell, hidden))
    activations, cells, states = map(np.array, zip(*steps))
    return states.transpose(1, 3, 0, 2), (inputs, activations, cells, states)


def backward(
    g: np.ndarray, weight_ih: np.ndarray, weight_hh: np.ndarray, residual: Residual
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of x, weight_ih, weight_hh and bias from that of h (N, h, H, W): backpropagation through time."""
    inputs, activations, cells, states = residual
    g_states = g.transpose(2, 0, 3, 1)
    zeros = np.zeros_like(states[0])
    g_hidden, g_cell = zeros, zeros
    g_inputs, g_ih, g_hh, g_bias = (np.zeros_like(a) for a in (inputs, weight_ih, weight_hh, weight_hh[:, 0, 0]))
    for r in reversed(range(len(states))):
        before, cell = (states[r - 1], cells[r - 1]) if r else (zeros, zeros)
        g_gates, g_cell = gate.backward(g_states[r] + g_hidden, g_cell, activations[r], cell, cells[r])
        g_hidden = _convolve_back(g_gates, weight_hh, *_centred(weight_hh))
        g_inputs[r] = _convolve_back(g_gates, weight_ih, *_causal(weight_ih))
        g_hh += _weight_gradient(g_gates, before, *_centred(weight_hh))
        g_ih += _weight_gradient(g_gates, inputs[r], *_causal(weight_ih))
        g_bias += g_gates.sum(axis=(0, 1))
    return g_inputs.transpose(1, 3, 0, 2), g_ih, g_hh, g_bias


def step(
    x: np.ndarray,
    hidden: np.ndarray,
    cell: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """h and c (N, h) at one pixel of N images, from x (N, C, m) at the m pixels that end there, the hidden states (N, h, k) of
    the row above around it, and the cell state (N, h) of the pixel above; zeros stand for what lies outside the image."""
    gates = np.einsum("jcm,ncm->nj", weight_ih, x) + np.einsum("jhk,nhk->nj", weight_hh, hidden) + bias
    return gate.forward(gates, cell)[:2]


def _centred(weight: np.ndarray) -> tuple[int, int]:
    """How many pixels a kernel reaches to the left and to the right."""
    return weight.shape[2] // 2, weight.shape[2] // 2


def _causal(weight: np.ndarray) -> tuple[int, int]:
    return weight.shape[2] - 1, 0


def _windows(row: np.ndarray, left: int, right: int) -> np.ndarray:
    """(N, W, C, taps): what each pixel of a row (N, W, C) sees."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(row, ((0, 0), (left, right), (0, 0))), left + 1 + right, axis=1)


def _convolve(row: np.ndarray, weight: np.ndarray, left: int, right: int) -> np.ndarray:
    return np.tensordot(_windows(row, left, right), weight, ((2, 3), (1, 2)))


def _convolve_back(g: np.ndarray, weight: np.ndarray, left: int, right: int) -> np.ndarray:
    return np.tensordot(_windows(g, right, left), weight[..., ::-1], ((2, 3), (0, 2)))


def _weight_gradient(g: np.ndarray, row: np.ndarray, left: int, right: int) -> np.ndarray:
    return np.tensordot(g, _windows(row, left, right), ((0, 1), (0, 1)))
