import math

import numpy as np
import pytest

from simgap.kernels.token_overlap import token_cos2
from tests import reference

DTYPES = (np.float32, np.float64, np.uint16)


def round_off(width):
    """A dot product of `width` terms in float64, in any order, is off by at most width eps |u||v|; cos^2 takes in four such errors."""
    return 4 * (width + 4) * np.finfo(np.float64).eps


def as_kernel(values, dtype):
    """Numbers in a format that the kernel reads: uint16 stands for bfloat16, rounded towards zero."""
    values = np.asarray(values, np.float64)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else values.astype(dtype)


def plain(rows):
    """The numbers that the kernel sees, in float64."""
    return (rows.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if rows.dtype == np.uint16 else rows.astype(np.float64)


def overlaps(rows, index, n_first=None):
    cos2, pairs, moments = run(rows, index, n_first)
    defined = pairs > 0
    assert moments[0] == defined.sum()
    assert moments[4] == pairs.sum()
    if not np.isnan(cos2).any():
        assert moments[3] == pytest.approx((cos2 * pairs).sum(), rel=1e-12)
        assert moments[1] == pytest.approx(cos2[defined].mean() if defined.any() else 0.0, rel=1e-12)
    return cos2, pairs


def run(rows, index, n_first=None):
    """Rows handed over with a gap between them and one at either end, filled with what must not be read."""
    n, _ = index.shape
    size, width = rows.shape
    held = np.full(5 + size * (width + 3), 0x7FC0 if rows.dtype == np.uint16 else np.nan).astype(rows.dtype)
    for r, row in enumerate(rows):
        held[5 + r * (width + 3) : 5 + r * (width + 3) + width] = row
    starts = np.where(index < 0, -1, 5 + index * (width + 3))
    cos2, pairs, moments = np.full(n, -7.0), np.full(n, -7, np.int64), np.zeros(5)
    token_cos2(held, starts, width, -1 if n_first is None else n_first, cos2, pairs, moments)
    return cos2, pairs, moments


def expected(rows, index):
    means, counts = reference.token_overlap(plain(rows)[np.maximum(index, 0)], index >= 0)
    return np.nan_to_num(means), counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "width"), [(1, 3), (2, 1), (2, 64), (2, 1100), (3, 7), (4, 96), (5, 32), (8, 33), (9, 31), (16, 65), (21, 64)]
)
def test_against_the_oracle(dtype, m, width):
    rng = np.random.default_rng([m, width])
    rows = as_kernel(rng.standard_normal((24, width)), dtype)
    index = np.array([rng.choice(24, m, replace=False) for _ in range(30)])
    index[rng.random(index.shape) < 0.2] = -1
    cos2, pairs = overlaps(rows, index)
    means, counts = expected(rows, index)
    np.testing.assert_allclose(cos2, means, rtol=0, atol=round_off(width))
    np.testing.assert_array_equal(pairs, counts)


@pytest.mark.parametrize(
    ("u", "v", "value"), [([1, 0], [1, 1], 0.5), ([3, 4], [4, 3], 0.9216), ([1, 2], [-2, 1], 0.0), ([1, 2], [-1, -2], 1.0)]
)
def test_by_hand(u, v, value):
    cos2, pairs = overlaps(np.array([u, v], float), np.array([[0, 1]]))
    assert cos2[0] == pytest.approx(value, abs=4e-16)
    assert pairs[0] == 1


@pytest.mark.parametrize("n_first", [1, 2, 3])
def test_pairs_of_the_first_with_the_others(n_first):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((9, 5))
    index = rng.integers(-1, 9, (12, 4))
    cos2, pairs = overlaps(rows, index, n_first)
    for t, slots in enumerate(index):
        values = [reference.cos2(rows[a], rows[b]) for a in slots[:n_first] for b in slots[n_first:] if min(a, b) >= 0]
        assert pairs[t] == len(values)
        assert cos2[t] == pytest.approx(np.mean(values) if values else 0.0, abs=round_off(5))


