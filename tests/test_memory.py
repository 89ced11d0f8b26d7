"""A second backward, freeing, aliasing: gradients share memory with nothing, and nothing outlives its use."""

import gc
import itertools
import resource
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor
from tinygen.graph import Node
from tinygen.op import differentiable


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# ---- A second backward, and freeing. ----


def test_second_backward_is_a_clear_error():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="freed by an earlier backward: pass retain_graph=True"):
        y.backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4])


def test_backward_through_a_part_that_was_freed_is_an_error_and_changes_nothing():
    x = leaf(1.0)
    shared = tg.exp(x)
    (shared * 2.0).backward()
    before = x.grad.copy()
    late = leaf(1.0)
    loss = shared * late
    with pytest.raises(RuntimeError, match="the graph through exp was freed"):
        loss.backward()
    np.testing.assert_array_equal(x.grad, before)
    assert late.grad is None


def test_retained_graph_gives_the_same_gradient_again():
    x = leaf(1.0, 2.0)
    y = (tg.exp(x) * x).sum()
    y.backward(retain_graph=True)
    first = x.grad.copy()
    y.backward(retain_graph=True)
    np.testing.assert_array_equal(x.grad, 2 * first)
    y.backward()
    np.testing.assert_array_equal(x.grad, 3 * first)
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


def test_graph_is_freed_as_it_is_walked():
    x = leaf(*np.ones(1000))
    first = tg.exp(x)
    second = tg.exp(first)
    alive = []

    @differentiable(a=lambda g: alive.append((outer() is not None, inner() is not None)) or g)
    def look(a, /):
        return a + 0

    inner, outer = weakref.ref(first._data), weakref.ref(second._data)
    watched = look(x)  # older than what is below it in this sum, so visited later
    del first
    y = (second + watched).sum()
    del second
    y.backward()
    assert (inner(), outer()) == (None, None)  # though y still lives
    assert alive == [(True, True)] or alive == [(False, False)]


def test_retained_graph_keeps_what_it_needs_until_it_is_let_go():
    x = leaf(*np.ones(1000))
    h = tg.exp(x)
    watch = weakref.ref(h._data)
    y = h.sum()
    del h
    y.backward(retain_graph=True)
    assert watch() is not None
    del y
    assert watch() is None


def test_no_reference_cycles():
    """With the collector off, everything dies with its last reference."""
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o) is Node for o in gc.get_objects())
        x = leaf(*np.ones(10))
        watches = []
        for create in (False, True):
            h = tg.softmax(x.reshape(2, 5) * 2.0)
            y = h[0].logsumexp() + h.std()
            (g,) = tg.grad(y, [x], create_graph=create, retain_graph=True)
            watches += [weakref.ref(t) for t in (h, y, g)] + [weakref.ref(t._data) for t in (h, g)]
            watches += [weakref.ref(y._node), weakref.ref(h._node)]
            del h, y, g
        assert all(watch() is None for watch in watches)
        assert sum(type(o) is Node for o in gc.get_objects()) == before + 1  # x's own
    finally:
        gc.enable()


def test_training_does_not_grow_memory():
    rng = np.random.default_rng(0)
    w, b = Tensor(rng.standard_normal((20, 10)), requires_grad=True), Tensor(np.zeros(10), requires_grad=True)
    x, labels = rng.standard_normal((32, 20)), rng.integers(0, 10, 32)

    def step():
        loss = tg.cross_entropy(tg.tanh(x @ w + b), labels)
        loss.backward()
        for p in (w, b):
            p._data -= 0.1 * p.grad
            p.bump()
            p.grad = None
        return loss.item()

    first = step()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(1200):  # until Python's and NumPy's caches of small objects are full
            step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            last = step()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < 200 * 32  # less than the smallest array a step could leave behind
    assert last < first


# ---- Aliasing. ----


SHARING = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "the same twice": lambda x, y: x + x + y + y,
    "reshape": lambda x, y: x.reshape(2, 2) + y.reshape(2, 2),
    "transpose": lambda x, y: x.reshape(2, 2).T + y.reshape(2, 2).T,
    "broadcast": lambda x, y: tg.broadcast_to(x, (3, 4)) + y,
    "concatenate": lambda x, y: tg.concatenate([x, y, x]),
    "stack": lambda x, y: tg.stack([x, y]),
    "split": lambda x, y: tg.split(x + y, 2)[0],
    "sum": lambda x, y: x.sum() + y.sum(),
    "mean": lambda x, y: x.mean(keepdims=True) + y,
    "slices": lambda x, y: x[:2] + y[2:],
    "flip": lambda x, y: tg.flip(x) + y,
    "where": lambda x, y: tg.where(np.ones(4) > 0, x, y),
    "linear": lambda x, y: tg.linear(np.ones((3, 2)), x.reshape(2, 2), y[:2]) + y[2:],
    "einsum": lambda x, y: tg.einsum("i,j->ij", x, y),
    "einsum of one": lambda x, y: tg.einsum("ij->ji", x.reshape(2, 2)) + tg.einsum("i->", y),
    "to": lambda x, y: x.to("cpu") + y.to("cpu"),
    "assignment": lambda x, y: assigned(x, y),
    "the leaves themselves": lambda x, y: tg.maximum(x, y),
}


