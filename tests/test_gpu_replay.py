"""Training steps replayed as a CUDA graph against the same steps without one: the same bits.

As in test_gpu.py every test runs on the stand-in for CuPy and, where there is one, on a device.
"""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import test_gpu
from cuda_shim import needs_compiler
from cuda_shim.strict import no_cupy, strict_cupy

from tinygen.anomaly import AnomalyError, detect_anomaly
from tinygen.backend import load_cupy, to_device
from tinygen.data import Split
from tinygen.models import model_class
from tinygen.models.base import NotFiniteError
from tinygen.models.pixelcnn import PixelCNN
from tinygen.models.replayed import Replays
from tinygen.replay import Replay
from tinygen.training import checkpoint

cuda = test_gpu.cuda
NAMES = ("pixelcnn", "row-lstm", "diagonal-bilstm")


class Run:
    """A small model under training on random images."""

    def __init__(self, name, clip=0.5, kind=None):
        kind = kind or model_class(name)
        quick = kind.RECIPES["quick"]
        small = {name: min(size, 5) for name, size in quick.model.items() if name != "kernel_size"}
        self.recipe = replace(quick, clip=clip, model=quick.model | small)
        self.model = kind.build(self.recipe, Split(np.zeros((9, 5, 6), np.uint8)), np.random.default_rng(3)).to("cuda")
        self.optimizers, self.rng = self.model.optimizers(self.recipe), np.random.default_rng(4)

    def step(self, number, size=5, spoilt=False):
        x = np.random.default_rng(number).integers(0, 2, (size, 30)).astype(np.float32)
        x[0, 0] = np.nan if spoilt else x[0, 0]
        self.optimizers.set_lr(1 / (1 + number))
        return self.model.train_step(to_device(x, "cuda"), self.optimizers, self.rng)

    def state(self):
        return {**self.model.state_dict(), **self.optimizers["model"].state_dict()}

    @property
    def graph(self):
        return self.optimizers._replays._step


def without_graphs(patch):
    patch.setattr(Replays, "step", lambda *_: None)


def assert_alike(trained):
    """Assert that `trained()`, figures and a run, has the same bits with graphs and without; returns the former."""
    with pytest.MonkeyPatch.context() as patch:
        without_graphs(patch)
        expected, plain = trained()
    found, run = trained()
    assert found == expected
    exact = plain.state()
    for key, array in run.state().items():
        np.testing.assert_array_equal(array, exact[key], err_msg=key)
    return run


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_same_bits(name, clip, cuda):
    def trained():
        run = Run(name, clip)
        return [run.step(number) for number in range(5)], run

    assert assert_alike(trained).graph is not None


def test_a_changed_batch_is_captured_anew(cuda):
    def trained():
        run, graphs, figures = Run("row-lstm"), [], []
        for number, size in enumerate((5, 5, 3, 3, 5)):
            figures.append(run.step(number, size))
            graphs.append(run.graph)
        if graphs[0] is not None:
            assert [a is b for a, b in pairwise(graphs)] == [True, False, True, False]
        return figures, run

    assert_alike(trained)


@pytest.mark.parametrize("name", NAMES)
def test_between_replays_a_model_is_evaluated_and_filled(name, cuda):
    """Neither disturbs what the graph reads, nor does it what they read."""

    def trained():
        run, figures = Run(name), []
        start = run.model.state_dict()
        x = np.random.default_rng(9).integers(0, 2, (7, 30)).astype(np.float32)
        for number in range(4):
            figures += [run.step(number), run.model.evaluate(x, run.rng)]
            with run.model.evaluating():
                figures.append(to_device(run.model.sample(2, run.rng), "cpu").tolist())
            if number == 1:
                run.model.load_state_dict(start)
        return figures, run

    assert assert_alike(trained).graph is not None


def test_parameters_in_other_places_are_not_replayed(cuda):
    def trained():
        run = Run("row-lstm")
        figures = [run.step(0)]
        parameter = next(run.model.parameters())
        parameter._data = parameter._data.copy()
        figures += [run.step(1), run.step(2)]
        run.optimizers = run.model.optimizers(run.recipe)
        return [*figures, run.step(3), run.step(4)], run

    assert assert_alike(trained).graph is not None


def test_moved_to_and_fro_a_model_is_trained_where_it_is(cuda):
    def trained():
        run = Run("row-lstm")
        figures = [run.step(0)]
        run.model.to("cpu").to("cuda")
        return [*figures, run.step(1), run.step(2)], run

    assert_alike(trained)


def test_a_loss_that_is_not_finite_changes_nothing(cuda):
    def trained():
        run = Run("pixelcnn")
        figures, before = [run.step(0)], run.state()
        with pytest.raises(NotFiniteError, match="the loss became nan"):
            run.step(1, spoilt=True)
        for key, array in run.state().items():
            np.testing.assert_array_equal(array, before[key])
        return [*figures, run.step(2)], run

    assert assert_alike(trained).graph is not None


def test_a_gradient_that_is_not_finite_changes_nothing(cuda):
    run = Run("row-lstm")
    run.step(0)
    before, graph = run.state(), run.graph
    graph._replay._outputs, outputs = load_cupy().asarray(np.array([1.0, np.inf])), graph._replay._outputs
    with pytest.raises(NotFiniteError, match="the gradient's norm became inf"):
        run.step(1)
    graph._replay._outputs = outputs
    for key, array in run.state().items():
        np.testing.assert_array_equal(array, before[key])


