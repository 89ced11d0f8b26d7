"""Vectors as values in Numba kernels, for the few loops that must keep several of them in registers.

Numba's own loops vectorize along one row at a time: what a loop over rows accumulates goes through memory on each row,
behind a check that no two rows overlap. With the functions below a kernel says which vectors live across its loop:

    total = load(y, k, j)                            # y[k, j : j + LANES]
    for i in range(rows):
        total = fma(splat(x[i], total), load(v, i, j), total)
    store(y, k, j, total)

A vector has as many lanes as a 64-byte cache line holds elements. LLVM splits it where registers are narrower.
Matrices are C-contiguous and wide enough: nothing here looks at bounds.
"""

import operator

from llvmlite import ir
from tinygen.kernels.runtime import configured_numba

numba = configured_numba()
types, extending = numba.types, numba.extending

LINE = 64  # bytes


class Vector(types.Type):
    """The Numba type of a vector of floating-point numbers that fills a cache line."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype, self.lanes = dtype, LINE * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


@extending.register_model(Vector)
class _VectorModel(extending.models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = manager[vector.dtype].get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _pointer(context, builder, matrix_type, matrix, i, j):
    array = numba.np.arrayobj.make_array(matrix_type)(context, builder, matrix)
    width = builder.extract_value(array.shape, 1)
    return builder.gep(builder.gep(array.data, [builder.mul(i, width)]), [j])


def lanes(matrix):
    """Return the number of a matrix's elements that fill a vector, a constant to the compiler."""


@extending.overload(lanes, inline="always")
def _lanes(matrix):
    count = Vector(matrix.dtype).lanes
    return lambda matrix: count


@extending.intrinsic
def load(typing_context, matrix, i, j):
    """Return the vector `matrix[i, j : j + lanes]`."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, matrix, *arguments)
        pointer = builder.bitcast(pointer, context.get_value_type(signature.return_type).as_pointer())
        return builder.load(pointer, align=matrix.dtype.bitwidth // 8)

    return Vector(matrix.dtype)(matrix, types.intp, types.intp), generate


@extending.intrinsic
def store(typing_context, matrix, i, j, vector):
    """Assign a vector to `matrix[i, j : j + lanes]`."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, matrix, *arguments[:3])
        pointer = builder.bitcast(pointer, arguments[3].type.as_pointer())
        builder.store(arguments[3], pointer, align=matrix.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, vector), generate


@extending.intrinsic
def splat(typing_context, x):
    """Return a vector whose every lane is the number x."""

    def generate(context, builder, signature, arguments):
        vector = context.get_value_type(signature.return_type)
        index = ir.IntType(32)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[0], index(0))
        zeros = ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count)
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

    return Vector(x)(x), generate


@extending.intrinsic
def element(typing_context, matrix, i, j):
    """Return the number `matrix[i, j]`, where i and j are not negative."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, matrix, *arguments))

    return matrix.dtype(matrix, types.intp, types.intp), generate


@extending.intrinsic
def fma(typing_context, x, y, z):
    """Return x * y + z, rounded once where the processor can."""

    def generate(context, builder, signature, arguments):
        product = builder.fmul(arguments[0], arguments[1], flags=["contract"])
        return builder.fadd(product, arguments[2], flags=["contract"])

    return x(x, y, z), generate


def _elementwise(operation, instruction):
    @extending.intrinsic
    def apply(typing_context, x, y):
        return x(x, y), lambda context, builder, _, values: getattr(builder, instruction)(*values)

    @extending.overload(operation, inline="always")
    def choose(x, y):
        if isinstance(x, Vector) and x == y:
            return lambda x, y: apply(x, y)


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _elementwise(_operation, _instruction)
