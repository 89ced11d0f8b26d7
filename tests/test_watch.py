"""The watch on adversarial training: signs in words, in the rows, on the terminal and in result.json."""

import json
import math
import re

import numpy as np
import pytest
import toy

from tinygen import data
from tinygen.evaluation import class_balance
from tinygen.training import Run
from tinygen.training.watch import diagnose, training_figures

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")
HEALTHY = {"d_real": 0.7, "d_fake": 0.3, "g_norm": 1.5, "d_norm": 0.8, "loss": 3.0}
TEN = class_balance(np.arange(1000) % 10)


def test_nothing_is_said_of_a_healthy_training():
    assert diagnose(HEALTHY, TEN, "digits") == []
    assert diagnose({}, None) == []


@pytest.mark.parametrize(
    ("changes", "labels", "said"),
    [
        ({}, [1, 4, 7], ["mode collapse: the generator draws only 3 of 10 digits"]),
        ({}, range(9), ["the generator draws only 9 of 10 digits"]),
        (
            {},
            [1, 1, 1, 7],
            [
                "mode collapse: the generator draws only 2 of 10 digits",
                "75% of the samples are of one kind, number 1 of the digits",
            ],
        ),
        ({}, [*range(10), *[-1] * 20], ["67% of the samples are none of the digits"]),
        ({"d_real": 0.99, "d_fake": 0.004}, range(10), ["D separates perfectly: D(x) = 0.99, D(G(z)) = 0.00"]),
        ({"d_real": 0.97, "d_fake": 0.0}, range(10), []),
        ({"g_norm": 3e-6}, range(10), ["the generator's gradient has vanished: its norm is 3.0e-06"]),
        ({"g_norm": 0.0}, range(10), ["the generator's gradient has vanished: its norm is 0.0e+00"]),
    ],
)
def test_each_sign_is_told(changes, labels, said):
    assert diagnose(HEALTHY | changes, class_balance(np.tile([*labels], 100)), "digits") == said


def test_signs_add_up():
    assert len(diagnose({"d_real": 1.0, "d_fake": 0.0, "g_norm": 0.0}, class_balance(np.full(50, 2)))) == 4


class Collapsed(toy.Toy):
    """A GAN as training sees it: figures of a game and no likelihood; it draws the training digits, or the 3s among them."""

    selected_by = None
    adversarial = True
    digits = data.load("mnist5k").train

    def train_step(self, x, optimizers, rng):
        super().train_step(x, optimizers, rng)
        return {"d_real": 0.999, "d_fake": 0.001, "g_norm": 0.5} if self.flips else dict(HEALTHY)

    def evaluate(self, x, rng):
        return {}

    def sample(self, n, rng):
        kinds = self.digits.images[self.digits.labels == 3] if self.flips else self.digits.images
        return kinds[rng.integers(len(kinds), size=n)].reshape(n, -1).astype(np.float32) / 255


@pytest.fixture
def gan(monkeypatch):
    monkeypatch.setattr(toy, "Toy", Collapsed)


def test_a_collapse_is_told_on_the_terminal_and_in_the_result(gan, command):
    code, written, _ = command("train toy --epochs 2 --set binarization=grey --out a")
    assert code == 0
    signs = [
        "mode collapse: the generator draws only 1 of 10 digits",
        r"(9\d|100)% of the samples are of one kind, number 3 of the digits",
        r"D separates perfectly: D\(x\) = 1.00, D\(G\(z\)\) = 0.00",
    ]
    for sign in signs:
        assert len(re.findall(f"^warning: {sign}$", written, re.MULTILINE)) == 2
    result = json.loads(Run.open("a").result_file.read_text())
    assert all(re.fullmatch(*pair) for pair in zip(signs, result["warnings"], strict=True))
    assert result["samples"]["modes"] == 1
    rows = Run.open("a").rows()
    assert [row["valid_modes"] for row in rows] == [1, 1]
    assert all(row["valid_class_entropy"] < 0.2 for row in rows)
    assert training_figures(rows[0])["d_real"] == pytest.approx(0.999)


def test_a_healthy_training_is_judged_by_its_samples(gan, command):
    code, written, _ = command("train toy --epochs 1 --set binarization=grey --set flips=0 --out a")
    assert code == 0
    assert "warning" not in written
    result = json.loads(Run.open("a").result_file.read_text())
    assert result["warnings"] == []
    assert result["samples"]["modes"] == 10
    assert Run.open("a").rows()[-1]["valid_class_entropy"] == pytest.approx(math.log(10), abs=0.05)


def test_a_likelihood_model_is_not_watched(command):
    assert command("train toy --epochs 1 --out a")[0] == 0
    result = json.loads(Run.open("a").result_file.read_text())
    assert not {"warnings", "samples"} & set(result)
    assert "valid_modes" not in Run.open("a").rows()[0]


# ---- tinygen evaluate ----


def test_evaluate_judges_samples_where_there_is_no_likelihood_and_tells_what_can_be_compared(gan, command):
    assert command("train toy --epochs 1 --set binarization=grey --set flips=0 --out a")[0] == 0
    code, written, _ = command("evaluate a --samples 600")
    assert code == 0
    first, second, remarks = written.split("\n\n")
    assert "nll" not in first
    titles, run, reference = second.splitlines()
    assert titles.split()[:6] == ["samples", "of", "data", "binarization", "count", "parzen"]
    assert run.split()[:4] == ["a", "mnist5k", "grey", "600"]
    assert reference.split()[:5] == ["training", "digits", "mnist5k", "grey", "600"]
    # This model draws training digits, so it is as good as they are.
    ours, theirs = (
        dict(zip(titles.split()[4:], line.split()[-len(titles.split()[4:]) :], strict=True)) for line in (run, reference)
    )
    assert float(ours["frechet"]) == pytest.approx(float(theirs["frechet"]), rel=0.5)
    assert float(ours["parzen"]) == pytest.approx(float(theirs["parzen"]), rel=0.25)
    assert ours["modes"] == theirs["modes"] == "10"
    assert "cannot be compared with nll" in remarks


def test_evaluate_says_bound_estimate_and_which_runs_belong_together(command, monkeypatch):
    for out, options in {"a": "", "b": "--set binarization=threshold", "c": "--seed 1"}.items():
        assert command(f"train toy --epochs 1 {options} --out {out}")[0] == 0
    code, written, _ = command("evaluate a c")
    assert code == 0
    assert [line.split()[-2] for line in written.splitlines()[1:]] == ["exact", "exact"]
    assert "\n\n" not in written  # all can be compared: nothing to remark
    monkeypatch.setattr(toy.Toy, "nll_is", "bound")
    code, written, _ = command("evaluate a b c --measures --samples 500")
    assert code == 0
    assert "these can: a, c (mnist5k, dynamic); b (mnist5k, threshold)." in written
    assert "The nll of a, b, c is an upper bound" in written
    assert "Samples that can be compared here: a, c (mnist5k, dynamic); b (mnist5k, threshold)." in written
    assert written.count("training digits ") == 2 + 1  # two reference rows and the remark


def test_evaluate_of_points_has_no_digits_to_read(command):
    assert command("train rnade --epochs 1 --set hidden=2 --data gaussians --out a")[0] == 0
    code, written, _ = command("evaluate a --measures")
    assert code == 0
    assert "parzen" not in written
