"""The ball context: exact numbers, functions that hold the truth, and the precision of a block."""

from fractions import Fraction

import flint
import mpmath
import pytest
from flint import acb, arb, fmpq

from simgap.certify import BALL, precision


def contains(ball, value):
    """Whether a ball holds an mpmath number to within the number's own 45 digits, and says something."""
    wide = arb(mpmath.nstr(value, 45)) + arb(0, 1e-40)
    return ball.overlaps(wide) and float(ball.rad()) < 1e-30


def test_numbers_are_exact():
    assert BALL.number("0.1").contains(fmpq(1, 10))
    assert not arb(0.1).contains(fmpq(1, 10))
    assert BALL.number(Fraction(1, 3)).contains(fmpq(1, 3))
    assert BALL.number(7).is_exact()
    ball = arb(1, 0.5)
    assert BALL.number(ball) is ball
    with pytest.raises(ValueError, match=r"a float is not the number it is meant to be; .* got 0\.1"):
        BALL.number(0.1)


@pytest.mark.parametrize("name", ["sqrt", "exp", "log", "erf", "tanh", "asin"])
def test_functions_hold_the_truth(name):
    with precision(128), mpmath.workdps(50):
        assert contains(getattr(BALL, name)(Fraction(3, 7)), getattr(mpmath, name)(mpmath.mpf(3) / 7))
        assert not contains(getattr(BALL, name)(Fraction(3, 8)), getattr(mpmath, name)(mpmath.mpf(3) / 7))


def test_the_other_functions():
    with precision(128), mpmath.workdps(50):
        assert contains(BALL.logistic(Fraction(-3, 7)), 1 / (1 + mpmath.exp(mpmath.mpf(3) / 7)))
        assert contains(BALL.pi, mpmath.pi)
    assert BALL.magnitude(-3) == 3
    assert BALL.positive_part(arb(-3)) == 0
    assert BALL.positive_part(arb(3)) == 3
    assert BALL.step(arb(2)) == 1
    assert BALL.step(arb(-2)) == 0
    assert BALL.step(arb(0, 1)).contains(1)
    assert BALL.step(arb(0, 1)).contains(0)


def test_a_kink_is_refused_where_analyticity_is_asked_for():
    across = acb(arb(0, 1), arb(0, 1))
    assert BALL.magnitude(across).is_finite()
    with BALL._watch(True):
        assert not BALL.magnitude(across).is_finite()
        assert not BALL.step(across).is_finite()
    assert BALL.analytic is False


@pytest.mark.parametrize("name", ["sqrt", "log", "asin"])
def test_cuts_of_the_integrand_are_refused(name):
    """Roots and poles beside the real line, at 0.1i and nearer: an integral that stepped across their cuts would be wrong, not wide."""
    functions = {
        "sqrt": (lambda x: BALL.sqrt(x * x + BALL.number("0.01")), lambda x: mpmath.sqrt(x * x + mpmath.mpf("0.01"))),
        "log": (lambda x: BALL.log(x * x + BALL.number("0.01")), lambda x: mpmath.log(x * x + mpmath.mpf("0.01"))),
        "asin": (
            lambda x: BALL.asin(2 * x / (x * x + BALL.number("1.1"))) ** 2,
            lambda x: mpmath.asin(2 * x / (x * x + mpmath.mpf("1.1"))) ** 2,
        ),
    }
    ball, plain = functions[name]
    with precision(96), mpmath.workdps(30):
        found = BALL.expect(ball, 1, degree=2)
        exact = mpmath.quad(lambda x: 2 * plain(x) * mpmath.npdf(x), [0, 0.1, 0.5, 1, 2, 4, 8, 14])
        assert found.overlaps(arb(mpmath.nstr(exact, 25)) + arb(0, 1e-15))
        assert float(found.rad()) < 1e-9


def test_precision_is_given_back():
    before = flint.ctx.prec
    with precision(200):
        assert flint.ctx.prec == 200
        with pytest.raises(ZeroDivisionError), precision(300):
            raise ZeroDivisionError
        assert flint.ctx.prec == 200
    assert flint.ctx.prec == before
    with precision(300):
        narrow = BALL.exp(1)
    assert float(narrow.rad()) < 1e-80
