"""The Diagonal LSTM on the CPU: the sweep of `lstm_waves` along diagonals, with no skewed map and no cell outside the image."""

import functools

import numpy as np

from .. import lstm_waves


def forward(x, weight_ih, weight_hh, bias, reverse=False):
    """See reference.py; the residual is another."""
    return lstm_waves.forward(x, weight_ih[..., None], weight_hh, bias, _sweep(*x.shape[2:], reverse))


def backward(g, weight_ih, weight_hh, residual, reverse=False):
    """See reference.py."""
    sweep = _sweep(*g.shape[2:], reverse)
    g_x, g_ih, g_hh, g_bias = lstm_waves.backward(g, weight_ih[..., None], weight_hh, residual, sweep)
    return g_x, g_ih[..., 0], g_hh, g_bias


def step(x, hidden, cell, weight_ih, weight_hh, bias):
    """See reference.py. The same bits as `forward`."""
    return lstm_waves.step(x[..., None], hidden, cell, weight_ih[..., None], weight_hh, bias)


@functools.lru_cache(maxsize=64)
def _sweep(height, width, reverse):
    row, column = np.indices((height, width))
    wave = row + (column[:, ::-1] if reverse else column)
    return lstm_waves.sweep(wave, row, first=-1, taps=2, carry=1, input_taps=1)
