import math

import numpy as np
import pytest

from simgap.kernels.token_overlap import token_cos2
from tests import reference

DTYPES = (np.float32, np.float64)


def round_off(width):
    """A dot product of `width` terms in float64, in any order, is off by at most width eps |u||v|; cos^2 takes in four such errors."""
    return 4 * (width + 4) * np.finfo(np.float64).eps


def overlaps(rows, index, lead=None):
    n, _ = index.shape
    cos2, pairs = np.full(n, -7.0), np.full(n, -7, np.int64)
    token_cos2(rows, index, -1 if lead is None else lead, cos2, pairs)
    return cos2, pairs


def expected(rows, index):
    means, counts = reference.token_overlap(rows[np.maximum(index, 0)], index >= 0)
    return np.nan_to_num(means), counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "width"), [(2, 1), (2, 64), (3, 7), (8, 33)])
def test_against_the_oracle(dtype, m, width):
    rng = np.random.default_rng([m, width])
    rows = rng.standard_normal((20, width)).astype(dtype)
    index = np.array([rng.choice(20, m, replace=False) for _ in range(30)])
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


@pytest.mark.parametrize("lead", [1, 2, 3])
def test_lead_pairs_across(lead):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((9, 5))
    index = rng.integers(-1, 9, (12, 4))
    cos2, pairs = overlaps(rows, index, lead)
    for t, slots in enumerate(index):
        values = [reference.cos2(rows[a], rows[b]) for a in slots[:lead] for b in slots[lead:] if min(a, b) >= 0]
        assert pairs[t] == len(values)
        assert cos2[t] == pytest.approx(np.mean(values) if values else 0.0, abs=round_off(5))


# Norms that a product of squares, or a square itself, would push out of the format.
@pytest.mark.parametrize(
    ("dtype", "sizes"), [(np.float32, (1e-20, 1.0, 1e20)), (np.float64, (1e-200, 1.0, 1e200)), (np.float64, (1e-310, 1e-70, 1e70, 1e300))]
)
def test_norms_far_apart(dtype, sizes):
    rng = np.random.default_rng(4)
    rows = np.concatenate([size * rng.standard_normal((3, 16)) for size in sizes]).astype(dtype)
    index = np.array([rng.choice(len(rows), 4, replace=False) for _ in range(40)])
    cos2, pairs = overlaps(rows, index)
    means, counts = expected(rows, index)
    np.testing.assert_allclose(cos2, means, rtol=0, atol=round_off(16))
    np.testing.assert_array_equal(pairs, counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_parallel_vectors(dtype):
    rng = np.random.default_rng(5)
    u = rng.standard_normal((50, 24))
    rows = np.concatenate([u, -3 * u * (1 + 1e-7 * rng.standard_normal(u.shape))]).astype(dtype)
    cos2, _ = overlaps(rows, np.stack([np.arange(50), np.arange(50, 100)], 1))
    np.testing.assert_allclose(cos2, [reference.cos2(a, b) for a, b in zip(rows[:50], rows[50:], strict=True)], rtol=0, atol=round_off(24))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_breaks_its_token_only(dtype, bad):
    rows = np.random.default_rng(6).standard_normal((4, 6)).astype(dtype)
    rows[1, 2] = bad
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
