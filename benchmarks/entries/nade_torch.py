"""NADE in PyTorch: the usual loop over pixels, and the best formulations that we could find.

Each takes x (B, D) of zeros and ones, W and V (D, H), b (D,), c (H,), and returns the logits (B, D):

    logits[:, d] = b[d] + sigmoid(c + sum over k < d of x[:, k] W[k]) @ V[d]
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.attempts import compiled


def usual_loop(x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The equations as they stand. The gradient of each `W[d]` is a (D, H) array of zeros with one row filled."""
    a = c.expand(len(x), -1)
    logits = []
    for d in range(x.shape[1]):
        logits.append(torch.sigmoid(a) @ V[d] + b[d])
        a = a + x[:, d : d + 1] * W[d]
    return torch.stack(logits, 1)


def unbound_loop(x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The same loop over rows cut apart once, so that their gradients are stacked once; the update is one call."""
    a = c.expand(len(x), -1)
    logits = []
    for column, w, v in zip(x.unbind(1), W.unbind(), V.unbind()):
        logits.append(torch.mv(torch.sigmoid(a), v))
        a = torch.addr(a, column, w)
    return torch.stack(logits, 1) + b


def cumulative_sums(x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor, block: int = 8) -> Tensor:
    """All pixels of a block at once: the hidden states are a running sum of rows of W. Blocks fit the cache."""
    a = c.expand(len(x), -1)
    logits = []
    for columns, w, v in zip(x.split(block, 1), W.split(block), V.split(block)):
        rows = columns[:, :, None] * w
        sums = rows.cumsum(1)
        logits.append((torch.sigmoid(a[:, None] + sums - rows) * v).sum(-1))
        a = a + sums[:, -1]
    return torch.cat(logits, 1) + b


def triangular_products(x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor, block: int = 8) -> Tensor:
    """The running sum as a product of W with x under a strictly triangular mask; (h * v).sum is faster than einsum."""
    a = c.expand(len(x), -1)
    mask = torch.ones(block, block, dtype=x.dtype, device=x.device).tril(-1)
    logits = []
    for columns, w, v in zip(x.split(block, 1), W.split(block), V.split(block)):
        n = len(w)
        before = (columns[:, None, :] * mask[:n, :n]) @ w
        logits.append((torch.sigmoid(before + a[:, None]) * v).sum(-1))
        a = torch.addmm(a, columns, w)
    return torch.cat(logits, 1) + b


def compiled_blocks(block: int) -> Callable[..., Tensor]:
    """The loop over the pixels of one block, unrolled and fused by torch.compile. Needs a C++ compiler when called."""

    @compiled
    def pixels(a: Tensor, columns: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        logits = []
        for k in range(len(w)):
            logits.append((torch.sigmoid(a) * v[k]).sum(1))
            a = a + columns[:, k : k + 1] * w[k]
        return torch.stack(logits, 1), a

    def logits(x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor) -> Tensor:
        a = c.expand(len(x), -1).contiguous()
        parts = []
        for columns, w, v in zip(x.split(block, 1), W.split(block), V.split(block)):
            part, a = pixels(a, columns, w, v)
            parts.append(part)
        return torch.cat(parts, 1) + b

    return logits


class DistinctStates(torch.autograd.Function):
    """Our kernel's idea in PyTorch: a hidden state per pixel that is 1, not per pixel.

    In a block of K pixels an example has the state it came with, and a new one after each 1. All those states are rows
    of one product with the block of W, and one product with the block of V gives more logits than are needed, of which
    each pixel picks its own. D must be a multiple of K. x gets no gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor, block: int) -> Tensor:
        columns, example, partial, counts, pick = _states(x, block)
        a = c.expand(len(x), -1).contiguous()
        every = partial.new_empty(len(example), block)
        hidden = []
        for x_k, rows, new, w, v, out in zip(
            columns, example.split(counts), partial.split(counts), W.split(block), V.split(block), every.split(counts)
        ):
            h = a.index_select(0, rows).addmm_(new, w).sigmoid_()
            torch.mm(h, v.T, out=out)
            a.addmm_(x_k, w)
            hidden.append(h)
        ctx.save_for_backward(V, columns, example, partial, pick, *hidden)
        ctx.counts = counts
        picked = every.view(-1).index_select(0, pick)
        return picked.view(columns.shape).transpose(0, 1).reshape(x.shape) + b

    @staticmethod
    def backward(ctx, g: Tensor):
        V, columns, example, partial, pick, *hidden = ctx.saved_tensors
        block = columns.shape[2]
        every = g.new_zeros(len(example), block)
        every.view(-1)[pick] = g.view(len(g), -1, block).transpose(0, 1).reshape(-1)
        gW, gV = torch.empty_like(V), torch.empty_like(V)
        ga = g.new_zeros(len(g), V.shape[1])
        pieces = [part.split(ctx.counts) for part in (example, partial, every)]
        blocks = [part.split(block) for part in (V, gV, gW)]
        for x_k, h, rows, new, out, v, gv, gw in reversed(list(zip(columns, hidden, *pieces, *blocks))):
            torch.mm(out.T, h, out=gv)
            g_before = torch.ops.aten.sigmoid_backward(out @ v, h)
            torch.mm(x_k.T, ga, out=gw)
            gw.addmm_(new.T, g_before)
            ga.index_add_(0, rows, g_before)
        return None, gW, gV, g.sum(0), ga.sum(0), None


