"""Every layer against PyTorch's: weights exchanged through safetensors files both ways, outputs and all gradients."""

from typing import NamedTuple

import numpy as np
import pytest

from tinygen import Tensor, nn, optim

torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra 'bench'")
from safetensors.torch import load_file, save_file  # noqa: E402

TOLERANCE = 1e-10


class Case(NamedTuple):
    """One layer with one setting; `inputs` are shapes, or arrays where values matter. `mode` is train or eval."""

    name: str
    arguments: tuple
    options: dict
    inputs: tuple
    mode: str = "train"
    theirs: str | None = None

    def ours(self, rng):
        needs_rng = self.name in ("Dense", "Embedding", "Conv2d", "ConvTranspose2d", "LSTM", "LSTMCell", "Dropout")
        has_dtype = (needs_rng and self.name != "Dropout") or "Norm" in self.name
        extra = {"rng": rng} if needs_rng else {}
        extra |= {"dtype": np.float64} if has_dtype else {}
        return getattr(nn, self.name)(*self.arguments, **self.options, **extra).train(self.mode == "train")

    def torch(self):
        layer = getattr(torch.nn, self.theirs or self.name)(*self.arguments, **self.options)
        return layer.to(torch.float64).train(self.mode == "train")


IMAGES = (3, 4, 7, 6)
CASES = [
    Case("Dense", (5, 3), {}, ((4, 5),), theirs="Linear"),
    Case("Dense", (5, 3), {"bias": False}, ((2, 3, 5),), theirs="Linear"),
    Case("Dense", (5, 3), {}, ((5,),), theirs="Linear"),
    Case("Embedding", (7, 3), {}, (np.array([[1, 6, 1], [0, 2, 1]]),)),
    Case("Conv2d", (4, 6, 3), {}, (IMAGES,)),
    Case("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 2), "groups": 2}, (IMAGES,)),
    Case("Conv2d", (4, 4, 2), {"dilation": (2, 3), "padding": 2, "groups": 4, "bias": False}, (IMAGES,)),
    Case("ConvTranspose2d", (4, 6, 3), {}, (IMAGES,)),
    Case("ConvTranspose2d", (4, 6, (3, 2)), {"stride": 2, "padding": (1, 0), "output_padding": (1, 0)}, (IMAGES,)),
    Case("ConvTranspose2d", (4, 2, 3), {"stride": (3, 2), "dilation": 2, "groups": 2, "bias": False}, (IMAGES,)),
    Case("LSTM", (3, 4), {}, ((5, 2, 3),)),
    Case("LSTM", (3, 4), {}, ((5, 2, 3), (1, 2, 4), (1, 2, 4))),
    Case("LSTM", (3, 4, 2), {"batch_first": True, "bidirectional": True}, ((2, 5, 3), (4, 2, 4), (4, 2, 4))),
    Case("LSTM", (3, 4, 3), {"bias": False, "bidirectional": True}, ((1, 2, 3),)),
    Case("LSTMCell", (3, 4), {}, ((2, 3),)),
    Case("LSTMCell", (3, 4), {"bias": False}, ((2, 3), (2, 4), (2, 4))),
    Case("BatchNorm1d", (4,), {"momentum": 0.3, "eps": 1e-3}, ((5, 4),)),
    Case("BatchNorm1d", (4,), {}, ((5, 4, 3),)),
    Case("BatchNorm1d", (4,), {}, ((5, 4, 3),), "eval"),
    Case("BatchNorm2d", (4,), {}, (IMAGES,)),
    Case("BatchNorm2d", (4,), {"affine": False}, (IMAGES,), "eval"),
    Case("InstanceNorm2d", (4,), {}, (IMAGES,)),
    Case("InstanceNorm2d", (4,), {"affine": True, "eps": 1e-2}, (IMAGES,), "eval"),
    Case("MaxPool2d", (2,), {}, (IMAGES,)),
    Case("MaxPool2d", ((3, 2),), {"stride": (2, 1), "padding": 1}, (IMAGES,)),
    Case("AvgPool2d", (2,), {}, (IMAGES,)),
    Case("AvgPool2d", ((3, 2),), {"stride": (2, 1), "padding": 1}, (IMAGES,)),
    Case("Upsample", (), {"scale_factor": 3}, (IMAGES,)),
    Case("Flatten", (), {}, (IMAGES,)),
    Case("Flatten", (2,), {}, (IMAGES,)),
    Case("ReLU", (), {}, ((5, 4),)),
    Case("LeakyReLU", (0.2,), {}, ((5, 4),)),
    Case("ELU", (1.5,), {}, ((5, 4),)),
    Case("Sigmoid", (), {}, ((5, 4),)),
    Case("Tanh", (), {}, ((5, 4),)),
    Case("Softplus", (), {}, ((5, 4),)),
    Case("Softmax", (), {"dim": 1}, ((5, 4, 3),)),
    Case("LogSoftmax", (), {"dim": -1}, ((5, 4, 3),)),
    Case("Dropout", (0.5,), {}, ((5, 4),), "eval"),
]


def name_of(case):
    return "-".join([case.name, *map(str, case.arguments), *(f"{k}={v}" for k, v in case.options.items()), case.mode])


def exchange(case, rng, direction, path):
    """One layer in each library; the weights of one, moved by random steps, travel to the other through a file."""
    ours, theirs = case.ours(rng), case.torch()
    if direction == "ours to torch":
        state = {
            name: array + np.abs(rng.standard_normal(array.shape)) if array.dtype.kind == "f" else array + 3
            for name, array in ours.state_dict().items()
        }
        ours.load_state_dict(state)
        nn.save(path, ours)
        theirs.load_state_dict(load_file(path), strict=True)
    else:
        torch.manual_seed(int(rng.integers(2**31)))
        with torch.no_grad():
            for value in theirs.state_dict().values():
                value += torch.rand(value.shape, dtype=value.dtype) if value.is_floating_point() else 3
        save_file(theirs.state_dict(), path)
        nn.load(path, ours)
    return ours, theirs


def flat(outputs):
    return [part for item in outputs for part in flat(item)] if isinstance(outputs, tuple) else [outputs]


def assert_equal(name, ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, name
    assert ours.dtype == theirs.dtype, name
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("direction", ["ours to torch", "torch to ours"])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_layer(case, direction, tmp_path):
    rng = np.random.default_rng(11)
    ours, theirs = exchange(case, rng, direction, tmp_path / "weights.safetensors")
    values = [rng.standard_normal(x) if isinstance(x, tuple) else x for x in case.inputs]
    x_ours = [Tensor(v, requires_grad=v.dtype.kind == "f") for v in values]
    x_theirs = [torch.tensor(v, requires_grad=v.dtype.kind == "f") for v in values]
    y_ours = flat(ours(x_ours[0], *([tuple(x_ours[1:])] if x_ours[1:] else [])))
    y_theirs = flat(theirs(x_theirs[0], *([tuple(x_theirs[1:])] if x_theirs[1:] else [])))
    cotangents = [rng.standard_normal(y.shape) for y in y_ours]
    assert len(y_ours) == len(y_theirs)
    for i, (a, b) in enumerate(zip(y_ours, y_theirs)):
        assert_equal(f"output {i}", a.numpy(), b)
    sum((a * g).sum() for a, g in zip(y_ours, cotangents)).backward()
    sum((b * torch.tensor(g)).sum() for b, g in zip(y_theirs, cotangents)).backward()
    for i, (a, b) in enumerate(zip(x_ours, x_theirs)):
        if b.requires_grad:
            assert_equal(f"gradient of input {i}", a.grad, b.grad)
    gradients = dict(theirs.named_parameters())
    assert [name for name, _ in ours.named_parameters()] == list(gradients)
    for name, parameter in ours.named_parameters():
        assert_equal(f"gradient of {name}", parameter.grad, gradients[name].grad)
    state = theirs.state_dict()
    for name, array in ours.state_dict().items():  # running statistics included, as the forward pass has moved them
        assert_equal(name, array, state[name])


def test_every_layer_is_here():
    exempt = {"Module", "Parameter", "Sequential"}
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)} - exempt
    assert layers == {case.name for case in CASES}


