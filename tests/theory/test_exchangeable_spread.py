"""Law T6 against every sign and order of the entries, in fractions."""

import itertools
import math
from fractions import Fraction

import pytest

from simgap.theory.exchangeable_spread import blocks_moments, centred_overlap_covariance, overlap_covariance, sd_of_sum
from simgap.theory.weight_null import null_variance, null_variance_general


def cos2(u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return Fraction(dot * dot, sum(a * a for a in u) * sum(b * b for b in v))


def shared(u, v):
    return Fraction(sum(a * a * b * b for a, b in zip(u, v, strict=True)), sum(a * a for a in u) * sum(b * b for b in v))


def moved(v, order, signs):
    return [signs[i] * v[i] for i in order]


def every(n, signs=True):
    flips = itertools.product((1, -1), repeat=n) if signs else [(1,) * n]
    return list(itertools.product(itertools.permutations(range(n)), flips))


def covariance(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True)) / len(x) - sum(x) * sum(y) / len(x) ** 2


@pytest.mark.parametrize("u, v", [(((1, 2, 2), (3, 0, 1)), ((1, 1, 5), (2, -1, 4))), (((1, 0, 0), (0, 1, 0)), ((1, 1, 1), (1, 2, 0)))])
def test_two_tokens_under_signs_and_orders(u, v):
    values = [[cos2(u[t], moved(v[t], *move)) for move in every(3)] for t in (0, 1)]
    for t, other in itertools.product((0, 1), repeat=2):
        sizes = shared(u[t], u[other]), shared(v[t], v[other])
        found = overlap_covariance(Fraction(3), *sizes, cos2(u[t], u[other]), cos2(v[t], v[other]))
        assert found == covariance(values[t], values[other])
        assert sum(values[t]) / len(values[t]) == Fraction(1, 3)
    assert overlap_covariance(Fraction(3), *sizes, 0, 0) != found


@pytest.mark.parametrize("n", [4, 5])
def test_two_tokens_that_sum_to_0_under_orders(n):
    u, v = ((-6, 1, 2, 3, 0)[:n], (2, 2, -1, -3, 0)[:n]), ((1, 4, -5, 0, 0)[:n], (-3, 1, 1, 1, 0)[:n])
    values = [[cos2(u[t], moved(v[t], *move)) for move in every(n, signs=False)] for t in (0, 1)]
    for t, other in itertools.product((0, 1), repeat=2):
        sizes = shared(u[t], u[other]), shared(v[t], v[other])
        found = centred_overlap_covariance(Fraction(n), *sizes, cos2(u[t], u[other]), cos2(v[t], v[other]))
        assert found == covariance(values[t], values[other])
        assert sum(values[t]) / len(values[t]) == Fraction(1, n - 1)
        assert found != overlap_covariance(Fraction(n), *sizes, cos2(u[t], u[other]), cos2(v[t], v[other]))


def test_one_token_is_law_n1():
    a, b = Fraction(1, 5), Fraction(3, 7)
    assert overlap_covariance(Fraction(6), a, b) == null_variance_general(Fraction(6), a / 6, b / 6)
    # An isotropic side leaves nothing of the other's sizes.
    assert overlap_covariance(Fraction(6), Fraction(3, 8), b) == null_variance(Fraction(6))


def test_blocks_of_other_scales():
    """Two and three entries, which keep to themselves."""
    u, v = (1, 2, 3, 3, 1), (2, 2, 1, 0, 4)
    cuts = (slice(0, 2), slice(2, 5))
    values = [cos2(u, moved(v[cuts[0]], *first) + moved(v[cuts[1]], *second)) for first, second in itertools.product(every(2), every(3))]
    squares = [Fraction(sum(x * x for x in side)) for side in (u, v)]
    shares = [[sum(x * x for x in side[cut]) / whole for side, whole in zip((u, v), squares, strict=True)] for cut in cuts]
    fourths = [[sum(x**4 for x in side[cut]) / whole**2 for side, whole in zip((u, v), squares, strict=True)] for cut in cuts]
    assert blocks_moments([2, 3], shares, fourths) == (sum(values) / len(values), covariance(values, values))
    # As one block of five it is another law.
    whole = blocks_moments([Fraction(5)], [[1, 1]], [[sum(each) for each in zip(*fourths, strict=True)]])
    assert whole[0] == Fraction(1, 5) != sum(values) / len(values)


def test_two_axes_have_a_mass_at_0():
    n = Fraction(7)
    assert overlap_covariance(n, 1, 1) == 1 / n - 1 / n**2


def test_sd_of_sum():
    assert sd_of_sum(9.0, 6) == 0.5
    assert sd_of_sum(-1e-20, 6) == 0.0
    assert math.copysign(1, sd_of_sum(0.0, 1)) == 1
