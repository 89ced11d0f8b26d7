"""Recipes, runs, checkpoints and the training loop, on a model so small that its optimum is known."""

import dataclasses
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygen
from tinygen import nn, optim
from tinygen.data import Dataset, Split
from tinygen.models import MODELS, Recipe, RecipeError, model_class
from tinygen.models.base import NotFiniteError, Optimizers, pixel_log_odds
from tinygen.models.recipe import parse
from tinygen.training import (
    Diverged,
    Interrupted,
    Observer,
    OutOfMemory,
    Run,
    RunError,
    Training,
    conclude,
    configuration,
    first_below,
    generator,
    held_out,
    restore,
)
from tinygen.training import checkpoint as checkpoints
from tinygen.training.examples import batches, check_fit
from tinygen.training.interrupt import Interruptions

SHAPE = (5, 6)
pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


@pytest.fixture
def digits():
    """A small grey data set with very different pixels."""
    rng = np.random.default_rng(5)
    grey = np.clip(rng.normal(np.linspace(0, 255, 30).reshape(SHAPE), 40, (260, *SHAPE)), 0, 255).astype(np.uint8)
    return Dataset("mnist5k", Split(grey[:200]), Split(grey[200:230]), Split(grey[230:]))


def new_run(out=None, seed=0, **changes):
    recipe = dataclasses.replace(toy.Toy.RECIPES["quick"], **{"batch_size": 20, **changes})
    config = configuration(
        model="toy",
        recipe_name="quick",
        recipe=recipe,
        changes=[],
        seed=seed,
        device="cpu",
        data={"shape": SHAPE, "folder": None},
    )
    return Run.create(config, out)


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def state_of(run):
    """Everything a run leaves that must not depend on how it was interrupted."""
    tensors, metadata = nn.serialize.load_arrays(run.checkpoint_file)
    best, _ = nn.serialize.load_arrays(run.best_file)
    state = json.loads(metadata["tinygen"])
    del state["progress"]["seconds"]
    arrays = {"checkpoint": tensors, "best": best}
    bits = {f"{file}.{name}": (a.dtype, a.shape, a.tobytes()) for file in arrays for name, a in arrays[file].items()}
    return bits, state, without_seconds(run.rows())


# ---- Recipes ----


def test_a_recipe_survives_json():
    recipe = Recipe(epochs=3, lr=0.1, clip=2.0, optimizer_options={"betas": (0.5, 0.9)}, model={"hidden": (3, 4)})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_every_registered_model_loads_and_has_sound_recipes():
    for name in MODELS:
        for recipe in model_class(name).RECIPES.values():
            assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
            recipe.settings()


def test_overrides_are_read_as_the_setting_s_own_type():
    recipe = Recipe(epochs=3, lr=0.1, model={"hidden": (3, 4), "deep": False, "name": "a", "scale": 1.0, "layers": 2})
    changed = recipe.override(
        {
            "epochs": "7",
            "lr": "1",
            "clip": "0.5",
            "target": "none",
            "hidden": "5,6,7",
            "deep": "true",
            "name": "b",
            "scale": "2",
            "layers": "3",
            "betas": "0.5,0.9",
        }
    )
    assert (changed.epochs, changed.lr, changed.clip, changed.target) == (7, 1.0, 0.5, None)
    assert type(changed.lr) is float
    assert changed.model == {"hidden": (5, 6, 7), "deep": True, "name": "b", "scale": 2.0, "layers": 3}
    assert changed.optimizer_options == {"betas": (0.5, 0.9)}
    assert recipe.model["hidden"] == (3, 4), "the recipe itself must not change"
    assert "lr: 0.1 -> 1.0" in recipe.changes(changed)
    assert "betas: default -> (0.5, 0.9)" in recipe.changes(changed)
    assert len(recipe.changes(changed)) == 9
    assert recipe.changes(recipe) == []


