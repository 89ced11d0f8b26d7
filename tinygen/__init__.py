"""tinygen: deep generative models on a small reverse-mode autodiff engine.

Here are the engine and its functions; the parts built on it (`tinygen.nn`, `tinygen.models`, ...) load when used.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import tinygen.blas  # noqa: F401  first: it loads NumPy

# In a checkout the kernels stand beside this package (`kernels/`); an installed tinygen holds them as `tinygen/kernels`.
if not (Path(__file__).parent / "kernels").is_dir():
    _spec = spec_from_file_location("tinygen.kernels", Path(__file__).parent.parent / "kernels" / "__init__.py")
    kernels = sys.modules["tinygen.kernels"] = module_from_spec(_spec)
    _spec.loader.exec_module(kernels)

from tinygen import ops
from tinygen.anomaly import AnomalyError, detect_anomaly
from tinygen.gradcheck import GradcheckError, gradcheck
from tinygen.graph import enable_grad, no_grad
from tinygen.ops import *  # noqa: F403
from tinygen.tensor import Tensor, from_dlpack, grad

__version__ = "0.1.0"
__all__ = [
    "AnomalyError", "GradcheckError", "Tensor", "detect_anomaly", "enable_grad", "from_dlpack", "grad", "gradcheck", "no_grad",
    *ops.__all__,
]  # fmt: skip

_PARTS = ("checks", "data", "distributions", "evaluation", "gallery", "kernels", "models", "nn", "optim", "training")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"tinygen.{name}")
    raise AttributeError(f"module 'tinygen' has no attribute {name!r}")
