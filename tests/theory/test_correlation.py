"""Laws S1 and S2 against scipy, enumeration in fractions, and draws at a fixed n."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from simgap import stats
from simgap.theory import correlation
from simgap.theory.correlation import (
    correlation_t,
    critical_correlation,
    degrees_of_freedom,
    false_positive_rate,
    null_weight_output_covariance,
)

SIGMA = 5.0


@pytest.mark.parametrize("n", [3, 4, 25, 300])
@pytest.mark.parametrize("r", [-0.9, -0.112, 0.0, 0.5])
def test_t_and_its_p_are_scipys(n, r):
    """scipy's pearsonr integrates the Beta density of r itself; the two routes share no formula."""
    law = scipy.stats.beta(n / 2 - 1, n / 2 - 1, loc=-1, scale=2)
    p = 2 * scipy.stats.t(degrees_of_freedom(n)).sf(abs(correlation_t(r, n)))
    assert p == pytest.approx(2 * law.sf(abs(r)), rel=1e-9, abs=0)
    assert correlation.pearson_p(r, n) == pytest.approx(p, rel=1e-9, abs=0)
    assert r == 0 or p != pytest.approx(2 * scipy.stats.t(n - 1).sf(abs(correlation_t(r, n))), rel=1e-5, abs=0)


def test_the_tests_of_stats_are_not_written_twice():
    assert correlation.pearson_p is stats.pearson_p
    assert correlation.implied_n is stats.implied_n
    assert correlation.implied_n(-0.112, 0.596) == [25]
    assert correlation.implied_n(-0.293, 0.523) == [7]


@pytest.mark.parametrize("n, level", [(3, 0.05), (10, 0.05), (50, 0.01), (50, 0.5)])
def test_the_critical_correlation_has_that_p(n, level):
    law = scipy.stats.beta(n / 2 - 1, n / 2 - 1, loc=-1, scale=2)
    assert 2 * law.sf(critical_correlation(n, level)) == pytest.approx(level, rel=1e-9)


def test_copies_reject_at_the_law_of_the_seeds():
    """0.44 for 10 seeds x 5 copies: P(|r_10| > r_50) by scipy's Beta law of r."""
    law = scipy.stats.beta(4, 4, loc=-1, scale=2)
    edge = scipy.stats.beta(24, 24, loc=-1, scale=2).isf(0.025)
    assert false_positive_rate(10, 5) == pytest.approx(2 * law.sf(edge), rel=1e-9)
    assert false_positive_rate(10, 5) == pytest.approx(0.44, abs=0.005)


def test_without_clusters_the_rate_is_nominal():
    assert false_positive_rate(10, 5, 0.05, 0.0) == 0.05
    assert false_positive_rate(10, 1, 0.01, 0.7) == 0.01
    assert false_positive_rate(10, 5, 0.05, 1e-9) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("seeds, tolerance", [(3, 2e-2), (10, 1e-3), (30, 1e-3)])
def test_the_rate_is_continuous_at_copies(seeds, tolerance):
    """1 - w = 1e-3 moves a rate by its slope, of order 1, times that; at 3 seeds the law of r has an edge at 1."""
    assert false_positive_rate(seeds, 5, 0.05, 0.999) == pytest.approx(false_positive_rate(seeds, 5, 0.05, 1.0), abs=tolerance)


@pytest.mark.parametrize("seeds, conditions, within, tolerance", [(10, 5, 0.9, 1e-6), (10, 20, 0.5, 1e-6), (3, 5, 0.99, 5e-3)])
def test_the_rate_does_not_hang_on_its_nodes(monkeypatch, seeds, conditions, within, tolerance):
    found = false_positive_rate(seeds, conditions, 0.05, within)
    monkeypatch.setattr(correlation, "NODES", 80)
    assert found == pytest.approx(false_positive_rate(seeds, conditions, 0.05, within), abs=tolerance)


