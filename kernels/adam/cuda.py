"""Adam on the GPU: one launch, one read of four arrays and one write of three."""

import math
from pathlib import Path

import numpy as np

from ..runtime import cuda_function, multiprocessors

SOURCE = Path(__file__).with_name("adam.cu")
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 8  # fills one with threads; what is left over is the loop's


def adam_step(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, decoupled):
    """See reference.py. The bias corrections, and all that does not depend on the element, are worked out here."""
    scalars = (
        1 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else weight_decay,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        lr / (1 - beta1**step),
        1 / math.sqrt(1 - beta2**step),
        eps,
    )
    if param.size:
        blocks = min(-(-param.size // THREADS), BLOCKS_PER_MULTIPROCESSOR * multiprocessors())
        real = param.dtype.type
        run = cuda_function(SOURCE, "adam_step", param.dtype)
        arrays = (param, grad, exp_avg, exp_avg_sq)
        run((blocks,), (THREADS,), (*arrays, np.int64(param.size), *(real(x) for x in scalars)))
