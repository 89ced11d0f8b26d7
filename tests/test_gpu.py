"""Everything on a GPU against the CPU's results: ops, losses, distributions, layers, optimizers, models, the command line.

Every test runs twice. Once, anywhere, on the stand-in of cuda_shim/strict.py, an array type that refuses NumPy's arrays as
CuPy's does, with the kernels compiled for this processor; and once on a device (`pytest -m gpu`).
"""

import contextlib
import importlib
import json
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from cuda_shim import Function as Kernel
from cuda_shim import cuda_on_cpu, needs_compiler
from cuda_shim.strict import no_cupy, real, strict_cupy
from test_kernels_gpu import OnDevice

import tinygen as tg
from tinygen import checks, optim
from tinygen._gradcheck_function import Function
from tinygen.backend import device_of, load_cupy, module_of, to_device
from tinygen.checks import captioned
from tinygen.cli import main
from tinygen.data import Dataset, Split
from tinygen.gradcheck import _gradient_function
from tinygen.kernels import adam, diagonal_lstm, runtime
from tinygen.models import model_class
from tinygen.training import checkpoint
from tinygen.training.examples import labels_for

ENGINE = {name: case for name, case in checks.cases().items() if case.kind != "kernel"}  # those are in test_kernels_gpu.py
LAYERS = {name: case for name, case in ENGINE.items() if case.kind == "layer"}
SMALL = {name: case for name, case in ENGINE.items() if case.kind == "model"}
TOLERANCE = {np.float32: 1e-3, np.float64: 1e-9}


@pytest.fixture(
    params=[pytest.param("stand-in", marks=[needs_compiler, no_cupy]), pytest.param("device", marks=pytest.mark.gpu)]
)
def cuda(request):
    """The name of the device, once the stand-in's and once the machine's."""
    if request.param == "device":
        yield "cuda"
    else:
        with strict_cupy():
            yield "cuda"


def made(case):
    return case.make(np.random.default_rng(0))


def results(case, device, dtype):
    """Values, gradients and, where the case has them, second gradients, as NumPy arrays in the order of their making."""
    fn, values = made(case)
    function = Function(fn, list(values), list(values.values()), np.random.default_rng(1), device)
    functions = [function]
    if case.order == 2:
        functions.append(_gradient_function(function, np.random.default_rng(2)))
    found = []
    for f in functions:
        leaves, outputs = f.recorded([x.astype(dtype) for x in f.arrays])
        assert all(y.device == leaf.device for y in outputs for leaf in leaves)
        found += [y.numpy() for y in outputs] + f.pull_back(leaves, outputs)
    return found


def assert_close(found, expected, tolerance):
    found, expected = (to_device(array, "cpu") for array in (found, expected))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    atol = tolerance * np.abs(expected).max(initial=1.0, where=np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ENGINE)
def test_values_and_gradients_are_those_of_the_cpu(name, dtype, cuda):
    expected = results(ENGINE[name], "cpu", dtype)
    for array, exact in zip(results(ENGINE[name], cuda, dtype), expected, strict=True):
        assert_close(array, exact, TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENGINE)
def test_gradients_against_finite_differences(name):
    result = checks.run_case(ENGINE[name], device="cuda")
    assert result.ok, result.message


@needs_compiler
@no_cupy
@pytest.mark.parametrize("name", ["sigmoid", "conv2d", "nn.BatchNorm1d", "to"])
def test_finite_differences_on_the_stand_in(name):
    with strict_cupy():
        result = checks.run_case(ENGINE[name], device="cuda")
    assert result.ok, result.message


@pytest.mark.parametrize("name", LAYERS)
def test_layers_move(name, cuda):
    function, values = made(LAYERS[name])
    module, inputs = function.module.eval(), [x for key, x in values.items() if key not in function.parameters]
    before, expected = module.state_dict(), flat(function.call(*inputs))
    module.to(cuda)
    assert {device_of(array) for array in arrays_of(module)} <= {"cuda:0"}
    found = flat(function.call(*(to_device(x, cuda) for x in inputs)))
    for y, exact in zip(found, expected, strict=True):
        assert_close(array_of(y), array_of(exact), 1e-9)
    module.to("cpu")
    for key, array in module.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


