"""An LSTM over images pixel by pixel, forward and back: what the kernels that compute whole diagonals or rows must equal.

A cell at (r, c) reads the input at (r + dr, c + dc) through `inputs[dr, dc]`, a matrix (4 h, C), the hidden state there through
`states[dr, dc]`, (4 h, h), and the cell state at `carry`. `order` lists the pixels so that what is read comes before.

The checks that both kernels are put through are here too; `kernel` is either's module, with forward(x, weight_ih, weight_hh,
bias, *options) and backward.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def forward(x, inputs, states, carry, bias, order):
    """Hidden states (N, h, H, W), cell states, and the activations i, f, g, o of each pixel."""
    hidden = np.zeros((len(x), len(bias) // 4, *x.shape[2:]), x.dtype)
    cell, gates = np.zeros_like(hidden), {}
    for r, c in order:
        a = np.tile(bias, (len(x), 1))
        for source, taps in ((x, inputs), (hidden, states)):
            for (dr, dc), weight in taps.items():
                if inside(x, r + dr, c + dc):
                    a = a + source[:, :, r + dr, c + dc] @ weight.T
        i, f, g, o = np.split(a, 4, axis=1)
        i, f, g, o = gates[r, c] = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        before = (r + carry[0], c + carry[1])
        cell[:, :, r, c] = i * g
        if inside(x, *before):
            cell[:, :, r, c] += f * cell[:, :, before[0], before[1]]
        hidden[:, :, r, c] = o * np.tanh(cell[:, :, r, c])
    return hidden, cell, gates


def backward(g_out, x, inputs, states, carry, bias, order):
    """Gradients of x, of every matrix in `inputs` and `states`, and of the bias, from that of the hidden states."""
    hidden, cell, gates = forward(x, inputs, states, carry, bias, order)
    g_x, g_hidden, g_cell, g_bias = np.zeros_like(x), g_out.copy(), np.zeros_like(cell), np.zeros_like(bias)
    g_inputs, g_states = ({tap: np.zeros_like(weight) for tap, weight in taps.items()} for taps in (inputs, states))
    for r, c in reversed(order):
        i, f, g, o = gates[r, c]
        t = np.tanh(cell[:, :, r, c])
        g_h = g_hidden[:, :, r, c]
        g_c = g_cell[:, :, r, c] + g_h * o * (1 - t**2)
        before = (r + carry[0], c + carry[1])
        g_f = np.zeros_like(g_c)
        if inside(x, *before):
            g_f = g_c * cell[:, :, before[0], before[1]]
            g_cell[:, :, before[0], before[1]] += g_c * f
        a = np.concatenate([g_c * g * i * (1 - i), g_f * f * (1 - f), g_c * i * (1 - g**2), g_h * t * o * (1 - o)], axis=1)
        g_bias += a.sum(axis=0)
        for source, g_source, taps, g_taps in ((x, g_x, inputs, g_inputs), (hidden, g_hidden, states, g_states)):
            for (dr, dc), weight in taps.items():
                if inside(x, r + dr, c + dc):
                    g_source[:, :, r + dr, c + dc] += a @ weight
                    g_taps[dr, dc] += a.T @ source[:, :, r + dr, c + dc]
    return g_x, g_inputs, g_states, g_bias


def inside(x, r, c):
    return 0 <= r < x.shape[2] and 0 <= c < x.shape[3]


def both_ways(kernel, arguments, g, *options):
    """Hidden states, and the gradients of all `arguments` from `g`, that of the states."""
    y, residual = kernel.forward(*arguments, *options)
    return y, *kernel.backward(g, *arguments[1:3], residual, *options)


def assert_equal(got, expected):
    """The same bits."""
    for one, other in zip(got, expected, strict=True):
        assert (one == other).all()


def assert_same_alone_and_in_a_batch(kernel, x, *parameters):
    """An image has the same bits alone and in a batch."""
    y = kernel.forward(x, *parameters)[0]
    for k in (0, 7, 32):
        assert (kernel.forward(x[k : k + 1], *parameters)[0] == y[k : k + 1]).all()


def assert_same_for_any_number_of_threads(kernel, arguments, g):
    """The number of threads does not change a bit."""
    first, *others = with_threads((1, 2, 3), lambda: both_ways(kernel, arguments, g))
    for other in others:
        assert_equal(other, first)


def assert_only_reads(kernel, *plain):
    """Inputs (the arguments, then g) may have gaps and are not changed, and backward may run twice."""
    before = [a.copy() for a in plain]
    expected = both_ways(kernel, plain[:-1], plain[-1])
    *arguments, g = map(spaced, plain)
    y, residual = kernel.forward(*arguments)
    for _ in range(2):
        assert_equal((y, *kernel.backward(g, *arguments[1:3], residual)), expected)
    assert_equal((*arguments, g), before)


def directional_error(forward, backward, arrays, seed):
    """Relative difference between a directional derivative of sum(g * forward(*arrays)[0]) and what `backward` says of it."""
    rng = np.random.default_rng(seed)
    y, residual = forward(*arrays)
    g = rng.standard_normal(y.shape)
    directions = [rng.standard_normal(a.shape) for a in arrays]

    def along(t):
        return (g * forward(*(a + t * d for a, d in zip(arrays, directions)))[0]).sum()

    h = 1e-3  # fourth-order differences: error about h^4
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    analytic = sum((gradient * d).sum() for gradient, d in zip(backward(g, *arrays[1:3], residual), directions))
    return abs(analytic - numeric) / max(1, abs(numeric))


def assert_close(got, expected, dtype):
    """Equal shapes and dtypes, and values up to rounding errors that grow with the length of the sums."""
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype == dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=500 * np.finfo(dtype).eps * max(1.0, np.abs(other).max(initial=0)))


def spaced(array):
    """The same values in memory with gaps, so that no axis is contiguous."""
    wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def with_threads(counts, function):
    """The results of `function` for each number of Numba's threads that this machine can give."""
    import numba

    before = numba.get_num_threads()
    try:
        results = []
        for count in counts:
            if count <= numba.config.NUMBA_NUM_THREADS:
                numba.set_num_threads(count)
                results.append(function())
        return results
    finally:
        numba.set_num_threads(before)
