"""Timing, sides alternating, and what is said about the samples.

A parallel call leaves its worker threads spinning for a while, and a spinning pool takes the cores from the next side's. So
each side has a process of its own (worker.py), and each sample waits until the threads of the others sleep, wakes its own
side's by an untimed call, and only then starts the clock. OMP_WAIT_POLICY=passive would end the spinning too, but it makes
PyTorch several times slower on small operations, which would flatter us. Machines drift by tens of percent within minutes:
ratios are taken within a round, whose samples are close in time, and the median over rounds is quoted.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.device import seconds

PAUSE = 0.15  # seconds before each sample: even OpenBLAS's threads as they come have stopped spinning after some 0.1
LONG_ENOUGH = 0.1  # seconds; faster calls are repeated within one sample: steady, as in a training


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated linearly as `numpy.quantile` does."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Spread of theirs / ours, taken round by round. Raises ValueError if the rounds differ in number."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def interleaved(samplers: dict[str, Callable[[], float]], repeats: int, pause: float = PAUSE) -> dict[str, list[float]]:
    """`repeats` samples of each of `samplers`; the order rotates, so that no one always follows another."""
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    order = list(samplers)
    for _ in range(repeats):
        for name in order:
            time.sleep(pause)
            samples[name].append(samplers[name]())
        order.append(order.pop(0))
    return samples


def sampler(run: Callable[[], object]) -> Callable[[], float]:
    """A function that takes one sample of `run`: seconds a call, after an untimed one that wakes the threads."""
    calls = _calls_per_sample(run)

    def sample() -> float:
        seconds(run, calls)
        return seconds(run, calls)

    return sample


def _calls_per_sample(run: Callable[[], object]) -> int:
    run()  # compiles, fills caches
    if seconds(run, 1) >= LONG_ENOUGH:
        return 1
    return math.ceil(LONG_ENOUGH / seconds(run, 10))