def test_operations_are_checked_one_by_one_without_the_graph(cuda):
    def trained():
        run = Run("pixelcnn")
        figures = [run.step(0)]
        with detect_anomaly():
            figures.append(run.step(1))
            with pytest.raises(AnomalyError, match="was given a NaN"):
                run.step(2, spoilt=True)
        return [*figures, run.step(3)], run

    assert assert_alike(trained).graph is not None


class Reading(PixelCNN):
    def loss(self, x, rng):
        assert x.sum().item() >= 0
        return super().loss(x, rng)


class Drawing(PixelCNN):
    def loss(self, x, rng):
        return super().loss(x, rng) * float(rng.random())


@pytest.mark.parametrize("kind", [Reading, Drawing])
def test_what_cannot_be_captured_is_done_without_a_graph(kind, cuda):
    def trained():
        run = Run("pixelcnn", kind=kind)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figures = [run.step(number, size) for number, size in enumerate((5, 5, 3))]
        texts.append([str(warning.message) for warning in caught])
        return figures, run

    texts = []
    assert_alike(trained)
    without, (text,) = texts
    assert without == []
    assert text.startswith("training goes on without a CUDA graph, more slowly (")
    assert "\n" not in text
    free = Run("pixelcnn")  # the failure left no stream capturing
    free.step(0)
    assert free.graph is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_uninterrupted_one(name, cuda, tmp_path):
    straight = Run(name)
    figures = [straight.step(number) for number in range(6)]
    first, second = Run(name), Run(name)
    found = [first.step(number) for number in range(3)]
    checkpoint.save(tmp_path / "c", first.model, first.optimizers, first.rng, checkpoint.Progress())
    second.step(7)  # so that there is a graph already when the checkpoint is loaded
    checkpoint.load(tmp_path / "c", second.model, second.optimizers, second.rng)
    assert found + [second.step(number) for number in range(3, 6)] == figures
    exact = straight.state()
    for key, array in second.state().items():
        np.testing.assert_array_equal(array, exact[key])


def test_a_replay_repeats_what_a_function_does(cuda):
    xp = load_cupy()
    total, calls = xp.zeros(3), []

    def function(x, y):
        calls.append(x.shape)
        z = xp.maximum(x * y[:, None], 0).sum(0)
        z[1:] += 1
        total[...] = total + z
        return z, z.reshape(3, 1), (x[:, None] * x).sum(2)  # x @ x.T, which cannot be captured

    rng = np.random.default_rng(0)
    replay = Replay(function, *(xp.asarray(rng.standard_normal(shape)) for shape in ((2, 3), 2)))
    count, held = len(calls), None
    for _ in range(3):
        x, y = rng.standard_normal((2, 3)), rng.standard_normal(2)
        before = total.get()
        found = replay(xp.asarray(x), xp.asarray(y))
        expected = np.maximum(x * y[:, None], 0).sum(0) + [0, 1, 1]
        for array, exact in zip(found, (expected, expected[:, None], x @ x.T), strict=True):
            np.testing.assert_allclose(array.get(), exact, rtol=1e-12)
        np.testing.assert_allclose(total.get(), before + expected, rtol=1e-12)
        assert held is None or all(a is b for a, b in zip(found, held))
        held = found
    assert len(calls) == count


@needs_compiler
@no_cupy
def test_the_stand_in_refuses_what_a_capture_refuses():
    with strict_cupy() as cupy:
        x, few, many = cupy.ones(3), [cupy.ones(3)] * 8, [cupy.ones(3)] * 9
        allowed = [lambda: x + 1, lambda: x[x.argsort()], lambda: cupy.concatenate(few), lambda: cupy.array(x)]
        refused = [
            lambda: x.get(),
            lambda: cupy.asnumpy(x),
            lambda: x.sum().item(),
            lambda: float(x.sum()),
            lambda: bool(x.any()),
            lambda: x.tolist(),
            lambda: cupy.asarray(np.ones(3)),
            lambda: cupy.array([1.0]),
            lambda: cupy.concatenate(many),
            lambda: x[[0, 1]],
            lambda: x[x > 0],
            lambda: x.__setitem__([0, 1], 1.0),
            lambda: cupy.nonzero(x),
            lambda: cupy.cuda.Stream().synchronize(),
        ]
        stream = cupy.cuda.Stream(non_blocking=True)
        for function in allowed:
            stream.begin_capture()
            function()
            stream.end_capture().launch()
        for number, function in enumerate(refused):
            stream.begin_capture()
            with pytest.raises(RuntimeError, match="StreamCaptureUnsupported"):
                print(number, function())
            with pytest.raises(RuntimeError, match="StreamCaptureInvalidated"):
                stream.end_capture()


@needs_compiler
@no_cupy
def test_the_stand_in_captures_no_product_of_matrices():
    with strict_cupy() as cupy:
        x, vector = cupy.ones((3, 3)), cupy.ones(3)
        refused = [
            lambda: x @ x,
            lambda: x @ vector,
            lambda: x.dot(x),
            lambda: cupy.dot(x, vector),
            lambda: cupy.matmul(x, x.T),
            lambda: cupy.tensordot(x, x),
            lambda: cupy.einsum("ij,jk->ik", x, x),
        ]
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.begin_capture()
        for number, function in enumerate(refused):
            with pytest.raises(NotImplementedError, match="cuBLAS"):
                print(number, function())
        total = cupy.dot(vector, vector)
        stream.end_capture().launch()
        assert total.get() == 3
        assert [function() is not None for function in refused] == [True] * len(refused)
