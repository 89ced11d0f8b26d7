"""How many launches and transfers things take on a GPU, where each costs more than most arithmetic; on the stand-in."""

import contextlib

import numpy as np
import pytest
from cuda_shim import needs_compiler
from cuda_shim.strict import launches, no_cupy, strict_cupy

import tinygen as tg
from tinygen import optim
from tinygen.backend import to_device
from tinygen.data import Split
from tinygen.guard import fingerprint
from tinygen.kernels import masked_conv
from tinygen.models import model_class
from tinygen.models.replayed import Replays

pytestmark = [needs_compiler, no_cupy]


def test_what_is_read_on_the_host_is_fetched_once():
    state, module = {"places": np.array([4, 5, 6])}, tg.nn.Module()
    module.register_buffer("places", np.array([1, 2, 3]))
    assert module.on_host("places") is module.places
    with strict_cupy() as cupy:
        module.to("cuda")
        for change in (lambda: None, lambda: module.load_state_dict(state), lambda: module.to("cpu").to("cuda")):
            change()
            with launches() as log:
                for _ in range(3):
                    np.testing.assert_array_equal(module.on_host("places"), cupy.asnumpy(module.places))
            assert log["get"] == 3 + 1  # the three are the test's own
        np.testing.assert_array_equal(module.on_host("places"), [4, 5, 6])
        assert module.state_dict().keys() == state.keys()


def test_an_optimizers_step_is_a_few_launches_however_many_parameters():
    with strict_cupy() as cupy:
        for count in (10, 100):
            parameters = [tg.Tensor(cupy.ones((3, k + 1)), requires_grad=True) for k in range(count)]
            optimizer = optim.Adam(parameters)
            for p in parameters:
                p.grad = cupy.ones(p.shape)
            with launches() as log:
                optimizer.clipped_step(1.0)
            assert log == {"concatenate": 1, "dot": 1, "get": 1, "__imul__": 1, "adam_step": 1}
            starts = [p._data._array.ctypes.data - parameters[0]._data._array.ctypes.data for p in parameters]
            assert not any(start % 16 for start in starts)  # wide loads need it


@pytest.mark.parametrize(
    ("name", "most"), [("pixelcnn", 233), ("diagonal-bilstm", 115), ("nade", 36), ("made", 37), ("vae", 99)]
)
def test_launches_of_a_training_step(name, most, monkeypatch):
    """No more than there were; fewer are welcome, and then the number here is to follow. A CUDA graph would hide them."""
    monkeypatch.setattr(Replays, "step", lambda *_: None)
    log = steps(name)
    assert log.total() <= most, log


@pytest.mark.parametrize(
    ("name", "clips"), [("pixelcnn", {}), ("row-lstm", {"__imul__": 1}), ("diagonal-bilstm", {"__imul__": 1})]
)
def test_launches_of_a_replayed_training_step(name, clips):
    """The batch to where the graph reads it, the graph, its figures to the host, the update."""
    assert steps(name) == {"setitem": 1, "graph": 1, "get": 1, "adam_step": 1} | clips


def steps(name):
    """The launches of the second training step of a small model: the first one takes plans to the device."""
    kind, rng = model_class(name), np.random.default_rng(3)
    recipe = kind.RECIPES["quick"]
    with strict_cupy():
        model = kind.build(recipe, Split(np.zeros((9, 5, 6), np.uint8)), rng).to("cuda")
        x, optimizers = to_device(rng.integers(0, 2, (5, 30)).astype(np.float32), "cuda"), model.optimizers(recipe)
        for _ in range(2):
            with launches() as log:
                model.train_step(x, optimizers, rng)
    return log


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_a_fingerprint_is_taken_in_anomaly_mode_only(dtype):
    array = np.arange(3 * 1000).astype(dtype).reshape(3, 1000)
    with strict_cupy() as cupy:
        theirs = cupy.asarray(array)
        with launches() as log:
            assert fingerprint(theirs) is None
        assert not log
        with tg.detect_anomaly():
            before = fingerprint(theirs)
            assert before == fingerprint(cupy.asarray(array))
            for changed in (array[::-1], np.where(array == 7, 8, array).astype(dtype), np.roll(array, 1)):
                assert fingerprint(cupy.asarray(changed)) != before


def test_a_change_in_place_is_noticed_in_anomaly_mode():
    with strict_cupy() as cupy:
        for watched in (False, True):
            x, weight = cupy.asarray(np.ones(3)), tg.Tensor(cupy.asarray(np.ones(3)), requires_grad=True)
            with tg.detect_anomaly() if watched else contextlib.nullcontext():
                y = tg.sum(weight * x)
                x *= 2
                with pytest.raises(RuntimeError, match="was changed in place") if watched else contextlib.nullcontext():
                    y.backward()


@pytest.mark.parametrize("watched", [(True, False), (False, True)], ids=["forward", "backward"])
def test_anomaly_mode_in_one_direction_only_gives_no_false_alarm(watched):
    mode = {True: tg.detect_anomaly, False: contextlib.nullcontext}
    with strict_cupy() as cupy:
        x, weight = cupy.asarray(np.ones(3)), tg.Tensor(cupy.asarray(np.ones(3)), requires_grad=True)
        with mode[watched[0]]():
            z = tg.exp(weight)
            y = tg.sum(z * x)
            assert z.data is not None  # handed out
        with mode[watched[1]]():
            y.backward()
        np.testing.assert_allclose(cupy.asnumpy(weight.grad), np.e)


def test_a_mask_without_a_hole_costs_nothing():
    x, weight, bias = np.ones((2, 3, 4, 4)), np.ones((5, 3, 3, 3)), np.ones(5)
    counts = []
    with strict_cupy() as cupy:
        arrays = [cupy.asarray(a) for a in (x, weight, bias)]
        for centre in (None, True, cupy.asarray(np.ones((5, 3), bool))):
            for _ in range(2):
                with launches() as log:
                    y = masked_conv.forward(*arrays, centre)
                    masked_conv.weight_gradient(arrays[0], y, 3, centre)
            counts.append(log.total())
    none, whole, masked = counts
    assert whole == none
    assert masked == none + 2 * 3  # forward and gradient: a copy, where, and the assignment
