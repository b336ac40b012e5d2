"""Certified expectations hold the values known otherwise, closely; and a broken premise is refused or seen."""

import mpmath
import pytest
from flint import arb

from simgap.certify import BALL, hermite_coefficient, pair_series, precision
from simgap.certify.quadrature import gaussian_expectation


def holds(ball, value, radius):
    """Whether a ball overlaps an mpmath number known to 1e-35, with a radius below the stated one."""
    return ball.overlaps(arb(mpmath.nstr(value, 40)) + arb(0, 1e-35)) and float(ball.rad()) < radius


def by_mpmath(f, std):
    with mpmath.workdps(40):
        return mpmath.quad(lambda z: f(std * z) * mpmath.npdf(z), [-18, -8, -3, 0, 3, 8, 18])


@pytest.mark.parametrize("std", [1, 3])
def test_expectations(std):
    with precision(112):
        assert holds(BALL.expect(lambda x: x**4, std, degree=4), 3 * mpmath.mpf(std) ** 4, 1e-28)
        assert holds(BALL.expect(lambda x: x * BALL.logistic(x), std, degree=1), by_mpmath(lambda x: x / (1 + mpmath.exp(-x)), std), 1e-28)
        kinked = BALL.expect(BALL.positive_part, std, degree=1)
        with mpmath.workdps(45):
            assert holds(kinked, std / mpmath.sqrt(2 * mpmath.pi), 1e-28)
            assert not holds(kinked, std / mpmath.sqrt(2 * mpmath.pi) + mpmath.mpf("1e-25"), 1e-28)


def test_twice_the_precision_lies_within():
    with precision(80):
        once = BALL.expect(BALL.tanh, 1, degree=1) + BALL.expect(lambda x: BALL.tanh(x) ** 2, 2)
    with precision(160):
        again = BALL.expect(BALL.tanh, 1, degree=1) + BALL.expect(lambda x: BALL.tanh(x) ** 2, 2)
    assert once.overlaps(again)
    assert float(again.rad()) < 1e-15 * float(once.rad())


def test_hermite_coefficients():
    """x^3 = 3 h_1 + sqrt(6) h_3 at s = 1."""
    with precision(96):
        found = [hermite_coefficient(lambda x: x**3, arb(1), j, 3, BALL._watch) for j in range(5)]
        for ball, square in zip(found, (0, 9, 0, 6, 0), strict=True):
            assert (ball * ball - square).contains(0)
            assert float(ball.rad()) < 1e-24


def test_pairs():
    """Isserlis, Sheppard and Cho and Saul: smooth, and kinked at 0."""
    with precision(84), mpmath.workdps(45):
        square = BALL.expect_pair(lambda x: x * x, lambda x: x * x, "0.25", 2, degree=2)
        assert holds(square, mpmath.mpf(16) * (1 + 2 / mpmath.mpf(16)), 1e-18)
        mixed = BALL.expect_pair(lambda x: x, lambda x: 1 + x + x * x, "-0.5", 2, degree=2)
        # x has no coefficient beyond j = 1, so that round-off ends the series early: its square root bounds the rest.
        assert holds(mixed, mpmath.mpf(-2), 1e-10)
        rho = mpmath.mpf("0.125")
        relu = BALL.expect_pair(BALL.positive_part, BALL.positive_part, "0.125", 1)
        exact = (mpmath.sqrt(1 - rho**2) + rho * (mpmath.pi - mpmath.acos(rho))) / (2 * mpmath.pi)
        assert holds(relu, exact, 1e-18)
        assert not holds(relu, exact * (1 + mpmath.mpf("1e-15")), 1e-18)


def test_one_series_for_every_correlation():
    """A ball of correlations gives a ball that holds every value; beyond up_to it is wider, not wrong."""
    with precision(64):
        series = BALL.pair_series(BALL.erf, BALL.erf, 1, 1, "0.25")
        assert float(series.at(BALL.number("0.25")).rad()) < 1e-12
        over = series.at(arb("0.1").union(arb("0.2")))
        closed = [2 / BALL.pi * BALL.asin(2 * BALL.number(text) / 3) for text in ("0.1", "0.15", "0.2", "0.9")]
        assert all(over.overlaps(value) for value in closed[:3])
        beyond = series.at(BALL.number("0.9"))
        assert beyond.overlaps(closed[3])
        assert float(beyond.rad()) > 1e-10
        with pytest.raises(ValueError, match=r"rho: expected a ball within \[-1, 1\]"):
            series.at(arb(1, 0.1))


def test_refusals():
    with pytest.raises(ValueError, match="std: expected a ball above 0"):
        gaussian_expectation(lambda x: x, arb(0, 1), 1, BALL._watch)
    with pytest.raises(ValueError, match="std: expected a ball above 0"):
        pair_series(lambda x: x, lambda x: x, arb(-1), 1, BALL._watch)


def test_a_jump_inside_gives_no_false_enclosure():
    """A function that is not analytic beside 0 breaks the premise: the ball widens instead of missing P(z > 1) = 0.1586..."""
    with precision(53):
        ball = BALL.expect(lambda x: BALL.step(x - 1), 1, degree=0)
    assert ball.overlaps(arb("0.158655253931457"))
