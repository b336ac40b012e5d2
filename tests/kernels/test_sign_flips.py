"""Sketches of pairs, against loops."""

import itertools

import numpy as np
import pytest

from simgap.kernels.sign_flips import BUCKETS
from simgap.kernels.token_overlap import token_cos2, token_flips


def bfloat16(array):
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def widened(flat):
    return (flat.astype(np.uint32) << 16).view(np.float32) if flat.dtype == np.uint16 else flat


def brute(vectors, there, experts, pool, windows, groups, buckets):
    width = vectors.shape[2]
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
            table = tables[names.index(tuple(sorted((int(named[i]) % groups, int(named[j]) % groups))))]
            table[:buckets] += np.outer(sums, sums)
            table[buckets] += squares
            total += squares.sum()
    return tables, total


@pytest.mark.parametrize("width", [1, 7, BUCKETS, BUCKETS + 5, 3 * BUCKETS])
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("k", "groups", "buckets"), [(2, 4, 32), (3, 2, 4), (5, 6, 2)])
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
    pool = rng.choice([-1.0, 1.0], 64 + width).astype(number)
    windows = rng.integers(0, 64, (2, experts))
    tables, sums = np.zeros((groups * (groups + 1) // 2, buckets + 1, buckets)), np.zeros(1)
    state = np.empty((k, width), number), np.empty(2 * BUCKETS, number), tables, sums, np.array([groups])
    found = np.empty(n), np.empty(n, np.int64), np.zeros(5)
    token_flips(flat, starts, width, *found, (pool, windows, named), state)
    expected, total = brute(widened(flat).reshape(n, k, width).astype(float), there, named, pool, windows, groups, buckets)
    rel = 1e-11 if kind == "float64" else 1e-5
    assert tables == pytest.approx(expected, rel=rel, abs=rel * np.abs(expected).max())
    assert sums[0] == pytest.approx(total, rel=rel)
    assert total > 0.01
    # The overlaps are those of the kernel without sketches, to the bit.
    plain = np.empty(n), np.empty(n, np.int64), np.zeros(5)
    token_cos2(flat, starts, width, -1, *plain)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_finite_leaves_no_trace():
    vectors = np.random.default_rng(0).standard_normal((3, 2, 8))
    vectors[1, 0, 3] = np.nan
    tables, sums = np.zeros((3, 5, 4)), np.zeros(1)
    state = np.empty((2, 8)), np.empty(2 * BUCKETS), tables, sums, np.array([2])
    named, windows = np.tile([0, 1], (3, 1)), np.zeros((2, 2), np.int64)
    cos2, pairs, moments = np.empty(3), np.empty(3, np.int64), np.zeros(5)
    token_flips(vectors.ravel(), (np.arange(6) * 8).reshape(3, 2), 8, cos2, pairs, moments, (np.ones(8), windows, named), state)
    assert np.isnan(cos2).tolist() == [False, True, False]
    assert np.isfinite(tables).all()
    assert 0 < sums[0] < 2