def _states(x: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor, list[int], Tensor]:
    """The distinct states of all blocks, block after block.

    Returns x as (D / K, B, K); the example of each state; its ones within the block, (states, K); the number of states
    in each block; and for each pixel (D / K, B, K), flat, the place of its logit among (states, K).
    """
    columns = x.view(len(x), -1, block).transpose(0, 1).contiguous()
    places = torch.arange(block, device=x.device)
    begins = torch.ones_like(columns, dtype=torch.bool)
    begins[..., 1:] = columns[..., :-1] > 0
    which, example, pixel = begins.nonzero(as_tuple=True)
    partial = columns[which, example] * (places < pixel[:, None])
    counts = torch.bincount(which, minlength=len(columns)).tolist()
    state = begins.view(-1).cumsum(0) - 1
    pick = state * block + places.repeat(len(state) // block)
    return columns, example, partial, counts, pick


def distinct_states(x: Tensor, W: Tensor, V: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`DistinctStates` with the block that was fastest at the benchmark's size."""
    return DistinctStates.apply(x, W, V, b, c, 16)


def sample_loop(W: Tensor, V: Tensor, b: Tensor, c: Tensor, uniforms: Tensor) -> Tensor:
    """Draw (N, D) zeros and ones, pixel after pixel: x[:, d] = uniforms[:, d] < sigmoid(logits[:, d])."""
    columns = []
    with torch.inference_mode():
        a = c.repeat(len(uniforms), 1)
        for w, v, bias, u in zip(W.unbind(), V.unbind(), b.unbind(), uniforms.unbind(1)):
            drawn = (u < torch.sigmoid(torch.mv(torch.sigmoid(a), v) + bias)).to(a.dtype)
            a.addr_(drawn, w)
            columns.append(drawn)
    return torch.stack(columns, 1)


def compiled_sampler(block: int) -> Callable[..., Tensor]:
    """The same, with the pixels of one block unrolled and fused by torch.compile."""

    @compiled
    def pixels(a: Tensor, w: Tensor, v: Tensor, bias: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        columns = []
        for k in range(len(w)):
            drawn = (u[:, k] < torch.sigmoid(torch.mv(torch.sigmoid(a), v[k]) + bias[k])).to(a.dtype)
            a = a + drawn[:, None] * w[k]
            columns.append(drawn)
        return torch.stack(columns, 1), a

    def sample(W: Tensor, V: Tensor, b: Tensor, c: Tensor, uniforms: Tensor) -> Tensor:
        parts = []
        with torch.no_grad():
            a = c.repeat(len(uniforms), 1)
            for arguments in zip(W.split(block), V.split(block), b.split(block), uniforms.split(block, 1)):
                part, a = pixels(a, *arguments)
                parts.append(part)
        return torch.cat(parts, 1)

    return sample
