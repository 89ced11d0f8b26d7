"""Cases of the functions that move values: shapes, joining and cutting, indexing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import tinygen as tg
from tinygen.checks.inputs import check, normal
from tinygen.checks.registry import Case


def _shapes() -> Iterator[Case]:
    yield check("reshape", lambda x: tg.reshape(x, 4, -1), x=normal(2, 3, 2))
    yield check("reshape[to 0-d]", lambda x: tg.reshape(x, ()), x=normal(1, 1))
    yield check("reshape[empty]", lambda x: tg.reshape(x, (3, 0)), x=normal(0, 2))
    yield check("reshape[of transposed]", lambda x: tg.reshape(tg.transpose(x), (-1,)), x=normal(2, 3))
    yield check("transpose", tg.transpose, x=normal(2, 3, 4))
    yield check("transpose[axes]", lambda x: tg.transpose(x, (1, 2, 0)), x=normal(2, 3, 4))
    yield check("swapaxes", lambda x: tg.swapaxes(x, 0, -1), x=normal(2, 3, 4))
    yield check("squeeze", tg.squeeze, x=normal(1, 3, 1))
    yield check("squeeze[axis]", lambda x: tg.squeeze(x, -1), x=normal(1, 3, 1))
    yield check("expand_dims", lambda x: tg.expand_dims(x, 1), x=normal(3, 2))
    yield check("expand_dims[two axes]", lambda x: tg.expand_dims(x, (0, -1)), x=normal(3))
    yield check("broadcast_to", lambda x: tg.broadcast_to(x, (2, 3, 4)), x=normal(3, 1))
    yield check("broadcast_to[0-d]", lambda x: tg.broadcast_to(x, (2, 3)), x=normal())
    yield check("flip", lambda x: tg.flip(x, 0), x=normal(3, 2))
    yield check("flip[all axes]", tg.flip, x=normal(3, 2))
    yield check("tile", lambda x: tg.tile(x, (2, 3)), x=normal(2, 2))
    yield check("tile[new axis]", lambda x: tg.tile(x, (2, 1, 3)), x=normal(3, 2))
    yield check("pad", lambda x: tg.pad(x, ((1, 0), (2, 1)), 0.5), x=normal(2, 3))
    yield check("pad[all sides]", lambda x: tg.pad(x, 1), x=normal(2, 3))


def _joining() -> Iterator[Case]:
    yield check(
        "concatenate", lambda a, b, c: tg.concatenate([a, b, c], axis=1), a=normal(2, 1), b=normal(2, 3), c=normal(2, 0)
    )
    yield check("concatenate[same tensor]", lambda x: tg.concatenate([x, x * 2.0, x]), x=normal(2, 3))
    yield check("stack", lambda a, b: tg.stack([a, b], axis=-1), a=normal(2, 3), b=normal(2, 3))
    yield check("stack[0-d]", lambda a, b: tg.stack([a, b]), a=normal(), b=normal())
    yield check("split", lambda x: tuple(tg.split(x, 3, axis=1)), x=normal(2, 6))
    yield check("split[at indices]", lambda x: tuple(tg.split(x, [1, 4])), x=normal(5, 2))


# Name -> (index, shape of x, shape of what an assignment puts there).
INDICES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "": ((slice(1, 3),), (4, 3), (2, 3)),
    "[steps]": ((slice(None, None, -2), slice(0, 3, 2)), (4, 3), (2, 2)),
    "[integer]": ((1, -1), (4, 3), ()),
    "[newaxis, ellipsis]": ((..., None, 0), (2, 3, 2), (2, 3, 1)),
    "[integer array]": (([2, 0, 3],), (4, 3), (3, 3)),
    "[repeated]": (([0, 2, 0, 0],), (3, 2), (4, 2)),
    "[two arrays]": ((np.array([[0], [2]]), np.array([1, 0, 1])), (3, 2), (2, 3)),
    "[array, slice]": ((slice(None), np.array([1, 1, 0]), slice(0, 2)), (2, 2, 3), (2, 3, 2)),
    "[mask]": ((np.array([True, False, True, True]),), (4, 2), (3, 2)),
    "[full mask]": ((np.array([[True, False, True], [False, True, True]]),), (2, 3), (4,)),
    "[nothing]": ((slice(0, 0),), (3, 2), (0, 2)),
}


def _indexing() -> Iterator[Case]:
    for variant, (index, shape, value) in INDICES.items():
        yield check(f"getitem{variant}", lambda x, i=index: x[i], x=normal(*shape))
        yield check(
            f"setitem{variant}", lambda x, value, i=index: _assigned(x, i, value), x=normal(*shape), value=normal(*value)
        )
    yield check("setitem[broadcast]", lambda x, value: _assigned(x, (slice(1, 3),), value), x=normal(4, 3), value=normal(3))
    yield check("setitem[scalar]", lambda x: _assigned(x, (0,), 2.0), x=normal(4, 3))
    yield check("setitem[from itself]", lambda x: _assigned(x, (0,), x[1] * x[0]), x=normal(2, 3))
    places = np.array([[0, 2], [1, 1], [2, 0]])
    yield check("take_along_axis", lambda x: tg.take_along_axis(x, places, 1), x=normal(3, 3))
    yield check("take_along_axis[axis 0]", lambda x: tg.take_along_axis(x, places[:1, :], 0), x=normal(3, 2))
    yield check("embedding", lambda weight: tg.embedding(np.array([[1, 3], [1, 0]]), weight), weight=normal(4, 3))


def _assigned(x: Any, index: Any, value: Any) -> Any:
    y = x.copy()
    y[index] = value
    return y


CASES = [*_shapes(), *_joining(), *_indexing()]
