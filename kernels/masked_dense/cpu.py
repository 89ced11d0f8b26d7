"""Masked dense layers on the CPU: see reference.py."""

from .reference import complete, forward, input_gradient, weight_gradient

__all__ = ["complete", "forward", "input_gradient", "weight_gradient"]
