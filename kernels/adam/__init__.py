"""The update of Adam and AdamW, all of it in one pass over the parameter, its gradient and its two moments."""

from ..runtime import implementation


def adam_step(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay=0.0, decoupled=False):
    """Change `param` and its two moments in place, by update number `step` (1 for the first); see reference.py.

    The four arrays are NumPy or CuPy arrays of one shape (n,) and one dtype, float32 or float64, without strides.
    """
    run = implementation(__name__, param).adam_step
    run(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay, decoupled)
