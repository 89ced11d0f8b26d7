"""PyTorch's compiled sides and CUDA graphs in the benchmarks: made, the same numbers as the rest, or a note."""

import pytest

from benchmarks import agreement, attempts, device
from benchmarks.entries import image_lstm
from benchmarks.registry import BENCHMARKS

torch = pytest.importorskip("torch", reason="the benchmarks need the extra `bench`")

from cuda_graphs import recorded_graphs  # noqa: E402 - it imports PyTorch


def _fails():
    raise RuntimeError("no such kernel\nand much more")


@pytest.mark.parametrize(
    "name", ["dcgan", "diagonal-lstm", "kernels", "lstm", "made", "masked-conv", "nade", "nade-sample", "row-lstm", "vae"]
)
def test_captured_and_compiled_sides_agree(name, monkeypatch):
    """What a GPU adds, at tiny sizes: PyTorch's graphs on the stand-in; what is compiled, and our graphs, as it stands."""
    start = attempts.Attempts.__init__
    monkeypatch.setattr(attempts.Attempts, "__init__", lambda self, quick: start(self, False))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(attempts, "Replay", lambda run: run)
    monkeypatch.setattr(image_lstm, "COMPILED", ((2, 3),))
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    found = set()
    with recorded_graphs():
        for case in BENCHMARKS[name].cases(True):
            _, complaints = agreement.disagreements(case)
            assert complaints == []
            assert case.notes == ()
            found |= {side.name for side in case.sides if "graph" in side.name or "compiled" in side.name}
    assert any("graph" in side for side in found)
    assert any("compiled" in side for side in found) or name in ("dcgan", "made", "vae")


def test_a_replay_computes_from_what_the_inputs_are_then():
    x = torch.ones(2, requires_grad=True)

    def call():
        x.grad = None
        y = (x * x).sum()
        y.backward()
        return y.detach(), x.grad

    with recorded_graphs():
        replay = attempts.captured(call)
        with torch.no_grad():
            x.copy_(torch.tensor([1.0, 3.0]))
        y, gradient = replay()
        assert (y.item(), gradient.tolist()) == (10.0, [2.0, 6.0])
        with pytest.raises(RuntimeError, match="not permitted when a stream is capturing"):
            attempts.captured(lambda: x.sum().item())


def test_a_process_tries_only_the_side_that_it_measures(monkeypatch):
    monkeypatch.setattr(attempts, "wanted", "fine")
    tried = attempts.Attempts(quick=False)
    tried.add("other", lambda: _fails)
    tried.add("fine", lambda: lambda: {})
    assert ([side.name for side in tried.sides], tried.notes) == (["fine"], ())


def test_an_attempt_that_fails_leaves_a_note():
    tried = attempts.Attempts(quick=False)
    tried.add("fine", lambda: lambda: {})
    tried.add("broken", lambda: _fails)
    tried.add_on_gpu("elsewhere", lambda: _fails)
    assert [side.name for side in tried.sides] == ["fine"]
    assert tried.notes == ("'broken' left out: RuntimeError: no such kernel",)
