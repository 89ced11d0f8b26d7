"""Elementary functions for Numba kernels that LLVM turns into vector instructions.

libm's are calls, one lane at a time; these are a range reduction and a polynomial without a branch, so that a loop
around one of them runs at several elements a nanosecond. Call them inside jitted code, on float32 or float64 scalars:

    exp(x)       e^x, gradual underflow included
    sigmoid(x)   1 / (1 + e^-x); a result below the smallest normal number may be 0
    tanh(x)      through e^2x - 1, so accurate near 0 too
    log1p(x)     ln(1 + x); -inf at -1, NaN below
    softplus(x)  ln(1 + e^x) = max(x, 0) + log1p(e^-|x|)

NaN stays NaN and the infinities give the limits.

The reductions are Cody and Waite's (1980): e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2, and
e^r = 1 + r + r^2 Q(r); ln(1 + x) = e ln 2 + ln(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)], s = f / (2 + f), z = s^2 and
ln(1 + f) = 2 artanh(s) = f - s (f - z R(z)). Q and R are Chebyshev fits on those intervals, made with mpmath.
"""

import numpy as np

from .runtime import configured_numba, jit

numba = configured_numba()


def exp(x: float) -> float:
    """Return e^x; below the smallest subnormal number 0, above the largest number inf."""


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x)."""


def tanh(x: float) -> float:
    """Return (e^2x - 1) / (e^2x + 1)."""


def log1p(x: float) -> float:
    """Return ln(1 + x)."""


def softplus(x: float) -> float:
    """Return ln(1 + e^x)."""


@numba.extending.intrinsic
def _bits(typing_context, x):
    """Return the bits of a floating-point number as a signed integer of the same width."""
    integer = numba.types.Integer.from_bitwidth(x.bitwidth, signed=True)
    return integer(x), lambda context, builder, _, values: builder.bitcast(values[0], context.get_value_type(integer))


@numba.extending.intrinsic
def _from_bits(typing_context, n):
    """Return the floating-point number that has the bits of an integer of the same width."""
    real = {32: numba.types.float32, 64: numba.types.float64}[n.bitwidth]
    return real(n), lambda context, builder, _, values: builder.bitcast(values[0], context.get_value_type(real))


def _family(real: type, integer: type, ln2: tuple, Q: tuple, R: tuple) -> dict:
    """Make the five functions for one type; Q and R list coefficients from the highest power down."""
    finfo = np.finfo(real)
    mantissa, bias = integer(finfo.nmant), integer(finfo.maxexp - 1)
    ln2_high, ln2_low = map(real, ln2)
    Q, R = tuple(map(real, Q)), tuple(map(real, R))
    zero, one, two, saturation, infinity, nan = map(real, (0, 1, 2, 80, np.inf, np.nan))
    log2_e, largest = real(np.log2(np.e)), finfo.max
    # Adding 1.5 * 2^mantissa pushes the fraction out: the low bits then hold round(x), with no conversion.
    rounder = real(1.5 * 2.0**finfo.nmant)
    rounder_bits, sqrt_half_bits = (v.view(integer) for v in (rounder, real(np.sqrt(0.5))))
    underflow, overflow = real((finfo.minexp - finfo.nmant - 2) / log2_e), real((finfo.maxexp + 1) / log2_e)
    to_zero, to_infinity = real((finfo.minexp - 1) / log2_e), real(finfo.maxexp / log2_e)

    # Contraction into FMA is welcome; reassociation would undo the two-part ln 2 and the rounding trick.
    inline = jit(fastmath={"contract"}, cache=False, forceinline=True)

    @inline
    def clip(x, low, high):  # NaN passes
        x = low if x < low else x
        return high if x > high else x

    @inline
    def polynomial(x, coefficients):
        y = coefficients[0]
        for c in coefficients[1:]:
            y = y * x + c
        return y

    @inline
    def reduced_exp(x):  # -> n, e^r - 1
        shifted = x * log2_e + rounder
        n = shifted - rounder
        r = (x - n * ln2_high) - n * ln2_low
        return _bits(shifted) - rounder_bits, polynomial(r, Q) * (r * r) + r

    @inline
    def power_of_two(n):  # 0 for n = -bias, inf for n = bias + 1
        return _from_bits(integer((n + bias) << mantissa))

    @inline
    def log1p_positive(x):  # 0 <= x, or -1 < x
        e = (_bits(one + x) - sqrt_half_bits) >> mantissa
        scale = power_of_two(-e)
        f = x * scale + (scale - one)  # not (1 + x) * scale - 1, where the low bits of a small x are lost
        s = f / (f + two)
        z = s * s
        n = real(e)
        return n * ln2_high + (f - (s * (f - z * polynomial(z, R)) - n * ln2_low))

    def exp(x):
        n, expm1 = reduced_exp(clip(x, underflow, overflow))
        half = n >> 1
        return (expm1 * power_of_two(half) + power_of_two(half)) * power_of_two(n - half)

    def sigmoid(x):
        n, expm1 = reduced_exp(clip(-x, to_zero, to_infinity))
        return one / ((expm1 + one) * power_of_two(n) + one)

    def tanh(x):
        n, expm1 = reduced_exp(clip(two * abs(x), zero, saturation))
        scale = power_of_two(n)
        m = expm1 * scale + (scale - one)
        y = m / (m + two)
        return -y if x < zero else y

    def log1p(x):
        y = log1p_positive(x)
        y = -infinity if x == -one else y
        y = x if x > largest else y
        return y if x >= -one else nan

    def softplus(x):
        n, expm1 = reduced_exp(clip(-abs(x), to_zero, zero))
        y = log1p_positive((expm1 + one) * power_of_two(n))
        return y + (x if x > zero else zero)

    return {f.__name__: inline(f) for f in (exp, sigmoid, tanh, log1p, softplus)}


_FAMILIES = {
    numba.types.float32: _family(
        np.float32,
        np.int32,
        ln2=(0.693359375, -2.12194440054690583e-4),
        Q=(0.00139261835877134945, 0.00836317905272257737, 0.0416665546172045742, 0.166665769896987757, 0.5),
        R=(0.295800530431884421, 0.399887782821628077, 0.666666850451560291),
    ),
    numba.types.float64: _family(
        np.float64,
        np.int64,
        ln2=(0.6931471803691238, 1.9082149292705877e-10),
        Q=(2.51003854955103191e-8, 2.76200884454097482e-7, 2.75572684599970648e-6, 2.48015212959543751e-5,
           1.98412698630536169e-4, 1.38888889172137169e-3, 8.33333333333006183e-3, 4.16666666666241279e-2,
           0.166666666666666675, 0.5),
        R=(0.14616585424888622, 0.153317106182107716, 0.18182889455674946, 0.22222211130259877, 0.285714286260032687,
           0.399999999998994432, 2 / 3),
    ),
}  # fmt: skip


def _dispatch(function):
    @numba.extending.overload(function, inline="always")
    def choose(x):
        if x in _FAMILIES:
            chosen = _FAMILIES[x][function.__name__]
            return lambda x: chosen(x)


for _function in (exp, sigmoid, tanh, log1p, softplus):
    _dispatch(_function)