def test_a_new_optimizer_brings_its_own_options():
    recipe = Recipe(epochs=3, lr=0.1, optimizer_options={"betas": (0.5, 0.9)})
    changed = recipe.override({"momentum": "0.9", "optimizer": "sgd"})
    assert changed.optimizer_options == {"momentum": 0.9}
    with pytest.raises(RecipeError, match="no setting 'betas'"):
        recipe.override({"optimizer": "sgd", "betas": "0.5,0.9"})
    assert recipe.override({"optimizer": "adam"}).optimizer_options == {"betas": (0.5, 0.9)}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ({"epoch": "3"}, "no setting 'epoch': did you mean 'epochs'. valid: .*batch_size.*hidden"),
        ({"epochs": "3.5"}, "epochs='3.5' does not fit: expected a whole number"),
        ({"epochs": "0"}, "epochs = 0 is out of range"),
        ({"lr": "nan"}, "lr='nan' does not fit: expected a number"),
        ({"lr": "-1"}, "lr = -1.0 is out of range"),
        ({"clip": "0"}, "clip = 0.0 is out of range"),
        ({"deep": "maybe"}, "deep='maybe' does not fit: expected true or false"),
        ({"optimizer": "adan"}, "optimizer 'adan' is unknown: did you mean 'adam'"),
        ({"schedule": "cos"}, "schedule 'cos' is unknown: .*cosine"),
        ({"binarization": "none"}, "binarization 'none' is unknown: .*dynamic"),
        ({"hidden": "3,x"}, "hidden='x' does not fit: expected a whole number"),
    ],
)
def test_a_wrong_setting_costs_one_clear_line(assignment, message):
    recipe = Recipe(epochs=3, lr=0.1, model={"hidden": (3, 4), "deep": False})
    with pytest.raises(RecipeError, match=message):
        recipe.override(assignment)


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_parse_reads_what_python_writes(value):
    parsed = parse("name", str(value), value)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_hyperparameter_may_not_hide_a_field():
    with pytest.raises(RecipeError, match="lr"):
        Recipe(epochs=1, lr=0.1, model={"lr": 3})


# ---- Runs ----


def test_a_run_s_folder_is_never_taken_twice(tmp_path):
    first, second = new_run(), new_run()
    assert (str(first.path), str(second.path)) == ("runs/toy", "runs/toy-2")
    with pytest.raises(RunError, match=r"exists already.*--resume runs/toy"):
        new_run("runs/toy")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        new_run("file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        new_run("folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert new_run("empty").config_file.exists()
    assert not list(tmp_path.glob("**/.*")), "no temporary folder is left"


def test_a_run_tells_everything_that_repeats_it():
    run = Run.open(new_run(seed=7).path)
    assert run.recipe == dataclasses.replace(toy.Toy.RECIPES["quick"], batch_size=20)
    assert (run.config["seed"], run.config["device"], run.config["model"]) == (7, "cpu", "toy")
    assert set(run.config["versions"]) >= {"python", "numpy", "numba", "tinygen"}
    assert run.config["versions"]["numpy"] == np.__version__


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run"):
        Run.open("nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="format 99"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "model": "toyy"}')
    with pytest.raises(RunError, match="did you mean 'toy'"):
        Run.open(tmp_path)


def test_two_processes_cannot_train_in_one_folder():
    run = new_run()
    (run.path / ".checkpoint.safetensors.1.tmp").write_text("half a fi")
    with run.lock():
        assert not list(run.path.glob(".*")), "what a killed process left is cleared away"
        with pytest.raises(RunError, match="another process"), Run.open(run.path).lock():
            pass
    with run.lock():
        pass


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries({"train_loss": st.floats(allow_nan=False)}, optional={"valid_nll": st.floats(allow_nan=False)}),
        min_size=1,
        max_size=5,
    )
)
def test_metrics_are_read_back_to_the_bit(figures):
    run = Run("folder", {})
    rows = [{"epoch": i, "step": 10 * i} | row | {"seconds": 0.5} for i, row in enumerate(figures, 1)]
    run.write_rows(rows)
    assert run.rows() == rows


