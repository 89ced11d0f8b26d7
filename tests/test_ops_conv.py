"""conv2d, conv_transpose2d, pooling, interpolate: values against PyTorch, adjoints, derivatives of two orders, errors.

Their gradient checks are in the registry (tinygen/checks/images.py).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen as tg
from tinygen.gradcheck import gradcheck
from tinygen.ops.conv import conv2d_weight_gradient

CASES = {
    "conv2d": ("conv2d", [(3, 4, 9, 8), (6, 2, 3, 2), (6,)], {"stride": 2, "padding": 1, "dilation": (2, 1), "groups": 2}),
    "conv2d, defaults": ("conv2d", [(2, 3, 5, 6), (4, 3, 3, 3)], {}),
    "conv2d, dense": ("conv2d", [(3, 2, 4, 4), (5, 2, 4, 4), (5,)], {}),
    "conv_transpose2d": (
        "conv_transpose2d",
        [(3, 4, 5, 4), (4, 3, 3, 2), (6,)],
        {"stride": (2, 3), "padding": 1, "output_padding": (1, 2), "groups": 2, "dilation": (1, 2)},
    ),
    "conv_transpose2d, defaults": ("conv_transpose2d", [(2, 3, 4, 4), (3, 2, 3, 3)], {}),
    "conv_transpose2d, dense": ("conv_transpose2d", [(3, 5, 1, 1), (5, 2, 4, 4), (2,)], {}),
    "max_pool2d": ("max_pool2d", [(2, 3, 9, 8)], {"kernel_size": 3, "stride": 2, "padding": 1}),
    "max_pool2d, defaults": ("max_pool2d", [(2, 3, 6, 7)], {"kernel_size": (2, 3)}),
    "avg_pool2d": ("avg_pool2d", [(2, 3, 9, 8)], {"kernel_size": (3, 2), "stride": (1, 2), "padding": 1}),
    "avg_pool2d, defaults": ("avg_pool2d", [(2, 3, 6, 7)], {"kernel_size": 2}),
    "interpolate": ("interpolate", [(2, 3, 4, 5)], {"scale_factor": 2}),
    "interpolate, oblong": ("interpolate", [(2, 3, 4, 5)], {"scale_factor": (3, 1)}),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_two_orders_of_derivatives_are_pytorchs(name):
    torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs the bench extra")
    function, shapes, options = CASES[name]
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape) for shape in shapes]
    theirs = [torch.tensor(value, requires_grad=True) for value in values]
    ours = [tg.Tensor(value, requires_grad=True) for value in values]

    expected = getattr(torch.nn.functional, function)(*theirs, **options)
    y = getattr(tg, function)(*ours, **options)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-10)

    # The second order through a function that is curved, so that every mixed derivative counts.
    expected = torch.autograd.grad(torch.tanh(expected).sum(), theirs, create_graph=True)
    first = tg.grad(tg.tanh(y).sum(), ours, create_graph=True)
    weights = [rng.standard_normal(shape) for shape in shapes]
    expected_sum = sum((g * torch.from_numpy(w)).sum() for g, w in zip(expected, weights))
    total = sum(((g * w).sum() for g, w in zip(first[1:], weights[1:])), (first[0] * weights[0]).sum())
    second = tg.grad(total, ours)
    for actual, wanted in zip((*first, *second), (*expected, *torch.autograd.grad(expected_sum, theirs))):
        np.testing.assert_allclose(actual.numpy(), wanted.detach().numpy(), rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    size=st.tuples(st.integers(9, 12), st.integers(9, 12)),
    seed=st.integers(0, 2**32 - 1),
)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(kernel, stride, padding, dilation, groups, size, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((2, 2 * groups, *size)), rng.standard_normal((3 * groups, 2, *kernel))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = tg.conv2d(x, weight, **options)
    g = rng.standard_normal(y.shape)
    extra = tuple((n + 2 * padding - dilation * (k - 1) - 1) % stride for n, k in zip(size, kernel))
    back = tg.conv_transpose2d(g, weight, output_padding=extra, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose((y * g).sum(), (x * back).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_dtypes_and_plain_arrays(name, dtype):
    function, shapes, options = CASES[name]
    rng = np.random.default_rng(1)
    values = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    tensors = [tg.Tensor(value, requires_grad=True) for value in values]
    y = getattr(tg, function)(*tensors, **options)
    plain = getattr(tg, function)(*values, **options)
    assert isinstance(plain, np.ndarray)
    np.testing.assert_array_equal(plain, y.numpy())
    y.backward(np.ones_like(plain))
    assert y.dtype == dtype
    assert [t.grad.dtype for t in tensors] == [dtype] * len(tensors)
    assert [t.grad.shape for t in tensors] == [t.shape for t in tensors]


def test_two_floating_dtypes_promote():
    x = tg.Tensor(np.ones((1, 1, 3, 3), np.float32), requires_grad=True)
    weight = tg.Tensor(np.ones((1, 1, 2, 2)), requires_grad=True)
    y = tg.conv2d(x, weight, tg.Tensor(np.ones(1, np.float32)))
    y.sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (np.float64, np.float32, np.float64)
    np.testing.assert_array_equal(y.numpy(), np.full((1, 1, 2, 2), 5.0))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch(name):
    function, shapes, options = CASES[name]
    arrays = [np.zeros((0, *shapes[0][1:])), *(np.ones(shape) for shape in shapes[1:])]
    tensors = [tg.Tensor(array, requires_grad=True) for array in arrays]
    y = getattr(tg, function)(*tensors, **options)
    assert y.shape[0] == 0
    y.sum().backward()
    for tensor in tensors:
        np.testing.assert_array_equal(tensor.grad, np.zeros(tensor.shape))


def test_the_weight_gradient_is_differentiable_by_itself():
    rng = np.random.default_rng(2)
    x, g = tg.Tensor(rng.standard_normal((2, 2, 5, 5)), True), tg.Tensor(rng.standard_normal((2, 3, 5, 5)), True)
    gradcheck(lambda x, g: conv2d_weight_gradient(x, g, (3, 3), (1, 1), (1, 1), (1, 1), 1), [x, g], order=2)


def test_max_pool2d_sends_the_gradient_to_the_first_of_equal_values():
    x = tg.Tensor([[[[1.0, 1.0], [0.0, 1.0]]]], requires_grad=True)
    tg.max_pool2d(x, 2).sum().backward()
    np.testing.assert_array_equal(x.grad, [[[[1, 0], [0, 0]]]])


def test_max_pool2d_at_the_edges():
    x = np.full((1, 1, 4, 4), -3.0, np.float32)
    np.testing.assert_array_equal(tg.max_pool2d(x, 3, 1, 1), x)  # the padding is never the largest
    x[0, 0, 0, 0] = np.nan
    x[0, 0, 3, 3] = -np.inf
    np.testing.assert_array_equal(tg.max_pool2d(x, 2), [[[[np.nan, -3], [-3, -3]]]])
    everywhere = np.full((1, 1, 2, 2), -np.inf)
    np.testing.assert_array_equal(tg.max_pool2d(everywhere, 2), [[[[-np.inf]]]])


def test_max_pool2d_with_a_window_of_many_places():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 2, 20, 20))
    np.testing.assert_array_equal(tg.max_pool2d(x, 20)[..., 0, 0], x.max((2, 3)))


def test_max_pool2d_of_infinite_gradients():
    x = tg.Tensor([[[[1.0, 2.0], [0.0, 1.0]]]], requires_grad=True)
    tg.max_pool2d(x, 2).backward(np.array([[[[np.inf]]]], np.float32))
    np.testing.assert_array_equal(x.grad, [[[[0, np.inf], [0, 0]]]])


def test_integers():
    image = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)
    enlarged = tg.interpolate(image, (1, 2))
    assert enlarged.dtype == np.uint8
    np.testing.assert_array_equal(enlarged, [[[[0, 0, 1, 1], [2, 2, 3, 3]]]])
    for pool in (tg.max_pool2d, tg.avg_pool2d):
        with pytest.raises(TypeError, match="uint8"):
            pool(image, 2)


X, W = np.zeros((2, 4, 5, 5)), np.zeros((6, 4, 3, 3))
ERRORS = {
    "conv2d channels": (lambda: tg.conv2d(X, W[:, :3]), "4 channels, expected 3"),
    "conv2d axes": (lambda: tg.conv2d(X[0], W), "got shape"),
    "conv2d bias": (lambda: tg.conv2d(X, W, np.zeros(4)), r"bias must be \(6,\)"),
    "conv2d stride": (lambda: tg.conv2d(X, W, stride=(1, 2, 3)), r"stride \(1, 2, 3\) is neither an int nor a pair"),
    "conv2d real stride": (lambda: tg.conv2d(X, W, stride=(1.5, 1)), r"stride \(1.5, 1\)"),
    "conv_transpose2d axes": (lambda: tg.conv_transpose2d(X[0], W), "got shape"),
    "conv_transpose2d weight": (lambda: tg.conv_transpose2d(X, W[0]), r"got shape \(4, 3, 3\)"),
    "conv_transpose2d channels": (lambda: tg.conv_transpose2d(X, W), "4 channels, expected 6"),
    "conv_transpose2d output_padding": (
        lambda: tg.conv_transpose2d(X[:, :, :1], W[:4], stride=2, output_padding=2),
        r"output_padding \(2, 2\) .* smaller than stride \(2, 2\)",
    ),
    "conv_transpose2d padding": (lambda: tg.conv_transpose2d(X, W[:4], padding=4), r"\(-1, -1\)"),
    "max_pool2d axes": (lambda: tg.max_pool2d(X[0], 2), r"max_pool2d takes images .* \(4, 5, 5\)"),
    "max_pool2d padding": (lambda: tg.max_pool2d(X, 2, padding=2), "at most half"),
    "max_pool2d window": (lambda: tg.max_pool2d(X, 6), r"extent \(6, 6\) does not fit"),
    "avg_pool2d window": (lambda: tg.avg_pool2d(X, 6), r"extent \(6, 6\) does not fit"),
    "avg_pool2d stride": (lambda: tg.avg_pool2d(X, 2, 0), "stride"),
    "interpolate": (lambda: tg.interpolate(X, 0), "scale_factor >= 1, got 0"),
    "interpolate real": (lambda: tg.interpolate(X, 1.5), "scale_factor 1.5"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_arguments_are_named(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
