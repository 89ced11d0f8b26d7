"""Modules, their state, initialisers, files. The layers' values are checked against PyTorch in test_torch_parity.py."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen import Tensor, nn, no_grad


def rng(seed=0):
    return np.random.default_rng(seed)


class Block(nn.Module):
    """A module with everything a module can hold; no `super().__init__()`."""

    def __init__(self, seed=0):
        self.width = 3
        self.scale = nn.Parameter(np.float32(2.0))
        self.register_buffer("count", np.array([1, 2], np.int64))
        self.layers = [nn.Dense(3, 3, rng=rng(seed)), nn.ReLU(), [nn.BatchNorm1d(3)]]
        self.heads = {"left": nn.Dense(3, 1, bias=False, rng=rng(seed + 1)), "right": nn.Parameter(np.ones(2))}
        self.nothing = None

    def forward(self, x):
        return self.scale * self.heads["left"](self.layers[0](x))


NAMES = ["scale", "count", "heads.right", "layers.0.weight", "layers.0.bias", "layers.2.0.weight", "layers.2.0.bias",
         "layers.2.0.running_mean", "layers.2.0.running_var", "layers.2.0.num_batches_tracked",
         "heads.left.weight"]  # fmt: skip
BUFFERS = {"count", "layers.2.0.running_mean", "layers.2.0.running_var", "layers.2.0.num_batches_tracked"}


def test_everything_is_found_by_name():
    block = Block()
    assert list(block.state_dict()) == NAMES
    named = dict(block.named_parameters())
    assert list(named) == [name for name in NAMES if name not in BUFFERS]
    assert named["layers.0.weight"] is block.layers[0].weight
    assert [id(p) for p in block.parameters()] == [id(p) for p in named.values()]
    assert [type(m).__name__ for m in block.modules()] == ["Block", "Dense", "ReLU", "BatchNorm1d", "Dense"]
    assert [name for name, _ in block.children()] == ["layers.0", "layers.1", "layers.2.0", "heads.left"]


def test_a_shared_parameter_counts_once_and_is_saved_under_both_names():
    block = Block()
    block.layers[0].weight = block.heads["tied"] = nn.Parameter(np.eye(3))
    names = [name for name, p in block.named_parameters() if p is block.heads["tied"]]
    assert names == ["heads.tied"]
    assert {"heads.tied", "layers.0.weight"} <= set(block.state_dict())
    block.again = block.layers[0]
    assert sum(m is block.again for m in block.modules()) == 1


def test_assignment_registers_and_protects():
    layer = nn.Dense(2, 2, rng=rng())
    with pytest.raises(TypeError, match=r"weight\.data\[\.\.\.\] = value"):
        layer.weight = np.zeros((2, 2))
    layer.weight = nn.Parameter(np.zeros((5, 2), np.float32))
    layer.bias = None
    assert [(name, p.shape) for name, p in layer.named_parameters()] == [("weight", (5, 2))]
    assert layer(Tensor([[1.0, 2.0]])).shape == (1, 5)
    del layer.weight
    assert list(layer.parameters()) == []


def test_train_and_eval_reach_every_module():
    block = Block()
    assert all(m.training for m in block.modules())
    assert block.eval() is block
    assert not any(m.training for m in block.modules())
    block.train()
    assert all(m.training for m in block.modules())


def test_zero_grad():
    block = Block()
    block(Tensor(np.ones((2, 3), np.float32))).sum().backward()
    assert block.scale.grad is not None
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())


def test_parameters_are_copies_in_c_order():
    source = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    parameter = nn.Parameter(source)
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert parameter.data.flags.c_contiguous
    source[...] = 0
    np.testing.assert_array_equal(parameter.numpy(), np.arange(6.0).reshape(2, 3))


def test_load_state_dict_copies_and_keeps_the_dtype():
    one, two = Block(seed=1), Block(seed=9)
    two.count[...] = 5
    arrays = {name: p._data for name, p in one.named_parameters()}
    state = two.state_dict()
    one.load_state_dict({name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in state.items()})
    for name, array in one.state_dict().items():
        assert array.dtype == state[name].dtype
        np.testing.assert_array_equal(array, state[name])
    assert all(p._data is arrays[name] for name, p in one.named_parameters()), "optimizers hold these arrays"
    state["scale"][...] = 77
    assert one.scale.item() == 2


def test_load_state_dict_reports_everything_and_changes_nothing():
    block = Block()
    before = block.state_dict()
    state = Block(seed=5).state_dict() | {"extra.weight": np.zeros(2), "scale": np.zeros(3), "count": np.zeros(2)}
    del state["layers.0.bias"]
    with pytest.raises(ValueError, match="Block cannot load this state") as error:
        block.load_state_dict(state)
    assert str(error.value).splitlines()[1:] == [
        "  missing: layers.0.bias",
        "  unexpected: extra.weight",
        "  wrong dtype: count is float64, expected int64",
        "  wrong shape: scale is (3,), expected ()",
    ]
    for name, array in block.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_not_strict():
    block = Block()
    block.load_state_dict({"scale": np.float32(5), "other": np.zeros(2)}, strict=False)
    assert block.scale.item() == 5
    with pytest.raises(ValueError, match="wrong shape: scale"):
        block.load_state_dict({"scale": np.zeros(2)}, strict=False)


def test_loading_between_forward_and_backward_is_noticed():
    layer = nn.Dense(3, 2, rng=rng())
    x = Tensor(np.ones((4, 3), np.float32), requires_grad=True)
    loss = layer(x).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="linear"):
        loss.backward()


def test_save_and_load(tmp_path):
    path = tmp_path / "new" / "block.safetensors"
    one, two = Block(seed=1), Block(seed=2)
    nn.save(path, one, {"epoch": "3"})
    assert nn.load(path, two) == {"epoch": "3"}
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(array, two.state_dict()[name])
    assert [p.name for p in path.parent.iterdir()] == ["block.safetensors"]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(["f4", "f8", "i8", "u1", "?"]),
    order=st.sampled_from("CF"),
)
def test_files_keep_every_array(tmp_path_factory, shape, dtype, order):
    path = tmp_path_factory.mktemp("arrays") / "file"
    array = np.asarray(rng(3).integers(0, 2, shape), dtype, order=order)
    nn.save_arrays(path, {"a": array, "b.c": np.float32(1.5)})
    arrays, metadata = nn.load_arrays(path)
    assert metadata == {}
    assert arrays["a"].shape == array.shape
    assert arrays["a"].dtype == array.dtype
    np.testing.assert_array_equal(arrays["a"], array)
    assert arrays["b.c"].item() == 1.5


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    nn.save_arrays(path, {"a": np.ones(3)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            nn.save_arrays(path, {"a": np.zeros(3)})
    np.testing.assert_array_equal(nn.load_arrays(path)[0]["a"], 1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_files_that_cannot_be_read_or_written(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        nn.load_arrays(path)
    nn.save_arrays(path, {"a": np.ones(300)})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        nn.load_arrays(path)
    with pytest.raises(TypeError, match="'a' is a Tensor"):
        nn.save_arrays(path, {"a": Tensor([1.0])})


def test_repr():
    assert repr(nn.Dense(3, 2, rng=rng())) == "Dense(in_features=3, out_features=2)"
    assert repr(nn.Sequential()) == "Sequential()"
    block = Block().eval()
    assert repr(block) == (
        "Block(width=3\n"
        "  (layers.0): Dense(in_features=3, out_features=3)\n"
        "  (layers.1): ReLU()\n"
        "  (layers.2.0): BatchNorm1d(num_features=3, eps=1e-05, momentum=0.1, negative_slope=1.0)\n"
        "  (heads.left): Dense(in_features=3, out_features=1)\n"
        ")"
    )
    assert "  (0): Block(width=3\n    (layers.0)" in repr(nn.Sequential(block))


def test_sequential():
    layers = [nn.Dense(3, 4, rng=rng()), nn.Tanh(), nn.Dense(4, 2, rng=rng(1))]
    network = nn.Sequential(*layers[:2]).append(layers[2])
    assert len(network) == 3
    assert list(network) == layers
    assert network[-1] is layers[2]
    assert [name for name, _ in network.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    x = rng(2).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(network(Tensor(x)).numpy(), layers[2](layers[1](layers[0](Tensor(x)))).numpy())
    with pytest.raises(TypeError, match="not a function"):
        network.append(lambda x: x)
    with pytest.raises(NotImplementedError, match="Module does not define forward"):
        nn.Module()(x)


LAYERS = {
    "Dense": (lambda **o: nn.Dense(3, 4, rng=rng(), **o), (5, 3)),
    "Embedding": (lambda **o: nn.Embedding(4, 3, rng=rng(), **o), None),
    "Conv2d": (lambda **o: nn.Conv2d(2, 3, 3, rng=rng(), **o), (2, 2, 5, 5)),
    "ConvTranspose2d": (lambda **o: nn.ConvTranspose2d(2, 3, 3, stride=2, rng=rng(), **o), (2, 2, 3, 3)),
    "LSTM": (lambda **o: nn.LSTM(3, 4, 2, bidirectional=True, rng=rng(), **o), (5, 2, 3)),
    "LSTMCell": (lambda **o: nn.LSTMCell(3, 4, rng=rng(), **o), (2, 3)),
    "BatchNorm1d": (lambda **o: nn.BatchNorm1d(3, **o), (5, 3)),
    "BatchNorm2d": (lambda **o: nn.BatchNorm2d(2, **o), (2, 2, 5, 5)),
    "InstanceNorm2d": (lambda **o: nn.InstanceNorm2d(2, affine=True, **o), (2, 2, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_dtypes(name):
    """float32 stays float32 through outputs, gradients and buffers; the same generator gives the same weights."""
    build, shape = LAYERS[name]
    for dtype in (np.float32, np.float64):
        layer, twin = build(dtype=dtype), build(dtype=dtype)
        x = np.array([[0, 3]]) if shape is None else rng(1).standard_normal(shape).astype(dtype)
        y = layer(Tensor(x, requires_grad=shape is not None))
        y = y[0] if isinstance(y, tuple) else y
        assert y.dtype == dtype
        y.sum().backward()
        assert all(p.grad.dtype == dtype for p in layer.parameters())
        assert all(a.dtype in (dtype, np.int64) for a in layer.state_dict().values())
        for a, b in zip(layer.parameters(), twin.parameters()):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        with no_grad():
            layer.eval()(Tensor(x))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 3, 3, rng=rng()), nn.LSTM(3, 4, rng=rng()), nn.BatchNorm1d(3), nn.LSTMCell(3, 4, rng=rng())]
)
def test_wrong_shapes_are_named(layer):
    with pytest.raises(ValueError, match=r"\(2, 9\)"):
        layer(Tensor(np.zeros((2, 9), np.float32)))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="2 groups do not divide 3 input"):
        nn.Conv2d(3, 4, 3, groups=2, rng=rng())
    with pytest.raises(ValueError, match=r"p = 1\.5 is out of range"):
        nn.Dropout(1.5, rng=rng())
    layer = nn.LSTM(3, 4, rng=rng())
    with pytest.raises(ValueError, match=r"state of two \(1, 2, 4\), not \(2, 4\)"):
        layer(Tensor(np.zeros((5, 2, 3), np.float32)), (np.zeros((2, 4)), np.zeros((2, 4))))


def test_lstm_gradient_of_a_long_sequence_is_that_of_the_cell():
    """The scan is one operation; the same steps by LSTMCell, one node each, give the same outputs and gradients."""
    layer = nn.LSTM(3, 4, rng=rng(), dtype=np.float64)
    cell = nn.LSTMCell(3, 4, rng=rng(1), dtype=np.float64)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in layer.state_dict().items()})
    x, weights = rng(2).standard_normal((60, 2, 3)), rng(3).standard_normal((60, 2, 4))
    y, _ = layer(Tensor(x))
    (y * weights).sum().backward()
    state, loss = None, 0.0
    for t in range(60):
        state = cell(Tensor(x[t]), state)
        np.testing.assert_allclose(state[0].numpy(), y.numpy()[t], rtol=1e-12, atol=1e-14)
        loss = loss + (state[0] * weights[t]).sum()
    loss.backward()
    for one, many in zip(layer.parameters(), cell.parameters()):
        np.testing.assert_allclose(one.grad, many.grad, rtol=1e-10, atol=1e-12)


def test_dropout():
    layer = nn.Dropout(0.25, rng=rng())
    x = Tensor(np.ones((200, 200), np.float32), requires_grad=True)
    y = layer(x)
    values, counts = np.unique(y.numpy(), return_counts=True)
    np.testing.assert_allclose(values, [0, 4 / 3])
    assert abs(counts[0] / y.size - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.size)
    assert (layer(x).numpy() != y.numpy()).any()
    np.testing.assert_array_equal(nn.Dropout(0.25, rng=rng())(x).numpy(), y.numpy())
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.numpy())


@pytest.mark.parametrize("shape", [(400, 300), (60, 40, 5, 3)])
def test_initialisers(shape):
    """Mean 0, the variance of each formula, the bound of the uniform ones; the dtype asked for."""
    fan_in, fan_out = nn.init.fans(shape)
    assert (fan_in, fan_out) == (shape[1] * math.prod(shape[2:]), shape[0] * math.prod(shape[2:]))
    variances = {
        "glorot_uniform": 2 / (fan_in + fan_out),
        "glorot_normal": 2 / (fan_in + fan_out),
        "he_uniform": 2 / fan_in,
        "he_normal": 2 / fan_in,
        "fan_in_uniform": 1 / (3 * fan_in),
        "normal": 1e-4,
        "uniform": 1e-4 / 3,
        "zeros": 0.0,
    }
    for name, variance in variances.items():
        weight = getattr(nn.init, name)(rng(7), shape)
        assert weight.dtype == np.float32
        assert weight.shape == shape
        assert weight.flags.c_contiguous
        assert abs(weight.mean(dtype=np.float64)) <= 5 * math.sqrt(variance / weight.size), name
        assert weight.var(dtype=np.float64) == pytest.approx(variance, rel=0.05, abs=1e-12), name
        if name.endswith("uniform"):
            bound = math.sqrt(3 * variance)
            assert 0.99 * bound < np.abs(weight).max() <= bound * (1 + 1e-6), name
        np.testing.assert_array_equal(weight, getattr(nn.init, name)(rng(7), shape))
        assert getattr(nn.init, name)(rng(7), shape, np.float64).dtype == np.float64


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (6, 2, 2, 2), (2, 3, 2, 2)])
def test_orthogonal(shape):
    weight = nn.init.orthogonal(rng(1), shape, np.float64, gain=1.5).reshape(shape[0], -1)
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_is_uniform():
    """Haar's measure: each entry of a 3 x 3 has mean 0 and variance 1/3, and both determinants are as likely."""
    draws = np.array([nn.init.orthogonal(g, (3, 3), np.float64) for g in [rng(5)] for _ in range(4000)])
    np.testing.assert_allclose(draws.mean(0), 0, atol=5 * math.sqrt(1 / 3 / 4000))
    np.testing.assert_allclose(draws.var(0), 1 / 3, atol=0.03)
    assert abs((np.linalg.det(draws) > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_initialisers_need_two_dimensions():
    with pytest.raises(ValueError, match=r"shape \(3,\) has no fan-in"):
        nn.init.he_normal(rng(), (3,))


def test_layers_take_initialisers():
    layer = nn.Dense(30, 20, rng=rng(), init=nn.init.orthogonal)
    np.testing.assert_allclose(layer.weight.numpy() @ layer.weight.numpy().T, np.eye(20), atol=1e-5)
    assert not nn.Conv2d(2, 3, 3, rng=rng(), init=nn.init.zeros).weight.numpy().any()


def test_to_the_cpu_is_nothing_but_forgetting_gradients():
    block = Block()
    before = block.state_dict()
    assert block.to("cpu") is block
    for name, array in block.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError, match="'tpu' is unknown"):
        block.to("tpu")


@pytest.mark.gpu
def test_to_the_gpu_and_back():
    block = Block()
    before = block.state_dict()
    x = np.ones((2, 3), np.float32)
    expected = block(Tensor(x)).numpy()
    block.to("cuda")
    assert all(p.device.startswith("cuda") for p in block.parameters())
    np.testing.assert_allclose(block(Tensor(x).to("cuda")).numpy(), expected, rtol=1e-5)
    block.load_state_dict(block.state_dict())
    for name, array in block.to("cpu").state_dict().items():
        np.testing.assert_array_equal(array, before[name])
