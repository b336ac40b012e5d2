"""The activations as functions: slopes by differences, parts by reflection, and the envelope that certified tails rest on."""

import math

import numpy as np
import pytest

from simgap.specs import ACTIVATIONS, ODD_ACTIVATIONS
from simgap.theory.activations import BY_NAME, Activation, activation_of
from simgap.theory.angular import pair_expectation
from simgap.theory.floats import FLOAT
from tests.theory.gauss import ACT

X = np.array([-30.0, -4.0, -1.3, -0.2, -1e-4, 1e-4, 0.2, 0.9, 3.0, 30.0])


def test_every_name_of_the_specs_is_known():
    assert set(BY_NAME) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value(name):
    assert activation_of(name).value(X, FLOAT) == pytest.approx(ACT[name](X), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_is_the_derivative(name):
    """Central differences of step h: error h^2 |f'''| / 6 and round-off eps |f| / h, both under 1e-8 here."""
    act, step = activation_of(name), 1e-5
    slope = (act.value(X + step, FLOAT) - act.value(X - step, FLOAT)) / (2 * step)
    assert act.slope(X, FLOAT) == pytest.approx(slope, abs=1e-8)
    assert act.slope(1.1 * X, FLOAT) != pytest.approx(slope, abs=1e-8) or name in ("identity", "relu")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_parts(name):
    act = activation_of(name)
    value, mirrored = act.value(X, FLOAT), act.value(-X, FLOAT)
    if act.even is None:
        assert name in ODD_ACTIVATIONS
        assert mirrored == pytest.approx(-value, rel=1e-14)
        return
    assert act.even(X, FLOAT) == pytest.approx((value + mirrored) / 2, rel=1e-10)
    assert float(act.linear) * X == pytest.approx((value - mirrored) / 2, rel=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_envelope(name):
    """|value| everywhere, |slope| where a tail can begin: the slope of erf is 2 / sqrt(pi) at 0."""
    x = np.concatenate([np.linspace(-60, 60, 4001), [0.0]])
    act = activation_of(name)
    assert (np.abs(act.value(x, FLOAT)) <= 1 + np.abs(x)).all()
    far = x[np.abs(x) >= 0.25]
    assert (np.abs(act.slope(far, FLOAT)) <= 1 + np.abs(far)).all()


def test_two_of_one_name_are_two():
    """Caches know an activation by its name alone until they compare it with what they hold."""
    one, two = (Activation("own", lambda x, ctx, scale=scale: scale * x**3, lambda x, ctx: 1) for scale in (1, 2))
    assert hash(one) == hash(two)
    assert one != two
    rho = std = np.ones(1)
    first = pair_expectation(one, rho, std, odd=True)
    assert pair_expectation(two, rho, std, odd=True) == pytest.approx(4 * first, rel=1e-13)


def test_lookup():
    assert activation_of("silu").name == "silu"
    own = Activation("own", lambda x, ctx: x, lambda x, ctx: 1)
    assert activation_of(own) is own
    with pytest.raises(ValueError, match=r"activation: expected one of identity, .* got 'gelo'.*gelu"):
        activation_of("gelo")
    assert math.isclose(float(activation_of("gelu").value(1.0, FLOAT)), 0.8413447460685429)
