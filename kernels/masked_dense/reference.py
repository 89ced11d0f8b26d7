"""Masked dense layers in NumPy, beside the paper: Germain et al., "MADE: Masked Autoencoder for Distribution Estimation", 2015.

Every unit of a network over D pixels has a degree, an integer. That of a pixel is the number of pixels visited before it; that
of a hidden unit is the largest degree of a pixel that it may depend on. So a weight from unit k to unit j counts only if

    degree_j >= degree_k    into a hidden unit               (equation 8, and 14 for deeper layers)
    degree_j >  degree_k    into an output, `strict`          (equation 9)

and then output j depends on the pixels visited before j, on no other. A layer is y = x (weight * mask)^T + bias.

All arrays have one dtype, float32 or float64, and so have the results.
"""

import numpy as np


def mask_of(in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool) -> np.ndarray:
    """Which weights count: boolean (out, in)."""
    compare = np.greater if strict else np.greater_equal
    return compare(out_degrees[:, None], in_degrees)


def forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    in_degrees: np.ndarray,
    out_degrees: np.ndarray,
    strict: bool = False,
) -> np.ndarray:
    """Return y (B, out) = x (weight * mask)^T + bias for x (B, in), weight (out, in), bias (out,) or None for 0."""
    y = x @ (weight * mask_of(in_degrees, out_degrees, strict)).T
    return y if bias is None else y + bias


def input_gradient(
    g: np.ndarray, weight: np.ndarray, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool = False
) -> np.ndarray:
    """Return the gradient of sum(g * y) in x, (B, in), for a cotangent g (B, out)."""
    return g @ (weight * mask_of(in_degrees, out_degrees, strict))


def weight_gradient(
    x: np.ndarray, g: np.ndarray, in_degrees: np.ndarray, out_degrees: np.ndarray, strict: bool = False
) -> np.ndarray:
    """Return the gradient of sum(g * y) in weight, (out, in): zero where the mask is."""
    return g.T @ x * mask_of(in_degrees, out_degrees, strict)


def complete(
    x: np.ndarray,
    start: int,
    uniforms: np.ndarray,
    weights: list[np.ndarray],
    biases: list[np.ndarray],
    degrees: list[np.ndarray],
    direct: np.ndarray | None = None,
) -> np.ndarray:
    """Return x (n, D) with all but its first `start` pixels drawn from their exact conditional, x_j = [u_j < p_j].

    The network has ReLUs between its layers, `degrees[l]` are those of the units that enter layer l, and direct (D, D) leads
    straight from the pixels to the logits. The pixels are visited by degree; each costs a pass through the whole network.
    """
    order = np.argsort(degrees[0])
    x = x.copy()
    x[:, order[start:]] = 0
    for j in order[start:]:
        h = x
        for weight, bias, before, after in zip(weights[:-1], biases[:-1], degrees[:-1], degrees[1:]):
            h = np.maximum(forward(h, weight, bias, before, after), 0)
        logits = forward(h, weights[-1], biases[-1], degrees[-1], degrees[0], strict=True)
        if direct is not None:
            logits = logits + forward(x, direct, None, degrees[0], degrees[0], strict=True)
        x[:, j] = uniforms[:, j] < 1 / (1 + np.exp(-logits[:, j]))
    return x
