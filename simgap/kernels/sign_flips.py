"""What a token's overlaps would be with other signs, in sketches: each pair's products of coordinates, added up into a few buckets.

For unit vectors u, v of a pair of experts on a token, a_i = u_i v_i s_i with fair signs s_i. Bucket b holds the sum of a_i over i = b
modulo the number of buckets, and the table of a pair of experts is the sum of its tokens' outer products of buckets.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from simgap.kernels.compiled import BORROWED, kernel
from simgap.kernels.products import widened
from simgap.kernels.tiles import LINE_BYTES, prefetch

# Coordinates that are multiplied side by side, and the most buckets; numbers in one vector of them, as many as four bytes a word allow.
BUCKETS, ABREAST = 32, 8
# Rows that are added to a table at a time.
DEPTH = 4


@intrinsic
def _lane_sums(typingctx, rows, offsets, signs, windows, columns, out, held, soon):
    """out[b] = sum of a_i s_i and out[BUCKETS + b] = sum of a_i^2 over i = b modulo BUCKETS, a_i = rows[left + i] rows[right + i], s_i the
    sign of both bytes at `windows`, which lie as `in_order` says; added to what `out` held where that is to be kept.

    rows, out: arrays of one type, float32 or float64. offsets: (left, right), in `rows`. windows: (left, right) in `signs`, multiples of
    BUCKETS, as `columns` is. soon: an offset whose numbers are asked for meanwhile.
    """
    element = ir.FloatType() if rows.dtype == types.float32 else ir.DoubleType()
    vector, align = ir.VectorType(element, ABREAST), rows.dtype.bitwidth // 8
    words, bits = (ir.VectorType(ir.IntType(size), ABREAST) for size in (32, rows.dtype.bitwidth))

    def codegen(context, builder, signature, arguments):
        data, given, to = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 5))
        offsets, windows = (cgutils.unpack_tuple(builder, arguments[i]) for i in (1, 3))

        def at(base, offset, number, kind):
            address = builder.gep(base, [builder.add(offset, context.get_constant(types.intp, number))])
            return builder.bitcast(address, kind.as_pointer())

        start, step = (context.get_constant(types.intp, value) for value in (0, BUCKETS))
        sums = [at(to, start, lane, vector) for lane in range(0, 2 * BUCKETS, ABREAST)]
        zero = ir.Constant(vector, [0.0] * ABREAST)
        begin = [builder.select(arguments[6], builder.load(address, align=align), zero) for address in sums]
        held = [cgutils.alloca_once_value(builder, value) for value in begin]
        with cgutils.for_range_slice(builder, start, arguments[4], step) as (column, _):
            both = [builder.load(at(given, builder.add(window, column), 0, words), align=1) for window in windows]
            flips = builder.xor(*both)
            for line in range(0, BUCKETS, LINE_BYTES * 8 // rows.dtype.bitwidth):
                prefetch(
                    builder, builder.gep(data, [builder.add(builder.add(arguments[7], column), context.get_constant(types.intp, line))])
                )
            for part in range(BUCKETS // ABREAST):
                left, right = (at(data, builder.add(offset, column), ABREAST * part, vector) for offset in offsets)
                a = builder.fmul(builder.load(left, align=align), builder.load(right, align=align))
                moved = builder.shl(flips, ir.Constant(words, [8 * part] * ABREAST))
                sign = builder.and_(moved, ir.Constant(words, [1 << 31] * ABREAST))
                if bits != words:
                    sign = builder.shl(builder.zext(sign, bits), ir.Constant(bits, [32] * ABREAST))
                signed = builder.bitcast(builder.xor(builder.bitcast(a, bits), sign), vector)
                square = builder.fmul(a, a, flags=("contract",))
                for term, total in zip((signed, square), held[part :: BUCKETS // ABREAST], strict=True):
                    builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
        for address, total in zip(sums, held, strict=True):
            builder.store(builder.load(total), address, align=align)
        return context.get_dummy_value()

    return types.void(rows, offsets, signs, windows, columns, out, held, soon), codegen


def in_order(signs):
    """Fair signs, +1 or -1, from the bytes whose highest bits they are: (..., a multiple of BUCKETS), in the order of the columns. A vector
    of ABREAST words has those of ABREAST columns in its highest bits, and shifted by a byte those of the next."""
    columns = signs.reshape(-1, ABREAST, BUCKETS // ABREAST)[..., ::-1].swapaxes(1, 2)
    return 1.0 - 2.0 * (columns >> 7).reshape(signs.shape)


@kernel(error_model="numpy", **BORROWED)
def _unit_row(flat, start, width, root, top, rows, to):
    """rows[to + i] = row[i] / |row|, root / top = 1 / |row|."""
    start, to = np.uint64(start), np.uint64(to)
    for i in range(np.uint64(width)):
        rows[to + i] = np.float64(widened(flat[start + i])) / top * root


@kernel(forceinline=True, **BORROWED)
def _sketch(rows, offsets, signs, windows, width, lanes, held, soon):
    whole = width // BUCKETS * BUCKETS
    _lane_sums(rows, offsets, signs, windows, whole, lanes, held, soon)
    for lane in range(width - whole):
        a = rows[offsets[0] + whole + lane] * rows[offsets[1] + whole + lane]
        byte = whole + lane % ABREAST * (BUCKETS // ABREAST) + BUCKETS // ABREAST - 1 - lane // ABREAST
        lanes[lane] += -a if (signs[windows[0] + byte] ^ signs[windows[1] + byte]) > 127 else a
        lanes[BUCKETS + lane] += a * a


@intrinsic
def _add_products(typingctx, to, at, rows, left, right, count, size):
    """to[at + i] += the sum over r < DEPTH of rows[left + r size] rows[right + r size + i] for i < count, a multiple of ABREAST."""
    element = ir.FloatType() if rows.dtype == types.float32 else ir.DoubleType()
    vector, align = ir.VectorType(element, ABREAST), rows.dtype.bitwidth // 8
    first = ir.Constant(ir.VectorType(ir.IntType(32), ABREAST), [0] * ABREAST)

    def codegen(context, builder, signature, arguments):
        out, data = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        apart = [builder.mul(arguments[6], context.get_constant(types.intp, r)) for r in range(DEPTH)]
        offsets = [[builder.add(arguments[i], each) for each in apart] for i in (3, 4)]
        factors = [builder.load(builder.gep(data, [offset])) for offset in offsets[0]]
        factors = [builder.insert_element(ir.Constant(vector, ir.Undefined), each, ir.Constant(ir.IntType(32), 0)) for each in factors]
        factors = [builder.shuffle_vector(each, each, first) for each in factors]

        def at(base, offset, column):
            return builder.bitcast(builder.gep(base, [builder.add(offset, column)]), vector.as_pointer())

        start, step = (context.get_constant(types.intp, value) for value in (0, ABREAST))
        with cgutils.for_range_slice(builder, start, arguments[5], step) as (column, _):
            held = at(out, arguments[1], column)
            total = builder.load(held, align=align)
            for factor, offset in zip(factors, offsets[1], strict=True):
                term = builder.fmul(factor, builder.load(at(data, offset, column), align=align), flags=("contract",))
                total = builder.fadd(total, term, flags=("contract",))
            builder.store(total, held, align=align)
        return context.get_dummy_value()

    return types.void(to, types.intp, rows, types.intp, types.intp, types.intp, types.intp), codegen


@kernel(forceinline=True, **BORROWED)
def _add_to(tables, waiting, number, lanes, square):
    """Have a pair's lanes wait for their table, scaled; DEPTH of them are added at a time. `square` times the sum of their squares."""
    buckets, half = tables.shape[2], BUCKETS // 2
    while half >= buckets:
        for b in range(half):
            lanes[b] += lanes[half + b]
            lanes[BUCKETS + b] += lanes[BUCKETS + half + b]
        half //= 2
    rows, filled = waiting
    table, row, root = tables[number], rows[number, filled[number]], np.sqrt(square)
    for b in range(buckets):
        row[b] = root * lanes[b]
        table[buckets, b] += square * lanes[BUCKETS + b]
    filled[number] += 1
    if filled[number] == DEPTH:
        _add_outer(table, rows[number])
        filled[number] = 0
    return square * _sum(lanes, BUCKETS, buckets)


