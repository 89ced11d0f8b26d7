"""Figures and tables as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns, two blanks apart; columns of numbers to the right."""
    cells = [[*map(str, titles)], *([*map(str, row)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    to_right = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in cells
    )


def figures(values: Mapping[str, float]) -> str:
    """ "nll 91.23 nats, 0.1679 bits/dim" and the like, in the order given."""
    return ", ".join(_figure(name, value) for name, value in values.items())


def loss_and_bits(loss: float, dimensions: int | None) -> str:
    """A loss, which is in nats and also told in bits per dimension (loss / (dimensions ln 2)) when that is given."""
    if dimensions is None:
        return f"loss {loss:.4g}"
    return f"loss {loss:.2f} nats {loss / (dimensions * math.log(2)):.4f} bits/dim"


def duration(seconds: float) -> str:
    """ "45 s", "3 min 20 s" or "2 h 05 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _figure(name: str, value: float) -> str:
    if name == "nll":
        return f"nll {value:.2f} nats"
    if name == "bits_per_dim":
        return f"{value:.4f} bits/dim"
    return f"{name} {value:.4g}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
