"""The masked convolution against loops, full convolutions with a mask, and its reference; networks of it pixel by pixel."""

import numpy as np
import pixel_loop
import pytest
from comparing import given, seeds
from cuda_shim import cuda_on_cpu, needs_compiler
from hypothesis import strategies as st
from pixel_loop import assert_close, spaced

import tinygen as tg
from tinygen.checks.masked_conv import centre, network
from tinygen.kernels import masked_conv
from tinygen.kernels.conv2d import reference as conv2d_reference
from tinygen.kernels.masked_conv import Layer, Stepper, cuda, reference
from tinygen.ops.masked_conv import masked_conv2d

dtypes = st.sampled_from([np.float32, np.float64])
masks = st.sampled_from(["A", "B", "A3", "B3", "all"])
kernels = st.sampled_from([1, 3, 5, 7])
sides = st.integers(1, 9)


def case(seed, N, C, O, k, H, W, mask, dtype=np.float64):
    """x, weight with NaN wherever the mask forbids a look, bias, centre, and a cotangent."""
    rng = np.random.default_rng(seed)
    x, weight, bias, g = (rng.standard_normal(s).astype(dtype) for s in ((N, C, H, W), (O, C, k, k), (O,), (N, O, H, W)))
    matrix = centre(O, C, mask)
    weight[~whole_mask(O, C, k, matrix)] = np.nan
    return x, weight, bias, matrix, g