def test_a_whole_network_goes_both_ways(tmp_path):
    """Names inside Sequential, buffers, several batches in training and then evaluation."""
    rng = np.random.default_rng(3)
    options = {"rng": rng, "dtype": np.float64}
    ours = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, **options),
        nn.BatchNorm2d(3, dtype=np.float64),
        nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.Dense(27, 5, **options)),
        nn.BatchNorm1d(5, dtype=np.float64),
        nn.Tanh(),
    )
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, stride=2),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(27, 5)),
        torch.nn.BatchNorm1d(5),
        torch.nn.Tanh(),
    ).to(torch.float64)
    nn.save(tmp_path / "a", ours)
    theirs.load_state_dict(load_file(tmp_path / "a"))
    for _ in range(3):
        x = rng.standard_normal((4, 1, 7, 7))
        assert_equal("training", ours(Tensor(x)).numpy(), theirs(torch.tensor(x)))
    ours.eval(), theirs.eval()
    assert_equal("evaluation", ours(Tensor(x)).numpy(), theirs(torch.tensor(x)))
    save_file(theirs.state_dict(), tmp_path / "b")
    fresh = nn.Sequential(*ours)
    fresh.load_state_dict({name: np.zeros_like(array) for name, array in ours.state_dict().items()})
    nn.load(tmp_path / "b", fresh)
    assert_equal("evaluation", fresh(Tensor(x)).numpy(), theirs(torch.tensor(x)))


