"""Layers that standardize their input over a batch or over an image."""

from typing import Any

import numpy as np

from tinygen.nn.module import Module, Parameter
from tinygen.ops import batch_norm, instance_norm


class _Norm(Module):
    """The affine parameters weight (ones) and bias (zeros), (num_features,) each or None, and the check of the input."""

    ranks: tuple[int, ...] = ()

    def __init__(self, num_features: int, eps: float, affine: bool, dtype: Any):
        self.num_features = num_features
        self.eps = eps
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None

    def _check(self, x: Any) -> None:
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            ranks = " or ".join(map(str, self.ranks))
            raise ValueError(f"{self!r} takes {ranks} dimensions, {self.num_features} channels second, not {x.shape}")


class _BatchNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        negative_slope: float = 1.0,
        dtype: Any = np.float32,
    ):
        super().__init__(num_features, eps, affine, dtype)
        self.momentum = momentum
        self.negative_slope = negative_slope
        self.register_buffer("running_mean", np.zeros(num_features, dtype))
        self.register_buffer("running_var", np.ones(num_features, dtype))
        self.register_buffer("num_batches_tracked", np.array(0, np.int64))

    def forward(self, x: Any) -> Any:
        self._check(x)
        if self.training:
            self.num_batches_tracked += 1
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            negative_slope=self.negative_slope,
        )


class BatchNorm1d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel of x (N, C) or (N, C, L) (Ioffe and Szegedy 2015).

    In training mean and biased variance are the batch's, and the buffers running_mean and running_var move towards its
    mean and unbiased variance, r <- (1 - momentum) r + momentum * batch; in evaluation those buffers are used.

    With a `negative_slope` other than 1 a leaky ReLU of that slope (0: a ReLU) follows, in the same pass over memory.
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """As BatchNorm1d, for x (N, C, H, W)."""

    ranks = (4,)


class InstanceNorm2d(_Norm):
    """(x - mean) / sqrt(var + eps), statistics of each channel of each image of x (N, C, H, W) (Ulyanov et al. 2016).

    The same in training and evaluation. `affine` adds a weight and a bias for each channel; as in PyTorch, off.
    """

    ranks = (4,)

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False, *, dtype: Any = np.float32):
        super().__init__(num_features, eps, affine, dtype)

    def forward(self, x: Any) -> Any:
        self._check(x)
        return instance_norm(x, self.weight, self.bias, eps=self.eps)
