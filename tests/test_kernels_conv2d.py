"""The convolution kernels: the reference against plain loops and PyTorch, the CPU kernels against the reference."""

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinygen.kernels import conv2d
from tinygen.kernels.conv2d import cpu, reference

OPERATIONS = ("forward", "input_gradient", "weight_gradient")
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def problems(draw, most_images=7, most_pixels=20):
    """Shapes, settings (stride, padding, dilation, groups) and a generator for the values."""
    groups = draw(st.integers(1, 3))
    channels, outs = draw(st.integers(1, 5)), draw(st.integers(1, 19))
    stride, padding, dilation = draw(pairs(1, 3)), draw(pairs(0, 4)), draw(pairs(1, 3))
    kernel, size = draw(pairs(1, 5)), draw(pairs(1, most_pixels))
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel)))
    images = draw(st.integers(0, most_images))
    x, weight = (images, channels * groups, *size), (outs * groups, channels, *kernel)
    seed = draw(st.integers(0, 2**32 - 1))
    return x, weight, (stride, padding, dilation, groups), np.random.default_rng(seed)


def arrays_of(problem, dtype=np.float64):
    """x, weight and an output gradient."""
    x_shape, weight_shape, settings_, rng = problem
    out = conv2d.output_size(x_shape[2:], weight_shape[2:], *settings_[:3])
    shapes = (x_shape, weight_shape, (x_shape[0], weight_shape[0], *out))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def run(module, operation, x, weight, g, settings_):
    arguments = {
        "forward": (x, weight),
        "input_gradient": (g, weight, x.shape[2:]),
        "weight_gradient": (x, g, weight.shape[2:]),
    }
    return getattr(module, operation)(*arguments[operation], *settings_)


def assert_close(actual, expected, terms=1):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    tolerance = TOLERANCE[expected.dtype.type] * terms**0.5
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max(initial=1.0))


def loops(x, weight, stride, padding, dilation, groups):
    """The definition of the forward pass, one multiplication at a time."""
    (images, _, height, width), (outs, channels, kernel_h, kernel_w) = x.shape, weight.shape
    y = np.zeros((images, outs, *conv2d.output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)))
    for n, o, i, j in np.ndindex(*y.shape):
        for c, a, b in np.ndindex(channels, kernel_h, kernel_w):
            row = i * stride[0] - padding[0] + a * dilation[0]
            column = j * stride[1] - padding[1] + b * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                y[n, o, i, j] += weight[o, c, a, b] * x[n, o // (outs // groups) * channels + c, row, column]
    return y


@settings(max_examples=15, deadline=None)
@given(problem=problems(most_images=2, most_pixels=5))
def test_reference_is_the_definition(problem):
    x, weight, g = arrays_of(problem)
    y = reference.forward(x, weight, *problem[2])
    assert_close(y, loops(x, weight, *problem[2]))
    # The gradients are the adjoints of the forward pass in each argument.
    dx = reference.input_gradient(g, weight, x.shape[2:], *problem[2])
    dw = reference.weight_gradient(x, g, weight.shape[2:], *problem[2])
    assert dx.shape == x.shape
    assert dw.shape == weight.shape
    np.testing.assert_allclose([(dx * x).sum(), (dw * weight).sum()], (g * y).sum(), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_reference_is_pytorchs(problem):
    torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs the bench extra")
    x, weight, g = arrays_of(problem)
    tensors = [torch.from_numpy(array).requires_grad_() for array in (x, weight)]
    stride, padding, dilation, groups = problem[2]
    y = torch.nn.functional.conv2d(*tensors, None, stride, padding, dilation, groups)
    gradients = torch.autograd.grad(y, tensors, torch.from_numpy(g))
    for operation, expected in zip(OPERATIONS, (y, *gradients)):
        assert_close(run(reference, operation, x, weight, g, problem[2]), expected.detach().numpy(), terms=10)


@settings(max_examples=150, deadline=None)
@given(problem=problems(), dtype=st.sampled_from([np.float32, np.float64]))
def test_equals_the_reference(problem, dtype):
    x, weight, g = arrays_of(problem, dtype)
    kept = [array.copy() for array in (x, weight, g)]
    for operation in OPERATIONS:
        expected = run(reference, operation, x, weight, g, problem[2])
        if hasattr(cpu._pool, "memory"):
            cpu._pool.memory.fill(np.nan)  # what earlier calls left in the buffers must not matter
        assert_close(run(conv2d, operation, x, weight, g, problem[2]), expected, terms=10)
    for array, before in zip((x, weight, g), kept):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("x", "weight", "settings_"),
    [
        ((5, 64, 28, 28), (64, 64, 3, 3), ((1, 1), (1, 1), (1, 1), 1)),
        ((11, 16, 14, 14), (40, 16, 4, 4), ((2, 2), (1, 1), (1, 1), 1)),
        ((70, 3, 7, 7), (9, 3, 4, 4), ((2, 2), (1, 1), (1, 1), 1)),
        ((3, 1, 28, 28), (64, 1, 7, 7), ((1, 1), (3, 3), (1, 1), 1)),
        ((2, 48, 40, 33), (48, 1, 3, 3), ((1, 1), (2, 2), (2, 2), 48)),
        ((33, 128, 4, 4), (1, 128, 4, 4), ((1, 1), (0, 0), (1, 1), 1)),
        ((4, 6, 9, 9), (4, 3, 9, 9), ((2, 3), (0, 0), (1, 1), 2)),
        ((3, 20, 28, 28), (8, 20, 1, 1), ((1, 1), (0, 0), (1, 1), 1)),
        ((2, 6, 32, 17), (12, 3, 1, 1), ((1, 1), (0, 0), (1, 1), 2)),
        ((2, 3, 28, 28), (4, 3, 3, 3), ((1, 1), (0, 0), (1, 1), 1)),
    ],
    ids=[
        "3x3",
        "strided",
        "many small images",
        "one channel",
        "depthwise",
        "dense",
        "dense groups",
        "1x1",
        "1x1 groups",
        "valid",
    ],
)
def test_equals_the_reference_at_the_models_sizes(operation, x, weight, settings_):
    x, weight, g = arrays_of((x, weight, settings_, np.random.default_rng(3)), np.float32)
    expected = run(reference, operation, *(a.astype(np.float64) for a in (x, weight, g)), settings_)
    actual = run(conv2d, operation, x, weight, g, settings_)
    assert actual.dtype == np.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * scale)


