"""Cases of the functions on images: convolutions, pooling, enlargement, normalization, dropout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import tinygen as tg
from tinygen.backend import module_of
from tinygen.checks.inputs import check, normal
from tinygen.checks.registry import Case
from tinygen.tensor import array_of

# Name -> (shape of x, shape of the weight, options).
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "": ((2, 2, 5, 4), (3, 2, 3, 3), {}),
    "[padding]": ((1, 2, 4, 4), (2, 2, 3, 3), {"padding": 1}),
    "[stride]": ((2, 1, 7, 6), (2, 1, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "[dilation]": ((1, 2, 6, 7), (2, 2, 2, 3), {"dilation": 2, "padding": 1}),
    "[groups]": ((1, 4, 4, 4), (6, 2, 2, 2), {"groups": 2}),
    "[depthwise]": ((1, 3, 4, 4), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "[1 x 1]": ((2, 3, 2, 2), (4, 3, 1, 1), {}),
}

TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "": ((2, 3, 3, 2), (3, 2, 3, 3), {}),
    "[stride]": ((1, 2, 3, 3), (2, 2, 4, 4), {"stride": 2, "padding": 1}),
    "[output padding]": ((1, 2, 3, 2), (2, 2, 3, 3), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    "[dilation]": ((1, 2, 3, 3), (2, 1, 2, 2), {"dilation": 2, "stride": 2}),
    "[groups]": ((1, 4, 3, 3), (4, 3, 2, 2), {"groups": 2}),
}

WINDOWS: dict[str, tuple[Any, ...]] = {
    "": (2,),
    "[overlapping]": (3, 1),
    "[padding]": (3, 2, 1),
    "[oblong]": ((2, 3), (1, 2), (0, 1)),
}


def _convolutions() -> Iterator[Case]:
    for name, bias_axis, table in (("conv2d", 0, CONVOLUTIONS), ("conv_transpose2d", 1, TRANSPOSED)):
        function = getattr(tg, name)
        for variant, (x, weight, options) in table.items():
            channels = weight[bias_axis] * (options.get("groups", 1) if bias_axis else 1)
            yield check(
                f"{name}{variant}",
                lambda x, weight, bias, f=function, options=options: f(x, weight, bias, **options),
                x=normal(*x),
                weight=normal(*weight),
                bias=normal(channels),
            )
        x, weight, _ = table[""]
        yield check(f"{name}[no bias]", function, x=normal(*x), weight=normal(*weight))
        yield check(f"{name}[empty batch]", function, x=normal(0, *x[1:]), weight=normal(*weight))
    large = {"x": normal(4, 3, 9, 9), "weight": normal(8, 3, 3, 3), "bias": normal(8)}
    yield check("conv2d[large]", lambda x, weight, bias: tg.conv2d(x, weight, bias, padding=1), **large)


def _pooling() -> Iterator[Case]:
    for variant, window in WINDOWS.items():
        for pool in (tg.max_pool2d, tg.avg_pool2d):
            yield check(f"{pool.__name__}{variant}", lambda x, pool=pool, w=window: pool(x, *w), x=normal(1, 2, 5, 6))
    yield check("interpolate", lambda x: tg.interpolate(x, scale_factor=2), x=normal(2, 2, 2, 3))
    yield check("interpolate[oblong]", lambda x: tg.interpolate(x, scale_factor=(1, 3)), x=normal(1, 2, 3, 2))


def _normalization() -> Iterator[Case]:
    affine = {"weight": normal(3), "bias": normal(3)}
    images = normal(2, 3, 2, 2)

    def batch(x: Any, *affine: Any, **options: Any) -> Any:
        xp = module_of(array_of(x))
        statistics = xp.linspace(-0.5, 1.0, 3, dtype=np.float32), xp.linspace(0.5, 2.0, 3, dtype=np.float32)
        return tg.batch_norm(x, *statistics, *affine, **options)

    yield check("batch_norm", lambda x, weight, bias: batch(x, weight, bias), x=images, **affine)
    yield check("batch_norm[training]", lambda x, weight, bias: batch(x, weight, bias, training=True), x=images, **affine)
    yield check(
        "batch_norm[training, leaky]",
        lambda x, weight, bias: batch(x, weight, bias, training=True, negative_slope=0.2),
        x=images,
        **affine,
    )
    yield check("batch_norm[matrix]", lambda x: batch(x, training=True, eps=0.1), x=normal(5, 3))
    yield check("batch_norm[no statistics]", lambda x: tg.batch_norm(x), x=images)
    yield check("instance_norm", lambda x: tg.instance_norm(x), x=images)
    yield check("instance_norm[affine]", lambda x, weight, bias: tg.instance_norm(x, weight, bias), x=images, **affine)
    for variant, p, training in (("", 0.4, True), ("[evaluation]", 0.4, False), ("[p = 0]", 0.0, True)):
        dropped = lambda x, p=p, training=training: tg.dropout(x * x, p, np.random.default_rng(5), training)
        yield check(f"dropout{variant}", dropped, x=normal(4, 5))


CASES = [*_convolutions(), *_pooling(), *_normalization()]
