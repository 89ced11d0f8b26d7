"""Optimizers, schedules, clipping. Their formulas are checked against PyTorch in test_torch_parity.py."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen import Tensor, nn, optim

SETTINGS = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adagrad": {"lr_decay": 0.01},
    "rmsprop": {"momentum": 0.5, "centered": True},
    "adam": {"weight_decay": 0.1},
    "adamw": {"weight_decay": 0.1},
}


def make(name, parameters, **changes):
    return optim.OPTIMIZERS[name](parameters, **({"lr": 0.05} | SETTINGS[name] | changes))


def parameters_of(shapes, rng, dtype=np.float32):
    return [Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def train(optimizer, steps, seed):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for p in optimizer.parameters:
            p.grad = np.asarray(rng.standard_normal(p.shape) + p.numpy(), p.dtype)
        optimizer.step()


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_finds_the_minimum_of_a_quadratic(name):
    target = np.array([1.0, -2.0, 0.5])
    x = Tensor(np.zeros(3), requires_grad=True)
    optimizer = optim.OPTIMIZERS[name]([x], lr=0.3, weight_decay=0.0)
    for step in range(400):
        optimizer.zero_grad()
        ((x - target) * (x - target)).sum().backward()
        optimizer.lr = 0.3 * optim.linear_decay(step, 400)
        optimizer.step()
    np.testing.assert_allclose(x.numpy(), target, atol=1e-3)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_grouping_changes_no_bit(name, monkeypatch):
    """Small parameters that are updated together get what each would get by itself."""
    shapes = [(3, 4), (), (5,), (130, 130), (2, 0, 3)]
    together = make(name, parameters_of(shapes, np.random.default_rng(1)))
    monkeypatch.setattr(optim, "SMALL", -1)
    alone = make(name, parameters_of(shapes, np.random.default_rng(1)))
    assert len(together._groups) == 2
    assert len(alone._groups) == len(shapes)
    for optimizer in (together, alone):
        train(optimizer, 5, seed=2)
    for a, b in zip(together.parameters, alone.parameters):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_resuming_from_a_file_changes_no_bit(name, tmp_path):
    """Steps, state_dict through safetensors, more steps: the same bits as without the interruption."""
    shapes = [(3, 4), (7,), (200, 100)]
    whole = make(name, parameters_of(shapes, np.random.default_rng(1)))
    first = make(name, parameters_of(shapes, np.random.default_rng(1)))
    for optimizer in (whole, first):
        train(optimizer, 4, seed=2)
    nn.save_arrays(tmp_path / "state", first.state_dict())
    second = make(name, [Tensor(p.numpy(), requires_grad=True) for p in first.parameters])
    second.load_state_dict(nn.load_arrays(tmp_path / "state")[0])
    for optimizer in (whole, second):
        train(optimizer, 4, seed=3)
    for a, b in zip(whole.parameters, second.parameters):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert whole.state_dict().keys() == second.state_dict().keys()
    for key, array in whole.state_dict().items():
        np.testing.assert_array_equal(array, second.state_dict()[key])


def test_state_has_the_shapes_of_the_parameters_and_is_a_copy():
    optimizer = optim.Adam(parameters_of([(3, 4), (2,)], np.random.default_rng(0)))
    train(optimizer, 1, seed=0)
    state = optimizer.state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        "0.step": (), "0.exp_avg": (3, 4), "0.exp_avg_sq": (3, 4),
        "1.step": (), "1.exp_avg": (2,), "1.exp_avg_sq": (2,),
    }  # fmt: skip
    assert state["1.step"] == 1
    state["0.exp_avg"][...] = 7
    assert not (optimizer.state_dict()["0.exp_avg"] == 7).any()


def test_a_wrong_state_is_reported_and_changes_nothing():
    optimizer = optim.Adam(parameters_of([(3,), (2,)], np.random.default_rng(0)))
    train(optimizer, 2, seed=0)
    before = optimizer.state_dict()
    state = optimizer.state_dict() | {"2.step": np.array(1), "1.exp_avg": np.zeros(5), "0.step": np.array(9)}
    del state["0.exp_avg_sq"]
    with pytest.raises(ValueError, match=r"missing: 0\.exp_avg_sq") as error:
        optimizer.load_state_dict(state)
    assert "unexpected: 2.step" in str(error.value)
    assert "wrong shape: 1.exp_avg is (5,), expected (2,)" in str(error.value)
    for key, array in before.items():
        np.testing.assert_array_equal(array, optimizer.state_dict()[key])


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_float32_stays_float32_and_gradients_are_kept(name):
    """float32 follows float64 within rounding; the gradient is read, not written."""
    shapes = [(3, 4), (200, 100)]
    ends = []
    for dtype in (np.float32, np.float64):
        optimizer = make(name, parameters_of(shapes, np.random.default_rng(1), dtype))
        for p in optimizer.parameters:
            p.grad = (p.numpy() + np.linspace(-1, 1, p.size).reshape(p.shape)).astype(dtype)
        kept = [p.grad.copy() for p in optimizer.parameters]
        for _ in range(20):
            optimizer.step()
        for p, gradient in zip(optimizer.parameters, kept):
            np.testing.assert_array_equal(p.grad, gradient)
            assert p.dtype == dtype
        assert all(array.dtype in (dtype, np.int64) for array in optimizer.state_dict().values())
        ends.append(optimizer.parameters)
    for single, double in zip(*ends):
        np.testing.assert_allclose(single.numpy(), double.numpy(), rtol=1e-3, atol=1e-5)


def test_parameters_without_gradient_are_left_alone():
    """One never has a gradient, one skips a step: its bias correction counts its own updates."""
    never, sometimes, always = parameters_of([(3,), (3,), (3,)], np.random.default_rng(0))
    start = never.numpy().copy()
    optimizer = optim.Adam([never, sometimes, always])
    for step in range(3):
        optimizer.zero_grad()
        always.grad = np.ones(3, np.float32)
        if step != 1:
            sometimes.grad = np.ones(3, np.float32)
        optimizer.step()
    np.testing.assert_array_equal(never.numpy(), start)
    assert optimizer.steps == [0, 2, 3]


def test_a_step_between_forward_and_backward_is_noticed():
    """The gradient would be taken at the new values: the engine refuses."""
    layer = nn.Dense(3, 2, rng=np.random.default_rng(0))
    x = Tensor(np.ones((4, 3), np.float32), requires_grad=True)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer(x).sum().backward()
    loss = layer(x).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="linear"):
        loss.backward()


def test_any_memory_layout():
    """Parameters and gradients in Fortran order, and gradients that are read-only views."""
    values = np.arange(12.0).reshape(3, 4)
    plain = Tensor(values, requires_grad=True)
    fortran = Tensor(np.asfortranarray(values), requires_grad=True)
    other = Tensor(np.ones((3, 4)), requires_grad=True)
    for parameters in ([plain], [fortran], [fortran, other]):
        fortran.data[...] = plain.data[...] = values
        gradients = [np.broadcast_to(np.arange(4.0), (3, 4)), np.asfortranarray(np.ones((3, 4)))]
        for p, gradient in zip(parameters, gradients):
            p.grad = gradient
        optim.Adam(parameters, lr=0.5).step()
        np.testing.assert_allclose(parameters[0].numpy(), values - 0.5 * np.sign(gradients[0]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"lr": -0.1}, "lr = -0.1"),
        ("sgd", {"momentum": -1.0, "nesterov": False}, "momentum = -1.0"),
        ("sgd", {"momentum": 0.0}, "nesterov=True needs"),
        ("adam", {"betas": (0.9, 1.0)}, "betas = 1.0"),
        ("adam", {"eps": math.nan}, "eps = nan"),
        ("rmsprop", {"alpha": 1.5}, "alpha = 1.5"),
        ("adagrad", {"weight_decay": math.inf}, "weight_decay = inf"),
    ],
)
def test_settings_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, parameters_of([(2,)], np.random.default_rng(0)), **options)


def test_wrong_parameters():
    (p,) = parameters_of([(2,)], np.random.default_rng(0))
    with pytest.raises(ValueError, match="no parameters"):
        optim.SGD([], lr=0.1)
    with pytest.raises(ValueError, match="twice"):
        optim.SGD([p, p], lr=0.1)
    with pytest.raises(ValueError, match="parameter 1 is no Tensor"):
        optim.SGD([p, np.zeros(2)], lr=0.1)
    with pytest.raises(ValueError, match="parameter 0 is no Tensor"):
        optim.SGD([p * 2.0], lr=0.1)


def test_schedules():
    for name, schedule in optim.SCHEDULES.items():
        factors = [schedule(step, 90) for step in range(91)]
        assert factors[0] == 1, name
        assert all(a >= b for a, b in itertools.pairwise(factors)), name
    assert optim.constant(80, 90) == 1
    assert [optim.linear_decay(t, 4) for t in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert optim.cosine_decay(45, 90) == pytest.approx(0.5)
    assert optim.cosine_decay(90, 90, final=0.2) == pytest.approx(0.2)
    assert [optim.step_decay(t, 6, parts=3, factor=0.5) for t in range(7)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.sampled_from([(), (3,), (0,), (70, 300), (8192,), (5, 4)]), min_size=1, max_size=4),
    dtype=st.sampled_from([np.float32, np.float64]),
    max_norm=st.sampled_from([0.1, 10.0, 1e6, math.inf]),
)
def test_clip_grad_norm(shapes, dtype, max_norm):
    rng = np.random.default_rng(3)
    parameters = parameters_of(shapes, rng, dtype)
    for p in parameters:
        p.grad = np.asarray(rng.standard_normal(p.shape), dtype)
    kept = [p.grad.astype(np.float64) for p in parameters]
    parameters.append(Tensor(1.0, requires_grad=True))  # without a gradient
    norm = optim.clip_grad_norm(parameters, max_norm)
    exact = math.sqrt(sum(float((g * g).sum()) for g in kept))
    assert isinstance(norm, float)
    assert norm == pytest.approx(exact, rel=1e-6 if dtype == np.float32 else 1e-13)
    factor = min(1.0, max_norm / (exact + 1e-6))
    for p, g in zip(parameters, kept):
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad, factor * g, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_clip_grad_norm_reports_what_is_not_finite():
    for bad in (math.nan, math.inf):
        p = Tensor(np.zeros(3), requires_grad=True)
        p.grad = np.array([1.0, bad, 2.0])
        assert not math.isfinite(optim.clip_grad_norm([p], 1.0))
        np.testing.assert_array_equal(p.grad, [1.0, bad, 2.0])


@pytest.mark.parametrize("max_norm", [0.5, math.inf])
def test_a_clipped_step_is_clipping_and_a_step_bit_for_bit(max_norm):
    shapes = [(3, 4), (5,), (130, 130), (7,)]
    one, two = (make("adam", parameters_of(shapes, np.random.default_rng(1))) for _ in range(2))
    for seed in range(3):
        for optimizer in (one, two):
            rng = np.random.default_rng(seed)
            for p in optimizer.parameters[seed % 2 :]:
                p.grad = rng.standard_normal(p.shape).astype(np.float32)
        norm = optim.clip_grad_norm(one.parameters, max_norm)
        one.step()
        assert two.clipped_step(max_norm) == norm
    for a, b in zip(one.parameters, two.parameters):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_clipped_step_does_not_go_where_the_norm_is_not_finite():
    p = Tensor(np.ones(3), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.1)
    p.grad = np.array([1.0, math.nan, 2.0])
    assert math.isnan(optimizer.clipped_step(1.0))
    np.testing.assert_array_equal(p.numpy(), np.ones(3))
    assert optimizer.steps == [0]
