"""CUDA graphs of PyTorch, on this machine's processor.

    with recorded_graphs():
        replay = captured(call)     # benchmarks.attempts

Inside, `torch.cuda.graph` records the operators that run under it, backward passes included, and `replay` runs them again on
the same tensors, as a GPU does. What a capture does not allow is an error: a number or a size that the host waits for, and
numbers that it sends.
"""

import contextlib
import types
from collections.abc import Iterator
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::lift_fresh"}


class Recorded(TorchDispatchMode):
    """The operators that ran, with their arguments and what they returned."""

    def __init__(self, graph: "Graph"):
        super().__init__()
        self._calls = graph.calls

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        if func.name().partition(".")[0] in WAITING:
            raise RuntimeError(f"{func.name()} is not permitted when a stream is capturing")
        returned = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, returned))
        return returned


class Graph:
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self):
        self.calls = []

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, returned in self.calls:
            for old, new in zip(tree_leaves(returned), tree_leaves(func(*args, **kwargs))):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def recorded_graphs() -> Iterator[None]:
    """Let `torch.cuda` have streams and graphs."""
    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda chosen: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": lambda graph, stream: Recorded(graph),
    }
    with mock.patch.multiple(torch.cuda, **stand_ins):
        yield
