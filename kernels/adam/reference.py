"""Adam and AdamW in NumPy: the specification of the fused kernels.

Kingma and Ba 2015, algorithm 1, with the two bias corrections folded into the step size and the denominator;
Loshchilov and Hutter 2019, algorithm 2, for decoupled weight decay.
"""

import numpy as np


def adam_step(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
):
    """Change `param` and its two moments in place: update number `step` (1 for the first).

        m <- beta1 m + (1 - beta1) g              m_hat = m / (1 - beta1^step)
        v <- beta2 v + (1 - beta2) g^2            v_hat = v / (1 - beta2^step)
        param <- param - lr m_hat / (sqrt(v_hat) + eps)

    Weight decay adds `weight_decay * param` to the gradient (Adam), or, `decoupled`, first multiplies `param` by
    1 - lr weight_decay (AdamW). The four arrays have one shape and one dtype, float32 or float64.
    """
    if decoupled:
        param *= 1 - lr * weight_decay
    elif weight_decay:
        grad = grad + weight_decay * param
    exp_avg *= beta1
    exp_avg += (1 - beta1) * grad
    exp_avg_sq *= beta2
    exp_avg_sq += (1 - beta2) * grad * grad
    m_hat = exp_avg / (1 - beta1**step)
    v_hat = exp_avg_sq / (1 - beta2**step)
    param -= lr * m_hat / (np.sqrt(v_hat) + eps)
