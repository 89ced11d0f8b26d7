"""Each side of a case in a process of its own, as its users have it: with the libraries that it loads, and their threads.

In one process the idle threads of one library spin on the cores that the next side needs, and libraries share the OpenMP that
came first, with its settings: the order of imports would decide who wins. On a GPU neither matters, and every process would
load PyTorch and start CUDA anew for its one side: there all sides run in the process of the command.
"""

import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing.connection import Connection
from typing import Self

from benchmarks import attempts, entries, measure
from benchmarks.registry import BENCHMARKS, Case, Side
from tinygen.kernels.memory import keep_freed


class Worker(AbstractContextManager):
    """A process that measures one side of a case, when it is asked for a sample."""

    def __init__(self, benchmark: str, quick: bool, number: int, case: Case, side: Side, threads: int):
        """`number` is the case's place in the benchmark; the process makes the case again."""
        self.name = f"'{side.name}' of {case.name}"
        self.connection, other = multiprocessing.Pipe()
        arguments = (other, benchmark, quick, number, side.name, side.role, threads)
        # Spawned, not forked: a fork has no threads, but believes that it has.
        self.process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def start(self) -> Self:
        """Wait until the side is ready: libraries loaded, kernels compiled."""
        self._receive()
        return self

    def sample(self) -> float:
        """Seconds of one call, as `measure.sampler` takes them. Raises RuntimeError where the process fails."""
        return self._receive("sample")

    def _receive(self, *asked: str) -> float:
        try:
            for message in asked:
                self.connection.send(message)
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            answer = f"its process ended with code {self.process.join() or self.process.exitcode}"
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name} cannot be measured: {answer}")
        return answer

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join(10)
        self.process.terminate()


def _serve(connection: Connection, benchmark: str, quick: bool, number: int, side: str, role: str, threads: int) -> None:
    """Make the case, then answer every message with a sample, until the connection is closed."""
    try:
        sample = _sampler(benchmark, quick, number, side, role, threads)
        connection.send(0.0)
        while True:
            connection.recv()
            connection.send(sample())
    except EOFError:
        pass
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _sampler(benchmark: str, quick: bool, number: int, side: str, role: str, threads: int) -> Callable[[], float]:
    if role == "theirs":  # whose library is loaded first has the OpenMP that it brings
        import torch
    else:
        from tinygen.kernels.runtime import configured_numba

        configured_numba()
        import torch
    torch.set_num_threads(threads)
    keep_freed()  # as in every training of ours; PyTorch, whose large arrays come from malloc as well, has the same
    attempts.wanted = side
    case = next(islice(BENCHMARKS[benchmark].cases(quick), number, None))
    return measure.sampler(next(found.run for found in case.sides if found.name == side))


__all__ = ["Worker", "entries"]
