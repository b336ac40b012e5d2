"""Law N3: exact in fractions; the spread of the ratio against draws at a fixed n."""

import math
from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.gap_law import null_gap, null_ratio, ratio_variance
from simgap.theory.output_null import null_output_mso
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
