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


def _store(builder, value, pointer, alignment):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=alignment)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


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
                    _store(builder, sums[m * columns + v], builder.gep(row, [_INDEX(v * lanes)]), size)
            return context.get_dummy_value()

        return signature, codegen

    return kernel


def _broadcast(builder, vector, scalar):
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    return _shuffle(builder, single, single, [0] * vector.count)


def correlate_tile(rows: int, taps: int):
    """Intrinsic that computes the dot products of `rows` rows of g with x at `taps` shifts.

    kernel(g, first, pitch, x, at, offsets, begin, count, out) sets, for m < rows and k < taps,
    out[m taps + k] = sum_{v < count vectors} g[first + m pitch + v] x[at + v + offsets[begin + k]]; all arrays are flat, and
    out has room for whole vectors.
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
            for i, total in enumerate(_sum_lanes(builder, sums)):
                _store(builder, total, builder.gep(target, [_INDEX(i * lanes)]), size)
            return context.get_dummy_value()

        return signature, codegen

    return kernel


def _sum_lanes(builder, vectors):
    """The sums over the lanes of each vector, in order, packed in as few vectors as hold them.

    Adding the odd lanes of a pair of vectors to the even ones leaves one vector with half as many lanes for each of the two.
    """
    lanes = vectors[0].type.count
    for _ in range(lanes.bit_length() - 1):
        pairs = [(a, vectors[i + 1] if i + 1 < len(vectors) else a) for i, a in enumerate(vectors) if i % 2 == 0]
        vectors = [
            builder.fadd(_shuffle(builder, a, b, range(0, 2 * lanes, 2)), _shuffle(builder, a, b, range(1, 2 * lanes, 2)))
            for a, b in pairs
        ]
    return vectors


def _pieces(builder, count, lanes, move):
    """Call `move(position, n)` for pieces that cover `count` elements: vectors, then halves of them, down to one element."""

    def body(i, state):
        move(builder.mul(i, _INDEX(lanes)), lanes)
        return state

    whole = builder.sdiv(count, _INDEX(lanes))
    _loop(builder, whole, [], body)
    position = builder.mul(whole, _INDEX(lanes))
    n = lanes // 2
    while n:
        present = builder.and_(count, _INDEX(n))
        with builder.if_then(builder.icmp_signed("!=", present, _INDEX(0))):
            move(position, n)
        position = builder.add(position, present)
        n //= 2


def copy_in(step: int):
    """Intrinsic kernel(source, at, count, target, to): target[to + j] = source[at + j step] for j < count; step 1 or 2."""

    @intrinsic
    def kernel(typing, source, at, count, target, to):
        def codegen(context, builder, signature, arguments):
            kinds, size = signature.args, source.dtype.bitwidth // 8
            read = _pointer(context, builder, kinds[0], arguments[0], arguments[1])
            write = _pointer(context, builder, kinds[3], arguments[3], arguments[4])

            def move(position, n):
                vector = ir.VectorType(read.type.pointee, n)
                first = builder.gep(read, [builder.mul(position, _INDEX(step))])
                value = _load(builder, first, vector, size)
                if step == 2:  # nothing past the last element wanted is read: the second vector overlaps the first
                    rest = _load(builder, builder.gep(first, [_INDEX(n - 1)]), vector, size)
                    value = _shuffle(builder, value, rest, [2 * j if 2 * j < n else 2 * j + 1 for j in range(n)])
                _store(builder, value, builder.gep(write, [position]), size)

            _pieces(builder, arguments[2], VECTOR_BYTES // size, move)
            return context.get_dummy_value()

        return types.void(source, types.intp, types.intp, target, types.intp), codegen

    return kernel


def copy_out(step: int):
    """Intrinsic kernel(source, at, pitch, shift, target, to, count): for j < count and q < step, step 1 or 2,
    target[to + j step + q] = source[at + q pitch + j] + shift.
    """

    @intrinsic
    def kernel(typing, source, at, pitch, shift, target, to, count):
        def codegen(context, builder, signature, arguments):
            kinds, size = signature.args, source.dtype.bitwidth // 8
            read = _pointer(context, builder, kinds[0], arguments[0], arguments[1])
            write = _pointer(context, builder, kinds[4], arguments[4], arguments[5])

            def move(position, n):
                vector = ir.VectorType(read.type.pointee, n)
                shifts = _broadcast(builder, vector, arguments[3])
                values = []
                for q in range(step):
                    start = builder.gep(read, [builder.add(position, builder.mul(arguments[2], _INDEX(q)))])
                    values.append(builder.fadd(_load(builder, start, vector, size), shifts))
                value = values[0]
                if step == 2:
                    value = _shuffle(builder, *values, [j // 2 + n * (j % 2) for j in range(2 * n)])
                _store(builder, value, builder.gep(write, [builder.mul(position, _INDEX(step))]), size)

            _pieces(builder, arguments[6], VECTOR_BYTES // size, move)
            return context.get_dummy_value()

        return types.void(source, types.intp, types.intp, shift, target, types.intp, types.intp), codegen

    return kernel
