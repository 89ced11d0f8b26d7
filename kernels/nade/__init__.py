"""NADE's likelihood, gradient and sampler (Larochelle and Murray 2011) without D hidden vectors per example.

Arguments, the same in reference.py, cpu.py and cuda.py: x (B, D) of zeros and ones, W (D, H), V (D, H), b (D,), c (H,), all of
one floating dtype. reference.py has the formulas. What makes it fast is that the hidden state changes only after a pixel that
is 1: one vector of sigmoids serves the pixels up to the next one.
"""

from ..runtime import implementation


def forward(x, W, V, b, c):
    """ln p(x) (B,) in nats, and the residual that `backward` takes. Raises ValueError unless x is binary and shapes fit."""
    _check(x, W, V, b, c)
    return implementation(__name__, W).forward(x, W, V, b, c)


def backward(g, residual, x, W, V):
    """(gW, gV, gb, gc), the gradients of sum_k g_k ln p(x_k) for a cotangent g (B,), from `forward`'s residual."""
    return implementation(__name__, W).backward(g, residual, x, W, V)


def conditionals(x, W, V, b, c):
    """The logits (B, D) of p(x_i = 1 | x_<i)."""
    _check(x, W, V, b, c)
    return implementation(__name__, W).conditionals(x, W, V, b, c)


def complete(x, start, uniforms, W, V, b, c):
    """x (n, D) with the pixels from `start` on drawn from their conditionals: 1 where uniforms (n, D) lie below p."""
    _check(x[:, :start], W[:start], V[:start], b[:start], c)
    return implementation(__name__, W).complete(x, start, uniforms, W, V, b, c)


def sample(uniforms, W, V, b, c):
    """One example (n, D) for each row of `uniforms`, numbers in [0, 1)."""
    return implementation(__name__, W).sample(uniforms, W, V, b, c)


def _check(x, W, V, b, c):
    D, H = W.shape
    if (x.shape[1:], V.shape, b.shape, c.shape) != ((D,), (D, H), (D,), (H,)):
        raise ValueError(
            "NADE takes x (B, D), W (D, H), V (D, H), b (D,), c (H,); "
            f"got {x.shape}, {W.shape}, {V.shape}, {b.shape}, {c.shape}"
        )
    if not ((x == 0) | (x == 1)).all():
        raise ValueError("NADE takes binary x: a value other than 0 and 1 was found; binarize the data first")
