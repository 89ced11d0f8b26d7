"""The benchmarks themselves; importing this package registers them, in the order in which they run."""

from benchmarks.entries import dcgan, image_lstm, kernels, lstm, made, masked_conv, nade, ops, pixelrnn, tiny_network, vae

__all__ = ["dcgan", "image_lstm", "kernels", "lstm", "made", "masked_conv", "nade", "ops", "pixelrnn", "tiny_network", "vae"]
