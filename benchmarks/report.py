"""What a run leaves: a table on the terminal, and for each benchmark a JSON file with every sample, and a plot."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.machine import Ceilings
from benchmarks.measure import paired_ratio, spread
from benchmarks.registry import Case, Work

PACKAGES = ("tinygen", "numpy", "numba", "scipy", "torch", "cupy-cuda12x", "cupy-cuda13x")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that are compared; None for one that is not installed."""
    import platform

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def case_record(
    case: Case, errors: dict[str, dict[str, float]], samples: dict[str, list[float]], ceilings: Ceilings
) -> dict[str, Any]:
    """Everything that is known of one measured case, ready for JSON. Times are in seconds a call.

    For each side: its errors, all samples, median and quartiles, the paired ratio side / ours (above 1: ours is faster)
    and the fraction floor / median (1: as fast as the machine's ceilings allow).
    """
    ours = next(side.name for side in case.sides if side.role == "ours")
    floor = float(case.work.floor(ceilings))
    sides = []
    for side in case.sides:
        seconds = spread(samples[side.name])
        sides.append(
            {
                "name": side.name,
                "role": side.role,
                "seconds": asdict(seconds),
                "ratio_to_ours": asdict(paired_ratio(samples[side.name], samples[ours])),
                "floor_fraction": floor / seconds.median,
                "errors": errors[side.name],
                "samples": samples[side.name],
            }
        )
    return {
        "name": case.name,
        "settings": dict(case.settings),
        "notes": list(case.notes),
        "tolerance": case.tolerance,
        "work": _work_record(case.work),
        "floor_seconds": floor,
        "sides": sides,
    }


def _work_record(work: Work) -> dict[str, Any]:
    return {
        "flops": float(work.flops),
        "bytes": float(work.bytes),
        "transcendentals": {function: float(count) for function, count in work.transcendentals.items()},
        "dtype": work.dtype,
    }


def print_machine(machine: dict[str, Any], ceilings: Ceilings, console: Any) -> None:
    """What the machine is, and how fast it was measured to be."""
    products = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in ceilings.flops.items())
    copies = ", ".join(f"{rate / 1e9:.0f} at {size / 2**20:.4g} MiB" for size, rate in ceilings.copy_bytes.items())
    values = ", ".join(f"{name} {rate / 1e9:.2f}" for name, rate in ceilings.transcendentals["float32"].items())
    if machine["gpu"]:
        console.print("{name}, {multiprocessors} multiprocessors, CUDA {cuda_runtime}, on".format(**machine["gpu"]))
    for line in (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads_used']} threads used; measured ceilings:",
        f"  products, GFLOP/s: {products}",
        f"  copies, GB/s read plus written: {copies}",
        f"  float32 functions, 10^9 values a second: {values}\n",
    ):
        console.print(line, highlight=False)


def print_case(record: dict[str, Any], console: Any) -> None:
    """One table for one case: a row a side."""
    from rich.table import Table

    settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
    ours = next(side["seconds"]["median"] for side in record["sides"] if side["role"] == "ours")
    scale, unit = (1e6, "us") if ours < 1e-3 else (1e3, "ms")
    console.print(f"{record['name']} ({settings})", style="bold", highlight=False, markup=False)
    table = Table()
    table.add_column("side")
    for heading in (f"median {unit}", "quartiles", "side / ours", "floor / side", "error"):
        table.add_column(heading, justify="right")
    for side in record["sides"]:
        seconds, ratio = side["seconds"], side["ratio_to_ours"]
        table.add_row(
            side["name"],
            f"{seconds['median'] * scale:.2f}",
            f"{seconds['low'] * scale:.2f} - {seconds['high'] * scale:.2f}",
            f"{ratio['median']:.2f} x",
            f"{side['floor_fraction']:.1%}",
            f"{max(side['errors'].values()):.0e}",
            style="bold green" if side["role"] == "ours" else None,
        )
    console.print(table)
    console.print(f"floor {record['floor_seconds'] * scale:.4g} {unit}", highlight=False)
    for note in record["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print()


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write `record` as NAME.json and its plot as NAME.png; returns the two paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{record['benchmark']}.json", folder / f"{record['benchmark']}.png"]
    with _replacing(paths[0]) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with _replacing(paths[1]) as temporary:
        plot(record, lambda figure: figure.savefig(temporary, dpi=120))
    return paths


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plot(record: dict[str, Any], save: Callable[[Any], None]) -> None:
    """One dot a side, its quartiles as whiskers, on a logarithmic axis of milliseconds; a dashed line at each floor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = record["cases"]
    heights = [len(case["sides"]) for case in cases]
    figure = Figure(figsize=(8, 0.8 + sum(0.26 * height + 0.75 for height in heights)), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"ours": "tab:green", "variant": "tab:olive", "theirs": "tab:blue", "reference": "tab:grey"}
    all_axes = figure.subplots(len(cases), 1, squeeze=False, height_ratios=[height + 1 for height in heights])[:, 0]
    for axes, case in zip(all_axes, cases):
        for y, side in enumerate(reversed(case["sides"])):
            low, median, high = (1e3 * side["seconds"][key] for key in ("low", "median", "high"))
            whiskers = [[median - low], [high - median]]
            axes.errorbar(median, y, xerr=whiskers, fmt="o", capsize=3, color=colours[side["role"]])
            ratio = side["ratio_to_ours"]["median"]
            label = f"{ratio:.{0 if ratio >= 10 else 1 if ratio >= 1 else 2}f}x"
            axes.annotate(label, (median, y), (0, 5), textcoords="offset points", fontsize=7)
        axes.axvline(1e3 * case["floor_seconds"], linestyle="--", color="tab:red", linewidth=1)
        axes.set_yticks(range(len(case["sides"])), [side["name"] for side in reversed(case["sides"])], fontsize=8)
        axes.set_ylim(-0.6, len(case["sides"]) - 0.2)
        axes.set_xscale("log")
        axes.set_title(case["name"], loc="left", fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    all_axes[-1].set_xlabel("milliseconds (dashed: floor; numbers: time over ours)")
    save(figure)
