"""Our vectorized functions over a whole array, on all threads: contestants for the ceilings of `machine.py`."""

import numba
import numpy as np

from tinygen.kernels import vectormath
from tinygen.kernels.runtime import pjit

CHUNK = 4096


def _over_array(function):
    @pjit
    def evaluate(values: np.ndarray, out: np.ndarray):
        for chunk in numba.prange((values.size + CHUNK - 1) // CHUNK):
            for i in range(chunk * CHUNK, min(values.size, (chunk + 1) * CHUNK)):
                out[i] = function(values[i])

    return evaluate


exp = _over_array(vectormath.exp)
sigmoid = _over_array(vectormath.sigmoid)
tanh = _over_array(vectormath.tanh)
softplus = _over_array(vectormath.softplus)