def test_first_below():
    rows = [{"epoch": 1, "test_nll": 5.0}, {"epoch": 2}, {"epoch": 3, "test_nll": 3.0}, {"epoch": 4, "test_nll": 2.0}]
    assert first_below(rows, "test_nll", 3.0)["epoch"] == 3
    assert first_below(rows, "test_nll", 1.0) is None


# ---- Examples ----


def test_batches_depend_on_seed_and_epoch_alone(digits):
    recipe = dataclasses.replace(toy.Toy.RECIPES["quick"], batch_size=30)

    def epoch(seed, number):
        return np.stack([x for x, _ in batches(digits.train, recipe, seed, number)])

    assert epoch(0, 1).shape == (6, 30, 30)
    assert epoch(0, 1).dtype == np.float32
    assert np.array_equal(epoch(0, 3), epoch(0, 3))
    assert not np.array_equal(epoch(0, 1), epoch(0, 2))
    assert not np.array_equal(epoch(0, 1), epoch(1, 1))


def test_held_out_examples_are_the_same_bits_always(digits):
    first = held_out(digits.valid, "dynamic")
    assert np.array_equal(first, held_out(digits.valid, "dynamic"))
    assert set(np.unique(first)) == {0.0, 1.0}
    assert np.array_equal(held_out(digits.valid, "threshold"), digits.valid.images.reshape(30, -1) > 127)
    assert np.allclose(held_out(digits.valid, "grey") * 255, digits.valid.images.reshape(30, -1))


def test_data_that_do_not_fit_the_recipe_are_refused(digits):
    with pytest.raises(RecipeError, match=r"grey values.*'fixed'.*dynamic"):
        check_fit(digits, Recipe(epochs=1, lr=1.0, batch_size=2, binarization="fixed"))
    with pytest.raises(RecipeError, match="batch_size = 500 is more than the 200"):
        check_fit(digits, Recipe(epochs=1, lr=1.0, batch_size=500))
    bits = Split((digits.train.images > 127).astype(np.uint8))
    with pytest.raises(RecipeError, match=r"bits.*must be fixed"):
        check_fit(Dataset("bits", bits, bits, bits, binary=True), Recipe(epochs=1, lr=1.0, batch_size=2))


def test_pixel_log_odds():
    grey = np.array([[[0, 255], [255, 51]], [[0, 255], [0, 0]]], np.uint8)
    on = np.array([0, 2, 1, 0.2])
    p = (on + 1) / 4
    assert np.allclose(pixel_log_odds(Split(grey)), np.log(p / (1 - p)), atol=1e-6)
    assert np.array_equal(pixel_log_odds(Split(grey[:0])), np.zeros(4))
    bits = (grey == 255).astype(np.uint8)
    assert np.allclose(pixel_log_odds(Split(bits)), np.log(np.array([1, 3, 2, 1]) / np.array([3, 1, 2, 3])), atol=1e-6)


# ---- Optimizers ----


def test_minimize_clips_and_tells_the_norm():
    w = nn.Parameter(np.array([3.0, 4.0]))
    optimizers = Optimizers({"model": optim.SGD([w], lr=1.0)}, clip=1.0)
    assert optimizers.minimize((w * w).sum() / 2) == pytest.approx(5.0)
    assert np.allclose(w.numpy(), [3 - 0.6, 4 - 0.8], atol=1e-5)


@pytest.mark.parametrize("loss", [lambda w: tinygen.log(w - 3.0).sum(), lambda w: tinygen.sqrt(w - 3.0).sum()])
def test_minimize_changes_nothing_when_loss_or_gradient_is_not_finite(loss):
    w = nn.Parameter(np.array([3.0, 4.0]))
    optimizers = Optimizers({"model": optim.Adam([w])})
    with np.errstate(all="ignore"), pytest.raises(NotFiniteError):
        optimizers.minimize(loss(w))
    assert np.array_equal(w.numpy(), [3.0, 4.0])


