"""First order in 1/f against sums over every outcome of discrete entries, and against the closed form that A5 states."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.wide_overlap import affine_moments, overlap_from_moments

# Entries with a few values, none of them zero: a mean, a skew and tails of their own.
VALUES, WEIGHTS = (1, 2, -1), (Fraction(1, 2), Fraction(1, 4), Fraction(1, 4))


def entry(p: int) -> Fraction:
    return sum(w * v**p for v, w in zip(VALUES, WEIGHTS, strict=True))


def exact_mean_cos2(f: int, alike: float = 0.0) -> float:
    """E cos^2 of two vectors of f such entries, by their counts: every pair (a, b) of values is one of nine, multinomially often.

    alike: the probability that both take the value of one draw."""
    pairs = list(itertools.product(range(3), repeat=2))
    chance = np.array([float(WEIGHTS[i] * ((1 - alike) * float(WEIGHTS[j]) + alike * (i == j))) for i, j in pairs])
    a, b = (np.array([VALUES[pair[side]] for pair in pairs], float) for side in (0, 1))
    total = 0.0
    for counts in _compositions(f, 9):
        n = np.array(counts, float)
        ways = math.lgamma(f + 1) - sum(math.lgamma(c + 1) for c in counts) + float(n @ np.log(chance))
        total += math.exp(ways) * (n @ (a * b)) ** 2 / ((n @ a**2) * (n @ b**2))
    return total


def _compositions(n: int, parts: int):
    for bars in itertools.combinations(range(n + parts - 1), parts - 1):
        edges = (-1, *bars, n + parts - 1)
        yield tuple(edges[i + 1] - edges[i] - 1 for i in range(parts))


def law(f: int, order: bool = True) -> float:
    limit = entry(1) ** 4 / entry(2) ** 2
    return float(overlap_from_moments(lambda p, q: entry(p) * entry(q), Fraction(f))) if order else float(limit)


def test_what_is_left_is_of_second_order():
    """f^2 times the rest of the first-order law stays put, where f^2 times the rest of the limit grows with f."""
    rests = {f: exact_mean_cos2(f) - law(f) for f in (4, 8)}
    assert abs(rests[8]) < abs(rests[4]) / 3
    assert abs(exact_mean_cos2(8) - law(8, order=False)) > 5 * abs(rests[8])


def test_what_is_left_of_entries_that_share_something():
    """Where a and b meet in some units: the covariance of a^2 and b^2, which is 0 for independent ones, counts."""
    alike = 0.4

    def moment(p: int, q: int) -> float:
        return (1 - alike) * float(entry(p) * entry(q)) + alike * float(entry(p + q))

    rests = {f: exact_mean_cos2(f, alike) - overlap_from_moments(moment, f) for f in (4, 8)}
    assert abs(rests[8]) < abs(rests[4]) / 3
    # Without that covariance what is left is of first order, and fails the same line.
    sizes = moment(2, 0) * moment(0, 2)
    between = moment(1, 1) ** 2 / sizes * (moment(2, 2) - sizes) / sizes
    assert abs(rests[8] + between / 8) > abs(rests[4] + between / 4) / 3


def test_the_closed_form_of_independent_entries():
    """Law A5 as it is printed, term by term."""
    m1, m2, m3, m4 = (entry(p) for p in (1, 2, 3, 4))
    k0 = m1**2 / m2
    v = k0**2 * ((m2**2 - m1**4) / m1**4 + (m4 - m2**2) / (2 * m2**2) - 2 * (m3 * m1 - m1**2 * m2) / (m1**2 * m2))
    b = k0 * (Fraction(3, 4) * (m4 - m2**2) / m2**2 - (m3 * m1 - m1**2 * m2) / (m1**2 * m2))
    found = overlap_from_moments(lambda p, q: entry(p) * entry(q), Fraction(7))
    assert found == k0**2 + (2 * k0 * b + v) / 7
    assert found != k0**2 + (k0 * b + v) / 7


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("p, q", [(1, 0), (1, 1), (2, 1), (2, 2), (1, 3), (4, 0)])
def test_affine_moments_are_those_of_draws(p, q, shared):
    """a = g x + t, b = g' y + t' at a gain of spread 1/2: x and y by every outcome, gains and biases by Gauss-Hermite."""
    tau = 0.5
    z, w = np.polynomial.hermite_e.hermegauss(20)
    w = w / w.sum()
    g, t = np.meshgrid(1 + tau * z, tau * z, indexing="ij")
    weight = np.outer(w, w)
    total = 0.0
    for (x, wx), (y, wy) in itertools.product(zip(VALUES, WEIGHTS, strict=True), repeat=2):
        a, b = (g * x + t) ** p, (g * y + t) ** q
        together = (weight * a * b).sum() if shared else (weight * a).sum() * (weight * b).sum()
        total += float(wx * wy) * together
    moment = affine_moments(entry, tau, shared)
    assert float(moment(p, q)) == pytest.approx(total, rel=1e-12)


def test_without_gain_and_bias_entries_are_themselves():
    for shared in (True, False):
        moment = affine_moments(entry, Fraction(0), shared)
        assert [moment(p, q) for p, q in ((1, 1), (2, 0), (3, 1))] == [entry(1) ** 2, entry(2), entry(3) * entry(1)]


def test_two_laws_of_entries():
    moment = affine_moments(entry, Fraction(0), True, second=lambda p: Fraction(1))
    assert (moment(2, 1), moment(0, 3)) == (entry(2), 1)
