"""Adam in Numba. A loop of loads, eight operations and stores is as fast as the memory, once it vectorizes."""

import math

from numba import prange

from ..runtime import jit, pjit

SERIAL_BELOW = 100_000  # elements; a parallel call costs more than it saves on fewer
CHUNK = 16_384


def adam_step(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, decoupled):
    """See reference.py. The bias corrections, and all that does not depend on the element, are worked out here."""
    update = _serial if param.size < SERIAL_BELOW else _parallel
    shrink = 1 - lr * weight_decay if decoupled else 1.0
    penalty = 0.0 if decoupled else weight_decay
    step_size = lr / (1 - beta1**step)
    root_scale = 1 / math.sqrt(1 - beta2**step)
    update(param, grad, exp_avg, exp_avg_sq, shrink, penalty, beta1, beta2, step_size, root_scale, float(eps))


@jit
def _serial(param, grad, exp_avg, exp_avg_sq, shrink, penalty, beta1, beta2, step_size, root_scale, eps):
    real = param.dtype.type  # float32 arrays must meet float32 constants: else every lane is widened to float64
    shrink, penalty = real(shrink), real(penalty)
    keep1, take1, keep2, take2 = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    step_size, root_scale, eps = real(step_size), real(root_scale), real(eps)
    for i in range(param.size):
        p = param[i]
        g = grad[i] + penalty * p
        m = keep1 * exp_avg[i] + take1 * g
        v = keep2 * exp_avg_sq[i] + take2 * g * g
        exp_avg[i] = m
        exp_avg_sq[i] = v
        param[i] = shrink * p - step_size * m / (math.sqrt(v) * root_scale + eps)


@pjit
def _parallel(param, grad, exp_avg, exp_avg_sq, shrink, penalty, beta1, beta2, step_size, root_scale, eps):
    for chunk in prange((param.size + CHUNK - 1) // CHUNK):
        # Slices handed to a function vectorize; the same loop with an offset in every index does not.
        part = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, param.size))
        arrays = param[part], grad[part], exp_avg[part], exp_avg_sq[part]
        _serial(*arrays, shrink, penalty, beta1, beta2, step_size, root_scale, eps)
