"""The command: which benchmarks to run, how often, and where the results go."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import agreement, device, entries, machine, measure, report
from benchmarks.registry import BENCHMARKS, Benchmark, Case
from benchmarks.worker import Worker

RESULTS = Path(__file__).parent / "results"
BUSY = "with a core taken, threads that wait for each other by spinning lose by far the most, and no figure is worth quoting"
REPEATS = {"cpu": 15, "cuda": 7}  # a GPU's samples scatter little
# The rest follow: a run that is cut off has what matters most.
FIRST_ON_GPU = (
    "diagonal-lstm", "row-lstm", "nade", "masked-conv", "made", "kernels", "ops", "vae", "dcgan", "lstm", "tiny-network"
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command's arguments; the names of the benchmarks are the positional ones."""
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare tinygen with PyTorch.", allow_abbrev=False
    )
    arguments.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    arguments.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    arguments.add_argument("--repeats", type=int, default=None, help="samples of each side (default: 15, on a GPU 7)")
    arguments.add_argument("--threads", type=int, default=None, help="threads of every side (default: all cores)")
    arguments.add_argument("--out", type=Path, default=None, help="folder of the results (default: benchmarks/results)")
    arguments.add_argument("--device", default="cpu", metavar="cpu|cuda", help="where all sides compute (default: cpu)")
    arguments.add_argument("--quick", action="store_true", help="tiny sizes, one sample; writes only if --out is given")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, 1 if sides disagree or fail, 2 if it cannot start.

    The number of threads must be in the environment before NumPy is imported: `python -m benchmarks` sees to that.
    """
    from rich.console import Console

    options = parser().parse_args(argv)
    if options.list:
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name:14} {benchmark.summary}")
        return 0
    problem = _problem(options)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    import torch

    console = Console(width=None if sys.stdout.isatty() else 120)
    threads = options.threads or int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    torch.set_num_threads(threads)
    description = machine.describe(threads) | {"load_before": machine.load()}
    ceilings = machine.ceilings(0.01, size=64, copied=(2**16,), values=2**12) if options.quick else machine.ceilings()
    if (description["load_before"] or 0) > 0.5:
        print(f"other processes are running (load {description['load_before']:.1f}): {BUSY}", file=sys.stderr)
    report.print_machine(description, ceilings, console)
    folder = options.out or (None if options.quick else RESULTS)
    agreed = True
    for name in options.names or _in_order():
        agreed &= _run(BENCHMARKS[name], options, description, ceilings, folder, console)
    return 0 if agreed else 1


def _problem(options: argparse.Namespace) -> str | None:
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        return f"no benchmark is named {', '.join(map(repr, unknown))}: choose from {', '.join(BENCHMARKS)}"
    if any(count is not None and count < 1 for count in (options.repeats, options.threads)):
        return f"--repeats and --threads are at least 1, got {options.repeats} and {options.threads}"
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"the benchmarks compare with PyTorch, which does not import ({error}): pip install tinygen[bench]"
    try:
        device.use(options.device)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return None


def _in_order() -> list[str]:
    """All benchmarks, as they are registered; on a GPU by importance."""
    first = FIRST_ON_GPU if device.on_gpu() else ()
    return [*first, *(name for name in BENCHMARKS if name not in first)]


def _run(
    benchmark: Benchmark,
    options: argparse.Namespace,
    description: dict[str, Any],
    ceilings: machine.Ceilings,
    folder: Path | None,
    console: Any,
) -> bool:
    """Check and measure every case of one benchmark, and write it. Returns whether all sides ran and agreed.

    If not, nothing is written; on a GPU, whose time is dear, the sides and cases that did are.
    """
    records, failures = [], []
    repeats, pause = _how_often(options)
    started = datetime.now(UTC)
    with _surviving(benchmark.name, failures):
        for number, case in enumerate(map(_measured, benchmark.cases(options.quick))):
            with _surviving(case.name, failures):
                case, errors = _agreed(case, failures, console)
                if case is None:
                    continue
                with console.status(f"{case.name}: measuring {len(case.sides)} sides, {repeats} times each"):
                    samples = _samples(benchmark, number, case, options, description["threads_used"])
                records.append(report.case_record(case, errors, samples, ceilings))
                report.print_case(records[-1], console)
    if folder and records and (device.on_gpu() or not failures):
        record = {
            "benchmark": f"{benchmark.name}-cuda" if device.on_gpu() else benchmark.name,
            "summary": benchmark.summary,
            "date": started.isoformat(timespec="seconds"),
            "quick": options.quick,
            "method": {
                "repeats": repeats,
                "pause_seconds": pause,
                "threads": description["threads_used"],
                "arithmetic": "full float32 on every side, no TF32",
            },
            "machine": description,
            "versions": report.versions(),
            "ceilings": asdict(ceilings),
            "cases": records,
        }
        for path in report.write(record, folder):
            console.print(f"wrote {path}", highlight=False)
    return not failures


@contextmanager
def _surviving(what: str, failures: list[str]) -> Iterator[None]:
    """On a GPU an error ends `what`, and no more than that; it is told and joins the `failures`."""
    try:
        yield
    except Exception as error:
        if not device.on_gpu():
            raise
        failures.append(f"FAILED {what}: {agreement.first_line(error)}")
        print(failures[-1], file=sys.stderr)


def _agreed(case: Case, failures: list[str], console: Any) -> tuple[Case | None, dict[str, dict[str, float]]]:
    """The case to be measured, if any, and the errors of its sides; what disagrees is told and joins the `failures`."""
    with console.status(f"{case.name}: do all sides agree?"):
        if device.on_gpu():
            case, errors, complaints = agreement.sound(case)
        else:
            errors, complaints = agreement.disagreements(case)
            case = None if complaints else case
    lines = [f"DISAGREEMENT {line}" for line in complaints]
    failures += lines
    if lines:
        print("\n".join(lines), file=sys.stderr)
    return case, errors


def _how_often(options: argparse.Namespace) -> tuple[int, float]:
    """Samples of each side, and seconds of pause before each."""
    if options.quick:
        return 1, 0.0
    repeats = options.repeats or REPEATS[device.kind()]
    return repeats, 0.0 if device.on_gpu() else measure.PAUSE


def _samples(
    benchmark: Benchmark, number: int, case: Case, options: argparse.Namespace, threads: int
) -> dict[str, list[float]]:
    """Seconds a call of every side: each in a process of its own; with --quick or on a GPU (worker.py) all in this one."""
    if options.quick or device.on_gpu():
        return measure.interleaved({side.name: measure.sampler(side.run) for side in case.sides}, *_how_often(options))
    with ExitStack() as stack:
        start = lambda side: stack.enter_context(Worker(benchmark.name, options.quick, number, case, side, threads))
        workers = {side.name: start(side) for side in case.sides}
        samplers = {name: worker.start().sample for name, worker in workers.items()}
        return measure.interleaved(samplers, *_how_often(options))


def _measured(case: Case) -> Case:
    """The case without the NumPy reference where the others compute on a GPU."""
    sides = tuple(side for side in case.sides if not device.on_gpu() or side.role != "reference")
    return replace(case, sides=sides)


__all__ = ["entries", "main", "parser"]
