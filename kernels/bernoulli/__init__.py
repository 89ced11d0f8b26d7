"""The likelihood of bits as independent pixels with given logits, summed over the pixels in the same pass, and its gradient.

x (B, D) and logits (k B, D), C-ordered, of one dtype, float32 or float64: row r of the logits goes with example r mod B, so
that k draws of a latent need no copies of x. The formulas are in reference.py.
"""

from ..runtime import implementation


def log_prob(x, logits):
    """ln p(x), (k B,). Raises ValueError for shapes that do not fit, TypeError for other dtypes."""
    if x.ndim != 2 or logits.ndim != 2 or x.shape[1] != logits.shape[1] or len(logits) % max(len(x), 1):
        raise ValueError(f"bernoulli takes x (B, D) and logits (k B, D), got {x.shape} and {logits.shape}")
    if x.dtype != logits.dtype or str(x.dtype) not in ("float32", "float64"):
        raise TypeError(f"bernoulli takes float32 or float64 arrays of one dtype, got {x.dtype} and {logits.dtype}")
    return implementation(__name__, logits).log_prob(x, logits)


def gradient(g, x, logits):
    """The gradient of sum(g * log_prob(x, logits)) in the logits, (k B, D); g (k B,)."""
    return implementation(__name__, logits).gradient(g, x, logits)
