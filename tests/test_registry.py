"""Every registered gradient check passes, and nothing public is without one."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import checks
from tinygen.checks import registry
from tinygen.checks.modules import Functional
from tinygen.nn import BatchNorm1d, Dense, Dropout, Sequential

CASES = checks.cases()


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    result = checks.run_case(CASES[name])
    assert result.ok, result.message
    assert result.worst <= 1


def test_everything_public_has_a_case():
    assert checks.missing() == []


def test_a_new_op_layer_kernel_or_model_without_a_case_is_missed(monkeypatch, tmp_path):
    folder = tmp_path / "fft"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(tg.kernels, "__path__", [*tg.kernels.__path__, str(tmp_path)])
    monkeypatch.setattr(tg.ops, "__all__", [*tg.ops.__all__, "cosh"])
    monkeypatch.setattr(tg.nn, "__all__", [*tg.nn.__all__, "GRU"])
    monkeypatch.setattr(tg.models, "MODELS", {**tg.models.MODELS, "flow": None})
    assert checks.missing() == ["cosh", "kernels.fft", "models.flow", "nn.GRU"]


def test_exemptions_are_still_needed():
    public = {f"nn.{name}" for name in tg.nn.__all__}
    assert set(registry.EXEMPT) <= public
    assert not set(registry.EXEMPT) & {case.subject for case in CASES.values()}


def test_select_by_case_subject_kind_and_pattern():
    assert [case.name for case in checks.select(["softmax[axis 0]"])] == ["softmax[axis 0]"]
    assert {case.subject for case in checks.select(["softmax"])} == {"softmax"}
    assert {case.subject for case in checks.select(["Dense", "nn.LSTM"])} == {"nn.Dense", "nn.LSTM"}
    assert {case.kind for case in checks.select(["kernel"])} == {"kernel"}
    assert {case.subject for case in checks.select(["conv2d"])} == {"conv2d", "kernels.conv2d"}
    assert {case.subject for case in checks.select(["log*"])} >= {"log", "log1p", "logsumexp", "log_softmax"}
    assert len(checks.select()) == len(checks.select([])) == len(CASES)
    names = [case.name for case in checks.select(["exp", "op", "exp"])]
    assert len(names) == len(set(names))
    with pytest.raises(ValueError, match=r"nothing to check is called 'sofmax'.*softmax"):
        checks.select(["sofmax"])


def test_run_case_reports_a_wrong_gradient_and_an_exception():
    wrong = checks.Case("wrong", "op", lambda rng: (lambda x: x * x.detach(), {"x": rng.standard_normal(3)}))
    result = checks.run_case(wrong, seed=5)
    assert not result.ok
    assert result.worst > 1
    assert result.inputs == "x(3)"
    assert "gradient check of wrong FAILED" in result.message
    assert "seed=5" in result.message
    broken = checks.Case("broken", "op", lambda rng: (lambda x: 1 / 0, {"x": 1.0}))
    assert "ZeroDivisionError" in checks.run_case(broken).message


def test_run_case_compares_kernels_output_by_output():
    good = {"y": np.ones(3), "z": np.arange(4.0).reshape(2, 2)}
    bad = {**good, "z": good["z"] + np.array([[0, 0], [1e-6, 0]])}

    def run(fast, reference):
        return checks.run_case(checks.Case("k", "kernel", lambda rng: registry.Agreement(fast, reference)))

    assert run(good, good).ok
    assert "z(1, 0)" in run(bad, good).message
    assert run(bad, good).worst == pytest.approx(1e-6 / 3e-10, rel=1e-6)
    nan = {**good, "y": np.array([1.0, np.nan, 1.0])}
    assert not run(nan, good).ok
    assert "float32" in run({**good, "y": np.ones(3, np.float32)}, good).message


def test_functional_leaves_the_module_as_it_was():
    rng = np.random.default_rng(0)
    module = Sequential(Dense(3, 2, rng=rng), BatchNorm1d(2), Dropout(0.5, rng=rng))
    before = module.state_dict()
    function = Functional(module)
    values = function.values({"x": rng.standard_normal((4, 3)).astype(np.float32)})
    state = rng.bit_generator.state
    tensors = [tg.Tensor(value, requires_grad=True) for value in values.values()]
    first, second = function(*tensors)[0], function(*tensors)[0]
    assert np.array_equal(first.numpy(), second.numpy())
    first.sum().backward()
    assert all(tensor.grad is not None for tensor in tensors)
    assert all(parameter.grad is None for parameter in module.parameters())
    after = module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert rng.bit_generator.state == state
    assert module[2].rng is rng
