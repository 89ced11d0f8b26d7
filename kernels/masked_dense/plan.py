"""What the degrees say, worked out once: which inputs a unit sees, and in which order units can be computed."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

HIDDEN, LOGIT, DIRECT = range(3)  # what becomes of a unit's sum when sampling


class Staircase(NamedTuple):
    """The mask of a layer between sorted units: each output sees the first inputs, and none sees fewer than the one before."""

    columns: np.ndarray  # (in,) the inputs by degree
    rows: np.ndarray  # (out,) the outputs by degree
    reach: np.ndarray  # (out,) how many inputs, of those by degree, the sorted output sees
    first: np.ndarray  # (in,) the first sorted output that sees the sorted input

    @property
    def in_order(self) -> bool:
        """Whether the units are sorted as they are."""
        return all((order[1:] > order[:-1]).all() for order in (self.columns, self.rows))


class Network(NamedTuple):
    """What the sampler needs to know besides the weights. Pixels and hidden units are numbered layer by layer, by degree."""

    masks: list[Staircase]  # of the layers, and of the direct connections if there are any
    order: np.ndarray  # (D,) the pixels as they are visited
    units: np.ndarray  # int64 (units, 6), one row each: see `_units`
    rows: int  # pixels and hidden units


def staircase(in_degrees: Any, out_degrees: Any, strict: bool) -> Staircase:
    """The mask of a layer. Units of the same degree keep their order."""
    return _staircase(_bytes(in_degrees), _bytes(out_degrees), bool(strict))


def network(degrees: list[Any], direct: bool) -> Network:
    """The plan of a network whose layers lead from degrees[l] to degrees[l + 1], the last one back to degrees[0]."""
    return _network(tuple(map(_bytes, degrees)), direct)


def _bytes(degrees: Any) -> bytes:
    host = degrees if isinstance(degrees, np.ndarray) else degrees.get()
    return np.ascontiguousarray(host, np.int64).tobytes()


@functools.lru_cache(maxsize=256)
def _staircase(in_degrees: bytes, out_degrees: bytes, strict: bool) -> Staircase:
    inputs, outputs = (np.frombuffer(d, np.int64) for d in (in_degrees, out_degrees))
    columns, rows = (np.argsort(d, kind="stable") for d in (inputs, outputs))
    reach = np.searchsorted(inputs[columns], outputs[rows], side="left" if strict else "right")
    first = np.searchsorted(reach, np.arange(len(columns)), side="right")
    return Staircase(columns, rows, reach, first)


@functools.lru_cache(maxsize=64)
def _network(degrees: tuple[bytes, ...], direct: bool) -> Network:
    ends = [*zip(degrees[:-1], degrees[1:], [False] * len(degrees)), (degrees[-1], degrees[0], True)]
    masks = [_staircase(*end) for end in ends + [(degrees[0], degrees[0], True)] * direct]
    sorted_degrees = [np.sort(np.frombuffer(d, np.int64)) for d in degrees]
    return Network(masks, masks[-1].rows, _units(masks, sorted_degrees), sum(map(len, sorted_degrees)))


def _units(masks: list[Staircase], degrees: list[np.ndarray]) -> np.ndarray:
    """The units in an order in which they can be computed: what becomes of the sum, where its weights begin among those of all
    layers by degree, which unit is its first input and how many inputs there are, its own place, and where its bias is.

    A pixel is drawn before the hidden units of its degree are computed; what comes straight from the pixels is summed up before
    the logit that it is added to.
    """
    begins = np.cumsum([0, *map(len, degrees)])
    last = len(degrees) - 1
    units, keys, offset, number = [], [], 0, 0
    for l, mask in enumerate(masks):
        kind = HIDDEN if l < last else LOGIT if l == last else DIRECT
        out, inputs = np.arange(len(mask.rows)), 0 if kind == DIRECT else l
        place = begins[l + 1] if kind == HIDDEN else 0
        values = (kind, offset + out * len(mask.columns), begins[inputs], mask.reach, place + out, number + out)
        units.append(np.stack([np.broadcast_to(v, out.shape) for v in values], axis=1))
        stage = {DIRECT: 0, LOGIT: 1, HIDDEN: 2 + l}[kind]
        keys.append(np.stack([degrees[l + 1] if kind == HIDDEN else degrees[0], np.full_like(out, stage)]))
        offset, number = offset + len(mask.rows) * len(mask.columns), number + len(out)
    degree, stage = np.concatenate(keys, axis=1)
    return np.concatenate(units)[np.lexsort((stage, degree))]
