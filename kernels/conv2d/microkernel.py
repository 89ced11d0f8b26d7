"""The inner loops of convolution on the CPU, written as LLVM vector instructions.

The two that compute walk flat rows of pixels in vectors and keep a tile of sums in registers. A compiler does not find such a
tile by itself: left to vectorize plain loops, it keeps the sums in memory and reaches a quarter of the speed. The two that copy
move rows of 7 or 28 elements, for which a compiled loop takes one element at a time.
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


# ---- Arithmetic ----


def convolve_tile(rows: int, columns: int):
    """Intrinsic that computes `rows` output channels at `columns` vectors of pixels.

    kernel(panel, p, x, at, offsets, begin, count, out, to, pitch) sets, for m < rows and every pixel v of the vectors,
    out[to + m pitch + v] = sum_{k < count} panel[p + k rows + m] x[at + v + offsets[begin + k]]; all arrays are flat.
    """

    def body(builder, panel, p, x, at, offsets, begin, count, out, to, pitch):
        vector = _vector(x)
        weights, pixels, table, target = (_at(builder, *a) for a in ((panel, p), (x, at), (offsets, begin), (out, to)))

        def add_term(k, sums):
            shifted = _at(builder, pixels, builder.load(_at(builder, table, k)))
            xs = [_load(builder, _at(builder, shifted, v * vector.count), vector) for v in range(columns)]
            column = _at(builder, weights, builder.mul(k, _INDEX(rows)))
            result = []
            for m in range(rows):
                weight = _broadcast(builder, vector, builder.load(_at(builder, column, m)))
                result += [_multiply_add(builder, weight, xs[v], sums[m * columns + v]) for v in range(columns)]
            return result

        sums = _loop(builder, count, [_zeros(vector)] * (rows * columns), add_term)
        for m in range(rows):
            row = _at(builder, target, builder.mul(pitch, _INDEX(m)))
            for v in range(columns):
                _store(builder, sums[m * columns + v], _at(builder, row, v * vector.count))

    @intrinsic
    def kernel(typing, panel, p, x, at, offsets, begin, count, out, to, pitch):
        return _function(f"convolve_{rows}_{columns}", body, panel, p, x, at, offsets, begin, count, out, to, pitch)

    return kernel


def correlate_tile(rows: int, taps: int):
    """Intrinsic that computes the dot products of `rows` rows of g with x at `taps` shifts.

    kernel(g, first, pitch, x, at, offsets, begin, count, out, to) adds, for m < rows and k < taps, to out[to + m taps + k] the
    sum_{v < count vectors} g[first + m pitch + v] x[at + v + offsets[begin + k]]. All arrays are flat; what whole vectors hold
    of out after the last product is overwritten.
    """

    def body(builder, g, first, pitch, x, at, offsets, begin, count, out, to):
        vector = _vector(x)
        source, pixels, table, target = (_at(builder, *a) for a in ((g, first), (x, at), (offsets, begin), (out, to)))
        lines = [_at(builder, source, builder.mul(pitch, _INDEX(m))) for m in range(rows)]
        shifted = [_at(builder, pixels, builder.load(_at(builder, table, k))) for k in range(taps)]

        def add_products(i, sums):
            position = builder.mul(i, _INDEX(vector.count))
            xs = [_load(builder, _at(builder, start, position), vector) for start in shifted]
            result = []
            for m in range(rows):
                gs = _load(builder, _at(builder, lines[m], position), vector)
                result += [_multiply_add(builder, gs, xs[k], sums[m * taps + k]) for k in range(taps)]
            return result

        sums = _loop(builder, count, [_zeros(vector)] * (rows * taps), add_products)
        for i, totals in enumerate(_sum_lanes(builder, sums)):
            place = _at(builder, target, i * vector.count)
            _store(builder, builder.fadd(_load(builder, place, vector), totals), place)

    @intrinsic
    def kernel(typing, g, first, pitch, x, at, offsets, begin, count, out, to):
        return _function(f"correlate_{rows}_{taps}", body, g, first, pitch, x, at, offsets, begin, count, out, to)

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


# ---- Copies ----


@intrinsic
def copy_in(typing, source, at, across, step, width, target, to, line, pitch, height):
    """Rows of an image, every `step`-th element of them, into a plane: for i < height,
    target[to + i line + j] = source[at + i across + j step] for j < width, and 0 for width <= j < pitch.
    """
    return _function("copy_in", _copy_in, source, at, across, step, width, target, to, line, pitch, height)


def _copy_in(builder, source, at, across, step, width, target, to, line, pitch, height):
    read, write = _at(builder, source, at), _at(builder, target, to)

    def rows(known_step):
        def move(i, position, n):
            vector = ir.VectorType(source.type.pointee, n)
            first = _at(builder, read, builder.add(builder.mul(i, across), builder.mul(position, step)))
            value = _load(builder, first, vector)
            if known_step == 2:  # nothing past the last element wanted is read: the second vector overlaps the first
                rest = _load(builder, _at(builder, first, n - 1), vector)
                value = _shuffle(builder, value, rest, [2 * j if 2 * j < n else 2 * j + 1 for j in range(n)])
            _store(builder, value, _at(builder, write, builder.add(builder.mul(i, line), position)))

        def row(i):
            _pieces(builder, width, _vector(source).count if known_step else 1, lambda position, n: move(i, position, n))
            gap = _at(builder, write, builder.add(builder.mul(i, line), width))
            zero = ir.Constant(source.type.pointee, 0.0)
            _repeat(builder, builder.sub(pitch, width), lambda j: builder.store(zero, _at(builder, gap, j)))

        _repeat(builder, height, row)

    _by_step(builder, step, rows)


@intrinsic
def copy_out(typing, source, at, pitch, line, shift, target, to, across, step, width, height):
    """Results of `step` grids, side by side, into rows of an image: for i < height and j step + q < width,
    target[to + i across + j step + q] = source[at + q pitch + i line + j] + shift.
    """
    return _function("copy_out", _copy_out, source, at, pitch, line, shift, target, to, across, step, width, height)


def _copy_out(builder, source, at, pitch, line, shift, target, to, across, step, width, height):
    read, write = _at(builder, source, at), _at(builder, target, to)

    def move(line_read, line_write, position, n, phases):
        vector = ir.VectorType(source.type.pointee, n)
        shifts = _broadcast(builder, vector, shift)
        places = [builder.add(position, builder.mul(pitch, _INDEX(q))) for q in range(phases)]
        values = [builder.fadd(_load(builder, _at(builder, line_read, place), vector), shifts) for place in places]
        value = values[0] if phases == 1 else _shuffle(builder, *values, [j // 2 + n * (j % 2) for j in range(2 * n)])
        _store(builder, value, _at(builder, line_write, builder.mul(position, step)))

    def rows(known_step):
        def row(i):
            begin, end = _at(builder, read, builder.mul(i, line)), _at(builder, write, builder.mul(i, across))
            if known_step:
                whole = builder.sdiv(width, step)
                _pieces(builder, whole, _vector(source).count, lambda j, n: move(begin, end, j, n, known_step))
                if known_step == 2:
                    with builder.if_then(builder.trunc(width, ir.IntType(1))):
                        move(begin, end, whole, 1, 1)
            else:
                _repeat(builder, step, lambda q: phase(begin, end, q))

        def phase(begin, end, q):
            count = builder.sdiv(builder.sub(builder.add(width, step), builder.add(q, _INDEX(1))), step)
            here, there = _at(builder, begin, builder.mul(q, pitch)), _at(builder, end, q)
            _repeat(builder, count, lambda j: move(here, there, j, 1, 1))

        _repeat(builder, height, row)

    _by_step(builder, step, rows)


def _pieces(builder, count, lanes, move):
    """Call `move(position, n)` for pieces that cover `count` elements: vectors, then halves of them, down to one element."""
    whole = builder.sdiv(count, _INDEX(lanes))
    _repeat(builder, whole, lambda i: move(builder.mul(i, _INDEX(lanes)), lanes))
    position = builder.mul(whole, _INDEX(lanes))
    n = lanes // 2
    while n:
        present = builder.and_(count, _INDEX(n))
        with builder.if_then(builder.icmp_signed("!=", present, _INDEX(0))):
            move(position, n)
        position = builder.add(position, present)
        n //= 2


def _by_step(builder, step, emit):
    """emit(1), emit(2) or emit(None), as the number `step` is 1, 2 or something else."""
    with builder.if_else(builder.icmp_signed("==", step, _INDEX(1))) as (one, more):
        with one:
            emit(1)
        with more, builder.if_else(builder.icmp_signed("==", step, _INDEX(2))) as (two, many):
            with two:
                emit(2)
            with many:
                emit(None)


# ---- Building blocks ----


def _function(name, body, *kinds):
    """What an intrinsic returns: its signature, and code that calls a function whose instructions `body(builder, ...)` emits.

    Arrays reach it as pointers to their first element. It is a function of its own, never inlined, so that LLVM optimizes it
    once for each of the modules that Numba makes of its callers, and not once for each call in them.
    """
    signature = types.void(*kinds)
    dtype = next(kind.dtype for kind in kinds if isinstance(kind, types.Array))

    def codegen(context, builder, signature, arguments):
        values = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(kinds, arguments)
        ]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        function = cgutils.get_or_insert_function(builder.module, kind, f"tinygen_conv2d_{name}_{dtype}")
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block("entry"))
            body(inner, *function.args)
            inner.ret_void()
        builder.call(function, values)
        return context.get_dummy_value()

    return signature, codegen


def _vector(pointer):
    """The type of a vector of what `pointer` points to."""
    element = pointer.type.pointee
    return ir.VectorType(element, VECTOR_BYTES // _size(element))


def _size(element):
    return 4 if isinstance(element, ir.FloatType) else 8


def _at(builder, pointer, index):
    return builder.gep(pointer, [_INDEX(index) if isinstance(index, int) else index])


def _load(builder, pointer, kind):
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=_size(kind.element))


def _store(builder, value, pointer):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=_size(value.type.element))


def _zeros(vector):
    return ir.Constant(vector, [0.0] * vector.count)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _broadcast(builder, vector, scalar):
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    return _shuffle(builder, single, single, [0] * vector.count)


def _multiply_add(builder, a, b, c):
    """a b + c, fused where the machine can."""
    name = f"llvm.fmuladd.v{a.type.count}f{8 * _size(a.type.element)}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, (a, b, c))


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


def _repeat(builder, count, body):
    """`for i in range(count): body(i)`."""

    def turn(i, state):
        body(i)
        return state

    _loop(builder, count, [], turn)