def arrays_of(module):
    return [
        getattr(value, "_data", None) if not isinstance(value, str) else getattr(m, value) for _, m, value in module._state()
    ]


def flat(outputs):
    return [part for y in outputs for part in flat(y)] if isinstance(outputs, tuple) else [outputs]


def array_of(y):
    return getattr(y, "_data", y)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}], ids=str)
def test_optimizers_step_alike(name, options, cuda):
    def trained(device):
        rng = np.random.default_rng(0)
        parameters = [tg.Tensor(to_device(rng.standard_normal(shape), device), requires_grad=True) for shape in ((3, 4), (4,))]
        optimizer = optim.OPTIMIZERS[name](parameters, lr=0.1, **options)
        for _ in range(3):
            optimizer.zero_grad()
            tg.sum(tg.sin(parameters[0] * parameters[1])).backward()
            optim.clip_grad_norm(parameters, 0.5)
            optimizer.step()
        assert {parameter.device for parameter in parameters} == {"cpu" if device == "cpu" else "cuda:0"}
        again = optim.OPTIMIZERS[name](parameters, lr=0.1, **options)
        again.load_state_dict(optimizer.state_dict())
        return [p.numpy() for p in parameters], again.state_dict()

    (found, state), (expected, exact) = trained(cuda), trained("cpu")
    for array, right in [*zip(found, expected), *((state[key], exact[key]) for key in exact)]:
        assert_close(array, right, 1e-10)


SHAPES = (3, 5), (3,), (), (2, 0), (4, 2), (1,)


def trained(device, interfere):
    """Parameters and state after steps of Adam on `device`; `interfere(step, parameters)` may change things before each."""
    rng = np.random.default_rng(0)
    parameters = [tg.Tensor(to_device(rng.standard_normal(shape), device), requires_grad=True) for shape in SHAPES]
    optimizer, norms = optim.Adam(parameters, lr=0.1, weight_decay=0.1), []
    for step in range(5):
        for p in parameters:
            p.grad = to_device(np.asarray(rng.standard_normal(p.shape)), device)
        optimizer = interfere(step, parameters, optimizer) or optimizer
        norms.append(optimizer.clipped_step(0.7))
    return [np.array(norms), *(p.numpy() for p in parameters), *optimizer.state_dict().values()]


def nothing(step, parameters, optimizer):
    pass


def without_a_gradient(step, parameters, optimizer):
    if step == 1:
        parameters[0].grad = None


def another_array(step, parameters, optimizer):
    if step == 2:
        parameters[1]._data = parameters[1]._data.copy()


def moved_to_and_fro(step, parameters, optimizer):
    for p in parameters:
        p._data = to_device(to_device(p._data, "cpu").copy(), p.device)


def another_optimizer(step, parameters, optimizer):
    if step == 2:
        optim.SGD(parameters[1:4], lr=0.1).step()


def resumed(step, parameters, optimizer):
    if step == 3:
        again = optim.Adam(parameters, lr=0.1, weight_decay=0.1)
        again.load_state_dict(optimizer.state_dict())
        return again
    return None


def in_fortrans_order(step, parameters, optimizer):
    parameters[0].grad = parameters[0].grad.T.copy().T