def assigned(x, y):
    z = x * 1
    z[1:3] = y[1:3]
    return z


@pytest.mark.parametrize("build", SHARING.values(), ids=SHARING.keys())
def test_gradients_share_no_memory(build):
    rng = np.random.default_rng(0)
    for create in (False, True):
        x, y = (Tensor(rng.standard_normal(4), requires_grad=True) for _ in range(2))
        out = build(x, y)
        g = Tensor(rng.standard_normal(out.shape))
        kept = g.numpy().copy()
        gradients = list(tg.grad(out, [x, y, out], g, create_graph=create, retain_graph=True))
        assert len({id(t) for t in gradients}) == 3
        arrays = [t._data for t in gradients] + [x._data, y._data, g._data]
        out.backward(g._data, retain_graph=True)
        arrays += [x.grad, y.grad]
        for a, b in itertools.combinations(arrays, 2):
            assert not np.shares_memory(a, b)
        for gradient, t in zip(gradients, (x, y)):
            np.testing.assert_array_equal(gradient.numpy(), t.grad)
            assert t.grad.flags.writeable
        np.testing.assert_array_equal(g.numpy(), kept)
        first = x.grad.copy()
        out.backward(g._data)
        np.testing.assert_allclose(x.grad, 2 * first)
        np.testing.assert_array_equal(g.numpy(), kept)


def test_writing_into_a_gradient_changes_no_other():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    g = np.ones(2)
    (x + y).backward(g)
    x.grad += 100
    np.testing.assert_array_equal(y.grad, [1.0, 1])
    np.testing.assert_array_equal(g, [1.0, 1])
    a, b = tg.grad(x + y, [x, y], g, create_graph=True)
    a[0] = 5.0
    a.data[1] = 5.0
    np.testing.assert_array_equal(b.numpy(), [1.0, 1])
    np.testing.assert_array_equal(g, [1.0, 1])


def test_gradient_assigned_by_the_user_is_not_written_into():
    x = leaf(1.0, 2.0)
    own = np.array([10.0, 20])
    x.grad = own
    for _ in range(2):
        (x * 3).sum().backward()
    np.testing.assert_array_equal(own, [10.0, 20])
    np.testing.assert_array_equal(x.grad, [16.0, 26])


def test_an_earlier_gradient_array_is_not_written_into():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    np.testing.assert_array_equal(first, [3.0, 3])


def test_rules_that_return_what_they_must_not_give_away():
    """An array of its own that it keeps, one array for two arguments, a part of another's: no sum goes into any of them."""
    saved = np.full(3, 2.0)

    @differentiable(joint=lambda g, needs, residual: residual)
    def careless(a, b, c, /):
        return a + b + c, (saved, saved, None)

    @differentiable(joint=lambda g, needs: (h := g * 2, h[:2]))
    def overlapping(a, b, /):
        return a * 2 + np.append(b, 0)

    x = leaf(1.0, 1.0, 1.0)
    (careless(x, x, x) + careless(x, x, Tensor(np.zeros(3)))).sum().backward()
    np.testing.assert_array_equal(saved, np.full(3, 2.0))
    np.testing.assert_array_equal(x.grad, np.full(3, 8.0))
    a, b = leaf(1.0, 1.0, 1.0), leaf(1.0, 1.0)
    older = a * 1
    (overlapping(older, b) + older).sum().backward()
    np.testing.assert_array_equal(a.grad, [3.0, 3, 3])
    np.testing.assert_array_equal(b.grad, [2.0, 2])


FAULTS = """
import resource
import sys
import numpy as np
from tinygen.kernels.memory import keep_freed

if "keep" in sys.argv and not keep_freed():
    sys.exit("no glibc")
x = np.ones(1 << 20, np.float32)
def step():
    layers = [x]
    for _ in range(8):
        layers.append(layers[-1] + 1)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_asking_the_system():
    def faults(*arguments: str) -> int:
        run = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True)
        if "no glibc" in run.stderr:
            pytest.skip("mallopt is glibc's")
        return int(run.stdout)

    pages = 8 * (4 << 20) // resource.getpagesize()  # of one step
    assert faults("keep") < pages // 8
    assert faults() > pages
