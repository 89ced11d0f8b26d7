"""The gradient checker itself: it catches planted bugs of every kind, raises no false alarm, and says what is wrong where."""

import functools
import sys

import numpy as np
import pytest
from planted_bugs import BUGS, plant, with_forward

import tinygen as tg
from tinygen import GradcheckError, checks, gradcheck
from tinygen import finite_differences as differences
from tinygen.op import differentiable
from tinygen.ops import conv, elementwise, functional, linalg, reduction, shape
from tinygen.tensor import array_of

RNG = np.random.default_rng(20110411)
MATRIX, ROW, POSITIVE = RNG.standard_normal((3, 4)), RNG.standard_normal(4), RNG.uniform(0.5, 2.0, (3, 4))
IMAGES, KERNELS = RNG.standard_normal((2, 2, 4, 4)), RNG.standard_normal((3, 2, 2, 2))
PLAIN_CONVOLUTION = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}

# (op, the argument whose rule gets the bug, inputs, options). In the first group that argument is broadcast.
BROADCAST = [
    (tg.add, "b", (MATRIX, ROW), {}),
    (tg.subtract, "b", (MATRIX, ROW), {}),
    (tg.multiply, "b", (MATRIX, ROW), {}),
    (tg.divide, "b", (MATRIX, POSITIVE[0]), {}),
    (tg.power, "b", (POSITIVE, ROW), {}),
    (tg.maximum, "b", (MATRIX - 1, ROW + 1), {}),
    (elementwise._where, "b", (MATRIX > 0.3, MATRIX, ROW), {}),
    (tg.broadcast_to, "x", (ROW,), {"shape": (3, 4)}),
]
OTHERS = [
    (tg.multiply, "a", (MATRIX, ROW), {}),
    (tg.power, "a", (POSITIVE, ROW), {}),
    (tg.exp, "x", (MATRIX,), {}),
    (tg.log, "x", (POSITIVE,), {}),
    (tg.sin, "x", (MATRIX,), {}),
    (tg.tanh, "x", (MATRIX,), {}),
    (tg.sigmoid, "x", (MATRIX,), {}),
    (tg.softplus, "x", (MATRIX,), {}),
    (tg.relu, "x", (POSITIVE,), {}),
    (tg.sum, "x", (MATRIX,), {"axis": 1}),
    (tg.var, "x", (MATRIX,), {"axis": 1}),
    (tg.logsumexp, "x", (MATRIX,), {"axis": 1}),
    (tg.softmax, "x", (MATRIX,), {}),
    (tg.log_softmax, "x", (MATRIX,), {}),
    (reduction._cumsum, "x", (MATRIX,), {"axis": 1}),
    (linalg._matmul, "b", (MATRIX, MATRIX.T.copy()), {}),
    (shape._getitem, "x", (MATRIX,), {"index": (np.array([2, 0, 1, 0]),)}),
    (functional._standardize, "x", (MATRIX,), {"axes": (1,), "eps": 1e-5}),
    (functional._bce, "logits", (MATRIX, POSITIVE / 2), {}),
    (conv._conv2d, "weight", (IMAGES, KERNELS, np.zeros(3)), PLAIN_CONVOLUTION),
]


def _caught(op, inputs, options, seed):
    try:
        return not gradcheck(lambda *x: op(*x, **options), inputs, seed=seed, raise_on_failure=False)
    except (ValueError, RuntimeError):  # the engine itself refuses what the rule does
        return True


def test_every_planted_bug_is_caught(capsys):
    # A gradient that is summed to the shape of a broadcast argument is a new array: there is nothing to alias.
    restricted = {"wrong broadcast reduction": BROADCAST, "wrong reduction": OTHERS, "aliased gradient": OTHERS}
    missed, lines = [], []
    total = 0
    for bug in BUGS:
        targets = restricted.get(bug, BROADCAST + OTHERS)
        trials = [(op, argument, inputs, options, seed) for op, argument, inputs, options in targets for seed in range(3)]
        missed_now = [
            f"{bug} in {op.name}, seed {seed}"
            for op, argument, inputs, options, seed in trials
            if not _caught(plant(op, argument, bug), inputs, options, seed)
        ]
        lines.append(
            f"  {bug:<26} {len(trials) - len(missed_now)} of {len(trials)} in {len({op.name for op, *_ in targets})} ops"
        )
        missed += missed_now
        total += len(trials)
    with capsys.disabled():
        rate = 100 * (total - len(missed)) / total
        print(f"\nplanted bugs caught: {total - len(missed)} of {total} ({rate:.1f}%)", *lines, sep="\n")
    assert not missed


def test_the_same_ops_without_a_bug_pass():
    for op, argument, inputs, options in BROADCAST + OTHERS:
        for seed in range(3):
            assert not _caught(plant(op, argument, None), inputs, options, seed), op.name


