"""Layers whose parameters have PyTorch's names, shapes and layouts."""
