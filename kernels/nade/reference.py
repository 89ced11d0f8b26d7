"""NADE in NumPy: the specification of the fused kernels, beside the paper (Larochelle and Murray 2011).

x is binary (B, D). Row i of W (D, H) is the paper's column W_{.,i}; V (D, H), b (D,), c (H,).

    a_1 = c,   a_{i+1} = a_i + x_i W_i                 what the hidden units have gathered before pixel i
    h_i = sigmoid(a_i)
    l_i = b_i + V_i . h_i                              the logit of p(x_i = 1 | x_<i)
    ln p(x) = sum_i x_i l_i - ln(1 + e^{l_i})          in nats

Everything is O(B D H). No array of shape (B, D, H) is ever made: the forward pass keeps the logits and the last a, and the
backward pass undoes the additions one by one, a_i = a_{i+1} - x_i W_i. In float32 that leaves rounding errors of a few
units in the last place of the largest |a|.
"""

import numpy as np

Residual = tuple[np.ndarray, np.ndarray]


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def _states(x: np.ndarray, W: np.ndarray, c: np.ndarray):
    """Yield (i, h_i) for every pixel, then (D, a_{D+1})."""
    a = np.repeat(c[None], len(x), axis=0)
    for i in range(x.shape[1]):
        yield i, sigmoid(a)
        a += x[:, i, None] * W[i]
    yield x.shape[1], a


def forward(x: np.ndarray, W: np.ndarray, V: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, Residual]:
    """ln p(x) (B,) in nats, and what `backward` needs: the logits (B, D) and the last a (B, H)."""
    logits = np.empty_like(x)
    for i, state in _states(x, W, c):
        if i < x.shape[1]:
            logits[:, i] = b[i] + state @ V[i]
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return (x * logits - softplus).sum(axis=1), (logits, state)


def backward(
    g: np.ndarray, residual: Residual, x: np.ndarray, W: np.ndarray, V: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of sum_k g_k ln p(x_k), for a cotangent g (B,), in W, V, b and c.

    With d_i = g (x_i - sigmoid(l_i)), the cotangent of the logit, and A_i the cotangent of a_i, from the last pixel back:

        gb_i = sum_k d_i,   gV_i = sum_k d_i h_i
        gW_i = sum_k x_i A_{i+1},   A_i = A_{i+1} + d_i V_i h_i (1 - h_i),   A_{D+1} = 0,   gc = sum_k A_1
    """
    logits, a = residual[0], residual[1].copy()
    d = g[:, None] * (x - sigmoid(logits))
    A = np.zeros_like(a)
    gW, gV = np.empty_like(W), np.empty_like(V)
    for i in reversed(range(x.shape[1])):
        gW[i] = x[:, i] @ A
        a -= x[:, i, None] * W[i]
        h = sigmoid(a)
        gV[i] = d[:, i] @ h
        A += d[:, i, None] * V[i] * h * (1 - h)
    return gW, gV, d.sum(axis=0), A.sum(axis=0)


def conditionals(x: np.ndarray, W: np.ndarray, V: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The logits l (B, D) of p(x_i = 1 | x_<i)."""
    return forward(x, W, V, b, c)[1][0]


def complete(
    x: np.ndarray,
    start: int,
    uniforms: np.ndarray,
    W: np.ndarray,
    V: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
) -> np.ndarray:
    """x (n, D) with the pixels from `start` on drawn given those before: x_i = 1 where u_i < p(x_i = 1 | x_<i).

    `uniforms` (n, D) are numbers in [0, 1); those before `start` are not looked at.
    """
    x = x.copy()
    a = c + x[:, :start] @ W[:start]
    for i in range(start, x.shape[1]):
        x[:, i] = uniforms[:, i] < sigmoid(b[i] + sigmoid(a) @ V[i])
        a += x[:, i, None] * W[i]
    return x


def sample(uniforms: np.ndarray, W: np.ndarray, V: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One example for each row of `uniforms` (n, D), pixel after pixel."""
    return complete(np.zeros_like(uniforms), 0, uniforms, W, V, b, c)