def test_no_false_alarm_in_a_thousand_runs_of_correct_ops(capsys):
    correct = [case for case in checks.cases().values() if case.kind in ("op", "loss", "distribution")]
    worst = 0.0
    for seed in range(1000):
        case = correct[seed % len(correct)]
        fn, inputs = case.make(np.random.default_rng(seed))
        report = gradcheck(fn, inputs, seed=seed, name=case.name)
        worst = max(worst, report.worst)
    with capsys.disabled():
        print(f"\nfalse alarms: 0 in 1000 runs of {len(correct)} cases, the worst error {worst:.2g} of its tolerance")


def test_forward_that_writes_into_its_input():
    def exp(x, /):
        y = np.exp(x)
        x *= 1.5
        return y

    with pytest.raises(GradcheckError, match="x was written to"):
        gradcheck(with_forward(tg.exp, exp), {"x": MATRIX})


def test_forward_that_writes_into_a_constant():
    def weighted(x, indices):
        indices += 1
        return x * 2.0

    indices = np.arange(3)
    with pytest.raises(GradcheckError, match="constant indices was written to"):
        gradcheck(weighted, (MATRIX, indices))
    assert indices.tolist() == [0, 1, 2]


def test_forward_that_returns_the_same_buffer_again():
    buffers = {}

    def sin(x, /):
        return np.sin(x, out=buffers.setdefault((x.shape, x.dtype), np.empty_like(x)))

    with pytest.raises(GradcheckError, match="output 0 shares memory with output 0 of another call"):
        gradcheck(with_forward(tg.sin, sin), {"x": MATRIX})


def test_forward_that_leaves_float32():
    with pytest.raises(GradcheckError, match="output 0 is float64 for float32 inputs"):
        gradcheck(lambda x: x * np.float64([2.0]), {"x": MATRIX})


def test_float32_that_loses_digits():
    """A variance as mean of squares minus square of mean: exact in float64, hopeless in float32 far from zero."""

    def naive(x):
        return (x * x).mean() - x.mean() * x.mean() + tg.where(np.array(x.dtype == np.float32), 0.1, 0.0) * x.sum()

    report = gradcheck(naive, {"x": MATRIX}, raise_on_failure=False)
    assert "float32 is" in str(report)
    assert gradcheck(naive, {"x": MATRIX}, float32=False)


def test_rule_that_trusts_the_order_of_memory():
    @differentiable(x=lambda g: 2 * np.lib.stride_tricks.as_strided(g, g.shape, (8 * g.shape[1], 8)))
    def double(x, /):
        return 2 * x

    report = gradcheck(double, {"x": MATRIX}, float32=False, raise_on_failure=False)
    assert "Fortran-ordered arrays give another gradient" in str(report)


def test_report_names_input_index_numbers_slopes_and_seed():
    weight = np.array([[1.0, 2.0], [3.0, 4.0]])

    def corrupt(g, x, weight):
        share = g * x
        if isinstance(share, np.ndarray) and share.size:
            share = share * np.where(np.arange(4).reshape(2, 2) == 2, 1.01, 1.0)
        return share

    @differentiable(x=lambda g, weight: g * weight, weight=corrupt)
    def scaled(x, weight, /):
        return x * weight

    with pytest.raises(GradcheckError) as error:
        gradcheck(scaled, {"x": np.full((2, 2), 3.0), "weight": weight}, seed=41)
    text = str(error.value)
    assert "weight: 1 of 4 slopes are wrong" in text
    assert "replay with seed=41" in text
    report = gradcheck(scaled, {"x": np.full((2, 2), 3.0), "weight": weight}, seed=41, raise_on_failure=False)
    assert str(report) == text
    worst = report.findings[0]
    assert (worst.input, worst.index) == ("weight", (1, 0))
    assert worst.analytic == pytest.approx(1.01 * worst.numeric, rel=1e-9)
    assert worst.sides.left == pytest.approx(worst.numeric, rel=1e-6)
    assert worst.sides.right == pytest.approx(worst.numeric, rel=1e-6)
    assert worst.multiple > 1e4
    assert report.worst == worst.multiple
    assert len(report.findings) == 5
    assert not report


@pytest.mark.parametrize("place", [0, 4321, 9999])
def test_one_wrong_entry_of_ten_thousand_is_found(place):
    def corrupt(g, y):
        share = np.array(g * (1 - y * y))
        share.flat[place if share.size == 10_000 else 0] *= 1.01
        return share

    broken = differentiable(x=corrupt)(tg.tanh.forward)
    report = gradcheck(broken, {"x": np.random.default_rng(place).standard_normal((100, 100))}, raise_on_failure=False)
    assert [f.index for f in report.findings if not f.ok] == [divmod(place, 100)]


def test_kinks_are_named_and_moved_off():
    report = gradcheck(tg.relu, {"x": np.array([0.5, 0.0, -1.0, 1e-9])})
    assert report.ok
    assert any("x[1]" in note and "x[3]" in note for note in report.notes)
    assert gradcheck(tg.abs, {"x": np.zeros(3)}).notes
    assert gradcheck(tg.maximum, {"a": np.ones(3), "b": np.ones(3)}).notes
    assert not gradcheck(lambda x: tg.exp(20 * x), {"x": MATRIX}).notes


