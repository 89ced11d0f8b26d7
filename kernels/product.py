"""A matrix product for Numba kernels that multiply many small matrices, each of which the next one waits for.

BLAS packs both factors on every call and starts its threads, which for a product of some 100 x 100 costs more than
the product. Here nothing is packed, nothing is started, and the first factor may be a transposed view:

    out[m, v] = init[m, v] + sum_k a[m, k] b[k, v]

Every element is summed in the order of k, starting from `init`, whatever the shape of the matrices: computed in parts
or all at once, it has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

from .runtime import configured_numba, jit

numba = configured_numba()
types = numba.types

_INDEX = ir.IntType(64)
_BYTE = ir.IntType(8)


def _machine() -> tuple[int, int]:
    """Bytes in a vector register, and how many vectors wide a tile of sums may be beside its factors."""
    triple, _, features = numba.core.registry.cpu_target.target_context.codegen().magic_tuple()
    if "+avx512f" in features:
        return 64, 4
    if "+avx," in features + ",":
        return 32, 2
    return 16, 4 if triple.startswith(("aarch64", "arm64")) else 2


VECTOR_BYTES, COLUMNS = _machine()
ROWS = 6  # with COLUMNS, enough independent sums to hide the latency of a multiply-add


@jit
def product(a, b, init, out):
    """out (M, V) = init + a b for a (M, K) with any strides and b (K, V), init and out with contiguous rows.

    V must be a multiple of a cache line's elements (see `memory.padded`). `init` may be `out` itself, or a single row (1, V).
    """
    width = COLUMNS * (VECTOR_BYTES // out.itemsize)
    for v in range(0, out.shape[1], width):
        for m in range(0, out.shape[0], ROWS):
            _tile(a, b, init, out, m, v)


class _Matrix:
    """Addresses in a matrix argument of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any):
        array = context.make_array(kind)(context, builder, value)
        self.builder = builder
        self.data = builder.bitcast(array.data, _BYTE.as_pointer())
        self.shape = numba.core.cgutils.unpack_tuple(builder, array.shape, 2)
        self.strides = numba.core.cgutils.unpack_tuple(builder, array.strides, 2)

    def row(self, m: Any) -> Any:
        """Address of a row, of the last one if there is none with this number."""
        m = _least(self.builder, m, self.builder.sub(self.shape[0], _INDEX(1)))
        return self.builder.gep(self.data, [self.builder.mul(m, self.strides[0])])


@numba.extending.intrinsic
def _tile(typing_context, a, b, init, out, m, v):
    """Compute out[m : m + ROWS, v : v + COLUMNS vectors], or as much of that as there is.

    Rows and vectors past the end are the last one again: the same sums are stored twice, which no branch could beat.
    """

    def generate(context, builder, signature, arguments):
        first, second, start, target = (_Matrix(context, builder, *pair) for pair in zip(signature.args[:4], arguments))
        vector = ir.VectorType(context.get_value_type(out.dtype), VECTOR_BYTES * 8 // out.dtype.bitwidth)
        size, m, v = _INDEX(out.dtype.bitwidth // 8), *arguments[4:]
        end = builder.sub(builder.mul(target.shape[1], size), _INDEX(VECTOR_BYTES))
        ms = [builder.add(m, _INDEX(i)) for i in range(ROWS)]
        vs = [builder.add(builder.mul(v, size), _INDEX(j * VECTOR_BYTES)) for j in range(COLUMNS)]
        vs = [_least(builder, position, end) for position in vs]
        rows = [first.row(i) for i in ms]

        def at(row, j):
            return builder.bitcast(builder.gep(row, [vs[j]]), vector.as_pointer())

        def step(k, sums):
            line = builder.gep(second.data, [builder.mul(k, second.strides[0])])
            factors = [builder.load(at(line, j), align=size.constant) for j in range(COLUMNS)]
            offset = builder.mul(k, first.strides[1])
            for i, row in enumerate(rows):
                number = builder.load(builder.bitcast(builder.gep(row, [offset]), vector.element.as_pointer()))
                splat = _splat(builder, number, vector)
                for j, factor in enumerate(factors):
                    multiplied = builder.fmul(splat, factor, flags=["contract"])
                    yield builder.fadd(multiplied, sums[i * COLUMNS + j], flags=["contract"])

        sums = [builder.load(at(start.row(i), j), align=size.constant) for i in ms for j in range(COLUMNS)]
        totals = iter(_loop(builder, first.shape[1], sums, step))
        for row in map(target.row, ms):
            for j in range(COLUMNS):
                builder.store(next(totals), at(row, j), align=size.constant)
        return context.get_dummy_value()

    return types.void(a, b, init, out, types.intp, types.intp), generate


def _least(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _splat(builder: ir.IRBuilder, number: Any, vector: ir.VectorType) -> Any:
    undefined, lane = ir.Constant(vector, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(undefined, number, lane(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(lane, vector.count), [0] * vector.count))


def _loop(builder: ir.IRBuilder, count: Any, values: list, step: Callable[[Any, list], Iterable]) -> list:
    """`for k in range(count): values = step(k, values)`, the values in registers all the while."""
    before = builder.block
    check, inside, after = (builder.append_basic_block(name) for name in ("check", "inside", "after"))
    builder.branch(check)
    builder.position_at_end(check)
    k, *state = (builder.phi(value.type) for value in (_INDEX(0), *values))
    builder.cbranch(builder.icmp_signed("<", k, count), inside, after)
    builder.position_at_end(inside)
    following = [builder.add(k, _INDEX(1)), *step(k, state)]
    for phi, first, later in zip((k, *state), (_INDEX(0), *values), following):
        phi.add_incoming(first, before)
        phi.add_incoming(later, inside)
    builder.branch(check)
    builder.position_at_end(after)
    return state
