"""The command line: what users type, what they get, and that a mistake of theirs costs one line and no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy
from PIL import Image

import tinygen
from tinygen import checks, data
from tinygen.cli import main, runs
from tinygen.cli.text import duration, loss_and_bits, table
from tinygen.models.pictures import Images
from tinygen.training import Run

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def complaint(result):
    """The one line that a failed command wrote on stderr."""
    code, _, error = result
    assert code != 0
    assert error.startswith("tinygen: ")
    assert error.count("\n") == 1
    return error


# ---- train ----


def test_train_leaves_a_whole_run(command, tmp_path):
    code, out, _ = command("train toy --epochs 2 --set lr=0.1 --set clip=1000 --seed 3 --out here")
    assert code == 0
    assert "toy on mnist5k (dynamic), recipe quick, seed 3, cpu, in here" in out
    assert "epochs: 3 -> 2\n  lr: 0.05 -> 0.1\n  clip: None -> 1000.0\n" in out
    assert "epoch 2/2  step 80  loss 2" in out
    files = ["best.safetensors", "checkpoint.safetensors", "config.json", "curves.png", "metrics.csv", "result.json"]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [*files, "samples.png"]
    run = Run.open("here")
    assert (run.recipe.epochs, run.recipe.lr, run.recipe.clip, run.config["seed"]) == (2, 0.1, 1000.0, 3)
    assert run.config["changes"] == ["epochs: 3 -> 2", "lr: 0.05 -> 0.1", "clip: None -> 1000.0"]
    result = json.loads(run.result_file.read_text())
    assert f"test: nll {result['test']['nll']:.2f} nats, {result['test']['bits_per_dim']:.4f} bits/dim (mnist5k, dynamic" in out
    assert result["test"]["nll"] < 0.5 * 784 * np.log(2)
    with Image.open(run.samples_picture) as image:
        assert image.size == (2 * (10 * 29 + 1),) * 2


def test_a_recipe_is_changed_only_by_what_the_user_says(command):
    assert command("train toy --recipe paper --epochs 1")[0] == 0
    recipe = Run.open("runs/toy").recipe
    assert recipe == toy.Toy.RECIPES["paper"].override({"epochs": "1"})
    assert Run.open("runs/toy").config["changes"] == ["epochs: 5 -> 1"]


def test_the_same_command_gives_the_same_bits(command):
    for out in ("a", "b"):
        assert command(f"train toy --epochs 1 --out {out}")[0] == 0
    for name in ("checkpoint.safetensors", "best.safetensors", "samples.png"):
        a, b = (Path(f"{out}/{name}").read_bytes() for out in ("a", "b"))
        assert a == b or name == "checkpoint.safetensors"  # whose metadata hold the seconds


def test_resume_of_a_finished_run_only_tells_its_result_again(command):
    first = command("train toy --epochs 1")
    again = command("train --resume runs/toy")
    assert again[0] == 0
    assert again[1].splitlines()[-2:] == first[1].splitlines()[-2:]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train", "train which model?"),
        ("train toi", "no model 'toi': did you mean 'toy'? valid: "),
        ("train toy --set lrr=1", "no setting 'lrr': did you mean 'lr'? valid: batch_size, "),
        ("train toy --set lr", "--set 'lr' has no '='"),
        ("train toy --set lr=fast", "lr='fast' does not fit: expected a number"),
        ("train toy --epochs 3 --set epochs=4", "epochs is set twice: 3 and 4"),
        ("train toy --set lr=1 --set lr=2", "lr is set twice: 1 and 2"),
        ("train toy --epochs 0", "epochs = 0 is out of range"),
        ("train toy --recipe slow", "toy has no recipe 'slow'"),
        ("train toy --seed -1", "'-1' is no whole number from 0 up"),
        ("train toy --data mnist6k", "no data set 'mnist6k': did you mean 'mnist5k'?"),
        ("train toy --device tpu", "device 'tpu' is unknown"),
        ("train toy --set binarization=fixed", "mnist5k holds grey values, binarization is 'fixed'"),
        ("train toy --set batch_size=5000", "batch_size = 5000 is more than the 4000 training examples"),
        ("train toy --set nesterov=true --set optimizer=sgd", "nesterov=True needs a momentum above 0"),
        ("train --resume nowhere", "nowhere is no run"),
        ("train toy --ep 3", "unrecognized arguments: --ep 3"),
        ("trane toy", "invalid choice: 'trane'"),
        ("", "required: COMMAND"),
        ("evaluate nowhere", "nowhere is no run"),
        ("evaluate", "required: RUN"),
        ("sample nowhere", "nowhere is no run"),
        ("sample nowhere -n 0", "'0' is no whole number from 1 up"),
        ("complete nowhere", "nowhere is no run"),
        ("list toi", "no model 'toi'"),
        ("data get", "get which data set?"),
        ("data get mnist6k", "no data set 'mnist6k'"),
        ("gradcheck no-such-thing", "no-such-thing"),
    ],
)
def test_a_mistake_costs_one_line(command, line, message):
    assert message in complaint(command(line))
    assert not [path for path in Path().rglob("*") if path.is_file()], "nothing is left behind"


def test_a_run_is_never_overwritten_nor_changed(command):
    assert command("train toy --epochs 1 --out here")[0] == 0
    before = Path("here/config.json").read_bytes()
    assert "here exists already" in complaint(command("train toy --out here"))
    for option in ("--epochs 9", "--set lr=1", "--seed 0", "--seed 1", "--device cpu", "--out there", "--recipe paper"):
        assert "cannot go with --resume" in complaint(command(f"train --resume here {option}"))
    assert "is a run of toy, not of nade" in complaint(command("train nade --resume here"))
    assert Path("here/config.json").read_bytes() == before


def test_damaged_files_are_named(command):
    assert command("train toy --epochs 1 --out here")[0] == 0
    with open("here/checkpoint.safetensors", "r+b") as file:
        file.truncate(100)
    assert "checkpoint.safetensors is damaged" in complaint(command("train --resume here"))
    with open("here/best.safetensors", "r+b") as file:
        file.truncate(100)
    assert "best.safetensors is damaged" in complaint(command("sample here"))


def test_a_nan_stops_with_one_line_that_names_the_op(command, monkeypatch):
    monkeypatch.setattr(toy.Toy, "loss", lambda self, x, rng: tinygen.log(self.bias - 1.0).sum())
    line = complaint(command("train toy"))
    assert "log made a NaN in the forward pass, called at test_cli.py:" in line
    assert "The last good checkpoint is kept in runs/toy/checkpoint.safetensors" in line


def test_a_bug_of_ours_is_not_hidden(command, monkeypatch):
    monkeypatch.setattr(toy.Toy, "loss", lambda self, x, rng: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "toy"])


# ---- evaluate, sample, complete ----


def test_evaluate_compares_runs_and_says_when_they_cannot_be(command):
    assert command("train toy --epochs 1 --out a")[0] == 0
    assert command("train toy --epochs 1 --set binarization=threshold --out b")[0] == 0
    code, out, _ = command("evaluate a a")
    header, first, second = out.splitlines()
    assert code == 0
    assert header.split()[:5] == ["run", "model", "data", "binarization", "test"]
    assert first == second
    nll = json.loads(Path("a/result.json").read_text())["test"]["nll"]
    assert f"{nll:.4f}" in first
    code, out, _ = command("evaluate a b --split valid")
    assert code == 0
    assert "cannot be compared" in out
    assert f"{Run.open('b').rows()[0]['valid_nll']:.4f}" in out


def test_sample_and_complete_draw_the_same_picture_from_the_same_seed(command):
    assert command("train toy --epochs 1 --out a")[0] == 0
    pictures = {}
    for line in ("sample a -n 7", "sample a -n 7 --seed 1", "complete a -n 3", "complete a -n 3 --seed 1"):
        code, out, _ = command(line)
        assert code == 0
        pictures[line] = Path(out.strip()).read_bytes()
        command(f"{line} --out again.png")
        assert Path("again.png").read_bytes() == pictures[line]
    assert len(set(pictures.values())) == 4
    assert sorted(name for name in os.listdir("a") if "-" in name) == [
        "completions-0.png",
        "completions-1.png",
        "samples-0.png",
        "samples-1.png",
    ]


def test_what_a_model_has_to_show_is_drawn_beside_its_samples(command, monkeypatch):
    given = []

    def pictures(self, x, rng, labels):
        given.append((x.shape, None if labels is None else labels.shape, self.training))
        return {"first": Images(x[:6].reshape(2, 3, -1)), "noise": Images(rng.random((1, 2, 784)))}

    monkeypatch.setattr(toy.Toy, "pictures", pictures)
    monkeypatch.setattr(toy.Toy, "shows_labels", True)
    code, out, _ = command("train toy --epochs 1 --out a")
    assert code == 0
    assert out.splitlines()[-1] == "pictures: a/samples.png a/first.png a/noise.png a/curves.png"
    code, out, _ = command("sample a --seed 1")
    assert (code, out.splitlines()) == (0, ["a/samples-1.png", "a/first-1.png", "a/noise-1.png"])
    assert Path("a/first-1.png").read_bytes() == Path("a/first.png").read_bytes()
    assert Path("a/noise-1.png").read_bytes() != Path("a/noise.png").read_bytes()
    assert given == [((500, 784), (500,), False)] * 2
    monkeypatch.delattr(toy.Toy, "sample")
    assert command("sample a --seed 2")[1].splitlines() == ["a/first-2.png", "a/noise-2.png"]
    monkeypatch.delattr(toy.Toy, "pictures")
    assert "a has nothing to draw: toy draws no samples by itself" in complaint(command("sample a"))


def test_samples_on_the_line_are_drawn_as_a_histogram(tmp_path):
    points, samples = np.array([[0.0], [10.0]]), np.array([[0.0], [0.0], [5.0], [99.0]])
    lines = runs._histograms(points, samples)
    width = np.diff(lines.x)[0]
    assert lines.x[0] - width / 2 == pytest.approx(-1)
    assert lines.x[-1] + width / 2 == pytest.approx(11)
    assert lines.panels["density"]["data"].sum() * width == pytest.approx(1)
    assert lines.panels["density"]["samples"].sum() * width == pytest.approx(3 / 4)
    assert lines.panels["density"]["samples"].max() * width == pytest.approx(1 / 2)


def test_complete_gives_the_upper_half_and_keeps_it(command):
    assert command("train toy --epochs 1 --out a")[0] == 0
    assert command("complete a -n 4")[0] == 0
    with Image.open("a/completions-0.png") as image:
        pixels = np.asarray(image)[::2, ::2]
    given, completed, original = (pixels[1 + 29 * row : 29 + 29 * row] for row in range(3))
    assert (given[14:, 1:29] == 128).all()
    assert np.array_equal(given[:14], original[:14])
    assert np.array_equal(completed[:14], original[:14])
    assert not np.array_equal(completed[14:], original[14:])


@pytest.mark.parametrize("order", ["raster", "column", "random"])
def test_complete_gives_what_the_model_s_order_has_first(command, order):
    assert command(f"train nade --epochs 1 --set hidden=2 --set order={order} --out a")[0] == 0
    assert command("complete a -n 2")[0] == 0
    with Image.open("a/completions-0.png") as image:
        pixels = np.asarray(image)[::2, ::2]
    given, completed, original = (pixels[1 + 29 * row : 29 + 29 * row, 1:29] for row in range(3))
    shown = given != 128
    assert shown.sum() == 392
    assert np.array_equal(completed[shown], original[shown])
    assert np.array_equal(given[shown], original[shown])
    half = {"raster": shown[:14], "column": shown[:, :14]}.get(order)
    assert half is None or half.all()


def test_pictures_and_models_that_cannot_be_are_refused(command, monkeypatch):
    assert command("train toy --epochs 1 --out a")[0] == 0
    assert "must end in .png" in complaint(command("sample a --out a.jpg"))
    assert "-n 501 is more than the 500 test digits" in complaint(command("complete a -n 501"))
    monkeypatch.delattr(toy.Toy, "complete")
    assert "Toy cannot fill in pixels" in complaint(command("complete a"))


# ---- the other commands ----


def test_list_shows_models_and_settings(command):
    code, out, _ = command("list")
    assert code == 0
    assert "nade" in out
    assert "Larochelle and Murray 2011" in out
    code, out, _ = command("list toy")
    assert code == 0
    settings = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert settings["setting"] == ["quick", "paper"]
    assert settings["lr"] == ["0.05", "0.05"]
    assert settings["optimizer"] == ["adam", "sgd"]
    assert settings["flips"] == ["0.01", "0.0"]


def test_data_lists_what_there_is(command):
    code, out, _ = command("data")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [*data.available()]
    code, out, _ = command("data get mnist5k")
    assert code == 0
    assert "origin: 5,000 of MNIST's training digits" in out


@pytest.mark.parametrize("ok", [True, False])
def test_gradcheck_reports_and_fails_when_one_is_wrong(command, monkeypatch, ok):
    results = {
        "exp": checks.Result("exp", "x (3,)", 0.01, 2, 0.5, True, ""),
        "log": checks.Result("log", "x (3,)", 0.01 if ok else 99.0, 2, 0.5, ok, "" if ok else "x[1] is off"),
    }
    monkeypatch.setattr(checks, "select", lambda names: [name for name in results if not names or name in names])
    monkeypatch.setattr(checks, "run_case", lambda case, seed, device: results[case])
    code, out, error = command("gradcheck")
    assert code == (0 if ok else 1)
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["exp", "log"]
    assert ("x[1] is off" in error) == (not ok)
    assert command("gradcheck exp")[0] == 0


def test_text():
    assert table(["name", "nats"], [["a", 1.5], ["long", "-"]]) == "name  nats\na      1.5\nlong     -"
    assert [duration(s) for s in (0.4, 59.4, 61, 3599.6, 7500)] == ["0 s", "59 s", "1 min 01 s", "1 h 00 min", "2 h 05 min"]
    assert loss_and_bits(np.log(2) * 10, 10) == "loss 6.93 nats 1.0000 bits/dim"


# ---- as a process ----


def process(*arguments):
    return subprocess.run([sys.executable, "-m", "tinygen", *arguments], capture_output=True, text=True, check=False)


def test_python_m_tinygen_works():
    done = process("--help")
    assert done.returncode == 0
    for name in ("list", "train", "evaluate", "sample", "complete", "gradcheck", "data"):
        assert f"  {name} " in done.stdout or f"  {name}\n" in done.stdout
    assert process("--version").stdout == f"tinygen {tinygen.__version__}\n"
    wrong = process("train", "nade", "--set", "hiden=3")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("tinygen: no setting 'hiden': did you mean 'hidden'?")
    assert wrong.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m tinygen list nade | head -n 1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("setting")
    assert done.stderr == ""
