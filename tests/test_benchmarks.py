"""The benchmark harness: its statistics, its check of agreement, its report. No test asserts a time."""

import json
import os
import platform
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_shim import needs_compiler
from cuda_shim.strict import no_cupy, strict_cupy

from benchmarks import agreement, cli, device, machine, measure, registry, report
from benchmarks.cli import main
from benchmarks.registry import BENCHMARKS, Case, Side, Work, benchmark
from benchmarks.worker import Worker
from tinygen.backend import load_cupy

torch = pytest.importorskip("torch", reason="the benchmarks need the extra `bench`")
ROOT = Path(__file__).parent.parent
CEILINGS = machine.Ceilings(
    flops={"float32": 100.0, "float64": 50.0},
    copy_bytes={10: 8.0, 1000: 4.0},
    transcendentals={"float32": {"exp": 20.0}, "float64": {"exp": 10.0}},
)


def _case(name="planted", **changes):
    x = np.linspace(0, 1, 5, dtype=np.float32)
    sides = (
        Side("one", "ours", lambda: {"y": x * x}),
        Side("two", "theirs", lambda: {"y": x**2}),
    )
    case = Case(name, sides, lambda: {"y": x.astype(np.float64) ** 2}, 1e-6, Work(flops=200, bytes=10), {"n": 5})
    return replace(case, **changes)


@pytest.fixture
def planted(monkeypatch):
    """A registry with one benchmark, whose cases the test sets."""
    cases = []
    monkeypatch.setitem(BENCHMARKS, "planted", registry.Benchmark("planted", "a summary", lambda quick: iter(cases)))
    return cases


def test_spread_by_hand():
    # Quartiles at positions 0.75, 1.5 and 2.25 of the sorted 1, 2, 4, 8.
    assert measure.spread([8, 1, 4, 2]) == measure.Spread(median=3.0, low=1.75, high=5.0)
    assert measure.spread([7]) == measure.Spread(7.0, 7.0, 7.0)


def test_paired_ratio_is_taken_round_by_round():
    # The machine became ten times slower in the last two rounds; each pair still says 2.
    theirs, ours = [2, 4, 20, 40], [1, 2, 10, 20]
    assert measure.paired_ratio(theirs, ours) == measure.Spread(2.0, 2.0, 2.0)
    assert measure.paired_ratio([3, 8, 5], [1, 2, 5]).median == 3.0
    with pytest.raises(ValueError):
        measure.paired_ratio([1, 2], [1])


def test_interleaved_alternates_warms_up_and_rotates(monkeypatch):
    monkeypatch.setattr(measure, "LONG_ENOUGH", 0.0)
    calls = []
    samplers = {name: measure.sampler(lambda name=name: calls.append(name)) for name in "abc"}
    samples = measure.interleaved(samplers, repeats=3, pause=0.0)
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(value >= 0 for values in samples.values() for value in values)
    # 2 calls each to find how many make a sample, then an untimed and a timed one in each round.
    assert "".join(calls) == "aabbcc" + "aabbcc" + "bbccaa" + "ccaabb"


def test_fast_functions_are_repeated_within_a_sample():
    count = 0

    def run():
        nonlocal count
        count += 1

    measure.sampler(run)()
    assert count > 100


def test_each_side_is_measured_in_a_process_of_its_own():
    case = next(BENCHMARKS["tiny-network"].cases(True))
    with ExitStack() as stack:
        sides = [side for side in case.sides if side.role == "ours"] + [case.sides[-1]]
        workers = [stack.enter_context(Worker("tiny-network", True, 0, case, side, 1)) for side in sides]
        samples = measure.interleaved({str(k): worker.start().sample for k, worker in enumerate(workers)}, 2, 0.0)
        processes = {worker.process.pid for worker in workers}
        assert all(worker.process.is_alive() for worker in workers)
    assert len(processes | {os.getpid()}) == 3
    assert all(len(taken) == 2 and min(taken) > 0 for taken in samples.values())
    assert not any(worker.process.is_alive() for worker in workers)


def test_a_side_that_fails_in_its_process_is_named():
    case = next(BENCHMARKS["tiny-network"].cases(True))
    absent = replace(case.sides[0], name="absent")
    worker = Worker("tiny-network", True, 0, case, absent, 1)
    with worker, pytest.raises(RuntimeError, match=r"'absent' of .* cannot be measured: StopIteration"):
        worker.start()
    worker = Worker("tiny-network", True, 0, case, case.sides[0], 1)
    with worker:
        worker.start().process.kill()
        with pytest.raises(RuntimeError, match="its process ended with code -9"):
            worker.sample()


def test_floor_by_hand():
    # 200 operations at 100/s, 30 bytes at the rate of the largest measured copy within them, 40 values at 20/s.
    assert Work(200, 30, {"exp": 40}).floor(CEILINGS) == pytest.approx(2 + 30 / 8 + 2)
    assert Work(200, 4000, {"exp": 40}, dtype="float64").floor(CEILINGS) == pytest.approx(4 + 1000 + 4)
    assert CEILINGS.bandwidth(1) == 8.0  # less than any measured: the smallest


