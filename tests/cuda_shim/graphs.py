"""Streams and CUDA graphs of the stand-in for CuPy: what is done while a stream captures is kept, and done again by `launch`.

Each call is repeated with its arguments, and what it returns is written into the array that it returned the first time. What a
capture does not allow is an error: what the host waits for, and what it sends. It makes the capture invalid, so that its end is
an error too. A product of matrices is an error of CuPy's own, which leaves the capture as it is.
"""

import collections
import functools
from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np

CUBLAS = ("matmul", "dot", "inner", "tensordot", "einsum")  # functions and methods that multiply matrices by it


class _Capture:
    """What is being captured, if anything is."""

    calls: list | None = None
    valid = True


def performed(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """What `function` returns; while a stream captures, the call is kept. Arrays are NumPy's, and scalars become such."""
    result = function(*args, **kwargs)
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if _Capture.calls is not None:
        _Capture.calls.append((functools.partial(function, *args, **kwargs), result))
    return result


def refuse(what: str) -> None:
    """Raise the error for what is not permitted while a stream captures, if one does."""
    if _Capture.calls is not None:
        _Capture.valid = False
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} is not permitted when a stream is capturing")


def refuse_cublas(function: str, operands: Iterable[Any]) -> None:
    """Raise CuPy's error for a product of arrays while a stream captures; that of two vectors CuPy computes by itself."""
    dimensions = [operand.ndim for operand in operands if hasattr(operand, "ndim")]
    if _Capture.calls is not None and function in CUBLAS and len(dimensions) > 1 and max(dimensions) > 1:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


class Stream:
    """In place of cupy.cuda.Stream."""

    def __init__(self, non_blocking: bool = False, *, log: collections.Counter):
        self._own, self._log = non_blocking, log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        assert _Capture.calls is None, "the stream is left capturing"

    def synchronize(self) -> None:
        refuse("waiting for a stream")

    def begin_capture(self) -> None:
        assert self._own, "the default stream cannot capture, and waits for those that it would block"
        refuse("another capture")
        _Capture.calls, _Capture.valid = [], True

    def end_capture(self) -> "Graph":
        calls, _Capture.calls = _Capture.calls, None
        if not _Capture.valid:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture")
        return Graph(calls, self._log)


class Graph:
    """In place of cupy.cuda.Graph."""

    def __init__(self, calls: list, log: collections.Counter):
        self._calls, self._log = calls, log

    def launch(self) -> None:
        refuse("the launch of a graph")
        self._log["graph"] += 1
        for call, results in self._calls:
            _store(call(), results)


def _store(new: Any, old: Any) -> None:
    """Write the results of a repeated call into those of the first; a view looks at its source's memory already."""
    if isinstance(old, (tuple, list)):
        for part, kept in zip(new, old, strict=True):
            _store(part, kept)
    elif isinstance(old, np.ndarray) and not np.may_share_memory(old, new):
        old[...] = new
