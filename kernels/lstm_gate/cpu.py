"""The gates of an LSTM in Numba."""

import numpy as np
from numba import prange

from ..lstm_waves import activate, differentiate
from ..runtime import pjit

CHUNKS = 64  # of the rows; their number does not depend on that of the threads
SERIAL_BELOW = 32_768  # hidden units; a parallel call costs more than it saves on fewer


def forward(gates, cell):
    """See reference.py."""
    activations, cell = np.array(gates, order="C"), np.ascontiguousarray(cell)
    hidden, after = np.empty_like(cell), np.empty_like(cell)
    run = activate if cell.size < SERIAL_BELOW else _parallel_forward
    run(activations, cell, after, hidden)
    return hidden, after, activations


def backward(g_hidden, g_after, activations, cell, after):
    """See reference.py."""
    arrays = [np.ascontiguousarray(array) for array in (activations, cell, after, g_hidden, g_after)]
    g_gates, g_cell = np.empty_like(arrays[0]), np.empty_like(arrays[1])
    run = differentiate if cell.size < SERIAL_BELOW else _parallel_backward
    run(*arrays, g_gates, g_cell)
    return g_gates, g_cell


@pjit
def _parallel_forward(gates, cell, after, hidden):
    for k in prange(CHUNKS):
        some = slice(k * len(cell) // CHUNKS, (k + 1) * len(cell) // CHUNKS)
        activate(gates[some], cell[some], after[some], hidden[some])


@pjit
def _parallel_backward(activations, cell, after, g_hidden, g_after, g_gates, g_cell):
    for k in prange(CHUNKS):
        some = slice(k * len(cell) // CHUNKS, (k + 1) * len(cell) // CHUNKS)
        arrays = activations[some], cell[some], after[some], g_hidden[some], g_after[some]
        differentiate(*arrays, g_gates[some], g_cell[some])
