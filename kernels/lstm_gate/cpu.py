"""The gates of an LSTM in Numba."""

import numpy as np
from numba import prange

from ..lstm_waves import activate, differentiate
from ..runtime import pjit

CHUNKS = 64  # of the rows; their number does not depend on that of the threads
SERIAL_BELOW = 8_192  # hidden units; a parallel call costs more than it saves on fewer


def forward(gates, cell):
    """See reference.py."""
    activations, cell = np.array(gates, order="C"), np.ascontiguousarray(cell)
    hidden, after = np.empty_like(cell), np.empty_like(cell)
    _forward(_chunks(cell), activations, cell, after, hidden)
    return hidden, after, activations


def backward(g_hidden, g_after, activations, cell, after):
    """See reference.py."""
    arrays = map(np.ascontiguousarray, (activations, cell, after, g_hidden, g_after))
    g_gates, g_cell = np.empty_like(activations, order="C"), np.empty_like(cell, order="C")
    _backward(_chunks(cell), *arrays, g_gates, g_cell)
    return g_gates, g_cell


def _chunks(cell):
    return 1 if cell.size < SERIAL_BELOW else min(CHUNKS, len(cell))


@pjit
def _forward(chunks, gates, cell, after, hidden):
    for k in prange(chunks):
        for row in range(k * len(cell) // chunks, (k + 1) * len(cell) // chunks):
            activate(gates, row, cell, after, row, hidden, 0)


@pjit
def _backward(chunks, activations, cell, after, g_hidden, g_after, g_gates, g_cell):
    for k in prange(chunks):
        for row in range(k * len(cell) // chunks, (k + 1) * len(cell) // chunks):
            differentiate(activations, row, cell, after, row, g_hidden, g_after, g_gates, row, g_cell)