def test_each_optimizer_keeps_its_own_rate():
    a, b = nn.Parameter(np.zeros(2)), nn.Parameter(np.zeros(2))
    optimizers = Optimizers({"slow": optim.SGD([a], lr=0.1), "fast": optim.SGD([b], lr=1.0)})
    optimizers.set_lr(0.5)
    assert (optimizers["slow"].lr, optimizers["fast"].lr) == (0.05, 0.5)


# ---- The loop ----


def test_training_reaches_the_best_independent_pixels(digits):
    bits = [Split((s.images > 127).astype(np.uint8)) for s in (digits.train, digits.valid, digits.test)]
    dataset = Dataset("bits", *bits, binary=True)
    run = new_run(binarization="fixed", epochs=150, lr=0.3, schedule="cosine", model={"flips": 0.0})
    Training(run, dataset).go()
    model = toy.Toy.build(run.recipe, dataset.train, None)
    model.load_state_dict(nn.serialize.load_arrays(run.checkpoint_file)[0] and _model_of(run))
    x = bits[0].images.reshape(200, -1)
    p = np.clip(x.mean(axis=0, dtype=np.float64), 1e-12, 1 - 1e-12)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    nll = model.evaluate(x.astype(np.float32), None)
    assert entropy < nll["nll"] < entropy + 0.05
    assert nll["bits_per_dim"] == pytest.approx(nll["nll"] / 30 / np.log(2))
    rows = run.rows()
    assert [row["epoch"] for row in rows] == list(range(1, 151))
    assert rows[-1]["step"] == 1500
    assert rows[0]["lr"] == pytest.approx(0.3 * optim.SCHEDULES["cosine"](9, 1500))
    assert rows[-1]["lr"] == pytest.approx(0.3 * optim.SCHEDULES["cosine"](1499, 1500))


def _model_of(run):
    tensors, _ = nn.serialize.load_arrays(run.checkpoint_file)
    return {name.removeprefix("model."): a for name, a in tensors.items() if name.startswith("model.")}


def test_the_model_is_picked_on_the_validation_set(digits):
    flipped = Dataset("mnist5k", digits.train, Split(255 - digits.valid.images), digits.test)
    run = new_run(epochs=6, target=1.0)
    Training(run, flipped).go()
    rows = run.rows()
    assert [row["valid_nll"] for row in rows] == sorted(row["valid_nll"] for row in rows), "it gets worse and worse"
    assert nn.serialize.load_arrays(run.best_file)[1]["epoch"] == "1"
    result = conclude(run, restore(run), flipped)
    assert result["picked_epoch"] == 1
    assert result["valid"]["nll"] == rows[0]["valid_nll"]
    assert result["test"]["nll"] == pytest.approx(rows[0]["test_nll"])
    assert result["target_passed"] is None
    assert json.loads(run.result_file.read_text()) == json.loads(json.dumps(result))


def test_the_time_when_a_target_was_passed_is_told(digits):
    run = new_run(epochs=8, target=16.0)
    Training(run, digits).go()
    result = conclude(run, restore(run), digits)
    first = next(row for row in run.rows() if row["test_nll"] <= 16.0)
    assert first["epoch"] > 1
    assert result["target_passed"] == {"epoch": first["epoch"], "seconds": first["seconds"]}


def test_a_model_may_validate_by_a_cheaper_figure_than_it_is_judged_by(digits, monkeypatch):
    monkeypatch.setattr(toy.Toy, "selected_by", "guess")
    monkeypatch.setattr(toy.Toy, "validate", lambda self, x, rng: {"guess": float(self.bias.numpy()[0])}, raising=False)
    run = new_run(epochs=3, target=1000.0)
    Training(run, digits).go()
    assert all("test_nll" not in row and "valid_guess" in row for row in run.rows())
    result = conclude(run, restore(run), digits)
    assert set(result["test"]) == {"nll", "bits_per_dim"}
    assert result["picked_epoch"] == min(run.rows(), key=lambda row: row["valid_guess"])["epoch"]
    assert result["target_passed"]["epoch"] == 3, "the final figure is the only one to compare with the target"
    run = new_run(epochs=1, target=1.0)
    Training(run, digits).go()
    assert conclude(run, restore(run), digits)["target_passed"] is None