@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_gradients_are_adjoints(problem):
    x, weight, g = arrays_of(problem)
    y, dx, dw = (run(conv2d, operation, x, weight, g, problem[2]) for operation in OPERATIONS)
    products = [(y * g).sum(), (x * dx).sum(), (weight * dw).sum()]
    np.testing.assert_allclose(products, products[0], rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(problem=problems(), dtype=st.sampled_from([np.float32, np.float64]))
def test_bias_is_added_to_every_pixel(problem, dtype):
    x, weight, g = arrays_of(problem, dtype)
    for operation in OPERATIONS[:2]:
        plain = run(conv2d, operation, x, weight, g, problem[2])
        bias = problem[3].standard_normal(plain.shape[1]).astype(dtype)
        for module in (conv2d, reference):
            biased = run(module, operation, x, weight, g, (*problem[2], bias))
            assert_close(biased, plain + bias[:, None, None], terms=10)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_strides_of_the_arrays_play_no_part(operation):
    problem = ((4, 6, 11, 10), (8, 3, 3, 2), ((2, 1), (1, 1), (1, 2), 2), np.random.default_rng(0))
    arrays = arrays_of(problem, np.float32)
    expected = run(conv2d, operation, *arrays, problem[2])
    views = [
        [np.asfortranarray(a) for a in arrays],
        [np.repeat(a, 2, axis=3)[..., ::2] for a in arrays],
        [a[:, :, ::-1].copy()[:, :, ::-1] for a in arrays],
    ]
    for some in views:
        assert not any(a.flags.c_contiguous for a in some)
        np.testing.assert_array_equal(run(conv2d, operation, *some, problem[2]), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_whatever_the_number_of_threads(operation, dtype, monkeypatch):
    problem = ((13, 5, 15, 14), (21, 5, 3, 3), ((1, 2), (1, 1), (1, 1), 1), np.random.default_rng(1))
    arrays = arrays_of(problem, dtype)
    expected = run(cpu, operation, *arrays, problem[2])  # too small for more than one thread
    monkeypatch.setattr(cpu, "SERIAL_BELOW", 0)
    before = numba.get_num_threads()
    try:
        for threads in {1, min(2, numba.config.NUMBA_NUM_THREADS), numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(threads)
            np.testing.assert_array_equal(run(cpu, operation, *arrays, problem[2]), expected)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("parts", [2, 3, 7, 64])
def test_any_number_of_parts_covers_everything(parts):
    """As on a machine with that many processors."""
    problem = ((5, 6, 9, 9), (22, 3, 3, 2), ((2, 1), (1, 1), (1, 1), 2), np.random.default_rng(4))
    x, weight, g = arrays_of(problem)

    def convolve(threads, x, weight, plan, groups, row_step, bias, direct, panels, images, tiles, out):
        out[...] = np.nan
        for part in range(parts):
            cpu._pack_panels(part, parts, weight, plan, groups, row_step, out.shape[1] // groups, panels)
        for part in reversed(range(parts)):
            cpu._convolve_part(part, parts, x, plan, groups, bias, direct, panels, images[0], tiles[0], out)

    def correlate(threads, x, g, plan, groups, direct, images, gradients, gradient):
        gradient[...] = np.nan
        for part in range(parts):
            cpu._lay_out_blocks(part, parts, x, g, plan, images, gradients)
        for part in reversed(range(parts)):
            cpu._correlate_part(part, parts, plan, groups, images, gradients, gradient)

    expected = [run(cpu, operation, x, weight, g, problem[2]) for operation in OPERATIONS]
    with pytest.MonkeyPatch.context() as patch:
        for name, function in (("_convolve", convolve), ("_correlate", correlate), ("SERIAL_BELOW", 0)):
            patch.setattr(cpu, name, function)
        for operation, wanted in zip(OPERATIONS, expected):
            np.testing.assert_array_equal(run(cpu, operation, x, weight, g, problem[2]), wanted)


def test_arrays_may_be_read_only():
    problem = ((2, 5, 16, 20), (8, 5, 1, 1), ((1, 1), (0, 0), (1, 1), 1), np.random.default_rng(5))
    arrays = arrays_of(problem)
    expected = [run(conv2d, operation, *arrays, problem[2]) for operation in OPERATIONS]
    for array in arrays:
        array.flags.writeable = False
    for operation, wanted in zip(OPERATIONS, expected):
        np.testing.assert_array_equal(run(conv2d, operation, *arrays, problem[2]), wanted)


def test_results_share_no_memory_and_repeat():
    problem = ((3, 4, 8, 8), (6, 4, 3, 3), ((1, 1), (1, 1), (1, 1), 1), np.random.default_rng(2))
    arrays = arrays_of(problem)
    first = {operation: run(conv2d, operation, *arrays, problem[2]) for operation in OPERATIONS}
    kept = {operation: result.copy() for operation, result in first.items()}
    other = arrays_of(((9, 4, 12, 12), *problem[1:]))
    for operation in OPERATIONS:
        run(conv2d, operation, *other, problem[2])
    for operation in OPERATIONS:
        np.testing.assert_array_equal(first[operation], kept[operation])
        np.testing.assert_array_equal(run(conv2d, operation, *arrays, problem[2]), kept[operation])


def test_a_nan_stays_within_its_window():
    x = np.zeros((2, 1, 6, 6), np.float32)
    x[0, 0, 2, 3] = np.nan
    y = conv2d.forward(x, np.ones((8, 1, 3, 3), np.float32), padding=(1, 1))
    reached = np.zeros_like(y, dtype=bool)
    reached[0, :, 1:4, 2:5] = True
    np.testing.assert_array_equal(np.isnan(y), reached)


X, W = np.zeros((2, 4, 5, 5)), np.zeros((6, 4, 3, 3))
ERRORS = {
    "channels": (lambda: conv2d.forward(X[:, :3], W), ValueError, "3 channels, expected 4"),
    "axes of x": (lambda: conv2d.forward(X[0], W), ValueError, r"must be \(N, 4, H, W\), got shape \(4, 5, 5\)"),
    "axes of weight": (lambda: conv2d.forward(X, W[0]), ValueError, r"got shape \(4, 3, 3\)"),
    "too small": (lambda: conv2d.forward(X[:, :, :2], W), ValueError, r"extent \(3, 3\) does not fit .*\(2, 5\)"),
    "stride": (lambda: conv2d.forward(X, W, stride=(0, 1)), ValueError, r"stride \(0, 1\)"),
    "padding": (lambda: conv2d.forward(X, W, padding=(-1, 0)), ValueError, r"padding \(-1, 0\)"),
    "groups": (lambda: conv2d.forward(X, W, groups=4), ValueError, "groups 4 must divide"),
    "dtypes": (lambda: conv2d.forward(X, W.astype(np.float32)), TypeError, "float64 and float32"),
    "integers": (lambda: conv2d.forward(X.astype(int), W.astype(int)), TypeError, "int64"),
    "bias": (lambda: conv2d.forward(X, W, bias=np.zeros(5)), ValueError, r"bias must be \(6,\)"),
    "size": (lambda: conv2d.input_gradient(np.zeros((2, 6, 3, 3)), W, (7, 5)), ValueError, r"\(3, 3\), expected \(5, 3\)"),
    "batch": (lambda: conv2d.weight_gradient(X, np.zeros((3, 6, 3, 3)), (3, 3)), ValueError, r"\(3, 6, 3, 3\)"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_arguments_are_named(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