def test_kinks_that_stay_are_reported(monkeypatch):
    monkeypatch.setattr(sys.modules[gradcheck.__module__], "RESAMPLES", 0)
    for function in (tg.relu, tg.abs):  # the slope of abs at 0 by central differences is 0, as is its gradient: no excuse
        with pytest.raises(GradcheckError, match="the one-sided slopes still differ"):
            gradcheck(function, {"x": np.array([0.5, 0.0])})


def test_wrong_second_order_is_caught_only_at_order_two():
    @differentiable(x=lambda g, x: g * (3 * array_of(x) ** 2))  # right, but cut off from the graph
    def cube(x, /):
        return x**3

    assert gradcheck(cube, {"x": MATRIX})
    with pytest.raises(GradcheckError, match="grad, x: 12 of 12 slopes are wrong"):
        gradcheck(cube, {"x": MATRIX}, order=2)


def test_a_part_cut_off_from_the_graph_is_caught():
    with pytest.raises(GradcheckError, match="slopes are wrong"):
        gradcheck(lambda x: x * x.detach(), {"x": MATRIX})
    with pytest.raises(GradcheckError, match="slopes are wrong"):
        gradcheck(lambda x: (x * 2.0, tg.exp(x.detach())), {"x": MATRIX})


def test_random_and_infinite_functions_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match="two calls with the same inputs gave different outputs"):
        gradcheck(lambda x: x * rng.standard_normal(x.shape), {"x": MATRIX})
    with pytest.raises(GradcheckError, match="not finite"):
        gradcheck(tg.log, {"x": np.array([0.0, 1.0])})


def test_a_function_too_rough_to_decide_is_not_passed():
    def rough(x):
        return x + tg.Tensor(1e-3 * np.sin(1e9 * array_of(x)))

    report = gradcheck(rough, {"x": np.array([0.5])}, float32=False, raise_on_failure=False)
    assert "(a kink, a jump or noise)" in str(report)


def test_inputs_of_every_form():
    assert gradcheck(lambda x, y: x * y, (2.0, MATRIX))
    assert gradcheck(lambda x: (x, x.sum(), x[:0]), (MATRIX,))
    assert gradcheck(tg.exp, MATRIX)
    assert gradcheck(lambda x, i: x[i], {"x": MATRIX, "i": np.array([0, 0, 2])})
    assert gradcheck(tg.multiply, (MATRIX.T, MATRIX[::-1].T))
    assert gradcheck(lambda x: tg.multiply(x, x), (np.float32(3.0),))
    twice = gradcheck(lambda a, b: a * tg.exp(b), (MATRIX, MATRIX), order=2)
    assert twice.compared == 12 + 24  # one tensor, passed twice; then it and the cotangent


def test_nothing_to_check_and_unknown_orders():
    with pytest.raises(ValueError, match="none of the inputs is a floating array"):
        gradcheck(lambda i: i, (np.arange(3),))
    with pytest.raises(ValueError, match="order 3"):
        gradcheck(tg.exp, (MATRIX,), order=3)


def test_method_follows_from_what_the_function_takes():
    assert gradcheck(tg.exp, MATRIX).method == "the complex step"
    assert gradcheck(tg.exp, MATRIX, complex_step=False).method == "central differences"
    assert gradcheck(tg.abs, MATRIX).method == "central differences"  # |z| of a complex z is another function
    assert gradcheck(functools.partial(tg.conv2d), (IMAGES, KERNELS)).method == "central differences"  # the kernel refuses


FUNCTIONS = {
    "exp": (np.exp, 1.0),
    "fast sine": (lambda t: np.sin(50 * t), 50.0),
    "pole nearby": (lambda t: 1 / (0.1 + t), -100.0),
    "root, left of its domain nearby": (lambda t: np.sqrt(1e-4 + t), 50.0),
    "large constant": (lambda t: 1e8 + np.sin(t), 1.0),
    "constant": (lambda t: 0 * t + 3.0, 0.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_central_differences_know_their_own_error(name):
    f, slope = FUNCTIONS[name]
    with np.errstate(invalid="ignore"):
        noise = np.finfo(np.float64).eps * abs(f(0.0))
        estimate = differences.central(lambda t: np.array([f(t)]), noise)
    assert abs(estimate.value - slope) <= 10 * estimate.error
    assert estimate.error < 1e-6 * max(abs(slope), abs(f(0.0)))


def test_one_sided_slopes_tell_kinks_from_curvature():
    smooth = differences.one_sided(lambda t: np.array([np.exp(3 * t)]), 1e-16)
    assert not smooth.kink
    assert smooth.left == pytest.approx(3.0, abs=1e-4)
    kink = differences.one_sided(lambda t: np.array([max(t, 0.0)]), 1e-16)
    assert kink == (0.0, 1.0, True)
    step = differences.one_sided(lambda t: np.array([float(t > 0)]), 1e-16)
    assert step.kink


def test_complex_step_is_exact():
    f = lambda t: np.array([np.exp(2 + t) / (1 + t)])
    assert differences.complex_step(f) == pytest.approx(0.0, abs=1e-15)
    assert differences.complex_step(lambda t: np.array([np.sin(1 + t)])) == np.cos(1.0)