def whole_mask(O, C, k, matrix):
    """The usual mask (O, C, k, k): all of the rows above, the row itself to the left, and `matrix` in the middle."""
    mask = np.zeros((O, C, k, k), bool)
    mask[:, :, : k // 2] = True
    mask[:, :, k // 2, : k // 2] = True
    mask[:, :, k // 2, k // 2] = False if matrix is None else matrix
    return mask


def results(module, x, weight, bias, matrix, g):
    return module.forward(x, weight, bias, matrix), *module.backward(g, x, weight, matrix)


@given(
    60, seed=seeds, N=st.integers(0, 5), C=st.integers(1, 7), O=st.integers(1, 19), k=kernels, H=sides, W=sides, mask=masks,
    dtype=dtypes,
)  # fmt: skip
def test_cpu_equals_reference_and_never_reads_a_masked_weight(seed, N, C, O, k, H, W, mask, dtype):
    arguments = case(seed, N, C, O, k, H, W, mask, dtype)
    found = results(masked_conv, *arguments)
    assert_close(found, results(reference, *arguments), dtype)
    forbidden = ~whole_mask(O, C, k, arguments[3])
    assert (found[2][forbidden] == 0).all()


@given(20, seed=seeds, N=st.integers(1, 2), C=st.integers(1, 3), O=st.integers(1, 4), k=kernels, H=sides, W=sides, mask=masks)
def test_kernel_and_reference_equal_loops_over_what_each_pixel_may_see(seed, N, C, O, k, H, W, mask):
    x, weight, bias, matrix, g = case(seed, N, C, O, k, H, W, mask)
    y, g_x, g_weight = np.zeros_like(g) + bias[:, None, None], np.zeros_like(x), np.zeros_like(weight)
    for i, j, p, q in np.ndindex(H, W, H, W):
        a, b = p - i + k // 2, q - j + k // 2
        if not (0 <= a < k and 0 <= b < k) or p * W + q > i * W + j:
            continue
        for o, c in np.ndindex(O, C):
            if (p, q) != (i, j) or matrix is True or (matrix is not None and matrix[o, c]):
                y[:, o, i, j] += weight[o, c, a, b] * x[:, c, p, q]
                g_x[:, c, p, q] += weight[o, c, a, b] * g[:, o, i, j]
                g_weight[o, c, a, b] += g[:, o, i, j] @ x[:, c, p, q]
    for module in (masked_conv, reference):
        assert_close(results(module, x, weight, bias, matrix, g), (y, g_x, g_weight, g.sum(axis=(0, 2, 3))), np.float64)


@given(20, seed=seeds, C=st.integers(1, 6), O=st.integers(1, 9), k=kernels, H=sides, W=sides, mask=masks)
def test_it_equals_a_convolution_whose_weight_is_multiplied_by_the_mask(seed, C, O, k, H, W, mask):
    x, weight, bias, matrix, g = case(seed, 2, C, O, k, H, W, mask)
    allowed = whole_mask(O, C, k, matrix)
    options = {"padding": (k // 2, k // 2)}
    usual = np.where(allowed, weight, 0)
    expected = (
        conv2d_reference.forward(x, usual, bias=bias, **options),
        conv2d_reference.input_gradient(g, usual, (H, W), **options),
        conv2d_reference.weight_gradient(x, g, (k, k), **options) * allowed,
    )
    assert_close(results(masked_conv, x, weight, bias, matrix, g)[:3], expected, np.float64)


@pytest.mark.parametrize("mask", ["A", "B", "A3", "B3", "all"])
def test_an_output_depends_on_exactly_the_inputs_that_its_mask_allows(mask):
    x, weight, bias, matrix, _ = case(1, 1, 3, 6, 3, 4, 5, mask)
    allowed = whole_mask(6, 3, 3, matrix)
    y = masked_conv.forward(x, weight, bias, matrix)
    for c, p, q in np.ndindex(x.shape[1:]):
        changed = x.copy()
        changed[:, c, p, q] += 1
        moved = (masked_conv.forward(changed, weight, bias, matrix) != y)[0]
        expected = np.zeros_like(moved)
        for (i, j), a, b in ((place, p - place[0] + 1, q - place[1] + 1) for place in np.ndindex(4, 5)):
            if 0 <= a < 3 and 0 <= b < 3:
                expected[:, i, j] = allowed[:, c, a, b]
        assert (moved == expected).all()


def test_the_op_has_float32_gradients_that_are_zero_where_the_mask_is():
    x, weight, bias, matrix, g = case(2, 2, 3, 6, 5, 6, 5, "B3", np.float32)
    tensors = [tg.Tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = masked_conv2d(*tensors, matrix)
    y.backward(g)
    for tensor, expected in zip((y, *(t.grad for t in tensors)), results(masked_conv, x, weight, bias, matrix, g), strict=True):
        array = tg.tensor.array_of(tensor)
        assert array.dtype == np.float32
        assert (array == expected).all()


def passed(layers, x):
    """The whole network on whole images."""
    outputs = []
    for layer in layers:
        seen = np.maximum(x, 0) if layer.rectified else x
        x = masked_conv.forward(seen, layer.weight, layer.bias, layer.centre)
        x = x + outputs[-layer.skip] if layer.skip else x
        outputs.append(x)
    return x


def walked(stepper, x, colours):
    """The logits (N, colours, outs, H, W) of a sampler that finds the numbers of x, one colour after the other."""
    logits = {}
    for row, column in np.ndindex(x.shape[2:]):
        for colour in range(colours):
            logits[row, column, colour] = stepper.step(row, column)
            known = x[:, :, row, column].copy()
            known[:, colour + 1 :] = 0
            stepper.put(row, column, known)
    shape = (*x.shape[2:], colours)
    rows = [[[logits[i, j, c] for c in range(shape[2])] for j in range(shape[1])] for i in range(shape[0])]
    return np.array(rows).transpose(3, 2, 4, 0, 1)


def naively(layers, x, colours):
    """The same by a whole pass for each number, on images that are zero from that number on."""
    rest, logits = np.zeros_like(x), np.zeros((len(x), colours, len(layers[-1].weight), *x.shape[2:]), x.dtype)
    for row, column in np.ndindex(x.shape[2:]):
        for colour in range(colours):
            logits[:, colour, :, row, column] = passed(layers, rest)[:, :, row, column]
            rest[:, colour, row, column] = x[:, colour, row, column]
    return logits


@given(
    12, seed=seeds, N=st.integers(0, 40), features=st.integers(1, 21), outs=st.integers(1, 9), H=st.integers(1, 6),
    W=st.integers(1, 6), grouped=st.booleans(), dtype=dtypes,
)  # fmt: skip
def test_steps_have_the_bits_of_whole_passes(seed, N, features, outs, H, W, grouped, dtype):
    rng, colours = np.random.default_rng(seed), 3 if grouped else 1
    x = rng.standard_normal((N, colours, H, W)).astype(dtype)
    layers = network(rng, dtype, colours, features, outs, grouped)
    found = walked(Stepper(layers, N, (H, W)), x, colours)
    assert found.dtype == dtype
    assert (found == naively(layers, x, colours)).all()
    assert_close([walked(reference.Stepper(layers, N, (H, W)), x, colours)], [found], dtype)


def test_steps_on_several_threads_have_the_bits_of_whole_passes():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, 1, 5, 4)).astype(np.float32)
    layers = network(rng, np.float32, 1, 40, 3, False)

    def everything():
        stepper = Stepper(layers, len(x), (5, 4))
        return walked(stepper, x, 1)[:, 0], passed(layers, x)

    for steps, whole in pixel_loop.with_threads((1, 2, 3), everything):
        assert (steps == whole).all()


@needs_compiler
@pytest.mark.parametrize("grouped", [False, True])
def test_steps_on_the_gpu_have_the_bits_of_whole_passes_there(grouped):
    rng, colours = np.random.default_rng(4), 3 if grouped else 1
    x = rng.standard_normal((3, colours, 4, 3)).astype(np.float32)
    layers = network(rng, np.float32, colours, 5, 4, grouped)
    with cuda_on_cpu():
        assert (walked(cuda.Stepper(layers, 3, (4, 3)), x, colours) == naively(layers, x, colours)).all()


@pytest.mark.parametrize("k", [1, 3])
def test_a_first_layer_may_rectify_and_see_its_own_pixel(k):
    rng = np.random.default_rng(5)
    weight, bias, x = (rng.standard_normal(s) for s in ((2, 3, k, k), (2,), (4, 3, 5, 5)))
    layers = [Layer(weight, bias, np.ones((2, 3), bool), rectified=True)]
    stepper, whole = Stepper(layers, 4, (5, 5)), passed(layers, x)
    for row, column in np.ndindex(5, 5):
        stepper.put(row, column, x[:, :, row, column])
        assert (stepper.step(row, column) == whole[:, :, row, column]).all()


def test_the_number_of_threads_does_not_change_a_bit():
    arguments = case(6, 13, 8, 40, 3, 14, 15, "B", np.float32)
    first, *others = pixel_loop.with_threads((1, 2, 3), lambda: results(masked_conv, *arguments))
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert (a == b).all()


def test_inputs_are_not_changed_and_may_have_gaps():
    plain = case(7, 3, 3, 6, 3, 5, 4, "B3")
    x, weight, bias, matrix, g = (spaced(a) for a in plain)
    for a, b in zip(results(masked_conv, x, weight, bias, matrix, g), results(masked_conv, *plain), strict=True):
        assert (a == b).all()
    for array, before in zip((x, weight, bias, matrix, g), case(7, 3, 3, 6, 3, 5, 4, "B3"), strict=True):
        np.testing.assert_array_equal(array, before)


def test_what_does_not_fit_is_refused():
    x, weight, bias, matrix, _ = case(8, 2, 3, 6, 3, 4, 4, "B3")
    with pytest.raises(ValueError, match=r"\(O, C, k, k\) with k odd, got \(6, 3, 3, 2\)"):
        masked_conv.forward(x, weight[..., :2], bias, matrix)
    with pytest.raises(ValueError, match=r"bias \(6,\) of float64 for this weight, got \(5,\)"):
        masked_conv.forward(x, weight, bias[:5], matrix)
    with pytest.raises(ValueError, match=r"None or \(6, 3\) of bool for this weight, got \(3, 6\)"):
        masked_conv.forward(x, weight, bias, matrix.T)
    with pytest.raises(ValueError, match=r"True, None or .* for this weight, got False"):
        masked_conv.forward(x, weight, bias, False)
    with pytest.raises(TypeError, match="float32 or float64, got a weight of int64"):
        masked_conv.forward(x, np.ones((6, 3, 3, 3), int), None, matrix)
    first = Layer(np.zeros((4, 1, 3, 3)), np.zeros(4), None)
    with pytest.raises(ValueError, match="layer 1 takes 3 channels, but the one before it gives 4"):
        Stepper([first, Layer(weight, bias, matrix)], 2, (4, 4))
    with pytest.raises(ValueError, match=r"layer 0 has 4 outputs, which layer -1 \(skip 1\) has not"):
        Stepper([first._replace(skip=1)], 2, (4, 4))
    with pytest.raises(ValueError, match="at least one pixel"):
        Stepper([first], 2, (0, 4))
    stepper = Stepper([first], 2, (4, 4))
    with pytest.raises(ValueError, match=r"pixel \(4, 0\) is outside of the image, \(4, 4\)"):
        stepper.step(4, 0)
    with pytest.raises(ValueError, match=r"values \(2, 1\) of float64, got \(1, 2\)"):
        stepper.put(0, 0, np.zeros((1, 2)))
