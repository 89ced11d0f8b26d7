"""PyTorch's sides that need a compiler or a GPU of the right kind: where one fails, the case says why and the others go on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from benchmarks import device
from benchmarks.agreement import first_line
from benchmarks.registry import Results, Side
from tinygen.replay import Replay

WARM_UPS = 3  # before a capture: libraries pick their algorithms, allocate and compile, which a capture does not allow

wanted: str | None = None  # the one side that this process measures, so that no other is compiled in it; None for all

T = TypeVar("T")


class Attempts:
    """The sides of a case that were tried, and the notes on those that are not there."""

    def __init__(self, quick: bool):
        """With `quick` nothing is tried."""
        self.sides: list[Side] = []
        self._missing = {"torch.compile and CUDA graphs": "they take seconds each"} if quick else {}
        self._quick = quick

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each side that is left out."""
        return tuple(f"{what} left out: {why}" for what, why in self._missing.items())

    def add(
        self,
        name: str,
        make: Callable[[], Callable[[], Any]],
        outputs: Callable[[], Results] | None = None,
        role: Literal["theirs", "variant"] = "theirs",
    ) -> None:
        """The side whose `run` is what `make` returns, if that can be made and called; on the CPU or a GPU."""
        if self._quick or wanted not in (None, name):
            return
        try:
            run = make()
            run()
        except Exception as error:  # whatever is missing or broken, the other sides are still worth measuring
            self._missing[f"'{name}'"] = first_line(error)
        else:
            self.sides.append(Side(name, role, run, outputs))

    def add_on_gpu(
        self, name: str, make: Callable[[], Callable[[], Any]], outputs: Callable[[], Results] | None = None
    ) -> None:
        """The same, but nothing on the CPU: for what answers the cost of a launch, which a CPU does not have."""
        if device.on_gpu():
            self.add(name, make, outputs)

    def add_replayed(self, make: Callable[[], Callable[[], Results]]) -> None:
        """On a GPU, our side as the CUDA graph that a training step is there: the counterpart of PyTorch's graphs."""
        if device.on_gpu():
            self.add("tinygen, CUDA graph", lambda: Replay(make()), role="variant")


def compiled(function: Callable) -> Callable:
    """`function` by torch.compile, all of it, for the shapes it meets: a kernel for all sizes would be slower."""
    import torch

    return torch.compile(function, dynamic=False, fullgraph=True)


@dataclass(frozen=True)
class Captured(Generic[T]):
    """A CUDA graph of a call, with the outputs that each replay writes anew, and the call, whose tensors the graph reads."""

    graph: Any
    outputs: T
    call: Callable[[], T]

    def __call__(self) -> T:
        self.graph.replay()
        return self.outputs


def captured(call: Callable[[], T], *optimizers: Any) -> Captured[T]:
    """`call` recorded as one CUDA graph: PyTorch's best answer to the cost of launching many small kernels.

    Gradients must be set to None within `call`, so that each replay writes those of the graph. What `optimizers` (made with
    `capturable=True`) change before the capture is put back. Raises RuntimeError for what no graph can hold, such as a number
    that the host waits for.
    """
    import torch

    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    starts = [parameter.detach().clone() for parameter in parameters]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = call()
    with torch.no_grad():
        for parameter, start in zip(parameters, starts):
            parameter.copy_(start)
        for moment in (value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()):
            moment.zero_()
    return Captured(graph, outputs, call)
