"""Law N3: exact in fractions; the spread of the ratio against draws at a fixed n."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate, special, stats

from simgap.theory.gap_law import gap_p, null_gap, null_ratio, ratio_p, ratio_variance
from simgap.theory.mso_law import mso_distribution
from simgap.theory.output_null import null_output_mso
from simgap.theory.pearson import PearsonIV, Standard
from simgap.theory.weight_null import null_weight_mso

SIGMA = 5.0


@pytest.mark.parametrize("d, f", [(1, 1), (2, 3), (128, 512), (4096, 14336)])
def test_the_gap_is_a_difference_of_dimensions(d, f):
    assert null_gap(Fraction(d), Fraction(f)) == Fraction(f - 1, d * f)
    assert null_gap(d, f) == pytest.approx((f - 1) / (d * f), rel=1e-14)
    assert null_gap(Fraction(d), Fraction(f)) != Fraction(f + 1, d * f)


@pytest.mark.parametrize("d, f", [(1, 1), (2, 3), (128, 512)])
def test_the_ratio_of_means_is_the_hidden_width(d, f):
    assert null_output_mso(Fraction(d)) / null_weight_mso(Fraction(d), Fraction(f)) == null_ratio(f) == f


def test_the_ratio_variance_in_fractions():
    a, va, w, vw = Fraction(1, 4), Fraction(1, 100), Fraction(1, 20), Fraction(1, 5000)
    slope_a, slope_w = 1 / w, -a / w**2
    assert ratio_variance(a, va, w, vw) == slope_a**2 * va + slope_w**2 * vw
    assert ratio_variance(a, va, w, vw) != slope_a**2 * va


def test_the_ratio_variance_against_draws():
    """Two independent means with relative errors of 1% and 2%; the law's next order is 3 x 2% squared, below 0.2%."""
    draws = 200_000
    generator = np.random.default_rng(11)
    a = 0.25 + 0.0025 * generator.standard_normal(draws)
    w = 0.01 + 0.0002 * generator.standard_normal(draws)
    ratio = a / w
    law = ratio_variance(0.25, 0.0025**2, 0.01, 0.0002**2)
    error = math.sqrt(2 / draws)
    assert abs(ratio.var(ddof=1) / law - 1) < SIGMA * error + 0.004
    for twin in (ratio_variance(0.25, 0.0025**2, 0.01, 0.0), ratio_variance(0.25, 0.0, 0.01, 0.0002**2), 1.05 * law):
        assert abs(ratio.var(ddof=1) / twin - 1) > SIGMA * error + 0.004
    # The expectation of the ratio is larger than the ratio of expectations, by the squared relative error of the denominator, 0.0004.
    z = (ratio.mean() / 25 - 1) / (math.sqrt(law / draws) / 25)
    assert z > SIGMA
    assert abs(z - 0.0004 / (math.sqrt(law / draws) / 25)) < SIGMA


@pytest.mark.parametrize("trials", [1, 2, 3, 10])
def test_the_ratio_of_two_experts_in_wide_spaces_is_an_f(trials):
    """cos^2 is nearly chi^2_1 / N there, so that the ratio of two means over T trials is f F(T, T)."""
    laws = mso_distribution(1e8, 1, trials, 2), mso_distribution(1e11, 1, trials, 2)
    law = stats.f(trials, trials)
    quantiles = law.ppf([1e-5, 1e-3, 0.2, 0.5, 0.7, 0.99]).tolist() + law.isf([1e-3, 1e-5]).tolist()
    found = ratio_p(1000 * np.array(quantiles), *laws)
    expected = [2 * min(law.cdf(q), law.sf(q)) for q in quantiles]
    assert found == pytest.approx(expected, rel=0.01)


def by_quadrature(tail, up: Standard) -> float:
    """E tail(w) over w's Beta law in log odds, panel by panel."""
    a, b = up.shapes

    def integrand(y: float) -> float:
        return tail(special.expit(y)) * math.exp(-a * np.logaddexp(0, -y) - b * np.logaddexp(0, y) - special.betaln(a, b))

    edges = [*np.arange(-70, -20, 10), *np.arange(-20, 6)]
    return sum(integrate.quad(integrand, low, high, epsabs=0, epsrel=1e-9)[0] for low, high in itertools.pairwise(edges))


@pytest.mark.parametrize("shapes", [((0.5, 1.0), (0.5, 5.5)), ((0.5, 31.5), (0.5, 500.0)), ((7.0, 100.0), (3.0, 900.0))])
def test_p_of_gap_and_ratio_against_quadrature(shapes):
    output, up = (Standard("beta", pair) for pair in shapes)
    a = stats.beta(*shapes[0])
    mean, middle = a.mean(), shapes[1][0] / sum(shapes[1])
    for gap in (mean / 10 - middle, mean - middle, 2 * mean - middle, a.isf(1e-5)):
        tails = by_quadrature(lambda w, g=gap: a.sf(w + g), up), by_quadrature(lambda w, g=gap: a.cdf(w + g), up)
        assert sum(tails) == pytest.approx(1, rel=1e-6)
        p = min(1, 2 * min(tails))
        assert gap_p(np.array([gap]), output, up) == pytest.approx([p], rel=0.02 if p > 1e-5 else 0.1)
    for ratio in np.array([1e-4, 0.1, 1.0, 3.0, 100.0]) * mean / middle:
        tails = by_quadrature(lambda w, r=ratio: a.sf(r * w), up), by_quadrature(lambda w, r=ratio: a.cdf(r * w), up)
        assert ratio_p(np.array([ratio]), output, up) == pytest.approx([min(1, 2 * min(tails))], rel=0.01)


def test_laws_of_type_iv_on_either_side():
    """Of a gap where the output's is one, and of a ratio. Against all pairs of 200 quantiles in the middle of their slices."""
    output, up = mso_distribution(16, 120, 1, 16), mso_distribution(64, 120, 1, 16)
    assert isinstance(output, PearsonIV)
    assert isinstance(up, PearsonIV)
    levels = (np.arange(200) + 0.5) / 200
    a, w = output.ppf(levels)[:, None], up.ppf(levels)
    for values, p_of in ((a - w, gap_p), (a / w, ratio_p)):
        for level in (0.1, 0.5):
            ends = np.quantile(values, [level / 2, 1 - level / 2])
            assert p_of(ends, output, up) == pytest.approx([level] * 2, rel=0.01)


def test_a_ratio_of_zero_and_values_one_by_one():
    laws = mso_distribution(8, 6, 2, 4), mso_distribution(80, 6, 2, 4)
    assert ratio_p(np.array([0.0]), *laws) < 1e-6
    values = np.linspace(0.5, 30, 7)
    for p_of in (gap_p, ratio_p):
        assert p_of(values, *laws).tolist() == [p_of(np.array([value]), *laws)[0] for value in values]
        assert p_of(np.empty(0), *laws).tolist() == []