@kernel(**BORROWED)
def _add_outer(table, rows):
    """Add the outer products of DEPTH rows: what lies above the diagonal, and some of what lies below."""
    buckets, flat, data = table.shape[1], table.reshape(-1), rows.reshape(-1)
    for b in range(buckets):
        if buckets >= ABREAST:
            first = b // ABREAST * ABREAST
            _add_products(flat, b * buckets + first, data, b, first, buckets - first, buckets)
        else:
            for c in range(b, buckets):
                for r in range(DEPTH):
                    table[b, c] += rows[r, b] * rows[r, c]


@kernel(**BORROWED)
def add_waiting(tables, waiting):
    """Add the rows that still wait for their tables."""
    rows, filled = waiting
    for number in range(filled.size):
        if filled[number]:
            rows[number, filled[number] :] = 0.0
            _add_outer(tables[number], rows[number])
            filled[number] = 0


@kernel(fastmath={"reassoc", "contract"}, forceinline=True, **BORROWED)
def _sum(lanes, start, count):
    total, start = 0.0, np.uint64(start)
    for b in range(np.uint64(count)):
        total += lanes[start + b]
    return total


@kernel(forceinline=True, **BORROWED)
def add_lanes(flat, token, columns, t, signs, state):
    """Add the products of a token's rows over some columns, pair by pair, to the lanes: while the rows are in the nearest cache. Only of
    numbers of the lanes' own type. columns: the first, a multiple of BUCKETS, the last, and a row whose ones are wanted next; others as
    for `add_flips`."""
    at, slots, _, count = token
    first, last, soon = columns
    pool, windows, experts = signs
    unit, lanes = state[0].reshape(-1), state[1]
    pair = 0
    for i in range(count):
        left = windows[0, experts[t, slots[i]]] + first
        for j in range(i + 1, count):
            right = windows[1, experts[t, slots[j]]] + first
            _sketch_of(flat, unit, (at[i] + first, at[j] + first), pool, (left, right), last - first, lanes[pair], first > 0, soon + first)
            pair += 1