def test_error_by_hand():
    assert agreement.error([1.0, 2.5], [1.0, 2.0]) == 0.25
    assert agreement.error([1.0], [0.0]) == 1.0
    assert agreement.error([np.nan, 1.0], [1.0, 1.0]) == np.inf
    assert agreement.error([1.0], [[1.0]]) == np.inf
    with pytest.raises(KeyError, match="gradient"):
        agreement.errors({"y": 1.0}, {"y": 1.0, "gradient": 2.0})


def test_a_case_has_exactly_one_side_of_ours():
    with pytest.raises(ValueError, match="exactly one side of ours"):
        _case(sides=())


def test_names_of_benchmarks_differ():
    with pytest.raises(ValueError, match="named 'ops'"):
        benchmark(name="ops")(lambda quick: iter(()))


def test_disagreement_is_reported_and_nothing_is_written(planted, tmp_path, capsys):
    wrong = Side("wrong", "theirs", lambda: {"y": np.linspace(0, 1, 5) ** 2 * 1.001})
    planted += [_case("fine"), _case("off", sides=(_case().sides[0], wrong))]
    assert main(["planted", "--quick", "--out", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "DISAGREEMENT off: y of 'wrong' is off by 1.0e-03, tolerance 1e-06" in output.err
    assert "fine" in output.out
    assert list(tmp_path.iterdir()) == []


def test_report_holds_every_sample_and_no_host_name(planted, tmp_path):
    planted.append(_case(notes=("a remark",)))
    assert main(["planted", "--quick", "--repeats", "2", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["planted.json", "planted.png"]
    assert (tmp_path / "planted.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "planted.json").read_text()
    record = json.loads(text)
    assert {"benchmark", "date", "quick", "method", "machine", "versions", "ceilings", "cases"} <= set(record)
    assert record["benchmark"] == "planted"
    assert record["quick"] is True
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["load_before"] >= 0
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["ceilings"]) == {"flops", "copy_bytes", "transcendentals"}
    (case,) = record["cases"]
    assert case["notes"] == ["a remark"]
    assert case["work"]["flops"] == 200
    assert case["floor_seconds"] > 0
    for side in case["sides"]:
        assert set(side["seconds"]) == {"median", "low", "high"}
        assert len(side["samples"]) == record["method"]["repeats"]
        assert side["errors"]["y"] <= case["tolerance"]
        assert side["floor_fraction"] == pytest.approx(case["floor_seconds"] / side["seconds"]["median"])
    assert case["sides"][0]["ratio_to_ours"]["median"] == 1.0
    assert platform.node() not in text


def test_record_by_hand():
    case = _case()
    samples = {"one": [1.0, 2.0, 3.0], "two": [4.0, 6.0, 15.0]}
    record = report.case_record(case, {"one": {"y": 0.0}, "two": {"y": 1e-7}}, samples, CEILINGS)
    floor = 200 / 100 + 10 / 8
    ours, theirs = record["sides"]
    assert record["floor_seconds"] == floor
    assert ours["floor_fraction"] == floor / 2
    assert theirs["seconds"] == {"median": 6.0, "low": 5.0, "high": 10.5}
    assert theirs["ratio_to_ours"]["median"] == 4.0


def test_a_failed_write_leaves_the_old_file(planted, tmp_path, monkeypatch):
    old = tmp_path / "planted.json"
    old.write_text("old")
    monkeypatch.setattr(report.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    planted.append(_case())
    with pytest.raises(OSError, match="disk full"):
        main(["planted", "--quick", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["planted.json"]
    assert old.read_text() == "old"


def test_machine_describes_itself_and_has_ceilings():
    description = machine.describe(threads=2)
    assert description["threads_used"] == 2
    assert description["cpu"] is None or isinstance(description["cpu"], str)
    ceilings = machine.ceilings(seconds=0.001, size=32, copied=(1024,))
    assert set(ceilings.flops) == {"float32", "float64"}
    assert all(set(rates) == set(machine.TRANSCENDENTALS) for rates in ceilings.transcendentals.values())
    rates = [*ceilings.flops.values(), *ceilings.copy_bytes.values(), *ceilings.transcendentals["float64"].values()]
    assert all(np.isfinite(rate) and rate > 0 for rate in rates)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_all_sides_agree_at_tiny_sizes(name):
    """Every registered benchmark: ours and each side beside it, values and gradients."""
    roles = set()
    for case in BENCHMARKS[name].cases(True):
        errors, complaints = agreement.disagreements(case)
        assert complaints == []
        assert set(errors) == {side.name for side in case.sides}
        assert "ours" in {side.role for side in case.sides}
        assert case.work.floor(machine.ceilings(0.0, 16, (1024,))) > 0
        roles |= {side.role for side in case.sides}
    assert roles & {"theirs", "reference"}  # whole images are too slow for some sides, so not every case has one


@needs_compiler
@no_cupy
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_the_command_on_a_gpu(name, tmp_path, monkeypatch):
    """All the command does with `--device cuda`, on the stand-in; PyTorch, which has none, stays on the CPU."""
    chosen = []
    monkeypatch.setattr(device, "name", "cpu")
    monkeypatch.setattr(device, "torch_gpu", chosen.append)
    with strict_cupy():
        assert main([name, "--quick", "--device", "cuda", "--out", str(tmp_path)]) == 0
    assert chosen == ["cuda"]
    record = json.loads((tmp_path / f"{name}-cuda.json").read_text())
    assert record["machine"]["gpu"]["name"] == "stand-in"
    sides = [side for case in record["cases"] for side in case["sides"]]
    assert "reference" not in {side["role"] for side in sides}
    assert all(sample > 0 for side in sides for sample in side["samples"])


@pytest.fixture
def on_stand_in(monkeypatch):
    """`--device cuda` is there: arrays on the stand-in, PyTorch's tensors on the CPU, rates without a measurement."""
    monkeypatch.setattr(device, "name", "cpu")
    monkeypatch.setattr(device, "torch_gpu", lambda name: None)
    monkeypatch.setattr(machine, "ceilings", lambda *args, **options: CEILINGS)
    with strict_cupy():
        yield


def _fails():
    raise RuntimeError("no such kernel\nand much more")


@no_cupy
def test_on_a_gpu_what_fails_is_left_out_and_the_rest_is_kept(planted, on_stand_in, monkeypatch, tmp_path, capsys):
    ours, other = _case().sides
    planted += [
        _case(
            "first", sides=(ours, Side("broken", "theirs", _fails), Side("wrong", "theirs", lambda: {"y": np.ones(5)}), other)
        ),
        _case("ours broken", sides=(Side("ours", "ours", _fails), other)),
        _case("no exact", exact=_fails),
    ]
    cases = lambda quick: (case if isinstance(case, Case) else case() for case in [*planted, _fails])
    monkeypatch.setitem(BENCHMARKS, "planted", registry.Benchmark("planted", "a summary", cases))
    assert main(["planted", "--device", "cuda", "--out", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    failed = "'broken' fails: RuntimeError: no such kernel"
    wrong = "y of 'wrong' is off by 1.0e+00, tolerance 1e-06"
    assert errors[-5:] == [
        f"DISAGREEMENT first: {failed}",
        f"DISAGREEMENT first: {wrong}",
        "DISAGREEMENT ours broken: 'ours' fails: RuntimeError: no such kernel",
        "FAILED no exact: RuntimeError: no such kernel",
        "FAILED planted: RuntimeError: no such kernel",
    ]
    record = json.loads((tmp_path / "planted-cuda.json").read_text())
    (case,) = record["cases"]
    assert case["notes"] == [f"first: {failed}", f"first: {wrong}"]
    assert [side["name"] for side in case["sides"]] == ["one", "two"]
    assert record["method"]["arithmetic"] == "full float32 on every side, no TF32"
    assert (record["method"]["repeats"], record["method"]["pause_seconds"]) == (7, 0.0)
    assert {len(side["samples"]) for side in case["sides"]} == {7}


@no_cupy
def test_on_a_gpu_all_benchmarks_run_by_importance(on_stand_in, monkeypatch):
    ran = []
    monkeypatch.setattr(cli, "_run", lambda benchmark, *_: ran.append(benchmark.name) or True)
    assert main(["--device", "cuda"]) == 0
    assert sorted(ran) == sorted(BENCHMARKS)
    assert ran[:3] == ["diagonal-lstm", "row-lstm", "nade"]
    assert all(name.endswith("-sample") for name in ran[-4:])
    del ran[:]
    assert main(["--device", "cpu"]) == 0
    assert ran == list(BENCHMARKS)


def test_on_a_gpu_torch_computes_in_full_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch.backends.cudnn.flags(benchmark=False, allow_tf32=True):
        torch.backends.cuda.matmul.allow_tf32 = True
        assert device.torch_gpu("cuda:1") == torch.device("cuda:1")
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.benchmark


def test_no_gpu_is_told_in_one_line(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cupy", None)
        load_cupy.cache_clear()
        assert main(["ops", "--quick", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("device 'cuda' needs CuPy")
    assert main(["ops", "--quick", "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "device 'gpu' is unknown: expected 'cpu', 'cuda' or 'cuda:N'\n"


def test_a_busy_machine_is_named(planted, monkeypatch, capsys):
    planted.append(_case())
    monkeypatch.setattr(machine, "load", lambda: 3.0)
    assert main(["planted", "--quick"]) == 0
    assert "other processes are running (load 3.0)" in capsys.readouterr().err


def test_list_needs_no_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)


def test_without_torch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["ops"]) == 2
    assert "pip install tinygen[bench]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "no benchmark is named 'nothing': choose from"), (["--repeats", "0"], "at least 1")],
)
def test_bad_arguments(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_command_sets_the_threads_of_every_library():
    program = "import benchmarks.__main__ as m; print(m._threads(['ops', '--threads', '3']), m._threads(['--threads=5']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "5"]
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ops" in done.stdout
