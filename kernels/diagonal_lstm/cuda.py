"""The Diagonal LSTM on the GPU: the sweep of `lstm_cuda` along diagonals."""

from pathlib import Path

from .. import lstm_cuda

SOURCE = Path(__file__).with_name("diagonal_lstm.cu")


def forward(x, weight_ih, weight_hh, bias, reverse=False):
    """See reference.py; the residual is another."""
    return lstm_cuda.forward(x, weight_ih[..., None], weight_hh, bias, _sweep(x, reverse))


def backward(g, weight_ih, weight_hh, residual, reverse=False):
    """See reference.py."""
    g_x, g_ih, g_hh, g_bias = lstm_cuda.backward(g, weight_ih[..., None], weight_hh, residual, _sweep(g, reverse))
    return g_x, g_ih[..., 0], g_hh, g_bias


def step(x, hidden, cell, weight_ih, weight_hh, bias):
    """See reference.py."""
    return lstm_cuda.step(x[..., None], hidden, cell, weight_ih[..., None], weight_hh, bias)


def _sweep(maps, reverse):
    return lstm_cuda.Sweep(SOURCE, int(reverse), slots=maps.shape[2], reach=1)
