"""tinygen: deep generative models on a small reverse-mode autodiff engine."""

from pathlib import Path

# In a checkout the kernels stand beside this package (`kernels/`); an installed tinygen holds them as `tinygen/kernels`.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