@pytest.mark.parametrize("seeds, conditions, within", [(100, 50, 0.5), (1000, 10, 0.3), (5000, 2, 0.9), (20_000, 5, 0.5)])
def test_the_rate_of_many_points_is_that_of_a_normal_correlation(seeds, conditions, within):
    """r is a mean of many terms there: normal, with the variance of its two parts; 1e-3 is three times what 1/seeds leaves at 100."""
    between, inside = seeds - 1, seeds * (conditions - 1)
    share = between * (1 + (conditions - 1) * within) / (between * (1 + (conditions - 1) * within) + inside * (1 - within))
    sd = math.sqrt(share**2 / between + (1 - share) ** 2 / inside)
    edge = scipy.stats.norm.isf(0.025) / math.sqrt(seeds * conditions - 1)
    expected = 2 * scipy.stats.norm.sf(edge / sd)
    found = false_positive_rate(seeds, conditions, 0.05, within)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found != pytest.approx(2 * scipy.stats.norm.sf(1.1 * edge / sd), abs=1e-3)


def test_the_rate_rises_with_the_correlation():
    rates = [false_positive_rate(10, 5, 0.05, w) for w in (0, 0.1, 0.3, 0.6, 0.9, 0.99, 1)]
    assert all(a < b for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("seeds, conditions, within", [(10, 5, 0.9), (4, 3, 0.5), (3, 2, 0.8)])
def test_the_rate_against_draws(seeds, conditions, within):
    generator = np.random.default_rng(seeds)
    draws = 20_000
    sides = []
    for _ in range(2):
        own, shared = generator.standard_normal((draws, seeds, conditions)), generator.standard_normal((draws, seeds, 1))
        sides.append((math.sqrt(within) * shared + math.sqrt(1 - within) * own).reshape(draws, -1))
        sides[-1] -= sides[-1].mean(1, keepdims=True)
    r = (sides[0] * sides[1]).sum(1) / np.sqrt((sides[0] ** 2).sum(1) * (sides[1] ** 2).sum(1))
    n = seeds * conditions
    p = 2 * scipy.stats.beta(n / 2 - 1, n / 2 - 1, loc=-1, scale=2).sf(np.abs(r))
    rejected = p < 0.05
    error = rejected.std(ddof=1) / math.sqrt(draws)
    assert abs(rejected.mean() - false_positive_rate(seeds, conditions, 0.05, within)) < SIGMA * error
    assert abs(rejected.mean() - 0.05) > SIGMA * error
    assert abs(rejected.mean() - false_positive_rate(seeds, conditions, 0.05, 1.0)) > SIGMA * error


@pytest.mark.parametrize(
    "arguments, name",
    [
        ((2, 5), "seeds"),
        ((5, 0), "seeds"),
        ((10.5, 5), "seeds"),
        ((math.nan, 5), "seeds"),
        ((5, 2.5), "seeds"),
        ((5, 5, 0.0), "level"),
        ((5, 5, 1.0), "level"),
        ((5, 5, 0.05, -0.1), "within_correlation"),
    ],
)
def test_what_has_no_rate_is_refused(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}.*: expected"):
        false_positive_rate(*arguments)


def test_two_points_have_no_critical_correlation():
    with pytest.raises(ValueError, match=r"^n: expected a whole number of at least 3, got 2"):
        critical_correlation(2)


def test_the_covariance_of_overlaps_by_enumeration():
    """Linear experts, d = 2, f = 2, x = (1, 2), every W_up and W_down of signs: 0 exactly; above it with one W_down for both."""
    matrices = [((a, b), (c, e)) for a, b, c, e in itertools.product((-1, 1), repeat=4)]

    def output(down, up):
        hidden = [row[0] + 2 * row[1] for row in up]
        return [row[0] * hidden[0] + row[1] * hidden[1] for row in down]

    def cos2(u, v):
        lengths = sum(a * a for a in u) * sum(b * b for b in v)
        return Fraction(sum(a * b for a, b in zip(u, v, strict=True)) ** 2, lengths) if lengths else None

    def covariance(downs):
        pairs = []
        for up, other in itertools.product(matrices, repeat=2):
            w = cos2((*up[0], *up[1]), (*other[0], *other[1]))
            for first, second in downs:
                o = cos2(output(first, up), output(second, other))
                pairs += [] if o is None else [(w, o)]
        means = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
        return sum((w - means[0]) * (o - means[1]) for w, o in pairs) / len(pairs)

    # One random side is enough, and every W_down of the other experts.
    for second in (matrices[0], matrices[6]):
        assert covariance([(first, second) for first in matrices]) == null_weight_output_covariance()
    assert covariance([(first, first) for first in matrices]) > 0
