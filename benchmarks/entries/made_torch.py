"""MADE in PyTorch: the usual masked layers, and the best formulations that we could find.

A layer computes x (weight * mask)^T + bias for x (B, in), weight (out, in), bias (out,), mask (out, in) of zeros and ones.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def usual(mask: Tensor) -> Layer:
    """The product of the weights and the mask, then a dense layer."""
    return lambda x, weight, bias: torch.nn.functional.linear(x, weight * mask, bias)


def kept_masked(mask: Tensor) -> Layer:
    """A dense layer whose weights are zero where the mask is: only their gradient has to be masked.

    Right for a single mask, and if the optimizer leaves a weight at zero whose gradient always was.
    """

    class Masked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight)
            return torch.nn.functional.linear(x, weight, bias)

        @staticmethod
        def backward(ctx, g: Tensor):
            x, weight = ctx.saved_tensors
            return g @ weight if ctx.needs_input_grad[0] else None, (g.T @ x).mul_(mask), g.sum(0)

    return Masked.apply


def blocks(mask: Tensor, count: int = 8) -> Layer:
    """Our kernel's idea in PyTorch, for sorted units: a dense layer for each group of outputs and the inputs that it sees."""
    starts = [len(mask) * k // count for k in range(count + 1)]
    seen = [int(mask[a:b].any(0).sum()) for a, b in pairwise(starts)]
    masks = [mask[a:b, :n].contiguous() for a, b, n in zip(starts, starts[1:], seen)]
    sizes = [b - a for a, b in pairwise(starts)]

    class Blocks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            weights = [w[:, :n] * m for w, n, m in zip(weight.split(sizes), seen, masks)]
            ctx.save_for_backward(x, *weights)
            return torch.cat([torch.addmm(b, x[:, :n], w.T) for w, b, n in zip(weights, bias.split(sizes), seen)], 1)

        @staticmethod
        def backward(ctx, g: Tensor):
            x, *weights = ctx.saved_tensors
            g_weight, g_x = g.new_zeros(mask.shape), torch.zeros_like(x) if ctx.needs_input_grad[0] else None
            for part, w, n, m, rows in zip(g.split(sizes, 1), weights, seen, masks, g_weight.split(sizes)):
                torch.mul(part.T @ x[:, :n], m, out=rows[:, :n])
                if g_x is not None:
                    g_x[:, :n].addmm_(part, w)
            return g_x, g_weight, g.sum(0)

    return Blocks.apply


FORMULATIONS = {
    "PyTorch: weight * mask": usual,
    "PyTorch: weights kept masked": kept_masked,
    "PyTorch: blocks of the staircase": blocks,
}


def logits(x: Tensor, parameters: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    """The network with ReLUs between its layers: (B, D). Parameters are weight and bias of each layer in turn."""
    pairs = zip(layers, parameters[::2], parameters[1::2])
    for k, (layer, weight, bias) in enumerate(pairs):
        x = layer(torch.relu(x) if k else x, weight, bias)
    return x


def sample(uniforms: Tensor, parameters: Sequence[Tensor], layers: Sequence[Layer]) -> Tensor:
    """Draw (n, D) pixels in raster order, a whole pass for each: x[:, d] = uniforms[:, d] < sigmoid(logits[:, d])."""
    with torch.inference_mode():
        x = torch.zeros_like(uniforms)
        for d in range(x.shape[1]):
            x[:, d] = uniforms[:, d] < torch.sigmoid(logits(x, parameters, layers)[:, d])
    return x


def incremental_sampler(masks: Sequence[Tensor]) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
    """The same, each unit computed once, for sorted units: one product for those of a layer whose inputs became known."""
    D = masks[0].shape[1]
    sizes = [mask.shape[1] for mask in masks]
    ready = []  # for each hidden layer: how many of its units can be computed from so many known inputs
    for mask, size in zip(masks[:-1], sizes):
        ready.append(torch.searchsorted(mask.sum(1).long(), torch.arange(size + 1, device=mask.device), right=True).tolist())

    def sample(uniforms: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            weights = [weight * mask for weight, mask in zip(parameters[::2], masks)]
            units = [uniforms.new_zeros(len(uniforms), size) for size in sizes]
            known = [0] * len(sizes)
            for d in range(D):
                n = known[-1]
                logit = torch.mv(units[-1][:, :n], weights[-1][d, :n]) + parameters[-1][d]
                units[0][:, d] = uniforms[:, d] < torch.sigmoid(logit)
                known[0] = d + 1
                for l, (weight, bias) in enumerate(zip(weights[:-1], parameters[1:-1:2])):
                    n, start, stop = known[l], known[l + 1], ready[l][known[l]]
                    if stop > start:
                        sums = torch.addmm(bias[start:stop], units[l][:, :n], weight[start:stop, :n].T)
                        units[l + 1][:, start:stop] = sums.relu_()
                        known[l + 1] = stop
        return units[0]

    return sample
