"""Inner products of any number of rows, tile by tile.

A row is a run of a flat array, given by where it starts, so that one kernel serves dense, strided and gathered vectors alike. float32 and
float64 are taken as they are, bfloat16 as the uint16 of its bits.
"""

import numpy as np
from numba import types
from numba.extending import overload

from simgap.kernels.compiled import BORROWED, kernel
from simgap.kernels.tiles import STEP, tile

# Rows to the side of a tile.
TILE = 4


def widened(x):
    """x as a float; a uint16 is the bits of a bfloat16, the high half of a float32's."""
    return (np.uint32(x) << np.uint32(16)).view(np.float32) if isinstance(x, np.uint16) else x


@overload(widened, inline="always")
def _widened(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@kernel(**BORROWED)
def add_products(flat, starts, soon, count, first, last, table):
    """table[i, j] += the product over columns first to last of rows i <= j < count; beyond `count` the table's tiles hold no meaning.

    flat: (N,) float32, float64 or uint16. starts: at least `count` >= 1, where in `flat` rows begin; soon: as many, of rows that will be
    wanted next. table: (M, M) float64, M a multiple of TILE and at least count. A tile that the rows do not fill takes the last row again.
    """
    whole = (last - first) // STEP * STEP
    if count <= 2:
        _add_two(flat, starts, soon, count, first, whole, table)
    else:
        for i in range(0, count, TILE):
            _add_four(flat, starts, soon, i, count - 1, first, whole, table)
            for j in range(i + TILE, count, TILE):
                _add_across(flat, starts, i, j, count - 1, first, whole, table)
    if first + whole < last:
        _add_tail(flat, starts, count, first + whole, last, table)


# A function to each shape: in one, the registers of the largest are saved and restored for a pair, which costs more than the pair.
@kernel(**BORROWED)
def _add_two(flat, starts, soon, count, first, columns, table):
    end = count - 1
    rows, next_rows = (starts[0] + first, starts[end] + first), (soon[0] + first, soon[end] + first)
    aa, ab, bb = tile(flat, rows, None, next_rows, columns)
    table[0, 0] += aa
    table[0, 1] += ab
    table[1, 1] += bb


@kernel(**BORROWED)
def _add_four(flat, starts, soon, i, end, first, columns, table):
    """Rows i to i + 3 with themselves; beyond `end` the last row again."""
    i1, i2, i3 = min(i + 1, end), min(i + 2, end), min(i + 3, end)
    rows = (starts[i] + first, starts[i1] + first, starts[i2] + first, starts[i3] + first)
    next_rows = (soon[i] + first, soon[i1] + first, soon[i2] + first, soon[i3] + first)
    own = tile(flat, rows, None, next_rows, columns)
    table[i, i] += own[0]
    table[i, i + 1] += own[1]
    table[i, i + 2] += own[2]
    table[i, i + 3] += own[3]
    table[i + 1, i + 1] += own[4]
    table[i + 1, i + 2] += own[5]
    table[i + 1, i + 3] += own[6]
    table[i + 2, i + 2] += own[7]
    table[i + 2, i + 3] += own[8]
    table[i + 3, i + 3] += own[9]


@kernel(**BORROWED)
def _add_across(flat, starts, i, j, end, first, columns, table):
    """Rows i to i + 3, all of which there are, with rows j to j + 3; beyond `end` the last row again."""
    j1, j2, j3 = min(j + 1, end), min(j + 2, end), min(j + 3, end)
    rows = (starts[i] + first, starts[i + 1] + first, starts[i + 2] + first, starts[i + 3] + first)
    others = (starts[j] + first, starts[j1] + first, starts[j2] + first, starts[j3] + first)
    cross = tile(flat, rows, others, None, columns)
    for u in range(TILE):
        table[i + u, j] += cross[TILE * u]
        table[i + u, j + 1] += cross[TILE * u + 1]
        table[i + u, j + 2] += cross[TILE * u + 2]
        table[i + u, j + 3] += cross[TILE * u + 3]


@kernel(**BORROWED)
def _add_tail(flat, starts, count, first, last, table):
    """The columns that do not fill a step of a tile."""
    # Pair by pair, each in its register: with the table in the inner loop, every product waits for the sum before it to be stored.
    for i in range(count):
        for j in range(i, count):
            total = table[i, j]
            for column in range(first, last):
                total += np.float64(widened(flat[starts[i] + column])) * np.float64(widened(flat[starts[j] + column]))
            table[i, j] = total
