"""Tiles of sums, as in tiles.cuh: how large a tile a block of the GPU should compute."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

WARP = 32
FETCH = 8  # multiply-adds that take as long as it takes to fetch an entry of a factor: an estimate by instructions
WARPS_AT_ONCE = 4  # of a multiprocessor: each works on its own scheduler


class Tile(NamedTuple):
    """A tile, and the warps of the block that computes it."""

    rows: int
    columns: int
    warps: int

    def count(self, rows: int, columns: int) -> tuple[int, int]:
        """How many of them cover a matrix, (across, down)."""
        return -(-columns // self.columns), -(-rows // self.rows)

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def work(self) -> float:
        """Of each warp, for one product of every sum."""
        return (self.rows * self.columns + FETCH * (self.rows + self.columns)) / self.warps


@lru_cache(maxsize=256)
def quickest(tiles: tuple[Tile, ...], rows: int, columns: int, matrices: int, processors: int) -> Tile:
    """The tile with which so many matrices of sums take so many multiprocessors the least time.

    Small tiles waste the least where rows are few, and give each multiprocessor its share where columns are; large ones fetch
    the factors less often.
    """

    def time(tile: Tile) -> float:
        warps = prod(tile.count(rows, columns)) * matrices * tile.warps
        return -(-warps // (WARPS_AT_ONCE * processors)) * tile.work

    return min(tiles, key=time)
