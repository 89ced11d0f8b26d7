"""Cases of the arithmetic: elementwise functions, reductions, products."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import tinygen as tg
from tinygen.backend import device_of
from tinygen.checks.inputs import Sampler, check, integers, normal, positive
from tinygen.checks.registry import Case
from tinygen.tensor import array_of

UNARY: dict[str, Callable[..., Sampler]] = {
    "abs": normal, "cos": normal, "elu": normal, "exp": normal, "leaky_relu": normal, "log": positive, "log1p": positive,
    "negative": normal, "relu": normal, "sigmoid": normal, "sign": normal, "sin": normal, "softplus": normal, "sqrt": positive,
    "tanh": normal,
}  # fmt: skip

BINARY: dict[str, Callable[..., Sampler]] = {
    "add": normal, "subtract": normal, "multiply": normal, "divide": positive, "power": positive,
    "maximum": normal, "minimum": normal, "floor_divide": positive, "remainder": positive,
}  # fmt: skip

REDUCTIONS = ("sum", "mean", "var", "std", "max", "min", "logsumexp")


def _unary() -> Iterator[Case]:
    for name, sampler in UNARY.items():
        function = getattr(tg, name)
        yield check(name, function, x=sampler(3, 4))
        yield check(f"{name}[0-d]", function, x=sampler())
        yield check(f"{name}[empty]", function, x=sampler(0, 3))
    for name in ("sigmoid", "softplus", "tanh"):
        far = np.array([-1e4, -800.0, -40.0, 40.0, 800.0, 1e4])
        yield check(f"{name}[far out]", getattr(tg, name), x=far)
    yield check("leaky_relu[slope]", lambda x: tg.leaky_relu(x, 0.2), x=normal(3, 4))
    yield check("elu[alpha]", lambda x: tg.elu(x, 0.5), x=normal(3, 4))
    yield check("clip", lambda x: tg.clip(x, -0.5, 0.8), x=normal(4, 5))
    yield check("clip[low only]", lambda x: tg.clip(x, low=0.0), x=normal(4, 5))
    yield check("astype", lambda x: tg.astype(x, x.dtype), x=normal(3, 4))
    yield check("to", lambda x: tg.to(tg.to(x * x, "cpu"), device_of(array_of(x))), x=normal(3, 4))


def _binary() -> Iterator[Case]:
    for name, sampler in BINARY.items():
        f = getattr(tg, name)
        yield check(name, f, a=sampler(3, 4), b=sampler(3, 4))
        yield check(f"{name}[broadcast]", f, a=sampler(3, 1), b=sampler(2, 1, 4))
        yield check(f"{name}[0-d and array]", f, a=sampler(), b=sampler(2, 3))
        yield check(f"{name}[empty and row]", f, a=sampler(0, 3), b=sampler(3))
        yield check(f"{name}[scalar right]", lambda a, f=f: f(a, 3.0), a=sampler(2, 3))
        yield check(f"{name}[scalar left]", lambda b, f=f: f(3.0, b), b=sampler(2, 3))
        yield check(f"{name}[same tensor]", lambda x, f=f: f(x, x), x=sampler(2, 3))
        yield check(f"{name}[integers]", f, a=sampler(2, 3), b=lambda rng: rng.integers(1, 4, (2, 3)))
    yield check("power[square]", lambda x: x**2, x=normal(3, 4))
    yield check("power[cube]", lambda x: x**3, x=normal(3, 4))
    yield check("power[zero]", lambda x: x**0, x=normal(3, 4))
    yield check("power[negative]", lambda x: x**-1.5, x=positive(3, 4))
    for name, condition in {"": (3, 4), "[condition broadcast]": (4,)}.items():
        yield check(
            f"where{name}", lambda c, a, b: tg.where(c > 0, a, b), c=integers(2, *condition), a=normal(3, 4), b=normal(3, 1)
        )
    yield check("where[scalar]", lambda x: tg.where(x > 0, x, 0.5), x=normal(3, 4))


def _reductions() -> Iterator[Case]:
    for name in REDUCTIONS:
        f = getattr(tg, name)
        yield check(name, f, x=normal(3, 4))
        yield check(f"{name}[axis 0]", lambda x, f=f: f(x, 0), x=normal(3, 4))
        yield check(f"{name}[keepdims]", lambda x, f=f: f(x, axis=-1, keepdims=True), x=normal(2, 3, 4))
        yield check(f"{name}[two axes]", lambda x, f=f: f(x, axis=(0, -1)), x=normal(2, 3, 4))
        yield check(f"{name}[one entry]", lambda x, f=f: f(x, axis=1) + x[:, 0], x=normal(3, 1))
    for name in ("sum", "mean", "max", "min", "logsumexp"):
        yield check(f"{name}[0-d]", getattr(tg, name), x=normal())
    yield check("sum[empty]", tg.sum, x=normal(0, 3))
    yield check("sum[empty axis]", lambda x: tg.sum(x, axis=0), x=normal(0, 3))
    yield check("logsumexp[far out]", lambda x: tg.logsumexp(x, axis=1), x=np.array([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]]))
    for name in ("var", "std"):
        f = getattr(tg, name)
        yield check(f"{name}[ddof]", lambda x, f=f: f(x, axis=1, ddof=1), x=normal(3, 4))
    for name in ("softmax", "log_softmax"):
        f = getattr(tg, name)
        yield check(name, f, x=normal(3, 4))
        yield check(f"{name}[axis 0]", lambda x, f=f: f(x, axis=0), x=normal(3, 4))
        yield check(f"{name}[middle axis]", lambda x, f=f: f(x, axis=1), x=normal(2, 3, 4))
        yield check(f"{name}[equal]", f, x=np.zeros((2, 3)))
        yield check(f"{name}[far out]", f, x=np.array([[1e4, 0.0, -1e4], [1e4, 1e4, 1e4]]))
    yield check("cumsum", tg.cumsum, x=normal(3, 4))
    yield check("cumsum[axis 0]", lambda x: tg.cumsum(x, 0), x=normal(3, 4))
    yield check("cumsum[last axis]", lambda x: tg.cumsum(x, -1), x=normal(2, 3, 4))


MATMUL = {
    "": ((3, 4), (4, 2)),
    "[vector matrix]": ((4,), (4, 2)),
    "[matrix vector]": ((3, 4), (4,)),
    "[vector vector]": ((4,), (4,)),
    "[batch]": ((2, 3, 4), (2, 4, 2)),
    "[batch broadcast]": ((2, 1, 3, 4), (3, 4, 2)),
    "[batch vector]": ((2, 3, 4), (4,)),
    "[empty inner]": ((3, 0), (0, 2)),
}

EINSUM = {
    "ij,jk->ik": ((3, 4), (4, 2)),
    "ij,ij->": ((3, 4), (3, 4)),
    "i,j": ((3,), (4,)),
    "ij->j": ((3, 4),),
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 2)),
    "...i,ij->...j": ((2, 3, 4), (4, 2)),
    "ij,jk,kl->il": ((2, 3), (3, 4), (4, 2)),
    "ijk,k->j": ((2, 3, 4), (4,)),
    "ij,j->i": ((2, 1), (3,)),
}


def _products() -> Iterator[Case]:
    for variant, (a, b) in MATMUL.items():
        yield check(f"matmul{variant}", tg.matmul, a=normal(*a), b=normal(*b))
    yield check("matmul[same tensor]", lambda x: x @ x, x=normal(3, 3))
    yield check("matmul[large]", tg.matmul, a=normal(20, 30), b=normal(30, 10))
    for subscripts, shapes in EINSUM.items():
        operands = {f"operand{i}": normal(*shape) for i, shape in enumerate(shapes)}
        yield check(f"einsum[{subscripts}]", lambda *x, s=subscripts: tg.einsum(s, *x), **operands)
    weights = {"weight": normal(2, 4), "bias": normal(2)}
    yield check("linear", tg.linear, x=normal(3, 4), **weights)
    yield check("linear[no bias]", tg.linear, x=normal(3, 4), weight=normal(2, 4))
    yield check("linear[sequence]", tg.linear, x=normal(2, 3, 4), **weights)
    yield check("linear[one example]", tg.linear, x=normal(4), **weights)
    yield check("linear[empty batch]", tg.linear, x=normal(0, 4), **weights)


CASES = [*_unary(), *_binary(), *_reductions(), *_products()]
