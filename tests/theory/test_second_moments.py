"""Law T1 in fractions, over every pair of values of two discrete laws."""

from fractions import Fraction
from itertools import product

from simgap.theory.second_moments import moment_overlap, null_round_mso

# Unit vectors of R^3 with rational entries.
BASIS = [tuple(Fraction(x, 7) for x in v) for v in [(2, 3, 6), (3, -6, 2), (6, 2, -3)]]
FIRST = [*BASIS, BASIS[0]]
SECOND = [tuple(Fraction(x, 3) for x in v) for v in [(1, 2, 2), (2, -2, 1)]]


def moments(vectors):
    return [[sum(v[i] * v[j] for v in vectors) / len(vectors) for j in range(3)] for i in range(3)]


def test_the_mean_over_all_pairs():
    overlaps = [sum(a * b for a, b in zip(u, v, strict=True)) ** 2 for u, v in product(FIRST, SECOND)]
    assert sum(overlaps) / len(overlaps) == moment_overlap(moments(FIRST), moments(SECOND))
    assert sum(overlaps) / len(overlaps) != null_round_mso(Fraction(3))


def test_a_round_space_has_the_least():
    assert moment_overlap(moments(BASIS), moments(BASIS)) == Fraction(1, 3) == null_round_mso(Fraction(3))
    assert moment_overlap(moments(SECOND), moments(SECOND)) > Fraction(1, 3)
