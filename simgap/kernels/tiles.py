"""Inner products of a few rows at once, written for LLVM's vectors: the arithmetic of every overlap.

numba would vectorise the same loops written in Python, but with registers of half the width that the CPU has, and it cannot be told to ask
memory for the next rows from inside such a loop. Both are needed to read at the speed of memory. Everything here is one function, `tile`;
its callers are plain loops.
"""

import functools

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_BYTES = 64
# float64 in a vector register: 8 with AVX-512, 4 with AVX, 2 elsewhere.
LANES = next((lanes for feature, lanes in (("avx512f", 8), ("avx", 4)) if llvm.get_host_cpu_features().get(feature)), 2)
# Columns come to `tile` in multiples of this.
STEP = 4 * LANES
# Sums that are carried side by side: fewer wait for each other, more do not fit the registers, of which AVX-512 has 32 and others 16.
MOST_SUMS = 20 if LANES == 8 else 12

DOUBLE, NUMBER = ir.DoubleType(), ir.IntType(32)
VECTOR = ir.VectorType(DOUBLE, LANES)


@intrinsic
def tile(typingctx, flat, left, right, ahead, columns):
    """Products of rows over the first `columns` columns (a multiple of STEP): each of the left with each of the right, row by row, or
    where right is None the upper triangle of the left with themselves.

    flat: array of float32, float64, or uint16 (the bits of bfloat16, the high half of a float32's). left, right: tuples of where
    in `flat` rows begin; sums are float64, LANES of them or more to each product. ahead: where rows begin that start to be loaded into the
    second-level cache meanwhile, or None; these may lie anywhere, a hint is never read.
    """
    if not isinstance(flat, types.Array) or flat.dtype not in (types.float32, types.float64, types.uint16):
        return None
    rows, others = left.count, right.count if isinstance(right, types.BaseTuple) else 0
    pairs = [(i, rows + j) for i in range(rows) for j in range(others)] or [(i, j) for i in range(rows) for j in range(i, rows)]
    # Where all do not fit, first those with the one half of the right and then with the other.
    parts = [pairs] if len(pairs) <= MOST_SUMS else [[pair for pair in pairs if (pair[1] - rows) * 2 // others == half] for half in (0, 1)]

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        given = arguments[1:3] if others else arguments[1:2]
        starts = [start for value in given for start in cgutils.unpack_tuple(builder, value)]
        soon = cgutils.unpack_tuple(builder, arguments[3]) if isinstance(ahead, types.BaseTuple) else []
        abreast = max(u for u in (1, 2, 4) if u == 1 or u * len(pairs) <= MOST_SUMS)
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        sums = {pair: [cgutils.alloca_once_value(builder, zero) for _ in range(abreast)] for pair in pairs}
        start, step = context.get_constant(types.intp, 0), context.get_constant(types.intp, STEP)
        for part in parts:
            with cgutils.for_range_slice(builder, start, arguments[4], step) as (column, _):
                for block in range(0, STEP, 2 * LANES):
                    at = builder.add(column, context.get_constant(types.intp, block))
                    used = sorted({i for pair in part for i in pair})
                    values = {i: _load(builder, flat.dtype, builder.gep(data, [builder.add(starts[i], at)])) for i in used}
                    for half in (0, 1):
                        for i, j in part:
                            held = sums[i, j][(block // LANES + half) % abreast]
                            product = builder.fmul(values[i][half], values[j][half], flags=("contract",))
                            builder.store(builder.fadd(builder.load(held), product, flags=("contract",)), held)
                for hint in soon:
                    for line in range(0, STEP, LINE_BYTES * 8 // flat.dtype.bitwidth):
                        at = builder.add(column, context.get_constant(types.intp, line))
                        prefetch(builder, builder.gep(data, [builder.add(hint, at)]))
        carried = [functools.reduce(builder.fadd, [builder.load(held) for held in sums[pair]]) for pair in pairs]
        totals = [total for start in range(0, len(carried), LANES) for total in _totals(builder, carried[start : start + LANES])]
        return context.make_tuple(builder, signature.return_type, totals)

    return types.UniTuple(types.float64, len(pairs))(flat, left, right, ahead, columns), codegen


def _load(builder, dtype, address):
    """2 LANES numbers from an address as two vectors of float64, those of bfloat16 with even columns in one and odd ones in the other."""
    if dtype == types.uint16:
        words = ir.VectorType(NUMBER, LANES)
        both = builder.load(builder.bitcast(address, words.as_pointer()), align=2)
        even, odd = builder.shl(both, ir.Constant(words, [16] * LANES)), builder.and_(both, ir.Constant(words, [0xFFFF0000] * LANES))
        return [builder.fpext(builder.bitcast(bits, ir.VectorType(ir.FloatType(), LANES)), VECTOR) for bits in (even, odd)]
    element = ir.FloatType() if dtype == types.float32 else DOUBLE
    start = builder.bitcast(address, ir.VectorType(element, LANES).as_pointer())
    halves = [builder.load(builder.gep(start, [ir.Constant(NUMBER, half)]), align=dtype.bitwidth // 8) for half in (0, 1)]
    return [builder.fpext(half, VECTOR) for half in halves] if dtype == types.float32 else halves


def prefetch(builder, address):
    """Ask for the line of an address, which may be any, in the second-level cache."""
    hint = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, NUMBER, NUMBER, NUMBER])
    function = cgutils.get_or_insert_function(builder.module, hint, "llvm.prefetch.p0i8")
    read, second_level, data_cache = (ir.Constant(NUMBER, value) for value in (0, 2, 1))
    builder.call(function, [builder.bitcast(address, cgutils.voidptr_t), read, second_level, data_cache])


def _totals(builder, vectors):
    """The sum over the lanes of each of at most LANES vectors, all at once: two vectors are folded into one until one holds every sum."""
    count, width = len(vectors), 1
    vectors = vectors + [vectors[-1]] * (LANES - count)
    while width < LANES:
        parts = [list(range(start, start + width)) for start in range(0, 2 * LANES, width)]
        # Of lanes that lie in pairs of `width`, the first of a and of b, and the second of a and of b, side by side.
        first, second = (ir.Constant(ir.VectorType(NUMBER, LANES), _woven(parts[which::2])) for which in (0, 1))
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, first), builder.shuffle_vector(a, b, second))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        width *= 2
    return [builder.extract_element(vectors[0], ir.Constant(NUMBER, lane)) for lane in range(count)]


def _woven(parts):
    """[a, b, ..., p, q, ...] -> a, p, b, q, ... in one list."""
    half = len(parts) // 2
    return [lane for pair in zip(parts[:half], parts[half:], strict=True) for part in pair for lane in part]
