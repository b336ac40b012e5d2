"""Every activation: itself, its slope, its parts and its envelope, in all three arithmetics."""

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch
from flint import acb, arb

from simgap.certify import BALL, precision
from simgap.moe.experts import ACTIVATION_FUNCTIONS
from simgap.specs import ACTIVATIONS, ODD_ACTIVATIONS
from simgap.theory.activations import BY_NAME, KNOWN, Activation, activation_of
from simgap.theory.floats import FLOAT
from simgap.theory.symbols import SYMBOLIC

X = np.array([-700.0, -40.0, -3.7, -1.0, -1e-3, 1e-9, 0.3, 2.5, 40.0, 700.0])
ROUND_OFF = 4e-15


def test_they_are_those_of_the_specs():
    assert tuple(BY_NAME) == ACTIVATIONS
    assert {a.name for a in KNOWN if a.even is None} == set(ODD_ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_are_what_the_layer_computes(name):
    found = BY_NAME[name].value(X, FLOAT)
    layer = ACTIVATION_FUNCTIONS[name](torch.tensor(X)).numpy()
    assert np.allclose(found, layer, rtol=ROUND_OFF, atol=1e-300 if name == "relu" else 1e-16 * np.abs(X).max())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_derivatives(name):
    """Against the exact derivative of the same function in symbols, off the kink."""
    x = sp.Symbol("x", real=True)
    act = BY_NAME[name]
    derivative = sp.diff(act.value(x, SYMBOLIC), x)
    for at in (-3.7, -0.4, 0.3, 2.5):
        exact = float(derivative.subs(x, sp.Rational(Fraction(str(at)))).evalf(30))
        assert float(act.slope(np.array(at), FLOAT)) == pytest.approx(exact, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_parts_add_up(name):
    act = BY_NAME[name]
    odd = float(act.linear) * X if act.linear is not None else act.value(X, FLOAT)
    even = act.even(X, FLOAT) if act.even is not None else 0 * X
    assert np.allclose(even + odd, act.value(X, FLOAT), rtol=0, atol=1e-15 * np.abs(X).max())
    if act.even is not None:
        assert np.array_equal(act.even(-X, FLOAT), even)
        assert act.linear == Fraction(1, 2)
    assert np.allclose(act.value(-X, FLOAT) + act.value(X, FLOAT), 2 * even, rtol=0, atol=1e-15 * np.abs(X).max())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_envelope_that_certificates_rest_on(name):
    """|value| and |slope| <= 2 + 2|x|, in balls over a cover of [-40, 40]; beyond, slopes are within 1e-10 of 0 or 1. Not 1 + |x|: the
    slope of erf at 0 is 1.128."""
    act = BY_NAME[name]
    with precision(64):
        for k in range(-640, 640):
            ball = arb(k).union(arb(k + 1)) / 16
            for function in (act.value, act.slope):
                assert abs(function(ball, BALL)) <= 2 + 2 * abs(ball)
        assert BY_NAME["erf"].slope(arb(0), BALL) > 1
    far = act.slope(np.array([-700.0, -40.0, 40.0, 700.0]), FLOAT)
    assert np.abs(far - np.round(far)).max() < 1e-10
    assert np.abs(far).max() <= 1


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "relu"])
def test_complex_balls_hold_the_values(name):
    with precision(128):
        for at in (Fraction(-5, 2), Fraction(3, 10)):
            ball = BY_NAME[name].value(acb(BALL.number(at)), BALL)
            assert ball.imag.contains(0)
            assert float(ball.real) == pytest.approx(float(BY_NAME[name].value(np.array(float(at)), FLOAT)), rel=1e-14)


def test_one_of_your_own():
    softplus = Activation("softplus", lambda x, ctx: ctx.log(1 + ctx.exp(x)), lambda x, ctx: ctx.logistic(x))
    assert activation_of(softplus) is softplus
    assert float(softplus.value(np.array(0.0), FLOAT)) == pytest.approx(math.log(2))


def test_a_name_that_is_not_known():
    with pytest.raises(ValueError, match=r"activation: expected one of identity, .*, got 'slu'; did you mean 'silu'"):
        activation_of("slu")