# Norms that a product of squares, or a square itself, would push out of the format.
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (np.float32, (1e-20, 1.0, 1e20)),
        (np.uint16, (1e-20, 1.0, 1e20)),
        (np.float32, (1e-38, 1e-44, 1e38)),
        (np.float64, (1e-200, 1.0, 1e200)),
        (np.float64, (1e-310, 1e-70, 1e70, 1e300)),
    ],
)
def test_norms_far_apart(dtype, sizes):
    rng = np.random.default_rng(4)
    rows = np.concatenate([size * rng.uniform(-2, 2, (3, 40)) for size in sizes])
    rows = as_kernel(rows, dtype)
    index = np.array([rng.choice(len(rows), 4, replace=False) for _ in range(40)])
    cos2, pairs = overlaps(rows, index)
    means, counts = expected(rows, index)
    np.testing.assert_allclose(cos2, means, rtol=0, atol=round_off(40))
    np.testing.assert_array_equal(pairs, counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_parallel_vectors(dtype):
    rng = np.random.default_rng(5)
    u = rng.standard_normal((50, 24))
    rows = as_kernel(np.concatenate([u, -3 * u * (1 + 1e-7 * rng.standard_normal(u.shape))]), dtype)
    cos2, _ = overlaps(rows, np.stack([np.arange(50), np.arange(50, 100)], 1))
    np.testing.assert_allclose(
        cos2, [reference.cos2(a, b) for a, b in zip(*plain(rows).reshape(2, 50, 24), strict=True)], rtol=0, atol=round_off(24)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_breaks_its_token_only(dtype, bad):
    values = np.random.default_rng(6).standard_normal((4, 6))
    values[1, 2] = bad
    rows = as_kernel(values, dtype)
    index = np.array([[0, 1, 2], [0, 2, 3], [1, -1, -1], [-1, 3, 0]])
    cos2, _ = overlaps(rows, index)
    np.testing.assert_array_equal(np.isnan(cos2), [True, False, True, False])
    np.testing.assert_allclose(cos2[[1, 3]], expected(rows, index[[1, 3]])[0], rtol=0, atol=round_off(6))


def test_a_zero_vector_has_no_pairs():
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    cos2, pairs = overlaps(rows, np.array([[0, 1, 2], [0, 1, -1], [1, 1, 1]]))
    np.testing.assert_allclose(cos2, [0.5, 0, 0], atol=4e-16)
    np.testing.assert_array_equal(pairs, [1, 0, 0])


def test_no_tokens_one_slot_and_only_padding():
    rows = np.ones((2, 3))
    cos2, pairs = overlaps(rows, np.empty((0, 2), np.int64))
    assert cos2.size == pairs.size == 0
    for index in (np.array([[0], [-1]]), np.array([[-1, -1], [0, -1]])):
        cos2, pairs = overlaps(rows, index)
        np.testing.assert_array_equal(cos2, [0, 0])
        np.testing.assert_array_equal(pairs, [0, 0])


def test_float32_products_accumulate_in_float64():
    """The twin that accumulates in float32 must miss the same bound."""
    rows = np.full((2, 10_000), 0.1, np.float32)
    rows[1, ::2] = 1e-4
    cos2, _ = overlaps(rows, np.array([[0, 1]]))
    exact = reference.cos2(rows[0], rows[1])
    single = np.cumsum(rows[0] * rows[1], dtype=np.float32)[-1] / math.sqrt(np.cumsum(rows[0] ** 2)[-1] * np.cumsum(rows[1] ** 2)[-1])
    assert cos2[0] == pytest.approx(exact, abs=round_off(10_000))
    assert abs(single**2 - exact) > round_off(10_000)


def test_many_tokens_ask_ahead_of_themselves():
    """Rows are asked for in advance, past the last token too, and nothing but speed depends on it."""
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((500, 65)).astype(np.float32)
    index = rng.integers(0, 500, (400, 3))
    index[rng.random(index.shape) < 0.1] = -1
    together = run(rows, index)
    alone = [run(rows, index[t : t + 1]) for t in range(400)]
    np.testing.assert_array_equal(together[0], [cos2[0] for cos2, _, _ in alone])
    np.testing.assert_array_equal(together[1], [pairs[0] for _, pairs, _ in alone])


def test_moments_go_on_from_what_they_are_given():
    rows = np.random.default_rng(10).standard_normal((60, 20))
    index = np.arange(60).reshape(20, 3)
    _, _, whole = run(rows, index)
    moments = np.zeros(5)
    for part in (index[:7], index[7:]):
        cos2, pairs = np.empty(len(part)), np.empty(len(part), np.int64)
        token_cos2(rows.reshape(-1), part * 20, 20, -1, cos2, pairs, moments)
    np.testing.assert_array_equal(moments, whole)
    assert moments[0] == 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 1, 40, 63])
def test_what_is_not_finite_among_zeros_is_not_taken_for_a_zero_vector(dtype, bad, at):
    values = np.zeros((3, 64))
    values[0, at] = bad
    values[1], values[2, :5] = 1.0, 1.0
    cos2, _ = overlaps(as_kernel(values, dtype), np.array([[0, 1, 2], [1, 2, -1], [0, -1, -1]]))
    np.testing.assert_array_equal(np.isnan(cos2), [True, False, True])
