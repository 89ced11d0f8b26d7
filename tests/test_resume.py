"""A real process, killed again and again, must end with the run that was never stopped: the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tinygen.nn.serialize import load_arrays
from tinygen.training import Run

KILLS = 20
LONGEST_LIFE = 0.4  # seconds
OFTEN = "--checkpoint-seconds=0.03"  # so that some kills fall into the writing of a checkpoint
RECIPE = ["nade", "--epochs=25", "--set=hidden=8", "--set=batch_size=100"]


def start(*arguments, **environment):
    """`tinygen train`, once it has told what it is going to do."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tinygen", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout.readline(), process.communicate()[1]
    return process


def finish(process, code=0):
    """The rest of what the process wrote, after it has ended with `code`."""
    out, error = process.communicate(timeout=100)
    assert process.returncode == code, error
    return out + error


def contents(folder):
    """All that a run's folder holds, without the times that were measured."""
    run = Run.open(folder)
    tensors, metadata = load_arrays(run.checkpoint_file)
    state = json.loads(metadata["tinygen"])
    del state["progress"]["seconds"]
    best = load_arrays(run.best_file)
    bits = {
        f"{group}.{name}": array.tobytes()
        for group, found in (("", tensors), ("best", best[0]))
        for name, array in found.items()
    }
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in run.rows()]
    result = json.loads(run.result_file.read_text())
    del result["seconds"]
    return {
        "bits": bits,
        "state": state,
        "rows": rows,
        "result": result,
        "best": best[1],
        "samples": run.samples_picture.read_bytes(),
        "files": sorted(path.name for path in run.path.iterdir()),
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(start(*RECIPE, "--out", str(folder)))
    return folder


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(straight, tmp_path):
    rng = np.random.default_rng(20260)
    folder, process = tmp_path / "run", start(*RECIPE, "--out", str(tmp_path / "run"), OFTEN)
    finished, killed_at = [], []
    while len(killed_at) < KILLS:
        checkpoint = folder / "checkpoint.safetensors"
        if len(killed_at) % 5:  # each fifth one dies while it starts, the others while they train
            wait_for_write(process, checkpoint)  # before the first step
            wait_for_write(process, checkpoint)  # after some
        time.sleep(rng.uniform(0, LONGEST_LIFE))
        process.kill()
        process.communicate()
        if process.returncode == 0:  # on a fast machine a run is over before all the kills: the others are another run's
            finished.append(folder)
            folder = tmp_path / f"run-{len(finished)}"
            process = start(*RECIPE, "--out", str(folder), OFTEN)
        else:
            assert process.returncode == -signal.SIGKILL
            killed_at.append((len(finished), step_of(checkpoint) if checkpoint.exists() else 0))
            process = start("--resume", str(folder), OFTEN)
    finish(process)
    assert killed_at == sorted(killed_at), "a run never goes back"
    assert len(set(killed_at)) > KILLS // 2, f"the kills fell at too few different steps: {killed_at}"
    for run in (*finished, folder):
        assert contents(run) == contents(straight)


def wait_for_write(process, path):
    before = path.stat().st_mtime_ns if path.exists() else None
    while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.001)


def step_of(checkpoint):
    return json.loads(load_arrays(checkpoint)[1]["tinygen"])["progress"]["step"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_says_how_to_go_on_and_going_on_gives_the_same_bits(straight, tmp_path, number):
    folder = tmp_path / "run"
    process = start(*RECIPE, "--out", str(folder))
    wait_for_write(process, folder / "metrics.csv")
    process.send_signal(number)
    told = finish(process, 128 + number)
    step, command = re.search(r"stopped by \w+ at step (\d+); .* go on with: tinygen (.*)\n", told).groups()
    assert int(step) == step_of(folder / "checkpoint.safetensors")
    assert "Traceback" not in told
    finish(start(*command.split()[1:]))
    assert contents(folder) == contents(straight)


def test_one_thread_gives_the_bits_of_all_threads(straight, tmp_path):
    folder = tmp_path / "run"
    finish(start(*RECIPE, "--out", str(folder), NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"))
    assert contents(folder) == contents(straight)
