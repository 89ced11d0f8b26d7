"""Random programs in which random arrays are changed in place: the gradient is right, or refused; never silently wrong."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import Tensor

SHAPE = (4, 6)


def program(seed, change):
    """Run a random program; with `change`, then write into one of the arrays that somebody outside holds.

    Returns the loss and the leaves. The same seed gives the same program and the same numbers.
    """
    rng = np.random.default_rng(seed)
    constants = [rng.uniform(0.5, 1.5, SHAPE) for _ in range(2)] + [np.tile(np.arange(6), (4, 1)), rng.random(SHAPE) < 0.5]
    leaves = [Tensor(rng.uniform(0.5, 1.5, SHAPE), requires_grad=True) for _ in range(2)]
    shared = rng.uniform(0.5, 1.5, SHAPE)
    leaves.append(tg.from_dlpack(shared))
    leaves[-1].requires_grad = True
    pool = list(leaves)
    held = [*constants, shared]  # the arrays that the outside could write to
    steps = [
        lambda a, b: a * b,
        lambda a, b: a + b,
        lambda a, b: a / (1 + b * b),
        lambda a, b: a * constants[0],
        lambda a, b: constants[1] * a,
        lambda a, b: tg.exp(a * 0.3),
        lambda a, b: tg.tanh(a),
        lambda a, b: tg.sigmoid(a) + tg.softplus(b),
        lambda a, b: tg.maximum(a, b),
        lambda a, b: tg.where(constants[3], a, b),
        lambda a, b: tg.take_along_axis(a, constants[2], 1),
        lambda a, b: tg.softmax(a),
        lambda a, b: a.reshape(6, 4).T.reshape(SHAPE),
        lambda a, b: a.T.reshape(SHAPE) * b,
        lambda a, b: tg.flip(a, 1),
        lambda a, b: tg.concatenate([a[:2], b[2:]]),
        lambda a, b: a[::-1] * b[1],
        lambda a, b: tg.broadcast_to(a[:1], SHAPE) * b,
        lambda a, b: tg.einsum("ij->ij", a) * a,
        lambda a, b: tg.einsum("ij,kj->ik", a, b) @ tg.sqrt(b * b + 1) * 0.1,
        lambda a, b: a - a.mean(axis=0) * a.std(axis=1, keepdims=True),
        lambda a, b: a.detach() * b,
        lambda a, b: assigned(a, b),
        lambda a, b: a.copy(),
        lambda a, b: a.to("cpu"),
    ]
    expose = [
        lambda t: t.data,
        lambda t: t.detach().data,
        lambda t: t.reshape(24).data,
        lambda t: t[1:3, ::2].data,
        lambda t: without_graph(t).data,
        lambda t: np.from_dlpack(t),
    ]
    for _ in range(rng.integers(3, 12)):
        if rng.random() < 0.3:
            held.append(expose[rng.integers(len(expose))](pool[rng.integers(len(pool))]))
        a, b = (pool[i] for i in rng.integers(0, len(pool), 2))
        pool.append(steps[rng.integers(len(steps))](a, b))
    loss = sum((t * t).mean() if rng.random() < 0.5 else t.sum() for t in pool[-3:])
    if rng.random() < 0.5:
        held.append(expose[rng.integers(len(expose))](pool[rng.integers(len(pool))]))
    kind = rng.integers(5)
    if kind == 0:  # an optimizer's step
        leaf = leaves[rng.integers(3)]
        if change:
            leaf._data += 0.5
            leaf.bump()
    else:
        array = held[rng.integers(len(held))]
        place = tuple(rng.integers(0, n) for n in array.shape)
        other = tuple(rng.integers(0, n) for n in array.shape)
        if change and array.flags.writeable:
            if array.dtype == bool:
                array[place] ^= True
            elif kind == 1:
                array[...] = array[::-1].copy()
            elif kind == 2:
                array[place], array[other] = array[other], array[place]
            else:
                array[place] = array[place] + 1 if array.dtype.kind == "f" else 0
    return loss, leaves


def assigned(a, b):
    c = a * 1
    c[1:3, 2] = b[0, 0]
    return c


def without_graph(t):
    with tg.no_grad():
        return t.T


@pytest.mark.parametrize("block", range(10))
def test_right_or_refused(block):
    refused = 0
    for seed in range(200 * block, 200 * (block + 1)):
        loss, leaves = program(seed, change=False)
        loss.backward()
        expected = [leaf.grad for leaf in leaves]
        loss, leaves = program(seed, change=True)
        try:
            loss.backward()
        except RuntimeError as error:
            assert "was changed in place" in str(error)  # noqa: PT017
            refused += 1
            continue
        for leaf, gradient in zip(leaves, expected):
            if gradient is None:
                assert leaf.grad is None
            else:
                np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-12, atol=1e-12, err_msg=f"seed {seed}")
    assert 20 < refused < 180  # the programs do both
