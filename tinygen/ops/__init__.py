"""The differentiable functions, and the operators and methods that they give to Tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tinygen.backend import module_of
from tinygen.ops.conv import avg_pool2d, conv2d, conv_transpose2d, interpolate, max_pool2d
from tinygen.ops.elementwise import (
    abs,
    add,
    astype,
    clip,
    cos,
    divide,
    elu,
    exp,
    floor_divide,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    remainder,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    subtract,
    tanh,
    where,
)
from tinygen.ops.functional import (
    batch_norm,
    binary_cross_entropy_with_logits,
    cross_entropy,
    dropout,
    embedding,
    instance_norm,
    l1_loss,
    mse_loss,
)
from tinygen.ops.linalg import einsum, linear, matmul
from tinygen.ops.reduction import cumsum, log_softmax, logsumexp, max, mean, min, softmax, std, sum, var
from tinygen.ops.shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    getitem,
    pad,
    reshape,
    setitem,
    split,
    squeeze,
    stack,
    swapaxes,
    take_along_axis,
    tile,
    transpose,
)
from tinygen.ops.transfer import to
from tinygen.tensor import Tensor, array_of

__all__ = [
    "abs", "add", "astype", "avg_pool2d", "batch_norm", "binary_cross_entropy_with_logits", "broadcast_to", "clip",
    "concatenate", "conv2d", "conv_transpose2d", "cos", "cross_entropy", "cumsum", "divide", "dropout", "einsum", "elu",
    "embedding", "exp", "expand_dims", "flip", "floor_divide", "getitem", "instance_norm", "interpolate", "l1_loss",
    "leaky_relu", "linear", "log", "log1p", "log_softmax", "logsumexp", "matmul", "max", "max_pool2d", "maximum",
    "mean", "min", "minimum", "mse_loss", "multiply", "negative", "pad", "power", "relu", "remainder", "reshape",
    "setitem", "sigmoid", "sign", "sin", "softmax", "softplus", "split", "sqrt", "squeeze", "stack", "std", "subtract",
    "sum", "swapaxes", "take_along_axis", "tanh", "tile", "to", "transpose", "var", "where",
]  # fmt: skip


def _reflected(function: Callable) -> Callable:
    return lambda self, other: function(other, self)


def _without_gradient(function: Callable) -> Callable:
    def operate(self: Tensor, other: Any) -> Any:
        try:
            other = array_of(other)
        except TypeError:
            return NotImplemented  # so that `tensor == None` is False
        return Tensor._wrap(module_of(self._data).asarray(function(self._data, other)))

    return operate


def _copy(self: Tensor) -> Tensor:
    """The same values in memory of its own, still part of the graph."""
    return astype(self, self.dtype)


def _install() -> None:
    """Give Tensor its operators and methods: the one place where the layer below learns of the layer above."""
    for name, function in {
        "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "floordiv": floor_divide, "mod": remainder,
        "pow": power, "matmul": matmul,
    }.items():  # fmt: skip
        setattr(Tensor, f"__{name}__", lambda self, other, function=function: function(self, other))
        setattr(Tensor, f"__r{name}__", _reflected(function))
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor"):
        setattr(Tensor, f"__{name}__", _without_gradient(getattr(operator, f"__{name}__")))
    Tensor.__rand__, Tensor.__ror__, Tensor.__rxor__ = Tensor.__and__, Tensor.__or__, Tensor.__xor__
    Tensor.__invert__ = lambda self: Tensor._wrap(module_of(self._data).asarray(~self._data))
    Tensor.__pos__ = lambda self: self
    for name, function in {"neg": negative, "abs": abs, "getitem": getitem, "setitem": setitem}.items():
        setattr(Tensor, f"__{name}__", lambda self, *args, function=function: function(self, *args))
    Tensor.__iter__ = lambda self: map(self.__getitem__, range(len(self)))
    methods = (
        astype, clip, cumsum, exp, flip, log, logsumexp, log_softmax, max, mean, min, relu, reshape, sigmoid, softmax, sqrt,
        squeeze, std, sum, swapaxes, tanh, to, transpose, var,
    )  # fmt: skip
    for function in methods:
        method = lambda self, *args, function=function, **options: function(self, *args, **options)
        method.__doc__, method.__name__ = function.__doc__, getattr(function, "name", None) or function.__name__
        setattr(Tensor, method.__name__, method)
    Tensor.copy = _copy
    Tensor.T = property(lambda self: transpose(self), doc="The axes reversed.")


_install()
