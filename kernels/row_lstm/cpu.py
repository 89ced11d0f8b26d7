"""The Row LSTM on the CPU: the sweep of `lstm_waves` along rows."""

import functools

import numpy as np

from .. import lstm_waves


def forward(x, weight_ih, weight_hh, bias):
    """See reference.py; the residual is another."""
    return lstm_waves.forward(x, weight_ih, weight_hh, bias, _sweep(*x.shape[2:], weight_hh.shape[2], weight_ih.shape[2]))


def backward(g, weight_ih, weight_hh, residual):
    """See reference.py."""
    return lstm_waves.backward(g, weight_ih, weight_hh, residual, _sweep(*g.shape[2:], weight_hh.shape[2], weight_ih.shape[2]))


def step(x, hidden, cell, weight_ih, weight_hh, bias):
    """See reference.py. The same bits as `forward`."""
    return lstm_waves.step(x, hidden, cell, weight_ih, weight_hh, bias)


@functools.lru_cache(maxsize=64)
def _sweep(height, width, taps, input_taps):
    row, column = np.indices((height, width))
    return lstm_waves.sweep(row, column, first=-(taps // 2), taps=taps, carry=taps // 2, input_taps=input_taps)
