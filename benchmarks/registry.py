"""What a benchmark is, and the one list of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.machine import Ceilings

Results = Mapping[str, Any]  # named outputs and gradients: anything that numpy.asarray takes


@dataclass(frozen=True)
class Work:
    """The arithmetic and the memory traffic that a computation cannot avoid, by its best known algorithm.

    flops: floating-point operations of its products (a multiply-add counts as two)
    bytes: read plus written, each input and each output once
    transcendentals: how many values of each function ("exp", "sigmoid", "tanh", "softplus")
    """

    flops: float = 0
    bytes: float = 0
    transcendentals: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "float32"

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds at this machine's measured rates: products, traffic and transcendentals one after the other."""
        products = self.flops / ceilings.flops[self.dtype]
        traffic = self.bytes / ceilings.bandwidth(self.bytes)
        return (
            products
            + traffic
            + sum(count / ceilings.transcendentals[self.dtype][function] for function, count in self.transcendentals.items())
        )


@dataclass(frozen=True)
class Side:
    """One implementation. `run` is what is timed; it returns its outputs, which are compared with the exact ones.

    role: "ours" is what the others are compared with; a "variant" is ours run in another way.

    A side whose `run` changes its own state (an optimizer's step) gives as `outputs` a function that starts afresh.
    """

    name: str
    role: Literal["ours", "variant", "reference", "theirs"]
    run: Callable[[], Results]
    outputs: Callable[[], Results] | None = None


@dataclass(frozen=True)
class Case:
    """One problem, solved by every side.

    `exact` computes the outputs in float64; `tolerance` bounds each side's error, as `agreement.error` defines it.
    """

    name: str
    sides: tuple[Side, ...]
    exact: Callable[[], Results]
    tolerance: float
    work: Work
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if [side.role for side in self.sides].count("ours") != 1:
            raise ValueError(f"case {self.name!r} must have exactly one side of ours, got {self.sides}")


@dataclass(frozen=True)
class Benchmark:
    name: str
    summary: str
    cases: Callable[[bool], Iterator[Case]]


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(*, name: str) -> Callable:
    """Register a function `cases(quick)` that yields the cases of the benchmark `name`; its docstring is the summary.

    With `quick` the sizes are tiny, for the tests. Modules of entries import PyTorch inside their functions, so that
    the list can be printed without it.
    """

    def register(cases: Callable[[bool], Iterator[Case]]) -> Callable[[bool], Iterator[Case]]:
        if name in BENCHMARKS:
            raise ValueError(f"two benchmarks are named {name!r}: names must differ")
        BENCHMARKS[name] = Benchmark(name, cases.__doc__.strip().splitlines()[0], cases)
        return cases

    return register
