"""What meeting on a token adds, by hand: two tokens, two strata, and shares along a bias against draws."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from simgap.theory.other_tokens import bias_gain, bias_share, gain_cumulants, least_p, meeting_gain, stratified_gain
from simgap.theory.sign_flips import upper_p

A, B = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])


def test_two_tokens_by_hand():
    # On a token tr S^2 = 1; drawn apart, half of the time the same; as these two, never.
    assert meeting_gain([A, B]) == 0.5
    assert stratified_gain([A, B], [0, 0]) == 1
    assert meeting_gain([A, A]) == 0


def test_strata_take_out_what_they_know():
    assert stratified_gain([A, A, B, B], [0, 0, 1, 1]) == 0
    # One that is alone takes no part.
    assert stratified_gain([A, B, A], [0, 0, 1]) == 1
    # Two tokens of three, and the other stratum gains nothing.
    assert stratified_gain([A, B, B, B, B], [0, 0, 1, 1, 1]) == pytest.approx(2 / 5)


def test_a_common_bias():
    # S(t) = diag(a, 1 - a) in the plane.
    shares = [0.5, 0.9, 0.6]
    assert bias_gain(shares, 2) == pytest.approx(stratified_gain([np.diag([a, 1 - a]) for a in shares], [0, 0, 0]), rel=1e-12)


@pytest.mark.parametrize(("width", "ratio"), [(4, 1.0), (3, 5.0), (64, 8.0), (768, 60.0)])
def test_shares_along_a_bias_against_draws(width, ratio):
    y = np.random.default_rng(width).standard_normal((40_000, width))
    y[:, 0] += ratio
    drawn = y[:, 0] ** 2 / (y**2).sum(1)
    sem = drawn.std(ddof=1) / 200
    assert abs(drawn.mean() - bias_share(width, ratio)) < 5 * sem
    assert abs(drawn.mean() - (1 + ratio**2) / (width + ratio**2) * 1.05) > 5 * sem


def test_shares_at_the_ends():
    assert bias_share(7, 0) == pytest.approx(1 / 7, rel=1e-12)
    assert bias_share(3, 1e3) == pytest.approx(1 - 2e-6, abs=1e-9)


def test_cumulants_of_three_experts():
    table = np.array([[0, 1, 2], [1, 0, -3], [2, -3, 0]], float)
    # Sums over pairs, and six times the triangle.
    assert gain_cumulants(table) == (0, 14, 1 + 8 - 27 + 6 * -6)
    assert least_p(5) == pytest.approx(0.0253, abs=1e-4)


def test_three_cumulants_know_few_directions():
    """The limit of many experts is a sum of weighted chi-squares. Of one direction alone three cumulants are the law. One beside so many
    small ones that they are normal is the worst of all spectra that were tried: to 15 percent at 0.05 and 0.01, 2.2 times at 0.001."""

    def above(x, variance, third, level):
        return upper_p(x, 0.0, variance, third) - level

    z = np.linspace(0, 12, 40_001)
    weight = np.exp(-z * z / 2) * (2 / math.pi) ** 0.5
    ratios = []
    for size in (0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0):
        variance, third = 1 + size * size, 8**0.5
        for level in (0.05, 0.01, 0.001):
            at = scipy.optimize.brentq(partial(above, variance=variance, third=third, level=level), 0, 50)
            of_normal = scipy.special.ndtr(((z * z - 1) / 2**0.5 - at) / size)
            ratios.append(np.trapezoid(of_normal * weight, z) / level)
    by_level = np.array(ratios).reshape(-1, 3).T
    assert 0.85 < by_level[:2].min() < by_level[:2].max() < 1.15
    assert 0.99 < by_level[2].min() < by_level[2].max() < 2.2
    # The control: a normal law of the same variance, beside one direction alone.
    at = scipy.special.ndtri(1 - 0.001) * 1.01**0.5
    assert np.trapezoid(scipy.special.ndtr(((z * z - 1) / 2**0.5 - at) / 0.1) * weight, z) > 0.01
