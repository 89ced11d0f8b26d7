"""The benchmarks themselves; importing this package registers them, in the order in which they run."""

from benchmarks.entries import ops, tiny_network

__all__ = ["ops", "tiny_network"]
