"""Inner products of a few long vectors, each read once."""

import numpy as np

from simgap.kernels.compiled import BORROWED, kernel
from simgap.kernels.products import TILE, add_products, widened
from simgap.kernels.tiles import STEP, tile

# Columns that are multiplied at a time, and asked for ahead of that. Part of the order of summation: another number gives other last bits.
COLUMNS = 1024
# Vectors to the side of a table of inner products: those of more are taken table by table, so that what is held does not grow with the
# square of their number. Part of the order of summation.
SIDE = 512
# Rows whose squares are held COLUMNS columns at a time; of more a quarter of that.
SQUARED_ROWS = 16
# Numbers in the tables of stretches of columns that are held until they are added up.
TABLES = 1 << 21


@kernel()
def add_grams(flat, starts, width, tables):
    """tables[s, i, j] += <row i, row j> of batch s for i <= j, summed in float64 over COLUMNS columns at a time, in their order.

    flat: (N,) float32, float64, or uint16 for the bits of bfloat16. starts: (S, E) int64, E >= 1, where in `flat` the rows of `width`
    columns begin. tables: (S, M, M) float64, M a multiple of TILE and at least E; what lies outside the upper triangle of E rows holds no
    meaning. Calls over consecutive stretches of columns, each but the last a multiple of COLUMNS long, give the bits of one call over all.
    """
    soon = starts + COLUMNS
    for s in range(starts.shape[0]):
        for first in range(0, width, COLUMNS):
            add_products(flat, starts[s], soon[s], starts.shape[1], first, min(first + COLUMNS, width), tables[s])


@kernel()
def add_square_grams(flat, starts, width, scale, table, sums):
    """table[i, j] += sum of (a_i a_j)^2 over the columns of rows i <= j, and sums[i] += |row i|^2, each row times its scale; as `add_grams`
    of one batch of squares, without a copy of them.

    starts: (E,) int64, where each row begins; width: its columns. scale: (E,). table: (M, M); sums: (E,), float64.
    """
    rows = starts.size
    columns = COLUMNS if rows <= SQUARED_ROWS else COLUMNS // 4
    squares, offsets = np.empty(rows * columns), np.arange(rows) * columns
    for first in range(0, width, columns):
        count = min(columns, width - first)
        for i in range(rows):
            sums[i] += _square(flat, starts[i] + first, count, scale[i], squares, i * columns)
        add_products(squares, offsets, offsets, rows, 0, count, table)


@kernel(fastmath={"reassoc", "contract"}, **BORROWED)
def _square(flat, start, count, scale, squares, to):
    start, to = np.uint64(start), np.uint64(to)
    total = 0.0
    for i in range(np.uint64(count)):
        x = np.float64(widened(flat[start + i])) * scale
        squares[to + i] = x * x
        total += x * x
    return total


@kernel(fastmath={"reassoc", "contract"}, **BORROWED)
def triangle_sums(rows, corners):
    """Of the triangles of rows, (M, N), that have one of the first `corners`: the sum of t^2, that of s, and how many they are; t, s: sums
    over columns of the product of three rows and of its square."""
    first, second, count = 0.0, 0.0, 0
    for g in range(corners):
        for i in range(g + 1, rows.shape[0]):
            for j in range(i + 1, rows.shape[0]):
                t = 0.0
                for column in range(rows.shape[1]):
                    product = rows[g, column] * rows[i, column] * rows[j, column]
                    t += product
                    second += product * product
                first += t * t
                count += 1
    return first, second, count


@kernel()
def add_cross_grams(flat, starts, others, width, tables):
    """tables[s, i, j] += <row i of starts, row j of others> of batch s, in the order of summation of `add_grams`.

    starts (S, A), others (S, B): int64 as in `add_grams`, A and B multiples of TILE: a row that there is not is given by any other's place.
    tables: (S, A, B) float64.
    """
    for s in range(starts.shape[0]):
        for first in range(0, width, COLUMNS):
            last = min(first + COLUMNS, width)
            whole = (last - first) // STEP * STEP
            _add_whole(flat, starts[s], others[s], first, whole, tables[s])
            if first + whole < last:
                _add_tail(flat, starts[s], others[s], first + whole, last, tables[s])


@kernel(**BORROWED)
def _add_whole(flat, starts, others, first, columns, table):
    for i in range(0, starts.size, TILE):
        rows = (starts[i] + first, starts[i + 1] + first, starts[i + 2] + first, starts[i + 3] + first)
        for j in range(0, others.size, TILE):
            right = (others[j] + first, others[j + 1] + first, others[j + 2] + first, others[j + 3] + first)
            sums = tile(flat, rows, right, None, columns)
            for u in range(TILE):
                table[i + u, j] += sums[TILE * u]
                table[i + u, j + 1] += sums[TILE * u + 1]
                table[i + u, j + 2] += sums[TILE * u + 2]
                table[i + u, j + 3] += sums[TILE * u + 3]


@kernel(**BORROWED)
def _add_tail(flat, starts, others, first, last, table):
    """The columns that do not fill a step of a tile."""
    for i in range(starts.size):
        for j in range(others.size):
            total = table[i, j]
            for column in range(first, last):
                total += np.float64(widened(flat[starts[i] + column])) * np.float64(widened(flat[others[j] + column]))
            table[i, j] = total
