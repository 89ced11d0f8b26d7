"""Vectors as values in Numba kernels, for the loops that must keep one in registers while they walk over rows.

Numba vectorizes along a row: what a loop over rows accumulates goes through memory on every row, behind a check that no
two rows overlap. With these functions a kernel says itself which vector lives across its loop:

    total = load(y, 0, j)                                  # y[0, j : j + lanes(y)]
    for i in range(rows):
        total = fma(splat(element(x, 0, i)), load(v, i, j), total)
    store(y, 0, j, total)

A vector fills several of the processor's registers, which hides the latency of its arithmetic. The matrices must be
C-contiguous and every index in range and not negative: nothing is checked, and Python's negative indices do not hold.
"""

import operator
from typing import Any

import llvmlite.binding
from llvmlite import ir

from .runtime import configured_numba

numba = configured_numba()
types, extending = numba.types, numba.extending

# Bytes: eight of AVX-512's 32 registers, or four of the 16 that other x86 processors have.
VECTOR = 512 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 128


class Vector(types.Type):
    """The type of a vector of floating-point numbers, in Numba's type system."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype, self.lanes = dtype, VECTOR * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


@extending.register_model(Vector)
class _VectorModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), vector.lanes))


def lanes(matrix):
    """Return how many of a matrix's elements fill a vector: a constant to the compiler."""


@extending.overload(lanes, inline="always")
def _lanes(matrix):
    count = Vector(matrix.dtype).lanes
    return lambda matrix: count


def _address(context, builder, kind, matrix, i, j, target):
    array = numba.np.arrayobj.make_array(kind)(context, builder, matrix)
    row = builder.gep(array.data, [builder.mul(i, builder.extract_value(array.shape, 1))])
    return builder.bitcast(builder.gep(row, [j]), context.get_value_type(target).as_pointer())


@extending.intrinsic
def element(typing_context, matrix, i, j):
    """Return the number matrix[i, j]."""

    def generate(context, builder, _, arguments):
        return builder.load(_address(context, builder, matrix, *arguments, matrix.dtype))

    return matrix.dtype(matrix, types.intp, types.intp), generate


@extending.intrinsic
def load(typing_context, matrix, i, j):
    """Return the vector matrix[i, j : j + lanes]."""
    vector = Vector(matrix.dtype)

    def generate(context, builder, _, arguments):
        address = _address(context, builder, matrix, *arguments, vector)
        return builder.load(address, align=matrix.dtype.bitwidth // 8)

    return vector(matrix, types.intp, types.intp), generate


@extending.intrinsic
def store(typing_context, matrix, i, j, vector):
    """Assign a vector to matrix[i, j : j + lanes]."""

    def generate(context, builder, _, arguments):
        address = _address(context, builder, matrix, *arguments[:3], vector)
        builder.store(arguments[3], address, align=matrix.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, vector), generate


@extending.intrinsic
def copy(typing_context, source, i, j, target, k, l, count):
    """Assign source[i, j : j + count] to target[k, l : l + count], which must not overlap.

    A loop would move what does not fill several vectors one by one, and slices of the matrices count their references.
    """

    def generate(context, builder, _, arguments):
        read = _address(context, builder, source, *arguments[:3], source.dtype)
        write = _address(context, builder, target, *arguments[3:6], target.dtype)
        numba.core.cgutils.raw_memcpy(builder, write, read, arguments[6], source.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp, types.intp), generate


@extending.intrinsic
def splat(typing_context, x):
    """Return the vector whose every lane is the number x."""
    vector, index = Vector(x), ir.IntType(32)

    def generate(context, builder, _, arguments):
        undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], index(0))
        return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(index, vector.lanes), None))

    return vector(x), generate


@extending.intrinsic
def fma(typing_context, x, y, z):
    """Return x * y + z, rounded once where the processor has the instruction."""

    def generate(context, builder, _, arguments):
        product = builder.fmul(*arguments[:2], flags=["contract"])
        return builder.fadd(product, arguments[2], flags=["contract"])

    return x(x, y, z), generate


def _operator(symbol, instruction):
    @extending.intrinsic
    def apply(typing_context, x, y):
        return x(x, y), lambda context, builder, _, values: getattr(builder, instruction)(*values)

    @extending.overload(symbol, inline="always")
    def choose(x, y):
        if isinstance(x, Vector) and x == y:
            return lambda x, y: apply(x, y)


for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _operator(_symbol, _instruction)
