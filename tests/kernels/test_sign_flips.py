"""Sketches of pairs, against loops."""

import itertools

import numpy as np
import pytest

from simgap.kernels.sign_flips import BUCKETS, DEPTH, add_waiting, in_order
from simgap.kernels.token_overlap import COLUMNS, token_cos2, token_flips


def bfloat16(array):
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def widened(flat):
    return (flat.astype(np.uint32) << 16).view(np.float32) if flat.dtype == np.uint16 else flat


def state_of(k, width, number, tables, sums, groups):
    waiting = np.full((len(tables), DEPTH, tables.shape[2]), np.nan, number), np.zeros(len(tables), np.int64)
    lanes = np.full((k * (k - 1) // 2, 2 * BUCKETS), np.nan, number)
    return np.empty((k, width), number), lanes, tables, waiting, sums, np.array([groups])


def test_signs_of_bytes_in_the_order_of_the_columns():
    """Of the first four columns of eight: the highest byte of words 0 to 3; column 8 is in the next byte of word 0."""
    signs = np.zeros((2, BUCKETS), np.uint8)
    signs[0, [3, 15]] = 128
    signs[1, [2, 28]] = 128
    found = in_order(signs.reshape(-1)).reshape(2, BUCKETS)
    assert [np.flatnonzero(row < 0).tolist() for row in found] == [[0, 3], [8, 31]]
    assert set(found.ravel()) == {1.0, -1.0}


def brute(vectors, there, experts, pool, windows, groups, buckets):
    width, pool = vectors.shape[2], in_order(pool)
    names = list(itertools.combinations_with_replacement(range(groups), 2))
    tables, total = np.zeros((len(names), buckets + 1, buckets)), 0.0
    for token, present, named in zip(vectors, there, experts, strict=True):
        units = [v / abs(v).max() / np.linalg.norm(v / abs(v).max()) if v.any() else None for v in token]
        for i, j in itertools.combinations(range(len(token)), 2):
            if not (present[i] and present[j]) or units[i] is None or units[j] is None:
                continue
            a = units[i] * units[j]
            left, right = windows[0, named[i]], windows[1, named[j]]
            signed = a * pool[left : left + width] * pool[right : right + width]
            sums, squares = np.zeros(buckets), np.zeros(buckets)
            for c in range(width):
                sums[c % buckets] += signed[c]
                squares[c % buckets] += a[c] ** 2
            table = tables[names.index(tuple(sorted((windows[2, named[i]], windows[2, named[j]]))))]
            table[:buckets] += np.outer(sums, sums)
            table[buckets] += squares
            total += squares.sum()
    return tables, total


@pytest.mark.parametrize("width", [1, 7, BUCKETS, BUCKETS + 5, 3 * BUCKETS, COLUMNS + 40])
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("k", "groups", "buckets"), [(2, 4, 32), (3, 2, 4), (4, 3, 16), (5, 6, 2)])
def test_against_loops(width, kind, k, groups, buckets):
    rng = np.random.default_rng([width, k])
    n, experts = 9, 6
    vectors = rng.standard_normal((n, k, width))
    vectors[2, 1] = 0
    vectors[4] *= 1e-15
    vectors[5] *= 1e18
    if kind == "float64":
        vectors[6] *= 1e-180
        vectors[7] *= 1e190
    flat = bfloat16(vectors).ravel() if kind == "bfloat16" else vectors.astype(kind).ravel()
    there = rng.random((n, k)) < 0.8
    starts = np.where(there, (np.arange(n * k) * width).reshape(n, k), -1)
    named = np.argsort(rng.random((n, experts)), 1)[:, :k]
    number = np.float64 if kind == "float64" else np.float32
    pool = rng.integers(0, 2, BUCKETS * (3 + width // BUCKETS), np.uint8) * np.uint8(128)
    windows = np.concatenate([BUCKETS * rng.integers(0, 3, (2, experts)), np.arange(experts)[None] % groups])
    tables, sums = np.zeros((groups * (groups + 1) // 2, buckets + 1, buckets), number), np.zeros(1)
    state = state_of(k, width, number, tables, sums, groups)
    found, lengths = (np.empty(n), np.empty(n, np.int64), np.zeros(5)), np.full((n, k), -7.0)
    token_flips(flat, starts, width, (*found[:2], lengths), found[2], (pool, windows, named), state)
    add_waiting(tables, state[3])
    expected, total = brute(widened(flat).reshape(n, k, width).astype(float), there, named, pool, windows, groups, buckets)
    rel = 1e-11 if kind == "float64" else 1e-5
    for each in (tables, expected):
        each[:, :-1] = np.triu(each[:, :-1])
    assert tables == pytest.approx(expected, rel=rel, abs=rel * np.abs(expected).max())
    assert sums[0] == pytest.approx(total, rel=rel)
    assert total > 1 / width
    # The overlaps are those of the kernel without sketches, to the bit.
    plain = np.empty(n), np.empty(n, np.int64), np.zeros(5)
    token_cos2(flat, starts, width, -1, *plain)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    # float64's largest vectors have squares that no format holds.
    numbers = widened(flat).reshape(n, k, width).astype(np.longdouble)
    assert lengths == pytest.approx(np.where(there, np.sqrt((numbers**2).sum(-1)), 0).astype(float), rel=1e-13)


def test_what_is_not_finite_leaves_no_trace():
    vectors = np.random.default_rng(0).standard_normal((3, 2, 8))
    vectors[1, 0, 3] = np.nan
    tables, sums = np.zeros((3, 5, 4)), np.zeros(1)
    state = state_of(2, 8, np.float64, tables, sums, 2)
    named, windows = np.tile([0, 1], (3, 1)), np.array([[0, 0], [0, 0], [0, 1]])
    cos2, pairs, moments = np.empty(3), np.empty(3, np.int64), np.zeros(5)
    starts, signs = (np.arange(6) * 8).reshape(3, 2), (np.zeros(32, np.uint8), windows, named)
    token_flips(vectors.ravel(), starts, 8, (cos2, pairs, np.empty((0, 2))), moments, signs, state)
    add_waiting(tables, state[3])
    assert np.isnan(cos2).tolist() == [False, True, False]
    assert np.isfinite(tables).all()
    assert 0 < sums[0] < 2
