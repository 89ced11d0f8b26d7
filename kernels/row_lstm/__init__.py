"""The Row LSTM of PixelRNN over whole images: forward, backpropagation through time, and one pixel at a time.

Arrays, the same in reference.py, cpu.py and cuda.py, of one dtype, float32 or float64: x (N, C, H, W), weight_ih (4 h, C, m)
for the m pixels of the row that end at the pixel itself, weight_hh (4 h, h, k) for the k pixels around it in the row above,
bias (4 h,). reference.py has the formulas. The pixels of a row are computed together, by one matrix product.
"""

from ..runtime import implementation


def forward(x, weight_ih, weight_hh, bias):
    """The hidden states (N, h, H, W) and the residual that `backward` takes.

    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ.
    """
    _check(x, 4, weight_ih, weight_hh, bias)
    return implementation(__name__, x).forward(x, weight_ih, weight_hh, bias)


def backward(g, weight_ih, weight_hh, residual):
    """The gradients of x, weight_ih, weight_hh and bias from that of the hidden states, g (N, h, H, W)."""
    return implementation(__name__, g).backward(g, weight_ih, weight_hh, residual)


def step(x, hidden, cell, weight_ih, weight_hh, bias):
    """h and c (N, h) at one pixel of N images: what a sampler computes when it arrives there.

    x (N, C, m) at the m pixels of the row that end there; hidden (N, h, k), the hidden states of the row above around it; cell
    (N, h), the cell state of the pixel above. Zeros stand for what lies outside the image.
    """
    _check(x, 3, weight_ih, weight_hh, bias)
    size, taps = weight_hh.shape[1:]
    if (hidden.shape, cell.shape, x.shape[2]) != ((len(x), size, taps), (len(x), size), weight_ih.shape[2]):
        raise ValueError(
            "step takes x (N, C, m), hidden (N, h, k) and cell (N, h); "
            f"got {x.shape}, {hidden.shape} and {cell.shape} for N, h, k, m = {len(x)}, {size}, {taps}, {weight_ih.shape[2]}"
        )
    return implementation(__name__, x).step(x, hidden, cell, weight_ih, weight_hh, bias)


def _check(x, ndim, weight_ih, weight_hh, bias):
    h, k = weight_hh.shape[1:] if weight_hh.ndim == 3 else (0, 0)
    c, m = weight_ih.shape[1:] if weight_ih.ndim == 3 and x.shape[1:2] == weight_ih.shape[1:2] and x.ndim == ndim else (0, 0)
    fits = (weight_ih.shape, weight_hh.shape, bias.shape) == ((4 * h, c, m), (4 * h, h, k), (4 * h,))
    if not fits or not h * c * m * (k % 2):
        raise ValueError(
            f"row_lstm takes x (N, C{', H, W' if ndim == 4 else ', m'}), weight_ih (4 h, C, m), "
            f"weight_hh (4 h, h, k) with k odd, bias (4 h,); got {x.shape}, {weight_ih.shape}, {weight_hh.shape}, {bias.shape}"
        )
    if ndim == 4 and not x.shape[2] * x.shape[3]:
        raise ValueError(f"row_lstm takes images of at least one pixel, got x {x.shape}")
    dtypes = {str(array.dtype) for array in (x, weight_ih, weight_hh, bias)}
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        raise TypeError(f"row_lstm takes float32 or float64 arrays of one dtype, got {', '.join(sorted(dtypes))}")
