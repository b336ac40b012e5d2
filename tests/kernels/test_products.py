import math

import numpy as np
import pytest

from simgap.kernels.products import TILE, add_products
from simgap.kernels.tiles import LANES, STEP, tile

EPS = np.finfo(np.float64).eps


def products(rows, first, last, dtype=np.float64):
    """The table of some columns of the rows, which lie apart in memory among what must not be read."""
    count, width = rows.shape
    flat = np.full(count * (width + 2) + 3, np.nan, dtype)
    starts = 3 + np.arange(count) * (width + 2)
    for start, row in zip(starts, rows, strict=True):
        flat[start : start + width] = row
    size = -(-count // TILE) * TILE
    table = np.ones((size, size))
    # What is wanted next may lie anywhere, outside the array too.
    add_products(flat, starts, starts + 10**12, count, first, last, table)
    return np.triu(table[:count, :count] - 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 8, 9, 13, 16, 18])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, STEP), (5, 5 + 3 * STEP), (1, 2 * STEP + 30), (7, 7)])
def test_any_number_of_rows_and_columns(dtype, count, first, last):
    rows = np.random.default_rng([count, last]).standard_normal((count, max(last, 4 * STEP))).astype(dtype)
    part = rows[:, first:last].astype(float)
    exact = np.array([[math.fsum(u * v) if j >= i else 0.0 for j, v in enumerate(part)] for i, u in enumerate(part)])
    sizes = np.linalg.norm(part, axis=1)
    # One more rounding where the table's ones are added and taken off again.
    bound = (last - first + 1) * EPS * np.outer(sizes, sizes) + 2 * EPS * (1 + np.abs(exact))
    assert np.all(np.abs(products(rows, first, last, dtype) - exact) <= bound)


def test_a_tile_by_hand():
    """Called as the kernels call it: two rows with two others, and the upper triangle of two."""
    from numba import njit

    @njit
    def across(flat, columns):
        return tile(flat, (0, columns), (2 * columns, 3 * columns), None, columns)

    @njit
    def own(flat, columns):
        return tile(flat, (0, columns), None, (0, columns), columns)

    flat = np.repeat(np.array([1.0, 2.0, 3.0, 5.0], np.float32), STEP)
    assert across(flat, STEP) == (3.0 * STEP, 5.0 * STEP, 6.0 * STEP, 10.0 * STEP)
    assert own(flat, STEP) == (1.0 * STEP, 2.0 * STEP, 4.0 * STEP)


def test_steps_are_whole_vectors():
    assert STEP % (2 * LANES) == 0
    assert LANES in (2, 4, 8)
