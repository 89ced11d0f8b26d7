"""What an LSTM does between two matrix products, in one pass: gates, cell state, hidden state, and the gradient.

Matrices (rows, 4 h) and (rows, h) of one dtype, float32 or float64; the formulas are in reference.py. The LSTM layers and the
steps of the samplers use it; the kernels that sweep over images have the same loop inside.
"""

from ..runtime import implementation


def forward(gates, cell):
    """h' and c' (rows, h), and the activations (rows, 4 h) that `backward` takes, from pre-activations and c.

    Raises ValueError unless `gates` is four times as wide as `cell`, TypeError for other dtypes.
    """
    if gates.ndim != 2 or gates.shape != (len(cell), 4 * cell.shape[-1]):
        raise ValueError(f"lstm_gate takes gates (rows, 4 h) and cell (rows, h), got {gates.shape} and {cell.shape}")
    if gates.dtype != cell.dtype or str(cell.dtype) not in ("float32", "float64"):
        raise TypeError(f"lstm_gate takes float32 or float64 arrays of one dtype, got {gates.dtype} and {cell.dtype}")
    return implementation(__name__, gates).forward(gates, cell)


def backward(g_hidden, g_after, activations, cell, after):
    """The gradients of `gates` (rows, 4 h) and `cell` (rows, h) from those of h' and c'."""
    return implementation(__name__, activations).backward(g_hidden, g_after, activations, cell, after)
