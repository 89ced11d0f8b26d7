"""Squared distances between many points, a block of rows at a time, so that the whole matrix never has to exist."""

from __future__ import annotations

from collections.abc import Iterator

from tinygen.backend import Array, module_of

BLOCK = 32 << 20  # bytes of one block


def squared_distances(a: Array, b: Array, block: int = BLOCK) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, d) that cover a in order, d[i, j] = |a[rows][i] - b[j]|^2 of a's dtype, at most `block` bytes or one row.

    a (n, D) and b (m, D) of one floating dtype. |a|^2 + |b|^2 - 2 a b' is a product of matrices; what rounding takes below 0
    is set to 0.
    """
    xp = module_of(a)
    size = max(1, block // (len(b) * a.dtype.itemsize))
    norms = xp.sum(b * b, axis=1)
    for start in range(0, len(a), size):
        part = a[start : start + size]
        d = part @ b.T
        d *= -2
        d += xp.sum(part * part, axis=1)[:, None]
        d += norms
        yield slice(start, start + len(part)), xp.maximum(d, 0, out=d)
