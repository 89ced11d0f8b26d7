"""Timing, sides alternating, and what is said about the samples.

A parallel call leaves its worker threads spinning for a while, and a spinning pool takes the cores from the next side's. So
each side has a process of its own (worker.py), and each sample waits until the threads of the others sleep, wakes its own
side's by an untimed call, and only then starts the clock. OMP_WAIT_POLICY=passive would end the spinning too, but it makes
PyTorch several times slower on small operations, which would flatter us. Machines drift by tens of percent within minutes:
ratios are taken within a round, whose samples are close in time, and the median over rounds is quoted.

On a GPU nothing spins: the sides share this process, without pauses, and shorter samples are as steady.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.device import on_gpu, seconds

PAUSE = 0.15  # seconds before each sample: even OpenBLAS's threads as they come have stopped spinning after some 0.1
LONG_ENOUGH = 0.1  # seconds; faster calls are repeated within one sample: steady, as in a training
LONG_ENOUGH_ON_GPU = 0.02  # its clock counts the GPU's own work to a microsecond, and no other process has a share of it
WARM_UPS_ON_GPU = 3  # calls in which PyTorch tries a convolution's algorithms and its allocator fills


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
    """A function that takes one sample of `run`: seconds a call, after an untimed one that wakes the threads.

    On a GPU the untimed one is a single call, which fills the caches: there are no threads to wake.
    """
    calls = _calls_per_sample(run)

    def sample() -> float:
        seconds(run, 1 if on_gpu() else calls)
        return seconds(run, calls)

    return sample


def _calls_per_sample(run: Callable[[], object]) -> int:
    for _ in range(WARM_UPS_ON_GPU if on_gpu() else 1):
        run()  # compiles, fills caches
    enough = LONG_ENOUGH_ON_GPU if on_gpu() else LONG_ENOUGH
    if seconds(run, 1) >= enough:
        return 1
    return math.ceil(enough / seconds(run, 10))
