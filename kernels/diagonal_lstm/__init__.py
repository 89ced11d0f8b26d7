"""The Diagonal LSTM of PixelRNN over whole images: forward, backpropagation through time, and one pixel at a time.

Arrays, the same in reference.py, cpu.py and cuda.py, of one dtype, float32 or float64: x (N, C, H, W), weight_ih (4 h, C),
weight_hh (4 h, h, 2) for the upper and the left neighbour, bias (4 h,). reference.py has the formulas. A pixel waits for two
neighbours only, so the pixels of a diagonal are computed together, by one matrix product.
"""

from ..runtime import implementation


def forward(x, weight_ih, weight_hh, bias, reverse=False):
    """The hidden states (N, h, H, W) and the residual that `backward` takes; from right to left with `reverse`.

    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ.
    """
    _check(x, 4, weight_ih, weight_hh, bias)
    return implementation(__name__, x).forward(x, weight_ih, weight_hh, bias, reverse)


def backward(g, weight_ih, weight_hh, residual, reverse=False):
    """The gradients of x, weight_ih, weight_hh and bias from that of the hidden states, g (N, h, H, W)."""
    return implementation(__name__, g).backward(g, weight_ih, weight_hh, residual, reverse)


def step(x, hidden, cell, weight_ih, weight_hh, bias):
    """h and c (N, h) at one pixel of N images: what a sampler computes when it arrives there.

    x (N, C) there; hidden (N, h, 2), the hidden states of the upper and of the left neighbour (the right one where the walk
    goes from right to left); cell (N, h), the cell state of that second one. Zeros stand for what lies outside the image.
    """
    _check(x, 2, weight_ih, weight_hh, bias)
    size = weight_hh.shape[1]
    if (hidden.shape, cell.shape) != ((len(x), size, 2), (len(x), size)):
        raise ValueError(
            "step takes x (N, C), hidden (N, h, 2) and cell (N, h); "
            f"got {x.shape}, {hidden.shape} and {cell.shape} for N, h = {len(x)}, {size}"
        )
    return implementation(__name__, x).step(x, hidden, cell, weight_ih, weight_hh, bias)


def _check(x, ndim, weight_ih, weight_hh, bias):
    h, c = (weight_hh.shape[1] if weight_hh.ndim == 3 else 0), (x.shape[1] if x.ndim == ndim else 0)
    if not (h and c) or (weight_ih.shape, weight_hh.shape, bias.shape) != ((4 * h, c), (4 * h, h, 2), (4 * h,)):
        raise ValueError(
            f"diagonal_lstm takes x (N, C{', H, W' if ndim == 4 else ''}), weight_ih (4 h, C), weight_hh (4 h, h, 2), "
            f"bias (4 h,); got {x.shape}, {weight_ih.shape}, {weight_hh.shape}, {bias.shape}"
        )
    if ndim == 4 and not x.shape[2] * x.shape[3]:
        raise ValueError(f"diagonal_lstm takes images of at least one pixel, got x {x.shape}")
    dtypes = {str(array.dtype) for array in (x, weight_ih, weight_hh, bias)}
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        raise TypeError(f"diagonal_lstm takes float32 or float64 arrays of one dtype, got {', '.join(sorted(dtypes))}")