@kernel(forceinline=True, **BORROWED)
def add_flips(flat, token, inverse, width, t, signs, state):
    """Add the sketches of a token's pairs, their lanes, to the tables of their experts.

    token: at, slots, tops of the token's vectors: where they begin, which columns of `experts` are theirs, what they were divided by before
    1 / |row|^2 was taken, which is `inverse`, 0 for a zero row. signs: pool, bytes as for `in_order`; windows (3, E), where in it the signs
    of each expert begin, on the left and on the right of a pair, and its group; experts (n, m). state: rows (m, width), of float32 or, for
    float64 vectors, of that; lanes (m (m - 1) / 2, 2 BUCKETS), tables (groups (groups + 1) / 2, buckets + 1, buckets) and what waits for
    them, (tables, DEPTH, buckets), of the same, and how many of these do; sums (1,), which gains sum_i (u_i v_i)^2 of each pair; groups
    (1,). `add_waiting` is to be called in the end.
    """
    at, slots, tops, count = token
    pool, windows, experts = signs
    rows, lanes, tables, waiting, sums, groups = state
    unit = rows.reshape(-1)
    plain = flat.itemsize > 2
    for i in range(count):
        # Products of four entries of other lengths could leave the format.
        plain = plain and (inverse[i] == 0.0 or (1e-16 < inverse[i] < 1e12 and tops[i] == 1.0))
    if not plain:
        for i in range(count):
            if inverse[i] != 0.0:
                _unit_row(flat, at[i], width, np.sqrt(inverse[i]), tops[i], unit, i * width)
    pair = -1
    for i in range(count):
        for j in range(i + 1, count):
            pair += 1
            if inverse[i] == 0.0 or inverse[j] == 0.0:
                continue
            left, right = experts[t, slots[i]], experts[t, slots[j]]
            if not plain:
                _sketch(unit, (i * width, j * width), pool, (windows[0, left], windows[1, right]), width, lanes[pair], False, 0)
            low, high = min(windows[2, left], windows[2, right]), max(windows[2, left], windows[2, right])
            number = low * groups[0] - low * (low - 1) // 2 + high - low
            sums[0] += _add_to(tables, waiting, number, lanes[pair], inverse[i] * inverse[j] if plain else 1.0)


def _sketch_of(flat, unit, offsets, signs, windows, width, lanes, held, soon):
    raise NotImplementedError


@overload(_sketch_of)
def _sketch_of_numbers(flat, unit, offsets, signs, windows, width, lanes, held, soon):
    # The bits of bfloat16 are no numbers; they are never taken as they lie.
    if flat.dtype != unit.dtype:
        return lambda flat, unit, offsets, signs, windows, width, lanes, held, soon: None
    return lambda flat, unit, offsets, signs, windows, width, lanes, held, soon: _sketch(
        flat, offsets, signs, windows, width, lanes, held, soon
    )
