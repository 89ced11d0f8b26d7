"""NADE in NumPy, beside the paper: Larochelle and Murray, "The Neural Autoregressive Distribution Estimator", 2011.

Binary vectors x of D dimensions, H hidden units, and the parameters

    W (D, H)    row i is the paper's column W_{.,i}
    V (D, H)
    b (D,)      output biases
    c (H,)      hidden biases

Equations 1 and 2: p(x) = prod_i p(x_i | x_{<i}), where p(x_i = 1 | x_{<i}) = sigmoid(b_i + V_i . h_i) and
h_i = sigmoid(c + sum_{j<i} x_j W_j). Everything rests on a_{i+1} = a_i + x_i W_i, whence O(D H) and not O(D^2 H).

All arrays have one dtype, float32 or float64, and so have the results. Probabilities are in nats.
"""

import numpy as np

Residual = tuple[np.ndarray, np.ndarray]


def sigmoid(t: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-t), by e^-|t| so that nothing overflows."""
    e = np.exp(-np.abs(t))
    return np.where(t < 0, e, 1) / (1 + e)


def softplus(t: np.ndarray) -> np.ndarray:
    """ln(1 + e^t), by e^-|t| so that nothing overflows."""
    return np.maximum(t, 0) + np.log1p(np.exp(-np.abs(t)))


def forward(x: np.ndarray, W: np.ndarray, V: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, Residual]:
    """Return ln p(x) (B,), and what `backward` needs: the logits (B, D) and the last a_{D+1} (B, H). Algorithm 1."""
    a = np.tile(c, (len(x), 1))
    logits = np.empty_like(x)
    for i in range(len(W)):
        logits[:, i] = b[i] + sigmoid(a) @ V[i]
        a += x[:, i : i + 1] * W[i]
    log_prob = (x * logits - softplus(logits)).sum(1)
    return log_prob, (logits, a)


def backward(
    g: np.ndarray, x: np.ndarray, W: np.ndarray, V: np.ndarray, residual: Residual
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of sum(g * log_prob) in W, V, b and c, for a cotangent g (B,). Algorithm 1, backwards.

    No a_i was kept: going back, each is found by subtraction, a_i = a_{i+1} - x_i W_i.
    """
    logits, a = residual[0], residual[1].copy()
    g_logits = g[:, None] * (x - sigmoid(logits))
    gW, gV, g_a = np.empty_like(W), np.empty_like(V), np.zeros_like(a)
    for i in reversed(range(len(W))):
        gW[i] = x[:, i] @ g_a
        a -= x[:, i : i + 1] * W[i]
        h = sigmoid(a)
        gV[i] = g_logits[:, i] @ h
        g_a += g_logits[:, i : i + 1] * V[i] * h * (1 - h)
    return gW, gV, g_logits.sum(0), g_a.sum(0)


def complete(
    x: np.ndarray,
    start: int,
    uniforms: np.ndarray,
    W: np.ndarray,
    V: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
) -> np.ndarray:
    """Return x (n, D) with its pixels from `start` on drawn from their exact conditional, x_i = [u_i < p_i]."""
    x = x.copy()
    a = c + x[:, :start] @ W[:start]
    for i in range(start, len(W)):
        x[:, i] = uniforms[:, i] < sigmoid(b[i] + sigmoid(a) @ V[i])
        a += x[:, i : i + 1] * W[i]
    return x