@pytest.mark.parametrize(
    "interfere",
    [nothing, without_a_gradient, another_array, moved_to_and_fro, another_optimizer, resumed, in_fortrans_order],
)
def test_parameters_in_one_array_are_updated_as_each_by_itself(interfere, cuda):
    for found, exact in zip(trained(cuda, interfere), trained("cpu", interfere), strict=True):
        assert_close(found, exact, 1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_models_train_evaluate_sample_and_complete(name, cuda, tmp_path, monkeypatch):
    kind = model_class(SMALL[name].subject.removeprefix("models."))
    monkeypatch.setattr("tinygen.models.vae.SAMPLES", 40)

    def fresh():  # Text2Image's cases are of parts of the model
        return captioned.small(np.random.default_rng(0)) if "text2image" in name else made(SMALL[name])[0].module

    def life(device):
        model, rng = fresh().to(device), np.random.default_rng(3)
        size = 5, int(np.prod(getattr(model, "shape", 6)))
        continuous = "rnade" in name or "Gaussian" in name
        x = rng.standard_normal(size) if continuous else rng.integers(0, 2, size).astype(np.float64)
        optimizers = model.optimizers(kind.RECIPES["quick"])
        labels = labels_for(model, np.arange(len(x)) % 10)
        figures = []
        for _ in range(2):
            figures += model.train_step(to_device(x, device), optimizers, rng, **labels).values()
        figures += model.evaluate(x, np.random.default_rng(4), **labels).values()
        with model.evaluating():
            drawn = [to_device(model.sample(3, rng), "cpu")]
            half = model.first_half(x.shape[1])
            with contextlib.suppress(NotImplementedError):  # a likelihood that is estimated, by `evaluate`
                drawn.append(model.log_prob(to_device(x, device)).numpy())
            with contextlib.suppress(ValueError, NotImplementedError):  # no half may come first in all orders of an ensemble
                drawn.append(to_device(model.complete(to_device(x, device), half, rng), "cpu"))
        checkpoint.save(tmp_path / device, model, optimizers, rng, checkpoint.Progress())
        twin = fresh().to(device)
        checkpoint.load(tmp_path / device, twin, twin.optimizers(kind.RECIPES["quick"]), rng)
        assert all(device_of(array) == model.device for array in arrays_of(twin))
        return [np.array(figures), *drawn, *twin.state_dict().values()]

    for found, expected in zip(life(cuda), life("cpu"), strict=True):
        assert_close(found, expected, 1e-6)


def test_the_command_line(cuda, tmp_path, monkeypatch, capsys):
    grey = np.random.default_rng(5).integers(0, 256, (90, 5, 6)).astype(np.uint8)
    digits = Dataset("mnist5k", Split(grey[:40]), Split(grey[40:65]), Split(grey[65:]))
    for module in ("evaluate", "train", "runs"):  # the first two before the third: they take its name when first imported
        monkeypatch.setattr(f"tinygen.cli.{module}.load_data", lambda name, folder: digits)
    runs = {device: tmp_path / device for device in ("cpu", cuda)}
    for device, run in runs.items():
        changes = [f"--set={change}" for change in ("epochs=2", "batch_size=20", "hidden=4")]
        assert main(["train", "nade", "--device", device, "--out", str(run), *changes]) == 0
        assert main(["train", "--resume", str(run)]) == 0
        for command in (["evaluate", str(run)], ["sample", str(run), "-n4"], ["complete", str(run), "-n4"]):
            assert main([*command, "--device", device]) == 0
    config = json.loads((runs[cuda] / "config.json").read_text())
    assert config["machine"]["gpu"]["name"]
    assert config["versions"]["cupy"] == load_cupy().__version__
    found, expected = (json.loads((run / "result.json").read_text())["test"]["nll"] for run in (runs[cuda], runs["cpu"]))
    assert found == pytest.approx(expected, rel=1e-4)
    assert (runs[cuda] / "samples.png").read_bytes() == (runs["cpu"] / "samples.png").read_bytes()
    assert "cuda" in capsys.readouterr().out


@needs_compiler
@no_cupy
def test_the_stand_in_refuses_what_cupy_refuses():
    mine = np.ones(3)
    with strict_cupy() as cupy:
        theirs = cupy.asarray(mine)
        assert module_of(theirs) is cupy
        assert type(theirs.sum()) is cupy.ndarray
        refused = [
            lambda: np.asarray(theirs),
            lambda: theirs + mine,
            lambda: mine + theirs,
            lambda: np.add(mine, theirs),
            lambda: theirs.__iadd__(mine),
            lambda: cupy.maximum(theirs, mine),
            lambda: cupy.concatenate([theirs, mine]),
            lambda: np.concatenate([theirs, mine]),
            lambda: theirs[np.arange(2)],
            lambda: theirs.__setitem__(slice(None), mine),
            lambda: cupy.sum(theirs, initial=0.0),
            lambda: theirs.max(initial=0.0),
            lambda: cupy.exp(theirs, where=theirs > 0),
            lambda: range(cupy.asarray(3)),
            lambda: cupy.maximum.at(cupy.zeros(3, np.int64), cupy.arange(2), cupy.arange(2)),
        ]
        for number, attempt in enumerate(refused):
            with pytest.raises(TypeError):
                print(number, attempt())
        for missing in (lambda: cupy.vecdot, lambda: theirs.ctypes, lambda: cupy.lib.array_utils):
            with pytest.raises(AttributeError):
                missing()
        np.testing.assert_array_equal(cupy.asnumpy(np.exp(theirs) * np.float64(2)), 2 * np.exp(mine))
        theirs[cupy.asarray([0, 1, 0])] = cupy.asarray([4.0, 5.0, 6.0])
        np.testing.assert_array_equal(theirs.get(), [4, 5, 1])


@no_cupy
def test_cupy_has_every_function_that_the_sources_name():
    """Also those on paths that no case takes; the arguments are checked where the cases call them."""
    named = re.compile(r"\b(?:xp|module_of\([^()]*(?:\([^()]*\))?[^()]*\)|cupy\(\))\.([a-z]\w*(?:\.[a-z]\w*)?)\(")
    root = Path(tg.__file__).parent
    files = [*root.rglob("*.py"), *(path for folder in tg.kernels.__path__ for path in Path(folder).rglob("*cuda.py"))]
    found = {name for path in files for name in named.findall(path.read_text())}
    assert len(found) > 40
    assert [name for name in sorted(found) if not _has(real, name)] == []


def _has(module, name):
    first, _, rest = name.partition(".")
    return hasattr(module, first) and (not rest or hasattr(getattr(module, first), rest))


@needs_compiler
@pytest.mark.parametrize(("height", "width"), [(2, 3), (28, 28)])
def test_a_sweep_over_images_is_one_launch(height, width):
    """However many dependent steps it has: what a wave hands to the next waits for a barrier of the block, not for a launch."""
    rng = np.random.default_rng(0)
    x, weight_ih, weight_hh, bias = (rng.standard_normal(s) for s in ((1, 2, height, width), (4, 2), (4, 1, 2), (4,)))
    launches = []
    with (
        cuda_on_cpu(),
        mock.patch.object(Kernel, "__call__", lambda self, *sizes, **_: launches.append((self.name, *sizes[:2]))),
    ):
        y, residual = diagonal_lstm.forward(x, weight_ih, weight_hh, bias)
        diagonal_lstm.backward(y, weight_ih, weight_hh, residual)
    turns = (1, -(-height * width // 32), 1), (32, 8)
    assert [launch for launch in launches if "rows" in launch[0]] == [("to_rows", *turns), ("from_rows", *turns)]
    sweeps = [launch for launch in launches if "diagonal_lstm" in launch[0]]
    assert sweeps == [(f"diagonal_lstm_{way}", (1,), (16, 16)) for way in ("forward", "backward")]
    products = [name for name, *_ in launches if name.startswith("product_")]
    assert len(products) == 4
    assert len(launches) - len(products) - 4 <= 2  # the weights' gradients, long sums, are added up from parts


@needs_compiler
def test_grids_grow_with_the_device():
    state, grids = np.ones((4, 1 << 20), np.float32), {}
    for multiprocessors in (2, 132):
        record = lambda self, grid, *rest, n=multiprocessors: grids.setdefault(n, grid)
        with cuda_on_cpu(multiprocessors), mock.patch.object(Kernel, "__call__", record):
            adam.adam_step(*state, 1, 1e-3, 0.9, 0.999, 1e-8, 0.0, False)
    assert grids == {2: (16,), 132: (1056,)}


@needs_compiler
@no_cupy
@pytest.mark.parametrize(
    "name",
    ["kernels.adam[float64]", "kernels.nade[float64]", "kernels.lstm_gate[float32]", "kernels.masked_conv[steps, float64]"],
)
def test_kernel_cases_on_the_stand_in(name):
    """What test_kernels_gpu.py does with every case on a device."""
    chosen = lambda package, _: OnDevice(importlib.import_module(f"{package}.cuda"))
    with strict_cupy(), mock.patch.object(runtime, "_module_for", chosen):
        result = checks.run_case(checks.cases()[name])
    assert result.ok, result.message
