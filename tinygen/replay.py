"""A function on a GPU as one CUDA graph: captured once, then replayed by a single launch.

A launch costs the processor as long as many a kernel takes, and a training step is hundreds of them. A graph holds them all,
with the addresses that they read and write, and is launched as one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from tinygen.backend import Array, load_cupy

WARM_UPS = 2  # the first fills caches and compiles; the second finds the memory as the capture will


class Replay:
    """`function`, from arrays on a GPU to arrays on it, captured for inputs of the shapes and dtypes of `inputs`.

    What it does on the host is done here and never again: it may not read an array's values, send any, or draw random numbers.
    It reads and writes other arrays where they lie now; the caller keeps them there, and alive.
    Raises what CuPy and the driver raise where it cannot be captured.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Array):
        cuda = load_cupy().cuda
        # The graph writes where the capture allocated, so nobody else may be given that memory: it has a pool of its own. A
        # pool keeps memory for each stream by itself, hence the warm-up on the stream of the capture. That one is kept, as
        # libraries may remember it.
        self._pool, self._stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
        with cuda.using_allocator(self._pool.malloc):
            self._inputs = [x.copy() for x in inputs]
            cuda.get_current_stream().synchronize()
            with self._stream:
                for _ in range(WARM_UPS):
                    function(*self._inputs)
                self._stream.synchronize()
                self._graph, self._outputs = self._captured(function)

    def _captured(self, function: Callable[..., Any]) -> tuple[Any, Any]:
        self._stream.begin_capture()
        try:
            outputs = function(*self._inputs)
        except BaseException:
            with contextlib.suppress(Exception):  # an invalid capture ends with an error that says less than the first one
                self._stream.end_capture()
            raise
        return self._stream.end_capture(), outputs

    def __call__(self, *inputs: Array) -> Any:
        """What the function returned when it was captured, these same arrays, now with its results for `inputs`."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine[...] = given
        self._graph.launch()  # on the current stream, so behind the copies and before what is done with the results
        return self._outputs
