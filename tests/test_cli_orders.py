"""`tinygen table` and `tinygen orders`: what they print and draw, and that an interrupted comparison goes on."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygen import data, gallery
from tinygen.models import MODELS, model_class
from tinygen.models.orderings import ORDERINGS
from tinygen.training import Run
from tinygen.training.interrupt import Interrupted, Interruptions

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def blocks(out: str) -> list[dict[str, list[str]]]:
    """The tables in what was printed: {first cell: the other cells}, without the line above each."""
    return [{line.split()[0]: line.split()[1:] for line in block.splitlines()[1:]} for block in out.strip().split("\n\n")[:3]]


# ---- table ----


def test_table_shows_states_parameters_and_likelihoods(command):
    code, out, _ = command("table --binarization threshold --alpha 0.5")
    assert code == 0
    large, small, pixel = blocks(out)
    assert large["uniform"] == ["2^784", "0", "543.43", "543.43", "1.0000"]
    assert (large["independent"][:2], large["markov"][:2]) == (["2^784", "784"], ["2^784", "1,567"])
    assert large["full-joint"] == large["chain-rule"] == ["2^784", "about", "10^236", "-", "-", "-"]
    assert [small[name][1] for name in ("independent", "markov", "chain-rule", "full-joint")] == [
        "16",
        "31",
        "65,535",
        "65,535",
    ]
    assert pixel["full-joint"] == pixel["chain-rule"] == ["16,777,216", "16,777,215"]
    assert pixel["independent"] == ["16,777,216", "765"]
    digits = data.load("mnist5k-4x4")
    bits = [data.binarize(split.images, "threshold").reshape(-1, 16) for split in (digits.train, digits.valid, digits.test)]
    for name in ("independent", "markov", "chain-rule", "full-joint"):
        model = model_class(name)(16, alpha=0.5)
        model.count(np.concatenate(bits[:2]))
        train, test = (-model.log_prob(part).numpy().mean() for part in (np.concatenate(bits[:2]), bits[2]))
        assert [float(cell) for cell in small[name][2:4]] == pytest.approx([train, test], abs=0.006)
        assert float(small[name][4]) == pytest.approx(test / (16 * math.log(2)), abs=1e-4)


def test_table_without_smoothing_shows_that_chain_rule_and_joint_are_one(command):
    code, out, _ = command("table --data mnist5k-4x4 --alpha 0")
    assert code == 0
    small = blocks(out)[0]
    assert out.count("binary pixels") == 1
    assert small["chain-rule"] == small["full-joint"]
    assert float(small["full-joint"][2]) < float(small["markov"][2]) < float(small["independent"][2])


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the folder ../shared/data/mnist with the MNIST files is absent")
def test_table_of_mnist(command):
    code, out, _ = command(f"table --data mnist --data-dir {SHARED}")
    assert code == 0
    assert "mnist, dynamic binarization: 28 x 28 binary pixels; counted on 60000 digits, 1 added to every count" in out
    large = blocks(out)[0]
    assert [large[name][3] for name in ("uniform", "independent", "markov")] == ["543.43", "205.81", "145.38"]


# ---- orders ----


def test_orders_trains_an_ordinary_run_for_each(command):
    code, out, _ = command("orders markov --orders raster,spiral --seed 4 --out here")
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == "picture: here/orders.png"
    header, *rows = (line.split() for line in lines[-4:-1])
    assert header[:5] == ["order", "test", "nll", "test", "bits_per_dim"]
    assert {row[0]: row[1] for row in rows} == {
        name: f"{json.loads(Path('here', name, 'result.json').read_text())['test']['nll']:.4f}" for name in ("raster", "spiral")
    }
    assert float(rows[0][1]) < float(rows[1][1]), "the best comes first"
    with Image.open("here/orders.png") as image:
        assert image.size == (640, 420)
    assert command("train markov --set order=spiral --seed 4 --out alone")[0] == 0
    for name in ("best.safetensors", "samples.png"):
        assert Path("alone", name).read_bytes() == Path("here/spiral", name).read_bytes()


def test_the_same_command_goes_on_where_it_was_stopped(command, monkeypatch):
    line = "orders markov --orders raster,column --epochs 3 --set batch_size=1000 --out"
    assert command(f"{line} whole")[0] == 0
    seen = []

    def interrupt(self):
        seen.append(self)
        if len(seen) == 20:  # in the second order
            raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Interruptions, "check", interrupt)
        code, _, error = command(f"{line} parts")
    assert code == 128 + signal.SIGTERM
    assert "go on with" in error
    assert Path("parts/raster/result.json").exists()
    assert Path("parts/column/checkpoint.safetensors").exists()
    assert not Path("parts/column/result.json").exists()
    untouched = Path("parts/raster/result.json").stat().st_mtime_ns
    assert command(f"{line} parts")[0] == 0
    assert Path("parts/raster/result.json").stat().st_mtime_ns == untouched
    for order in ("raster", "column"):
        assert Path("parts", order, "best.safetensors").read_bytes() == Path("whole", order, "best.safetensors").read_bytes()
        for a, b in zip(Run.open(f"parts/{order}").rows(), Run.open(f"whole/{order}").rows(), strict=True):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_folder_with_other_runs_is_refused(command):
    assert command("orders markov --orders raster --out here")[0] == 0
    for change in ("--epochs 2", "--set alpha=3", "--seed 1"):
        code, _, error = command(f"orders markov --orders raster,column {change} --out here")
        assert code == 1
        assert "here/raster is a run with other settings" in error
        assert not Path("here/column").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("orders toy", "toy visits the pixels in no order that could be chosen; models that do: "),
        ("orders independent", "independent visits the pixels in no order that could be chosen"),
        ("orders marko", "no model 'marko': did you mean 'markov'?"),
        ("orders markov --orders raster,diagonal", "ordering 'diagonal' is unknown: valid: column, random, raster, spiral"),
        ("orders markov --set order=raster", "order is set twice: raster and raster"),
        ("orders chain-rule --data mnist5k", "needs 1 + 2 + 4 + ... + 2^(n-1) = 2^n - 1 = about 10^236 numbers"),
        ("train full-joint --data mnist5k", "needs 2^n - 1 = about 10^236 numbers"),
        ("orders markov --recipe paper", "markov has no recipe 'paper'"),
        ("table --data mnist6k", "no data set 'mnist6k'"),
        ("table --alpha -1", "'-1' is no number from 0 up"),
    ],
)
def test_a_mistake_costs_one_line(command, line, message):
    code, _, error = command(line)
    assert code != 0
    assert error.startswith("tinygen: ")
    assert message in error
    assert error.count("\n") == 1
    assert not [path for path in Path().rglob("*") if path.is_file()], "nothing is left behind"


def test_every_model_with_a_named_order_can_be_compared(command):
    able = command("orders independent")[2].strip().rpartition("models that do: ")[2].split(", ")
    expected = [
        name for name in MODELS if all(recipe.model.get("order") in ORDERINGS for recipe in model_class(name).RECIPES.values())
    ]
    assert able == expected
    assert {"nade", "markov", "chain-rule"} <= set(able)


def test_curves_of_several_runs_in_one_picture(tmp_path):
    rows = [{"epoch": epoch, "valid_nll": 100 / epoch} for epoch in range(1, 9)]
    for runs in ({"a": rows, "b": rows[:4]}, {"a": [{"epoch": 1}, {"epoch": 2, "valid_nll": 3.0}]}):
        gallery.write_comparison(tmp_path / "a.png", runs, "valid_nll", "nats", "title")
        gallery.write_comparison(tmp_path / "b.png", runs, "valid_nll", "nats", "title")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
