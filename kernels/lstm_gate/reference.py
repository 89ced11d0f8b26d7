"""The gates of a long short-term memory in NumPy: the specification of the fused kernel.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. From the pre-activations of the gates, (..., 4 h), in
PyTorch's order i, f, g, o, and the cell state c, (..., h):

    i, f, o = sigmoid(.)    g = tanh(.)    c' = f c + i g    h' = o tanh(c')
"""

import numpy as np


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-z) without overflow."""
    return (np.tanh(z / 2) + 1) / 2


def forward(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h', c' (..., h), and the activations i, f, g, o (..., 4 h), which `backward` takes."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    after = f * cell + i * g
    return o * np.tanh(after), after, np.concatenate([i, f, g, o], axis=-1)


def backward(
    g_hidden: np.ndarray, g_after: np.ndarray, activations: np.ndarray, cell: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `gates` and `cell` from those of h' and c'; `cell` is c and `after` is c'."""
    i, f, g, o = np.split(activations, 4, axis=-1)
    t = np.tanh(after)
    g_after = g_after + g_hidden * o * (1 - t * t)
    slopes = g * i * (1 - i), cell * f * (1 - f), i * (1 - g * g)
    g_gates = [*(g_after * slope for slope in slopes), g_hidden * t * o * (1 - o)]
    return np.concatenate(g_gates, axis=-1), g_after * f
