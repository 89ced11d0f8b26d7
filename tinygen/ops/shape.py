"""Shapes and places: every function here moves values without changing them, and its gradient moves them back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tinygen.backend import Array, is_array, module_of
from tinygen.graph import mode
from tinygen.op import differentiable
from tinygen.tensor import Tensor, array_of


@differentiable(x=lambda g, x_shape: reshape(g, x_shape))
def _reshape(x: Array, /, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def reshape(x: Any, *shape: Any) -> Any:
    """The same values in another shape (one entry may be -1); ints or one tuple."""
    return _reshape(x, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)


@differentiable(x=lambda g, axes: _transpose(g, tuple(np.argsort(axes).tolist())))
def _transpose(x: Array, /, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


def transpose(x: Any, *axes: Any) -> Any:
    """Axes in the given order (ints or one tuple); reversed if none is given."""
    axes = axes[0] if len(axes) == 1 else axes
    return _transpose(x, tuple(reversed(range(x.ndim))) if axes is None or axes == () else normalize_axis_tuple(axes, x.ndim))


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    axis1, axis2 = normalize_axis_index(axis1, x.ndim), normalize_axis_index(axis2, x.ndim)
    axes = list(range(x.ndim))
    axes[axis1], axes[axis2] = axis2, axis1
    return _transpose(x, tuple(axes))


def squeeze(x: Any, axis: int | tuple[int, ...] | None = None) -> Any:
    """Without the axes of length 1 (or those named; ValueError if one is longer)."""
    ones = {a for a, n in enumerate(x.shape) if n == 1}
    drop = ones if axis is None else set(normalize_axis_tuple(axis, x.ndim))
    if not drop <= ones:
        raise ValueError(f"squeeze needs axes of length 1: axis {axis} of shape {x.shape}")
    return _reshape(x, tuple(n for a, n in enumerate(x.shape) if a not in drop))


def expand_dims(x: Any, axis: int | tuple[int, ...]) -> Any:
    """With new axes of length 1 at the places `axis` of the result."""
    ndim = x.ndim + np.size(axis)
    places = normalize_axis_tuple(axis, ndim)
    rest = iter(x.shape)
    return _reshape(x, tuple(1 if a in places else next(rest) for a in range(ndim)))


@differentiable(x=lambda g: g)  # the engine sums g down to x's shape, and that is the whole gradient
def broadcast_to(x: Array, /, shape: tuple[int, ...]) -> Array:
    """x repeated (as a read-only view) to `shape` by NumPy's rules."""
    return module_of(x).broadcast_to(x, shape)


def _pieces(g: Any, axis: int, lengths: Sequence[int], needs: Sequence[bool]) -> tuple:
    before = (slice(None),) * (axis % g.ndim)
    starts = np.cumsum([0, *lengths]).tolist()
    return tuple(g[(*before, slice(s, s + n))] if need else None for s, n, need in zip(starts, lengths, needs))


@differentiable(joint=lambda g, arrays_shapes, axis, needs: _pieces(g, axis, [s[axis] for s in arrays_shapes], needs))
def _concatenate(*arrays: Array, axis: int) -> Array:
    return module_of(*arrays).concatenate(arrays, axis=axis)


def concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Arrays joined along an existing axis (an int)."""
    arrays = list(arrays)
    axis = normalize_axis_index(axis, max([np.ndim(array_of(x)) for x in arrays], default=1))
    return _concatenate(*arrays, axis=axis)


def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape joined along a new axis."""
    arrays = [a if isinstance(a, Tensor) or is_array(a) else array_of([a])[0] for a in arrays]
    return concatenate([expand_dims(a, axis) for a in arrays], axis)


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """x cut into `sections` equal parts, or at the given indices; ValueError if it cannot be cut evenly."""
    axis = normalize_axis_index(axis, x.ndim)
    n = x.shape[axis]
    if np.ndim(sections) == 0:
        if sections < 1 or n % sections:
            raise ValueError(f"split of an axis of length {n} into {sections} equal parts: give the cut indices instead")
        sections = [n // sections * k for k in range(1, sections)]
    edges = [0, *sections, n]
    before = (slice(None),) * axis
    return [x[(*before, slice(a, b))] for a, b in pairwise(edges)]


def _widths(pad_width: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    widths = np.broadcast_to(np.asarray(pad_width), (ndim, 2))
    return tuple((int(a), int(b)) for a, b in widths)


@differentiable(x=lambda g, widths: g[tuple(slice(a, n - b) for (a, b), n in zip(widths, g.shape))])
def _pad(x: Array, /, widths: tuple[tuple[int, int], ...], value: float) -> Array:
    return module_of(x).pad(x, widths, constant_values=value)


def pad(x: Any, pad_width: Any, value: float = 0.0) -> Any:
    """x with `pad_width` (as NumPy's: one int, one pair, or a pair for every axis) cells of `value` around it."""
    return _pad(x, _widths(pad_width, x.ndim), value)


@differentiable(x=lambda g, axis: flip(g, axis))
def flip(x: Array, /, axis: int | tuple[int, ...] | None = None) -> Array:
    """x in reverse order along `axis` (None: all)."""
    return module_of(x).flip(x, axis)


def tile(x: Any, repetitions: int | Sequence[int]) -> Any:
    """x repeated whole, `repetitions` times along each axis, as numpy.tile."""
    repetitions = (repetitions,) if np.ndim(repetitions) == 0 else tuple(repetitions)
    ndim = max(x.ndim, len(repetitions))
    shape = (1,) * (ndim - x.ndim) + x.shape
    repetitions = (1,) * (ndim - len(repetitions)) + repetitions
    thin = reshape(x, tuple(n for size in shape for n in (1, size)))
    full = broadcast_to(thin, tuple(n for r, size in zip(repetitions, shape) for n in (r, size)))
    return reshape(full, tuple(r * size for r, size in zip(repetitions, shape)))


def _plain_index(index: Any, x: Any) -> Any:
    """`index` with Tensors and sequences as arrays of its own beside x: a caller's later change must not reach the gradient."""
    xp = module_of(array_of(x))
    return tuple([_plain_part(part, xp) for part in index]) if isinstance(index, tuple) else _plain_part(index, xp)


def _plain_part(part: Any, xp: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, (int, slice, np.generic)):
        return part
    array = array_of(part)
    if array.size == 0 and not isinstance(part, Tensor) and not is_array(part):
        array = array.astype(int)  # x[[]]
    if array.dtype.kind not in "iub":
        raise IndexError(f"an index array must hold integers or booleans, not {array.dtype}")
    return xp.array(array)


def _is_basic(index: Any) -> bool:
    """Whether the index selects each element at most once: no integer arrays in it."""
    parts = index if isinstance(index, tuple) else (index,)
    return not any(is_array(i) and i.dtype != bool for i in parts)


@differentiable(g=lambda g, index: _getitem(g, index))
def _scatter(g: Array, /, index: Any, shape: tuple[int, ...]) -> Array:
    # The gradient of reading x[index]: an element that was read several times gets the sum.
    xp = module_of(g)
    out = xp.zeros(shape, dtype=g.dtype)
    if _is_basic(index):
        out[index] = g
    elif is_array(index):  # whole rows, as of an embedding: NumPy adds numbers at flat places ten times faster than rows
        places = xp.arange(out.size).reshape(shape)[index]
        xp.add.at(out.reshape(-1), places.reshape(-1), g.reshape(-1))
    else:
        xp.add.at(out, index, g)
    return out


@differentiable(x=lambda g, index, x_shape: _scatter(g, index, x_shape))
def _getitem(x: Array, /, index: Any) -> Array:
    return x[index]


def getitem(x: Any, index: Any) -> Any:
    """x[index] with all of NumPy's indexing: slices, integers, integer and boolean arrays, newaxis, ellipsis."""
    return _getitem(x, _plain_index(index, x))


def _last_writers(shape: tuple[int, ...], index: Any, xp: Any) -> tuple[Array, Array]:
    """Of an assignment to `index`: the numbers of the assigned values, and for each that of the last one at its place.

    With an integer array an element can be written twice. NumPy keeps the last value, CuPy any of them.
    """
    places = xp.arange(math.prod(shape)).reshape(shape)[index]
    order = xp.arange(places.size, dtype=np.uint64)  # CuPy's maximum.at takes no int64
    writers = xp.zeros(math.prod(shape), np.uint64)
    xp.maximum.at(writers, places.reshape(-1), order)
    return order.reshape(places.shape), writers[places]


def _assigned_gradient(g: Any, value_shape: tuple[int, ...], index: Any) -> Any:
    part = _getitem(g, index)
    part = reshape(part, (1,) * (len(value_shape) - part.ndim) + part.shape)  # an assigned value may have more axes of length 1
    if _is_basic(index):
        return part
    order, last = _last_writers(g.shape, index, module_of(array_of(g)))
    return part * (order == last)  # a value that was written over has no share


@differentiable(promote=False, x=lambda g, index: _set(g, 0.0, index), value=_assigned_gradient)
def _set(x: Array, value: Array, /, index: Any) -> Array:
    y, xp = x.copy(), module_of(x)
    if xp is not np and not _is_basic(index):
        order, last = _last_writers(x.shape, index, xp)
        values = xp.empty(order.shape, x.dtype)
        values[...] = value
        value = values.reshape(-1)[last.astype(np.int64)]
    y[index] = value
    return y


def setitem(x: Tensor, index: Any, value: Any) -> None:
    """`x[index] = value`, differentiable: x becomes a new tensor (other tensors computed from the old x are not affected).

    Raises RuntimeError for a leaf that requires grad, and inside no_grad, where x would lose its gradient.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"setitem changes a Tensor, not {type(x).__name__}: write x[index] = value")
    if x.requires_grad and (x.is_leaf or not mode.recording):
        what, instead = ("a leaf that requires grad", "x.copy()") if x.is_leaf else ("a result inside no_grad", "x.detach()")
        raise RuntimeError(
            f"item assignment to {what} would cut it off from its gradient: write x = {instead} first, use tinygen.where, "
            "or change x.data outside the graph"
        )
    result = _set(x, value, _plain_index(index, x))
    x._data, x._node = result._data, result._node


def take_along_axis(x: Any, indices: Any, axis: int) -> Any:
    """out[i, j, ...] = x[i, indices[i, j, ...], ...] with the index at `axis`, as numpy.take_along_axis; gradients add up."""
    axis = normalize_axis_index(axis, x.ndim)
    xp = module_of(array_of(x))
    indices = xp.asarray(array_of(indices))
    if indices.ndim != x.ndim:
        raise ValueError(f"take_along_axis needs indices with as many axes as x: {indices.shape} for x of shape {x.shape}")
    grids = list(xp.meshgrid(*(xp.arange(n) for n in x.shape), indexing="ij", sparse=True))
    grids[axis] = indices
    return getitem(x, tuple(grids))
