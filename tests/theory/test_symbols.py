"""The symbolic context: exact numbers, and expectations that sympy can do, against moments known by hand."""

from fractions import Fraction

import pytest
import sympy as sp

from simgap.theory.symbols import SYMBOLIC

S, RHO = sp.Symbol("s", positive=True), sp.Symbol("rho", positive=True)


def test_numbers():
    assert SYMBOLIC.number("0.1") == sp.Rational(1, 10)
    assert SYMBOLIC.number(Fraction(2, 3)) == sp.Rational(2, 3)
    assert SYMBOLIC.number(3) == sp.Integer(3)
    assert SYMBOLIC.number(S) is S
    with pytest.raises(ValueError, match=r"value: a float is not the number it is meant to be; .* got 0\.1"):
        SYMBOLIC.number(0.1)


def test_functions():
    x = sp.Rational(1, 2)
    assert SYMBOLIC.pi == sp.pi
    assert SYMBOLIC.sqrt(4) == 2
    assert SYMBOLIC.log(SYMBOLIC.exp(x)) == x
    assert SYMBOLIC.tanh(0) == SYMBOLIC.erf(0) == SYMBOLIC.asin(0) == 0
    assert SYMBOLIC.logistic(0) == x
    assert SYMBOLIC.positive_part(-x) == 0
    assert SYMBOLIC.magnitude(-x) == x
    assert SYMBOLIC.step(x) == 1


def test_expectations():
    assert sp.simplify(SYMBOLIC.expect(lambda x: x**4 + x, S) - 3 * S**4) == 0
    assert sp.simplify(SYMBOLIC.expect(SYMBOLIC.positive_part, S) - S / sp.sqrt(2 * sp.pi)) == 0
    assert SYMBOLIC.expect(SYMBOLIC.step, S) == sp.Rational(1, 2)


def test_pairs():
    moment = SYMBOLIC.expect_pair(lambda x: x * x, lambda x: x * x, RHO, S)
    assert sp.simplify(moment - S**4 * (1 + 2 * RHO**2)) == 0
    assert sp.simplify(moment - S**4 * (1 + RHO**2)) != 0
