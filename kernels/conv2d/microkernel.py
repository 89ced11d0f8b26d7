"""The two inner loops of convolution on the CPU, written as LLVM vector instructions.

Both walk flat rows of pixels in vectors and keep a tile of sums in registers. A compiler does not find such a tile by
itself: left to vectorize plain loops, it keeps the sums in memory and reaches a quarter of the speed.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_INDEX = ir.IntType(64)


def _machine() -> tuple[int, int, int]:
    """Bytes in a vector, and the tile's height in the two loops, which 32 or 16 vector registers can hold."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    if "+avx512f" in features:
        return 64, 8, 6
    if "+avx," in features + ",":
        return 32, 4, 3
    return 16, 8 if triple.startswith(("aarch64", "arm64")) else 4, 3


VECTOR_BYTES, ROWS, TAPS = _machine()
COLUMNS = 3  # vectors of pixels in a tile of `convolve_tile`
WIDE = 8  # vectors of pixels for a single row, which needs more of them to keep the arithmetic units busy
DOTS = 4  # rows of g in a tile of `correlate_tile`


def _pointer(context, builder, kind, array, index):
    """Address of element `index` of a flat contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _load(builder, pointer, kind, alignment):
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=alignment)


def _multiply_add(builder, kind, a, b, c):
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, (kind, kind, kind)), f"llvm.fmuladd.v{kind.count}{_code(kind)}"
    )
    return builder.call(function, (a, b, c))


def _code(kind):
    return "f32" if isinstance(kind.element, ir.FloatType) else "f64"


def _loop(builder, count, state, body):
    """`for i in range(count): state = body(i, state)` with the state in registers; returns the final state."""
    before = builder.block
    check, inside, after = (builder.append_basic_block(name) for name in ("check", "body", "after"))
    builder.branch(check)
    builder.position_at_end(check)
    i = builder.phi(_INDEX)
    phis = [builder.phi(value.type) for value in state]
    builder.cbranch(builder.icmp_signed("<", i, count), inside, after)
    builder.position_at_end(inside)
    following = body(i, phis)
    end = builder.block
    i.add_incoming(_INDEX(0), before)
    i.add_incoming(builder.add(i, _INDEX(1)), end)
    for phi, first, value in zip(phis, state, following):
        phi.add_incoming(first, before)
        phi.add_incoming(value, end)
    builder.branch(check)
    builder.position_at_end(after)
    return phis


def convolve_tile(rows: int, columns: int):
    """Intrinsic that computes `rows` output channels at `columns` vectors of pixels.

    kernel(panel, p, x, at, offsets, begin, count, out, to, pitch) sets, for m < rows and every pixel v of the vectors,
    out[to + m pitch + v] = sum_{k < count} panel[p + k rows + m] x[at + v + offsets[begin + k]]; all arrays are flat.
    """

    @intrinsic
    def kernel(typing, panel, p, x, at, offsets, begin, count, out, to, pitch):
        signature = types.void(panel, types.intp, x, types.intp, offsets, types.intp, types.intp, out, types.intp, types.intp)

        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            weights = _pointer(context, builder, kinds[0], arguments[0], arguments[1])
            pixels = _pointer(context, builder, kinds[2], arguments[2], arguments[3])
            table = _pointer(context, builder, kinds[4], arguments[4], arguments[5])
            target = _pointer(context, builder, kinds[7], arguments[7], arguments[8])
            element, size = weights.type.pointee, x.dtype.bitwidth // 8
            lanes = VECTOR_BYTES // size
            vector = ir.VectorType(element, lanes)

            def body(k, sums):
                shifted = builder.gep(pixels, [builder.load(builder.gep(table, [k]))])
                xs = [_load(builder, builder.gep(shifted, [_INDEX(v * lanes)]), vector, size) for v in range(columns)]
                column = builder.gep(weights, [builder.mul(k, _INDEX(rows))])
                result = []
                for m in range(rows):
                    scalar = builder.load(builder.gep(column, [_INDEX(m)]))
                    weight = _broadcast(builder, vector, scalar)
                    for v in range(columns):
                        result.append(_multiply_add(builder, vector, weight, xs[v], sums[m * columns + v]))
                return result

            zero = ir.Constant(vector, [0.0] * lanes)
            sums = _loop(builder, arguments[6], [zero] * (rows * columns), body)
            for m in range(rows):
                row = builder.gep(target, [builder.mul(arguments[9], _INDEX(m))])
                for v in range(columns):
                    place = builder.bitcast(builder.gep(row, [_INDEX(v * lanes)]), vector.as_pointer())
                    builder.store(sums[m * columns + v], place, align=size)
            return context.get_dummy_value()

        return signature, codegen

    return kernel


def _broadcast(builder, vector, scalar):
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(
        single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    )


def correlate_tile(rows: int, taps: int):
    """Intrinsic that computes the dot products of `rows` rows of g with x at `taps` shifts.

    kernel(g, first, pitch, x, at, offsets, begin, count, out) sets, for m < rows and k < taps,
    out[m taps + k] = sum_{v < count vectors} g[first + m pitch + v] x[at + v + offsets[begin + k]]; all arrays are flat.
    """

    @intrinsic
    def kernel(typing, g, first, pitch, x, at, offsets, begin, count, out):
        signature = types.void(g, types.intp, types.intp, x, types.intp, offsets, types.intp, types.intp, out)

        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            source = _pointer(context, builder, kinds[0], arguments[0], arguments[1])
            pixels = _pointer(context, builder, kinds[3], arguments[3], arguments[4])
            table = _pointer(context, builder, kinds[5], arguments[5], arguments[6])
            target = _pointer(context, builder, kinds[8], arguments[8], _INDEX(0))
            element, size = source.type.pointee, x.dtype.bitwidth // 8
            lanes = VECTOR_BYTES // size
            vector = ir.VectorType(element, lanes)
            lines = [builder.gep(source, [builder.mul(arguments[2], _INDEX(m))]) for m in range(rows)]
            shifted = [builder.gep(pixels, [builder.load(builder.gep(table, [_INDEX(k)]))]) for k in range(taps)]

            def body(i, sums):
                position = builder.mul(i, _INDEX(lanes))
                xs = [_load(builder, builder.gep(start, [position]), vector, size) for start in shifted]
                result = []
                for m in range(rows):
                    gs = _load(builder, builder.gep(lines[m], [position]), vector, size)
                    for k in range(taps):
                        result.append(_multiply_add(builder, vector, gs, xs[k], sums[m * taps + k]))
                return result

            zero = ir.Constant(vector, [0.0] * lanes)
            sums = _loop(builder, arguments[7], [zero] * (rows * taps), body)
            for i, total in enumerate(sums):
                builder.store(_sum_lanes(builder, total), builder.gep(target, [_INDEX(i)]))
            return context.get_dummy_value()

        return signature, codegen

    return kernel


def _sum_lanes(builder, value):
    """The sum over a vector's lanes, as a tree: upper half onto lower half until one is left."""
    count = value.type.count
    while count > 1:
        count //= 2
        halves = [
            builder.shuffle_vector(
                value, value, ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(start, start + count)))
            )
            for start in (0, count)
        ]
        value = builder.fadd(*halves)
    return builder.extract_element(value, ir.IntType(32)(0))
