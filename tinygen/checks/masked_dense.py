"""Cases of the masked dense layers: the gradients of their op, and their kernel against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from tinygen.checks.inputs import check, normal
from tinygen.checks.kernels import Run, agreement
from tinygen.checks.registry import Case
from tinygen.ops.masked import masked_linear


def _degrees(rng: np.random.Generator, sizes: tuple[int, ...], is_sorted: bool) -> list[np.ndarray]:
    """Of D pixels, a permutation of range(D), and of hidden layers."""
    degrees = [rng.permutation(sizes[0]), *(rng.integers(0, max(sizes[0] - 1, 1), n) for n in sizes[1:])]
    return [np.sort(d) for d in degrees] if is_sorted else degrees


def _layer(batch: int, inputs: int, outputs: int, strict: bool = False, is_sorted: bool = False, layout: str = "C") -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        def draw(*shape: int) -> np.ndarray:
            return np.array(rng.standard_normal(shape), dtype, order=layout)

        x, weight, bias, g = draw(batch, inputs), draw(outputs, inputs), draw(outputs), draw(batch, outputs)
        mask = *_degrees(rng, (inputs, outputs), is_sorted), strict
        return {
            "forward": module.forward(x, weight, bias, *mask),
            "without_bias": module.forward(x, weight, None, *mask),
            "input_gradient": module.input_gradient(g, weight, *mask),
            "weight_gradient": module.weight_gradient(x, g, *mask),
        }

    return run


def _sampler(batch: int, sizes: tuple[int, ...], direct: bool, start: int = 0, is_sorted: bool = False) -> Run:
    def run(module: ModuleType, rng: np.random.Generator, dtype: type) -> dict[str, np.ndarray]:
        degrees = _degrees(rng, sizes, is_sorted)
        shapes = list(zip((*sizes[1:], sizes[0]), sizes))
        weights = [(rng.standard_normal(shape) / np.sqrt(shape[1])).astype(dtype) for shape in shapes]
        biases = [rng.standard_normal(shape[0]).astype(dtype) for shape in shapes]
        straight = rng.standard_normal((sizes[0], sizes[0])).astype(dtype) if direct else None
        x = rng.integers(0, 2, (batch, sizes[0])).astype(dtype)
        uniforms = rng.random((batch, sizes[0])).astype(dtype)
        return {"complete": module.complete(x, start, uniforms, weights, biases, degrees, straight)}

    return run


def _cases() -> Iterator[Case]:
    inputs, outputs = np.array([2, 0, 1, 3]), np.array([1, 0, 3, 1, 2])
    arrays = {"x": normal(3, 4), "weight": normal(5, 4), "bias": normal(5)}
    for name, strict in {"": False, "[strict]": True}.items():
        options = {"in_degrees": inputs, "out_degrees": outputs, "strict": strict}
        yield check(f"masked_linear{name}", lambda *a, o=options: masked_linear(*a, **o), **arrays)
    options = {"in_degrees": inputs, "out_degrees": outputs}
    yield check("masked_linear[no bias]", lambda *a: masked_linear(*a, **options), x=normal(3, 4), weight=normal(5, 4))
    yield check("masked_linear[empty batch]", lambda *a: masked_linear(*a, **options), **arrays | {"x": normal(0, 4)})
    yield from agreement("masked_dense", _layer(5, 12, 7))
    yield from agreement("masked_dense", _layer(5, 12, 7, strict=True, layout="F"), "strict, Fortran-ordered")
    yield from agreement("masked_dense", _layer(1, 1, 1, strict=True), "one pixel")
    yield from agreement("masked_dense", _layer(40, 150, 70, is_sorted=True), "sorted")
    yield from agreement("masked_dense", _layer(70, 100, 130), "large")
    yield from agreement("masked_dense", _sampler(6, (12, 9), direct=True, start=4), "sampler, one layer")
    yield from agreement("masked_dense", _sampler(35, (20, 15, 11), direct=False, is_sorted=True), "sampler, two layers")
    yield from agreement("masked_dense", _sampler(3, (9,), direct=False), "sampler, no hidden layer")


CASES = list(_cases())
