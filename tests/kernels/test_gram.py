import itertools
import math

import numpy as np
import pytest

from simgap.kernels.gram import COLUMNS, add_cross_grams, add_grams, add_square_grams, triangle_sums
from simgap.kernels.products import TILE

EPS = np.finfo(np.float64).eps


def grams(vectors):
    """Tables of (S, E, N) vectors, with what lies below the diagonal and beyond E cut off."""
    s, experts, width = vectors.shape
    size = -(-experts // TILE) * TILE
    tables = np.zeros((s, size, size))
    add_grams(vectors.reshape(-1), np.arange(s * experts).reshape(s, experts) * width, width, tables)
    return np.triu(tables[:, :experts, :experts])


def exact(vectors):
    return np.array(
        [[[math.fsum(u * v) if j >= i else 0.0 for j, v in enumerate(t)] for i, u in enumerate(t)] for t in vectors.astype(float)]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (1, 3, 100), (2, 5, 64), (1, 8, 2 * COLUMNS + 37), (1, 17, 40)])
def test_within_round_off_of_the_exact_sums(dtype, shape):
    vectors = np.random.default_rng(shape).standard_normal(shape).astype(dtype)
    sizes = np.linalg.norm(vectors.astype(float), axis=-1)
    bound = (shape[-1] + 1) * EPS * sizes[:, :, None] * sizes[:, None, :]
    assert np.all(np.abs(grams(vectors) - exact(vectors)) <= bound)


def test_bits_of_bfloat16_are_exact():
    """Products of 8-bit significands and a few thousand of their sums need no rounding."""
    values = np.random.default_rng(1).standard_normal((1, 4, 3000)).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    seen = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(grams(bits), exact(seen))


def test_float32_products_are_summed_in_float64():
    """The twin that sums in float32 must miss the same bound."""
    vectors = np.full((1, 2, 20_000), 0.1, np.float32)
    bound = 20_001 * EPS * float(exact(vectors)[0, 0, 0])
    assert abs(grams(vectors)[0, 0, 1] - exact(vectors)[0, 0, 1]) <= bound
    assert abs(float(np.cumsum(vectors[0, 0] * vectors[0, 1])[-1]) - exact(vectors)[0, 0, 1]) > bound


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_with_its_row(bad):
    vectors = np.random.default_rng(2).standard_normal((1, 5, 70)).astype(np.float32)
    vectors[0, 3, 69] = bad
    undefined = ~np.isfinite(grams(vectors)[0])
    row = np.arange(5) == 3
    np.testing.assert_array_equal(undefined, np.triu(row[:, None] | row[None]))


def test_stretches_of_columns_add_up_to_the_same_bits():
    vectors = np.random.default_rng(3).standard_normal((1, 6, 4 * COLUMNS + 11)).astype(np.float32)
    width = vectors.shape[-1]
    tables = np.zeros((1, 8, 8))
    for start in range(0, width, 2 * COLUMNS):
        add_grams(vectors.reshape(-1), np.arange(6)[None] * width + start, min(2 * COLUMNS, width - start), tables)
    np.testing.assert_array_equal(np.triu(tables[:, :6, :6]), grams(vectors))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("width", [1, 40, COLUMNS + 100])
def test_products_of_some_rows_with_others(dtype, width):
    """Those of the triangle over all of them, within round-off, whatever lies beside in memory."""
    vectors = np.random.default_rng(width).standard_normal((2, 12, width)).astype(np.float32)
    vectors = (vectors.view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else vectors.astype(dtype)
    starts = np.arange(24).reshape(2, 12) * width
    tables = np.zeros((2, 4, 8))
    add_cross_grams(vectors.reshape(-1), starts[:, :4], starts[:, 4:], width, tables)
    np.testing.assert_allclose(tables, grams(vectors)[:, :4, 4:], rtol=0, atol=width * 20 * EPS)
    # Called again, it adds.
    add_cross_grams(vectors.reshape(-1), starts[:, :4], starts[:, 4:], width, tables)
    np.testing.assert_allclose(tables, 2 * grams(vectors)[:, :4, 4:], rtol=0, atol=width * 40 * EPS)


@pytest.mark.parametrize(("rows", "width"), [(1, 5), (3, 1024), (7, 2600), (20, 700)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grams_of_squares_against_loops(rows, width, dtype):
    rng = np.random.default_rng([rows, width])
    vectors, scale = rng.standard_normal((rows, width)).astype(dtype), rng.uniform(0.5, 2, rows)
    size = -(-rows // 4) * 4
    table, sums = np.zeros((size, size)), np.zeros(rows)
    add_square_grams(vectors.ravel(), np.arange(rows) * width, width, scale, table, sums)
    squares = (vectors.astype(float) * scale[:, None]) ** 2
    assert sums == pytest.approx(squares.sum(1), rel=1e-13)
    expected = np.array([[float((a * b).sum()) for b in squares] for a in squares])
    upper = np.triu_indices(rows)
    assert table[:rows, :rows][upper] == pytest.approx(expected[upper], rel=1e-12)


@pytest.mark.parametrize("corners", [1, 3, 6])
def test_triangles_against_loops(corners):
    rows = np.random.default_rng(corners).random((6, 37))
    products = [rows[g] * rows[i] * rows[j] for g, i, j in itertools.combinations(range(6), 3) if g < corners]
    first, second, count = triangle_sums(rows, corners)
    assert count == len(products) == (10, 19, 20)[corners // 3]
    assert first == pytest.approx(sum(product.sum() ** 2 for product in products), rel=1e-13)
    assert second == pytest.approx(sum((product**2).sum() for product in products), rel=1e-13)
