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

# Coordinates that are multiplied side by side, and the most buckets.
BUCKETS = 32


@intrinsic
def _lane_sums(typingctx, rows, places, signs, windows, columns, out):
    """out[b] = sum of a_i s_i and out[BUCKETS + b] = sum of a_i^2 over i = b modulo BUCKETS, a_i = rows[left + i] rows[right + i] and s_i
    of the signs likewise.

    rows, signs, out: arrays of one type, float32 or float64. places, windows: (left, right). columns: a multiple of BUCKETS.
    """
    element = ir.FloatType() if rows.dtype == types.float32 else ir.DoubleType()
    vector, align = ir.VectorType(element, BUCKETS), rows.dtype.bitwidth // 8

    def codegen(context, builder, signature, arguments):
        data, given, to = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 5))
        held = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * BUCKETS)) for _ in range(2)]
        start, step = (context.get_constant(types.intp, value) for value in (0, BUCKETS))

        def at(base, place):
            return builder.bitcast(builder.gep(base, [place]), vector.as_pointer())

        def product(base, pair, column):
            return builder.fmul(*(builder.load(at(base, builder.add(place, column)), align=align) for place in pair))

        places, windows = (cgutils.unpack_tuple(builder, arguments[i]) for i in (1, 3))
        with cgutils.for_range_slice(builder, start, arguments[4], step) as (column, _):
            a, s = product(data, places, column), product(given, windows, column)
            for other, total in zip((s, a), held, strict=True):
                term = builder.fmul(a, other, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
        for place, total in zip((0, BUCKETS), held, strict=True):
            builder.store(builder.load(total), at(to, context.get_constant(types.intp, place)), align=align)
        return context.get_dummy_value()

    return types.void(rows, places, signs, windows, columns, out), codegen


@kernel(error_model="numpy", **BORROWED)
def _unit_row(flat, start, width, root, top, rows, to):
    """rows[to + i] = row[i] / |row|, root / top = 1 / |row|."""
    start, to = np.uint64(start), np.uint64(to)
    for i in range(np.uint64(width)):
        rows[to + i] = np.float64(widened(flat[start + i])) / top * root


@kernel(**BORROWED)
def _sketch(rows, places, signs, windows, width, lanes):
    whole = width // BUCKETS * BUCKETS
    _lane_sums(rows, places, signs, windows, whole, lanes)
    for i in range(whole, width):
        a = rows[places[0] + i] * rows[places[1] + i]
        lanes[i - whole] += a * signs[windows[0] + i] * signs[windows[1] + i]
        lanes[BUCKETS + i - whole] += a * a


@kernel(**BORROWED)
def _add_to(table, lanes, scale):
    """Add `scale` times a pair's sketch to its table, (buckets + 1, buckets), the squares in the last row; the sum of the squares."""
    buckets, half = table.shape[1], BUCKETS // 2
    while half >= buckets:
        for b in range(half):
            lanes[b] += lanes[half + b]
            lanes[BUCKETS + b] += lanes[BUCKETS + half + b]
        half //= 2
    total, square = 0.0, scale * scale
    for b in range(buckets):
        left = square * lanes[b]
        for c in range(buckets):
            table[b, c] += left * lanes[c]
        table[buckets, b] += square * lanes[BUCKETS + b]
        total += square * lanes[BUCKETS + b]
    return total


@kernel(**BORROWED)
def add_flips(flat, token, inverse, width, t, signs, state):
    """Add the sketches of a token's pairs to the tables of their experts.

    token: at, slots, tops of the token's vectors: where they begin, which columns of `experts` are theirs, what they were divided by before
    1 / |row|^2 was taken, which is `inverse`, 0 for a zero row. signs: pool, of the type of the state's rows; windows (2, E), where in it
    the signs of each expert begin, on the left and on the right of a pair; experts (n, m). state: rows (m, width), of float32 or, for
    float64 vectors, of that; lanes (2 BUCKETS,); tables (groups (groups + 1) / 2, buckets + 1, buckets); sums (1,), which gains
    sum_i (u_i v_i)^2 of each pair; groups (1,), by which experts are counted off.
    """
    at, slots, tops, count = token
    pool, windows, experts = signs
    rows, lanes, tables, sums, groups = state
    unit = rows.reshape(-1)
    plain = flat.itemsize > 2
    for i in range(count):
        # Products of four entries of other lengths could leave the format.
        plain = plain and (inverse[i] == 0.0 or (1e-16 < inverse[i] < 1e12 and tops[i] == 1.0))
    if not plain:
        for i in range(count):
            if inverse[i] != 0.0:
                _unit_row(flat, at[i], width, np.sqrt(inverse[i]), tops[i], unit, i * width)
    for i in range(count):
        for j in range(i + 1, count):
            if inverse[i] == 0.0 or inverse[j] == 0.0:
                continue
            left, right = experts[t, slots[i]], experts[t, slots[j]]
            begin = windows[0, left], windows[1, right]
            scale = 1.0
            if plain:
                _sketch_of(flat, unit, (at[i], at[j]), pool, begin, width, lanes)
                scale = np.sqrt(inverse[i] * inverse[j])
            else:
                _sketch(unit, (i * width, j * width), pool, begin, width, lanes)
            low, high = min(left % groups[0], right % groups[0]), max(left % groups[0], right % groups[0])
            sums[0] += _add_to(tables[low * groups[0] - low * (low - 1) // 2 + high - low], lanes, scale)


def _sketch_of(flat, unit, places, signs, windows, width, lanes):
    raise NotImplementedError


@overload(_sketch_of)
def _sketch_of_numbers(flat, unit, places, signs, windows, width, lanes):
    # The bits of bfloat16 are no numbers; they are never taken as they lie.
    if flat.dtype != unit.dtype:
        return lambda flat, unit, places, signs, windows, width, lanes: None
    return lambda flat, unit, places, signs, windows, width, lanes: _sketch(flat, places, signs, windows, width, lanes)
