"""Pearson's system: moments by integration of the tails, type IV against its density in mpmath."""

import math

import mpmath
import numpy as np
import pytest

from simgap.theory.pearson import Standard, law_from, pearson_law

FAMILIES = [(1.0, 0.1, 0.02, -0.002), (0.0, 2.0, 2.0, 1.5 * 4 / 2), (0.5, 0.1, 0.03, 0.016), (0.0, 1.0, 0.3, 0.5), (2.0, 1.0, 1.0, 1.7)]


@pytest.mark.parametrize("cumulants", FAMILIES, ids=["I", "III", "VI", "IV", "VI far"])
def test_pearson_laws_have_the_cumulants_asked_for(cumulants):
    law, low = pearson_law(*cumulants)
    mean, variance, third, fourth = cumulants
    sd = math.sqrt(variance)
    # E (x - mean)^p = p int t^(p-1) [P(x > mean + t) + (-1)^p P(x < mean - t)] dt, with a grid even in log t for the power tails.
    t = np.exp(np.linspace(math.log(1e-5), math.log(1e4), 1500)) * sd
    upper, lower = law.sf(mean + t), law.cdf(mean - t)
    moments = [np.trapezoid(p * t**p * (upper + (-1) ** p * lower), np.log(t)) for p in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, variance, third, fourth + 3 * variance**2], rel=2e-3, abs=2e-4)
    assert law.cdf(low if math.isfinite(low) else -1e9) == pytest.approx(0, abs=1e-12)
    for q in (1e-4, 0.3, 0.999):
        assert law.cdf(law.ppf(q)) == pytest.approx(q, rel=1e-8)
        assert law.sf(law.isf(q)) == pytest.approx(q, rel=1e-8)


def test_three_moment_laws_start_where_told():
    law = law_from(0.25, 0.5, 1 / 24, 1 / 144)
    assert law.frozen.support()[0] == 0.25
    assert law.frozen.stats("mvs") == pytest.approx((0.5, 1 / 24, (1 / 144) * 24**1.5), rel=1e-9)
    steep = law_from(0.0, 1.0, 0.01, 0.005)
    assert steep.frozen.stats("mvs") == pytest.approx((1.0, 0.01, 5.0), rel=1e-9)
    with pytest.raises(ValueError, match="so small a skewness"):
        law_from(0.0, 1.0, 4.0, 0.0)


LAWS = [
    Standard("norm", (), 0.3, 0.2),
    Standard("gamma", (2.5,), 0.1, 0.05),
    Standard("beta", (0.5, 6.5)),
    Standard("beta", (3.0, 40.0), 0.02, 0.9),
    Standard("betaprime", (12.0, 30.0), -0.1, 1.3),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_tails_are_scipys_to_the_bit(law):
    """Inside the support, at its ends, outside it, and where the Beta-prime law changes its form; as arrays and as numbers."""
    x = np.concatenate([np.linspace(-0.5, 2.5, 301), [law.low, law.low + law.scale, 1e9, -1e9, math.inf, -math.inf, math.nan]])
    for mine, scipys in ((law.cdf, law.frozen.cdf), (law.sf, law.frozen.sf), (law.ppf, law.frozen.ppf), (law.isf, law.frozen.isf)):
        np.testing.assert_array_equal(mine(x), scipys(x))
    for mine, scipys in ((law.cdf, law.frozen.cdf), (law.sf, law.frozen.sf)):
        one_by_one = [mine(value) for value in x.tolist()]
        assert {type(value) for value in one_by_one} == {float}
        np.testing.assert_array_equal(one_by_one, scipys(x))
    assert law.sf(0.25) == law.frozen.sf(0.25) != law.sf(0.26)


def test_type_four_against_its_density():
    law, _ = pearson_law(0.0, 1.0, 0.3, 0.5)

    def density(z):
        t = (z - law.centre) / law.scale
        return mpmath.exp(-law.m * mpmath.log(1 + t * t) - law.nu * mpmath.atan(t))

    whole = mpmath.quad(density, [-mpmath.inf, -3, 0, 3, mpmath.inf])
    for z in (-4.0, 0.2, 3.0, 9.0):
        assert law.sf(z) == pytest.approx(float(mpmath.quad(density, [z, z + 3, z + 20, mpmath.inf]) / whole), rel=1e-9)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="variance, third"):
        pearson_law(0.0, 1.0, -0.1, 0.0)
    with pytest.raises(ValueError, match="fourth: expected more"):
        pearson_law(0.0, 1.0, 1.0, -1.5)


@pytest.mark.parametrize("law", [*LAWS, pearson_law(0.3, 0.01, 0.0003, 0.00005)[0]], ids=str)
def test_nodes_take_expectations(law):
    """Against the tails: E g(X) = g(high) - int g'(x) P(X <= x) dx."""
    x, weights = law.nodes()
    assert weights.sum() == pytest.approx(1, rel=1e-14)
    assert (weights > 0).all()
    grid = np.linspace(law.ppf(1e-11), law.isf(1e-11), 200_001)
    below = law.cdf(grid) if isinstance(law, Standard) else np.interp(grid, grid[::100], law.cdf(grid[::100]))
    for function, slope in ((np.sin, np.cos), (lambda t: t**2, lambda t: 2 * t)):
        expected = function(grid[-1]) - np.trapezoid(slope(grid) * below, grid)
        assert (function(x) * weights).sum() == pytest.approx(expected, rel=1e-5)
