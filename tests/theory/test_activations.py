"""The activations as functions: slopes by differences, parts by reflection, and the envelope that certified tails rest on."""

import math

import numpy as np
import pytest

from simgap.certify.balls import BALL
from simgap.specs import ACTIVATIONS, ODD_ACTIVATIONS
from simgap.theory.activations import BY_NAME, Activation, activation_of, irregular, looked_up
from simgap.theory.angular import pair_expectation
from simgap.theory.compression import compression_threshold
from simgap.theory.dual_map import dual_map, kappa_zero
from simgap.theory.finite_width import hidden_token_mso
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
    one, two = (
        Activation("own", lambda x, ctx, scale=scale: scale * x**3, lambda x, ctx, scale=scale: 3 * scale * x * x) for scale in (1, 2)
    )
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


def hard_swish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def test_a_wrong_slope_is_noticed():
    """It would move the threshold of law A3 without a word."""
    for slope, parts in ((lambda x, ctx: 2.1 * x, {}), (lambda x, ctx: 2 * x, {"even": lambda x, ctx: x * x / 2, "linear": 0})):
        wrong = Activation("square", lambda x, ctx: x * x, slope, **parts)
        with pytest.raises(ValueError, match=r"^activation: ('square' rises by -60 at -30|the parts of 'square' do not add up)"):
            compression_threshold(wrong, 1.0)
    right = Activation("square", lambda x, ctx: x * x, lambda x, ctx: 2 * x, lambda x, ctx: x * x, linear=0)
    assert compression_threshold(right, 1.0) == pytest.approx(0.5, abs=1e-10)


def test_a_function_is_an_activation():
    own = activation_of(np.tanh)
    assert activation_of(np.tanh) is own
    assert own.even is None
    assert own.slope(X, FLOAT) == pytest.approx(BY_NAME["tanh"].slope(X, FLOAT), abs=1e-9)
    assert activation_of(lambda x: x / (1 + np.exp(-x))).even(X, FLOAT) == pytest.approx(BY_NAME["silu"].even(X, FLOAT), rel=1e-9)
    with pytest.raises(ValueError, match="activation: 'tanh' is a function of floats"):
        own.value(X, BALL)


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda x: np.sqrt(x), "a finite number .* got nan at -"), (lambda x: x.sum(), r"got shape \(\)"), (lambda x: x[1:], r"got shape \(")],
)
def test_functions_that_are_none_of_one_number(function, message):
    with pytest.raises(ValueError, match=f"^activation: expected '<lambda>' to give .*{message}"):
        activation_of(function)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (hard_swish, "not smooth on either side of 0"),
        (lambda x: np.clip(x, -1, 1), "not smooth on either side of 0"),
        (lambda x: 0 * x, "0 everywhere"),
        (lambda x: np.maximum(x, 0) ** 2, None),
        (np.abs, None),
        (lambda x: x / (1 + np.exp(-x)), None),
    ],
)
def test_kinks_away_from_0_are_noticed(function, why):
    found = irregular(looked_up(function), math.sqrt(2))
    assert (why in found) if why else not found


@pytest.mark.parametrize("law", [kappa_zero, dual_map, hidden_token_mso, compression_threshold])
def test_no_law_integrates_over_kinks(law):
    with pytest.raises(ValueError, match=r"^activation: 'hard_swish' is not smooth on either side of 0 on the scale of std 1\.93"):
        law(hard_swish, 0.5)