OPTIMIZERS = [
    ("sgd", torch.optim.SGD, {"lr": 0.1}),
    ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
    ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("adagrad", torch.optim.Adagrad, {}),
    ("adagrad", torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.02, "weight_decay": 0.05, "eps": 1e-6}),
    ("rmsprop", torch.optim.RMSprop, {}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 0.02, "alpha": 0.9, "momentum": 0.7, "weight_decay": 0.05}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 0.02, "momentum": 0.5, "centered": True}),
    ("adam", torch.optim.Adam, {}),
    ("adam", torch.optim.Adam, {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("adamw", torch.optim.AdamW, {}),
    ("adamw", torch.optim.AdamW, {"lr": 0.05, "betas": (0.0, 0.95), "weight_decay": 0.2}),
]


@pytest.mark.parametrize(("name", "reference", "options"), OPTIMIZERS)
def test_optimizer(name, reference, options):
    """30 steps over small, large and non-contiguous parameters, some of which have no gradient at some steps."""
    rng = np.random.default_rng(5)
    shapes = [(3, 4), (7,), (), (150, 120), (400, 300)]
    values = [rng.standard_normal(shape) for shape in shapes]
    values.append(np.asfortranarray(rng.standard_normal((5, 6))))
    ours = [Tensor(v, requires_grad=True) for v in values]
    theirs = [torch.tensor(v, requires_grad=True) for v in values]
    our_optimizer = optim.OPTIMIZERS[name](ours, **({"lr": 0.01} | options if name == "sgd" else options))
    their_optimizer = reference(theirs, **options)
    for step in range(30):
        our_optimizer.zero_grad()
        their_optimizer.zero_grad()
        for i, (a, b) in enumerate(zip(ours, theirs)):
            if (step * 7 + i) % 11 and (step != 4):
                gradient = np.asarray(rng.standard_normal(a.shape) + 0.1 * a.data)
                a.grad, b.grad = gradient, torch.tensor(gradient)
        our_norm = optim.clip_grad_norm(ours, 300.0)
        their_norm = torch.nn.utils.clip_grad_norm_(theirs, 300.0)
        np.testing.assert_allclose(our_norm, float(their_norm), rtol=1e-12)
        factor = optim.cosine_decay(step, 40)
        our_optimizer.lr = their_optimizer.defaults["lr"] * factor
        their_optimizer.param_groups[0]["lr"] = their_optimizer.defaults["lr"] * factor
        our_optimizer.step()
        their_optimizer.step()
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_schedules():
    total = 12
    parameter = torch.zeros(1, requires_grad=True)
    schedulers = torch.optim.lr_scheduler
    for ours, make in [
        (lambda t: optim.cosine_decay(t, total, final=0.1), lambda o: schedulers.CosineAnnealingLR(o, total, eta_min=0.1)),
        (lambda t: optim.linear_decay(t, total, final=0.2), lambda o: schedulers.LinearLR(o, 1.0, 0.2, total)),
        (lambda t: optim.step_decay(t, total, parts=4, factor=0.5), lambda o: schedulers.StepLR(o, 3, 0.5)),
    ]:
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        scheduler = make(optimizer)
        for t in range(total):
            assert abs(ours(t) - scheduler.get_last_lr()[0]) < 1e-12
            optimizer.step()
            scheduler.step()
