"""The benchmarks themselves; importing this package registers them, in the order in which they run."""

from benchmarks.entries import nade, ops, tiny_network

__all__ = ["nade", "ops", "tiny_network"]
