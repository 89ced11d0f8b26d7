"""The Row LSTM on the GPU: the sweep of `lstm_cuda` along rows."""

from pathlib import Path

from .. import lstm_cuda

SOURCE = Path(__file__).with_name("row_lstm.cu")


def forward(x, weight_ih, weight_hh, bias):
    """See reference.py; the residual is another."""
    return lstm_cuda.forward(x, weight_ih, weight_hh, bias, _sweep(x, weight_hh))


def backward(g, weight_ih, weight_hh, residual):
    """See reference.py."""
    return lstm_cuda.backward(g, weight_ih, weight_hh, residual, _sweep(g, weight_hh))


def step(x, hidden, cell, weight_ih, weight_hh, bias):
    """See reference.py."""
    return lstm_cuda.step(x, hidden, cell, weight_ih, weight_hh, bias)


def _sweep(maps, weight_hh):
    taps = weight_hh.shape[2]
    return lstm_cuda.Sweep(SOURCE, taps, slots=maps.shape[3], reach=taps // 2)
