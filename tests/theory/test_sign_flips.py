"""Law T0 against every choice of signs, in fractions, and its p against laws that it is exact or known for."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from simgap.theory.sign_flips import form_cumulants, form_triangle, pair_cumulants, triangle_cumulant, upper_p

# Unit vectors of R^3 with rational entries.
UNITS = [
    tuple(Fraction(x, 1) / norm for x in v)
    for v, norm in [((1, 2, 2), 3), ((2, 3, 6), 7), ((6, -2, 9), 11), ((-4, 1, 8), 9), ((2, -10, 11), 15)]
]
SIGNS = list(itertools.product((1, -1), repeat=3))


def cumulants(values):
    n = len(values)
    mean = sum(values) / n
    return mean, sum((v - mean) ** 2 for v in values) / n, sum((v - mean) ** 3 for v in values) / n


def sums(*vectors):
    """Sums over coordinates of products of squares, fourth and sixth powers."""
    shares = [math.prod(v[i] ** 2 for v in vectors) for i in range(3)]
    return tuple(sum(s**power for s in shares) for power in (1, 2, 3))


def overlap(vectors, signs):
    """Sum of cos^2 over pairs."""
    flipped = [[x * s for x, s in zip(v, row, strict=True)] for v, row in zip(vectors, signs, strict=True)]
    return sum(sum(a * b for a, b in zip(u, v, strict=True)) ** 2 for u, v in itertools.combinations(flipped, 2))


def test_one_pair():
    u, v = UNITS[:2]
    assert pair_cumulants(*sums(u, v)) == cumulants([overlap((u, v), (s, (1, 1, 1))) for s in SIGNS])
    assert pair_cumulants(*sums(u, v)) != cumulants([overlap((u, UNITS[2]), (s, (1, 1, 1))) for s in SIGNS])


def test_three_vectors():
    vectors = UNITS[:3]
    found = cumulants([overlap(vectors, ((1, 1, 1), *signs)) for signs in itertools.product(SIGNS, repeat=2)])
    pairs = [pair_cumulants(*sums(u, v)) for u, v in itertools.combinations(vectors, 2)]
    mean, variance, third = (sum(column) for column in zip(*pairs, strict=True))
    t, s, _ = sums(*vectors)
    assert found == (mean, variance, third + triangle_cumulant(t, s))
    # Without the triangle it is another number.
    assert found[2] != third


def test_tokens_that_share_a_sign():
    """Three experts; each pair meets on two tokens, on which its experts have the same signs and other vectors."""
    tokens = {(0, 1): [(0, 1), (1, 2)], (0, 2): [(2, 3), (4, 0)], (1, 2): [(3, 1), (2, 4)]}

    def total(signs):
        return sum(
            sum(UNITS[a][i] * UNITS[b][i] * signs[e][i] * signs[f][i] for i in range(3)) ** 2
            for (e, f), at in tokens.items()
            for a, b in at
        )

    found = cumulants([total(((1, 1, 1), *signs)) for signs in itertools.product(SIGNS, repeat=2)])
    forms = [
        [[sum(UNITS[a][i] * UNITS[b][i] * UNITS[a][j] * UNITS[b][j] for a, b in at) for j in range(3)] for i in range(3)]
        for at in tokens.values()
    ]
    mean, variance, third = (sum(column) for column in zip(*map(form_cumulants, forms), strict=True))
    assert found == (mean, variance, third + form_triangle(*forms))
    assert found[2] != third


def test_equal_scales_are_those_of_a_round_space():
    n = 1000
    mean, variance, third = pair_cumulants(Fraction(1, n), Fraction(1, n**3), Fraction(1, n**5))
    assert mean == Fraction(1, n)
    exact = scipy.stats.beta(0.5, (n - 1) / 2)
    assert float(variance) == pytest.approx(exact.var(), rel=3 / n)
    assert float(third) == pytest.approx(float(exact.stats("s")) * exact.std() ** 3, rel=15 / n)


@pytest.mark.parametrize("value", [0.5, 1.0, 4.0, 12.0])
def test_chi_squared_of_one_degree_is_exact(value):
    assert upper_p(value, 1.0, 2.0, 8.0) == pytest.approx(scipy.stats.chi2(1).sf(value), rel=1e-12)
    assert upper_p(value, 1.0, 2.0, 8.0) != pytest.approx(scipy.stats.norm(1, math.sqrt(2)).sf(value), rel=0.01)


def test_without_skewness_it_is_the_normal_law():
    for third in (0.0, -3.0, 1e-6):
        assert upper_p(3.0, 1.0, 1.0, third) == pytest.approx(scipy.stats.norm.sf(2.0), rel=1e-9)
    # Where the two meet they agree, up to what the skewness does there, (z^2 - 1) / 6 times itself of the density.
    assert upper_p(5.0, 1.0, 1.0, 1.001e-4) == pytest.approx(upper_p(5.0, 1.0, 1.0, 0.999e-4), rel=1.2e-3)


def test_nothing_that_varies():
    assert upper_p(0.3, 0.3, 0.0, 0.0) == 1.0


def test_a_gamma_law_by_draws():
    """At a fixed number of draws, within 5 standard errors; half the skewness is refused."""
    draws = np.random.default_rng(0).gamma(1.5, size=200_000)
    far = float(scipy.stats.gamma(1.5).isf(0.001))
    seen, sem = float((draws >= far).mean()), math.sqrt(0.001 / 200_000)
    assert abs(upper_p(far, 1.5, 1.5, 3.0) - seen) < 5 * sem
    assert abs(upper_p(far, 1.5, 1.5, 1.5) - seen) > 5 * sem
