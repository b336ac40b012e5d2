"""Law T8 against every order of the units, in fractions, and its p against what draws of orders give."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from simgap.theory.context import Context
from simgap.theory.floats import FLOAT
from simgap.theory.renumbered import (
    excess_kurtosis,
    least_p,
    mean_overlap,
    meeting_p,
    overlap_cumulants,
    pair_p,
    sum_moments,
    triangle_moment,
)

SIGMA = 5.0
W = [(1, 2), (3, -1), (0, 4), (5, 5)]
V = [(2, 2), (-5, 1), (7, 3), (0, 1)]


class Exact:
    """Fractions, as a context."""

    number = staticmethod(Fraction)


EXACT: Context = Exact()


def dot(u, v):
    return sum(x * y for x, y in zip(u, v, strict=True))


def moments(rows, others):
    values = [sum(dot(row, others[j]) for row, j in zip(rows, order, strict=True)) for order in itertools.permutations(range(len(rows)))]
    mean = Fraction(sum(values), len(values))
    return mean, Fraction(sum(value**2 for value in values), len(values)) - mean**2


def sums(rows, others):
    total, whole = ([sum(column) for column in zip(*one, strict=True)] for one in (rows, others))
    trace = sum(dot(row, other) ** 2 for row in rows for other in others)
    return trace, sum(dot(row, whole) ** 2 for row in rows), sum(dot(other, total) ** 2 for other in others), dot(total, whole)


def test_every_order():
    found = sum_moments(*sums(W, V), 4, ctx=EXACT)
    assert found == moments(W, V)
    trace, _, _, total = sums(W, V)
    assert sum_moments(trace, 0, 0, total, 4, ctx=EXACT) != moments(W, V)


def test_units_less_their_mean_have_the_same_spread():
    less = [
        [tuple(Fraction(x) - Fraction(sum(column), 4) for x, column in zip(row, zip(*one, strict=True), strict=True)) for row in one]
        for one in (W, V)
    ]
    trace, rows, columns, total = sums(*less)
    assert (rows, columns, total) == (0, 0, 0)
    assert sum_moments(trace, 0, 0, 0, 4, ctx=EXACT)[1] == moments(W, V)[1]


def test_mean_overlap():
    mean, variance = moments(W, V)
    squares = sum(dot(row, row) for row in W) * sum(dot(row, row) for row in V)
    second = mean_overlap(mean, variance, squares, ctx=EXACT)
    values = [dot(sum(W, ()), sum((V[j] for j in order), ())) ** 2 for order in itertools.permutations(range(4))]
    assert second == Fraction(sum(values), len(values) * squares)


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 1.5)])
def test_a_normal_cosine(mean, sd):
    law = scipy.stats.ncx2(1, (mean / sd) ** 2, scale=sd**2) if mean else scipy.stats.chi2(1, scale=sd**2)
    m, v, s = law.stats("mvs")
    assert overlap_cumulants(mean, sd**2) == pytest.approx((m, v, s * v**1.5), rel=1e-9)
    assert pair_p(4.0, mean, sd) == pytest.approx(law.sf(4.0), rel=1e-9)
    assert pair_p(np.array([4.0, 0.1]), np.full(2, mean), np.full(2, sd)) == pytest.approx(law.sf([4.0, 0.1]), rel=1e-9)


def test_where_no_order_changes_anything():
    assert pair_p(0.3, 0.5, 0.0) == 1.0


def test_no_p_is_smaller_than_one_order_among_all():
    assert least_p(4, 2) == pytest.approx(1 / math.factorial(4), rel=1e-12)
    assert least_p(3, 4) == pytest.approx(6.0**-3, rel=1e-12)


def test_few_units_that_meet_by_chance():
    """By loops over m; one shared unit meets once in f, however far it moves T; many small ones change nothing."""
    for deviation, jump, f in ((16.0, 16.0, 16), (5.0, 2.0, 9), (110.0, 4.9, 512), (3.29, 0.3, 64), (-1.0, 0.5, 8)):
        terms = [math.factorial(f - m) / math.factorial(f) * scipy.stats.norm.sf(deviation - m * jump) for m in range(min(f, 64) + 1)]
        assert meeting_p(deviation, jump, f)[0] == pytest.approx(max(terms), rel=1e-9)
    assert meeting_p(16.0, 16.0, 16)[0] == pytest.approx(0.5 / 16, rel=1e-9)
    assert meeting_p(3.29, 0.3, 64)[0] == pytest.approx(scipy.stats.norm.sf(3.29), rel=1e-9)
    assert meeting_p(np.array([3.0, 3.0]), np.array([-1.0, 0.0]), 5) == pytest.approx(np.full(2, scipy.stats.norm.sf(3.0)), rel=1e-9)


def drawn(rows, others, draws, rng):
    table = rows @ others.T
    return np.array([table[np.arange(len(rows)), rng.permutation(len(rows))].sum() for _ in range(draws)])


def test_kurtosis_of_generic_directions():
    """Sizes that differ by lognormal factors, over 400 pairs of experts in 400 orders each: within 5 standard errors and a quarter, which
    what is left out at 60 units may reach; equal sizes have none."""
    rng, f, law, seen = np.random.default_rng(0), 60, [], []
    for _ in range(400):
        pair = rng.standard_normal((2, f, 30)) * np.exp(0.7 * rng.standard_normal((2, f, 1)))
        pair -= pair.mean(1, keepdims=True)
        sizes = (pair**2).sum(2)
        law.append(excess_kurtosis(*(f * (sizes**2).sum(1) / sizes.sum(1) ** 2), f))
        variance = sum_moments(((pair[0] @ pair[1].T) ** 2).sum(), 0, 0, 0, f)[1]
        seen.append((drawn(*pair, 400, rng) ** 4).mean() / variance**2 - 3)
    apart, sem = np.mean(seen) - np.mean(law), np.std(seen, ddof=1) / 20
    assert abs(apart) < SIGMA * sem + 0.25 * np.mean(law)
    assert np.mean(law) > SIGMA * sem
    assert excess_kurtosis(1.0, 9.0, f) == 0


def test_triangles_add_little():
    """tr(ABC)^2 <= tr(AB) tr(BC) tr(CA): with equality where all is of rank one."""
    rng = np.random.default_rng(1)
    for rank in (1, 1, 3, 8):
        directions = rng.standard_normal((1 if rank == 1 else 3, rank, 5))
        a, b, c = (x.T @ x for x in np.broadcast_to(directions, (3, *directions.shape[1:])))
        three = triangle_moment(np.trace(a @ b @ c), 9)
        two = math.prod(sum_moments(np.trace(x @ y), 0, 0, 0, 9)[1] for x, y in ((a, b), (b, c), (c, a)))
        assert three**2 <= two / 8 * (1 + 1e-12)
        assert (rank == 1) == (three**2 == pytest.approx(two / 8, rel=1e-9))


def test_floats_are_the_default():
    assert sum_moments(1, 0, 0, 0, 3) == sum_moments(1, 0, 0, 0, 3, ctx=FLOAT) == (0.0, 0.5)
