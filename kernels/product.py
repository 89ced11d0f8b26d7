"""A matrix product for Numba kernels that multiply many small matrices, each of which the next one waits for.

BLAS packs both factors on every call and starts its threads, which for a product of some 100 x 100 costs more than
the product. Here nothing is packed, nothing is started, and the first factor may be a transposed view:

    out[m, v] = init[m, v] + sum_k a[m, k] b[k, v]

It is a convolution as well, of what lies in rows: a result may read several rows of `a` that lie evenly apart.
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
NARROW_ROWS = 8  # of a tile that is half as wide


@jit
def product(a, b, init, out, taps=1, apart=0):
    """out (M, V) = init + a b for a (M, K) with any strides and b (K, V), init and out with contiguous rows.

    V must be a multiple of a cache line's elements (see `memory.padded`). `init` may be `out` itself, or a single row (1, V).
    With several taps, b has a matrix (K, V) for each, one below the other: row m of `out` reads the rows m + tap apart of a.
    """
    lanes, v = VECTOR_BYTES // out.itemsize, 0
    while v < out.shape[1]:
        if 2 * (out.shape[1] - v) > COLUMNS * lanes:
            for m in range(0, out.shape[0], ROWS):
                _tile(a, b, init, out, m, v, taps, apart)
            v += COLUMNS * lanes
        else:
            for m in range(0, out.shape[0], NARROW_ROWS):
                _narrow_tile(a, b, init, out, m, v, taps, apart)
            v += COLUMNS // 2 * lanes


@jit
def turn(source, target):
    """target (C, R) = source (R, C) transposed; both have contiguous rows, and R and C fill whole vectors."""
    lanes = VECTOR_BYTES // target.itemsize
    for i in range(0, source.shape[0], lanes):
        for j in range(0, source.shape[1], lanes):
            _turn_block(source, target, i, j)


class _Matrix:
    """Addresses in a matrix argument of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any):
        array = context.make_array(kind)(context, builder, value)
        self.builder = builder
        self.data = builder.bitcast(array.data, _BYTE.as_pointer())
        self.shape = numba.core.cgutils.unpack_tuple(builder, array.shape, 2)
        self.strides = numba.core.cgutils.unpack_tuple(builder, array.strides, 2)

    def row(self, m: Any) -> Any:
        """Address of a row."""
        return self.builder.gep(self.data, [self.builder.mul(m, self.strides[0])])


def _tile_of(rows: int, columns: int) -> Any:
    """A function that computes out[m : m + rows, v : v + columns vectors], or as much of that as there is.

    Rows and vectors past the end are the last one again: the same sums are stored twice, which no branch could beat.
    """

    @numba.extending.intrinsic
    def tile(typing_context, a, b, init, out, m, v, taps, apart):
        def generate(context, builder, signature, arguments):
            matrices = (_Matrix(context, builder, *pair) for pair in zip(signature.args[:4], arguments))
            _sum(builder, context.get_value_type(out.dtype), *matrices, *arguments[4:], rows, columns)
            return context.get_dummy_value()

        return types.void(a, b, init, out, types.intp, types.intp, types.intp, types.intp), generate

    return tile


def _sum(builder, element, a, b, init, out, m, v, taps, apart, rows, columns):
    vector = ir.VectorType(element, VECTOR_BYTES // (8 if isinstance(element, ir.DoubleType) else 4))
    size = _INDEX(VECTOR_BYTES // vector.count)

    def up_to(end, values):
        return [builder.select(builder.icmp_signed("<", value, end), value, end) for value in values]

    end = builder.sub(builder.mul(out.shape[1], size), _INDEX(VECTOR_BYTES))
    vs = up_to(end, [builder.add(builder.mul(v, size), _INDEX(j * VECTOR_BYTES)) for j in range(columns)])
    ms = up_to(builder.sub(out.shape[0], _INDEX(1)), [builder.add(m, _INDEX(i)) for i in range(rows)])
    starts = up_to(builder.sub(init.shape[0], _INDEX(1)), ms)

    def at(row, j):
        return builder.bitcast(builder.gep(row, [vs[j]]), vector.as_pointer())

    def tap(t, sums):
        above, lines = builder.mul(t, apart), b.row(builder.mul(t, a.shape[1]))
        read = [a.row(builder.add(above, i)) for i in ms]

        def step(k, sums):
            line, offset = builder.gep(lines, [builder.mul(k, b.strides[0])]), builder.mul(k, a.strides[1])
            factors = [builder.load(at(line, j), align=size.constant) for j in range(columns)]
            for i, row in enumerate(read):
                number = builder.load(builder.bitcast(builder.gep(row, [offset]), element.as_pointer()))
                splat = _splat(builder, number, vector)
                for j, factor in enumerate(factors):
                    multiplied = builder.fmul(splat, factor, flags=["contract"])
                    yield builder.fadd(multiplied, sums[i * columns + j], flags=["contract"])

        return _loop(builder, a.shape[1], sums, step)

    sums = [builder.load(at(init.row(i), j), align=size.constant) for i in starts for j in range(columns)]
    totals = iter(_loop(builder, taps, sums, tap))
    for row in map(out.row, ms):
        for j in range(columns):
            builder.store(next(totals), at(row, j), align=size.constant)


_tile, _narrow_tile = _tile_of(ROWS, COLUMNS), _tile_of(NARROW_ROWS, COLUMNS // 2)


@numba.extending.intrinsic
def _turn_block(typing_context, source, target, i, j):
    """target[j : j + lanes, i : i + lanes] = source[i : i + lanes, j : j + lanes]^T, for as many lanes as a vector has.

    With n lanes, number l of vector m has the place m n + l. Shuffling the vectors as a deck of cards, the second half between
    the first, turns the bits of every place by one: log2 n rounds exchange m and l.
    """

    def generate(context, builder, signature, arguments):
        matrices = (_Matrix(context, builder, *pair) for pair in zip(signature.args[:2], arguments))
        read, write = ((matrix, place) for matrix, place in zip(matrices, (arguments[2:], arguments[:1:-1])))
        element = context.get_value_type(target.dtype)
        size = VECTOR_BYTES // target.dtype.bitwidth * 8
        vector, half = ir.VectorType(element, size), size // 2

        def at(matrix, place, m):
            row = matrix.row(builder.add(place[0], _INDEX(m)))
            first = builder.gep(builder.bitcast(row, element.as_pointer()), [place[1]])
            return builder.bitcast(first, vector.as_pointer())

        vectors = [builder.load(at(*read, m), align=target.dtype.bitwidth // 8) for m in range(size)]
        for _ in range(size.bit_length() - 1):
            pairs = [(a, b, first) for a, b in zip(vectors[:half], vectors[half:]) for first in (0, half)]
            vectors = [_shuffle(builder, a, b, [k // 2 + k % 2 * size + first for k in range(size)]) for a, b, first in pairs]
        for m, row in enumerate(vectors):
            builder.store(row, at(*write, m), align=target.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(source, target, types.intp, types.intp), generate


def _shuffle(builder: ir.IRBuilder, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _splat(builder: ir.IRBuilder, number: Any, vector: ir.VectorType) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.IntType(32)(0))
    return _shuffle(builder, first, undefined, [0] * vector.count)


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
        phi.add_incoming(later, builder.block)  # where an inner loop ends
    builder.branch(check)
    builder.position_at_end(after)
    return state
