"""The gates of an LSTM on the GPU: one launch."""

from pathlib import Path

import numpy as np

from ..runtime import cuda_function, cupy, multiprocessors

SOURCE = Path(__file__).with_name("lstm_gate.cu")
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 8


def forward(gates, cell):
    """See reference.py."""
    activations, cell = gates.copy(order="C"), cupy().ascontiguousarray(cell)
    hidden, after = cupy().empty(cell.shape, cell.dtype), cupy().empty(cell.shape, cell.dtype)
    _launch("lstm_gate_forward", cell, activations, cell, after, hidden)
    return hidden, after, activations


def backward(g_hidden, g_after, activations, cell, after):
    """See reference.py."""
    arrays = [cupy().ascontiguousarray(array) for array in (activations, cell, after, g_hidden, g_after)]
    g_gates, g_cell = cupy().empty(activations.shape, cell.dtype), cupy().empty(cell.shape, cell.dtype)
    _launch("lstm_gate_backward", cell, *arrays, g_gates, g_cell)
    return g_gates, g_cell


def _launch(name, cell, *arrays):
    if cell.size:
        blocks = min(-(-cell.size // THREADS), BLOCKS_PER_MULTIPROCESSOR * multiprocessors())
        size, h = np.int64(cell.size), np.int32(cell.shape[1])
        cuda_function(SOURCE, name, cell.dtype)((blocks,), (THREADS,), (*arrays, size, h))
