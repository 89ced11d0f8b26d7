"""Ops with one thing wrong in them: what a gradient checker must catch.

`plant(op, argument, bug)` makes a new op of an op of the library, with the same forward pass and the same rules, one of
which is wrapped by the bug; the library's own op is left alone.
"""

import functools

import numpy as np

from tinygen.op import differentiable


def _rule_bug(change):
    """A bug in a rule: `change(rule, values)` gives the wrong share, where rule(*values) is the right one."""

    def wrap(rule):
        @functools.wraps(rule)  # the engine reads from the signature what a rule needs
        def wrong(*values):
            return change(rule, values)

        return wrong

    return wrap


def zero(rule, values):
    return 0 * rule(*values)


def sign_flip(rule, values):
    return -rule(*values)


def missing_term(rule, values):
    """The share of one entry of the output is left out."""
    g = np.array(values[0])
    g.flat[g.size // 2] = 0
    return rule(g, *values[1:])


def one_percent(rule, values):
    """One entry, not the largest one, is 1% too large."""
    share = np.array(rule(*values))
    order = np.argsort(np.abs(share), axis=None)
    present = order[np.abs(share).flat[order] > 0]
    share.flat[present[len(present) // 2]] *= 1.01
    return share


def averaged(rule, values):
    """Averaged over the axis along which the argument was broadcast, instead of summed."""
    return np.mean(rule(*values), axis=0, keepdims=True)


def spread(rule, values):
    """The same along the first axis, as if the argument had been broadcast there."""
    share = rule(*values)
    return np.broadcast_to(np.mean(share, axis=0), share.shape)


def wrong_dtype(rule, values):
    return rule(*values).astype(np.float32)


def mutated_cotangent(rule, values):
    share = np.array(rule(*values))
    values[0].flat[0] += 0.5
    return share


def mutated_input(rule, values):
    share = np.array(rule(*values))
    saved = [v for v in values[1:] if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    for array in saved or values[:1]:
        array *= 1.25
    return share


def aliased():
    """Every call returns the same buffer."""
    buffers = {}

    def change(rule, values):
        share = rule(*values)
        buffer = buffers.setdefault((share.shape, share.dtype), np.empty_like(share))
        buffer[...] = share
        return buffer

    return change


def stale():
    """What the first call of a shape computed is returned for ever."""
    shares = {}

    def change(rule, values):
        share = rule(*values)
        return shares.setdefault((share.shape, share.dtype), share).copy()

    return change


# Name -> a function that makes the bug anew (two of them remember things).
BUGS = {
    "zero backward": lambda: zero,
    "sign flip": lambda: sign_flip,
    "missing term": lambda: missing_term,
    "one entry off by 1%": lambda: one_percent,
    "wrong broadcast reduction": lambda: averaged,
    "wrong reduction": lambda: spread,
    "wrong dtype": lambda: wrong_dtype,
    "mutated cotangent": lambda: mutated_cotangent,
    "mutated input": lambda: mutated_input,
    "aliased gradient": aliased,
    "stale cached value": stale,
}


def plant(op, argument, bug):
    """A copy of `op` whose rule for `argument` has the bug of this name (None: no bug)."""
    rules = {name: rule.function for name, rule in zip(op.arguments, op.rules) if rule}
    if bug:
        rules[argument] = _rule_bug(BUGS[bug]())(rules[argument])
    return differentiable(once=op.once, **rules)(op.forward)


def with_forward(op, forward):
    """A copy of `op` with the same rules and another forward pass."""
    rules = {name: rule.function for name, rule in zip(op.arguments, op.rules) if rule}
    return differentiable(once=op.once, **rules)(forward)