def test_validation_may_be_rare_but_never_misses_the_end(digits):
    run = new_run(epochs=5, valid_every=2)
    Training(run, digits).go()
    assert ["valid_nll" in row for row in run.rows()] == [False, True, False, True, True]


def test_same_seed_same_bits(digits):
    runs = [new_run(seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        Training(run, digits).go()
    assert state_of(runs[0]) == state_of(runs[1])
    assert state_of(runs[0])[0] != state_of(runs[2])[0]


class StopAt(Observer):
    """Sends this process a signal after training step `step`."""

    def __init__(self, step, number=signal.SIGINT):
        self.at, self.number = step, number

    def step(self, progress, figures):
        if progress.step == self.at:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("step", [1, 9, 10, 11, 29, 30])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_happened(digits, step, number):
    straight, stopped = new_run(schedule="cosine"), new_run(schedule="cosine")
    Training(straight, digits).go()
    with pytest.raises(Interrupted) as caught:
        Training(stopped, digits, StopAt(step, number)).go()
    assert caught.value.signal == number
    assert Training(stopped, digits).progress.step == step
    Training(stopped, digits).go()
    assert state_of(stopped) == state_of(straight)


def test_what_is_after_the_last_checkpoint_is_done_again(digits, monkeypatch):
    """A process that dies leaves rows, or a best model, newer than its checkpoint: they must not count twice."""
    straight, broken = new_run(), new_run()
    Training(straight, digits).go()
    saves = iter(range(100))

    def save(*arguments):
        if next(saves) == 3:  # one at the start and one after each epoch: epoch 3 is not saved
            raise KeyboardInterrupt
        real(*arguments)

    real = checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            Training(broken, digits).go()
    assert len(broken.rows()) == 3
    again = Training(broken, digits)
    assert len(again.rows) == 2
    again.go()
    assert state_of(broken) == state_of(straight)


def test_checkpoints_by_the_clock_change_nothing(digits):
    rare, often = new_run(), new_run()
    Training(rare, digits).go()
    Training(often, digits, checkpoint_seconds=0.0).go()
    assert state_of(rare) == state_of(often)


def test_a_second_signal_acts_at_once():
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    try:
        with Interruptions() as interruptions:
            signal.raise_signal(signal.SIGINT)
            assert interruptions.received == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_a_nan_stops_the_run_names_the_op_and_keeps_the_checkpoint(digits, monkeypatch):
    run, steps = new_run(), iter(range(1000))

    def loss(self, x, rng):
        rng.random(3)
        bad = -1.0 if next(steps) >= 25 else 1.0  # the third epoch
        return tinygen.log(self.bias * 0.0 + bad).sum() + self.bias.sum()

    monkeypatch.setattr(toy.Toy, "loss", loss)
    with pytest.raises(Diverged, match=r"epoch 3 at step 25: the loss became nan: log made a NaN.*test_training.py:\d+:"):
        Training(run, digits).go()
    progress = Training(run, digits).progress
    assert (progress.epoch, progress.step) == (3, 20)
    assert len(run.rows()) == 2


def test_a_nan_in_a_gradient_is_named_before_a_weight_changes(digits, monkeypatch):
    run = new_run()
    monkeypatch.setattr(toy.Toy, "loss", lambda self, x, rng: tinygen.sqrt(tinygen.sqrt(self.bias * 0.0)).sum())
    training = Training(run, digits)
    with pytest.raises(Diverged, match="the gradient's norm became nan: sqrt made an infinity in its gradient"):
        training.go()
    assert np.array_equal(training.model.bias.numpy(), np.zeros(30))


def test_a_nan_in_validation_is_named_too(digits, monkeypatch):
    run = new_run()
    monkeypatch.setattr(
        toy.Toy, "log_prob", lambda self, x: tinygen.log(self.bias[:1] * 0.0 - len(x) + 25) + 0.0 * self.bias[0]
    )
    with pytest.raises(Diverged, match="epoch 1 at step 10: nll became nan: log made a NaN"):
        Training(run, digits).go()


def test_an_update_that_breaks_a_weight_is_named(digits, monkeypatch):
    monkeypatch.setattr(toy.Toy, "loss", lambda self, x, rng: (self.bias * 1e3).sum())
    with pytest.raises(Diverged, match="at step 1: the loss became -inf: the update before made bias infinite or NaN"):
        Training(new_run(lr=1e38, optimizer="sgd"), digits).go()


def test_weights_that_are_not_finite_are_never_saved(digits):
    run = new_run()
    training = Training(run, digits)
    training.save()
    before = run.checkpoint_file.read_bytes()
    training.model.bias.data[3] = np.inf
    with pytest.raises(NotFiniteError, match=r"model\.bias"):
        training.save()
    assert run.checkpoint_file.read_bytes() == before


# ---- Checkpoints ----


def test_a_checkpoint_of_something_else_is_refused(digits, tmp_path):
    run = new_run()
    training = Training(run, digits)
    training.save()
    content = run.checkpoint_file.read_bytes()
    parts = training.model, training.optimizers, training.rng
    for wrong in (content[:50], content[:-10], b"", b"\x80\x04N."):
        (tmp_path / "wrong").write_bytes(wrong)
        with pytest.raises(ValueError, match="damaged"):
            checkpoints.load(tmp_path / "wrong", *parts)
    nn.save(tmp_path / "plain", training.model)
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoints.load(tmp_path / "plain", *parts)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "absent", *parts)


def test_the_generator_s_state_is_kept(tmp_path, digits):
    training = Training(new_run(), digits)
    training.rng.random(7, dtype=np.float32)  # leaves half of a 64-bit draw in the generator
    training.save()
    expected = training.rng.random(5, dtype=np.float32)
    other = generator(99)
    checkpoints.load(training.run.checkpoint_file, training.model, training.optimizers, other)
    assert np.array_equal(other.random(5, dtype=np.float32), expected)


def test_a_model_without_a_figure_to_pick_by_keeps_the_last(digits, monkeypatch):
    monkeypatch.setattr(toy.Toy, "selected_by", None)
    run = new_run(valid_every=2)
    Training(run, digits).go()
    assert nn.serialize.load_arrays(run.best_file)[1]["epoch"] == "3"
    assert conclude(run, restore(run), digits)["picked_epoch"] == 3


def test_restore_needs_a_validated_model():
    with pytest.raises(RunError, match="no model yet"):
        restore(new_run())


def test_importing_tinygen_stays_light():
    heavy = "numba", "matplotlib", "rich", "scipy", "safetensors", "cupy", "torch"
    code = f"import sys, tinygen, tinygen.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- Out of memory. ----


def test_out_of_memory_loses_nothing_on_disk(digits, monkeypatch):
    whole = new_run("whole")
    Training(whole, digits).go()
    run = new_run("short of memory")
    training = Training(run, digits)
    step, kept = training.model.train_step, []

    def train_step(*arguments):
        if training.progress.step == 13:
            kept.append(run.checkpoint_file.read_bytes())
            raise MemoryError("Out of memory allocating 7,340,032 bytes (allocated so far: 1,024 bytes).")
        return step(*arguments)

    monkeypatch.setattr(training.model, "train_step", train_step)
    words = r"on cpu in epoch 2 at step 13 \(Out of memory allocating.*kept in .*smaller batch \(--set batch_size=10\)"
    with pytest.raises(OutOfMemory, match=words):
        training.go()
    assert run.checkpoint_file.read_bytes() == kept[0]
    Training(run, digits).go()
    assert state_of(run) == state_of(whole)
