"""What meeting on a token adds, by hand: two tokens, two strata, and shares along a bias against draws."""

import numpy as np
import pytest

from simgap.theory.other_tokens import bias_gain, bias_share, gain_cumulants, least_p, meeting_gain, stratified_gain

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
