"""Law L1B against long vectors drawn with their own gains and biases, and against exact small cases."""

import math
from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.affine import affine_token_cosine, learned_affine_cosine, per_expert_mso, unequal_units_cosine

F = 200_000
ROOM = 20 / math.sqrt(F)  # a cosine of F entries, heavy tails included, spreads by less than 4 / sqrt(F)


def cosine(y, z):
    return float(y @ z / math.sqrt((y @ y) * (z @ z)))


def units(c, mean, rng):
    """Two vectors of mean square 1, mean entry `mean` and cosine c."""
    spread = 1 - mean**2
    u, w = rng.standard_normal((2, F))
    rho = (c - mean**2) / spread
    return mean + math.sqrt(spread) * u, mean + math.sqrt(spread) * (rho * u + math.sqrt(1 - rho**2) * w)


@pytest.mark.parametrize("c, mean", [(0.0, 0.0), (0.3, 0.5), (-0.4, 0.0)])
@pytest.mark.parametrize("gain, bias", [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("shared", [True, False])
def test_drawn(c, mean, gain, bias, shared):
    rng = np.random.default_rng(8)
    a, b = units(c, mean, rng)
    g, h = 1 + gain * rng.standard_normal((2, F)), bias * rng.standard_normal((2, F))
    other = 0 if shared else 1
    found = cosine(g[0] * a + h[0], g[other] * b + h[other])
    assert abs(found - affine_token_cosine(c, gain, bias, shared)) < ROOM
    if bias or c:
        wrong = affine_token_cosine(c, gain, bias, not shared)
        assert abs(found - wrong) > ROOM or math.isclose(wrong, affine_token_cosine(c, gain, bias, shared), abs_tol=ROOM)


def test_stated_forms():
    tau = Fraction(1, 10)
    assert affine_token_cosine(Fraction(0), tau, tau, True) == tau**2 / (1 + 2 * tau**2)
    assert affine_token_cosine(Fraction(0), tau, tau, False) == 0
    assert affine_token_cosine(Fraction(1), tau, tau, True) == 1
    assert affine_token_cosine(Fraction(1, 3), 0, 0, True) == affine_token_cosine(Fraction(1, 3), 0, 0, False) == Fraction(1, 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_given(sign):
    """A bias that goes with the gain, on vectors with a mean: the cross term counts, and with the other sign lowers the cosine."""
    rng = np.random.default_rng(9)
    a, b = units(0.4, 0.6, rng)
    g = rng.uniform(0.5, 1.5, F)
    h = sign * 0.3 * g
    moments = (g @ g / F, g @ h / F, h @ h / F)
    found = cosine(g * a + h, g * b + h)
    assert abs(found - learned_affine_cosine(0.4, 0.6, *moments)) < ROOM
    assert abs(found - learned_affine_cosine(0.4, 0.0, *moments)) > ROOM
    assert (found > 0.4) is (sign > 0)


def test_a_gain_alone_turns_nothing():
    assert learned_affine_cosine(Fraction(1, 7), 1, Fraction(5), 0, 0) == Fraction(1, 7)
    drawn = affine_token_cosine(Fraction(1, 7), Fraction(1, 2), Fraction(1, 3), True)
    assert learned_affine_cosine(Fraction(1, 7), 0, 1 + Fraction(1, 4), 0, Fraction(1, 9)) == drawn


def test_unequal_units():
    """Indicators of probability 1/4 and 3/4 by turns: Var(m) = 1/16, N = 3/16, so a quarter."""
    assert unequal_units_cosine(Fraction(1, 16), Fraction(3, 16)) == Fraction(1, 4)
    rng = np.random.default_rng(10)
    a, b = (rng.random((2, F)) < np.tile([0.25, 0.75], F // 2)).astype(float)
    assert abs(cosine(a - a.mean(), b - b.mean()) - 0.25) < ROOM
    assert unequal_units_cosine(0, Fraction(2)) == 0
    assert unequal_units_cosine(0, Fraction(2), Fraction(1)) == Fraction(1, 2)


@pytest.mark.parametrize("f", [2, 5, 1000])
def test_per_expert_lies_between_the_two_nulls(f):
    """Without gain and bias the first orders of N4's 1/(f-1); the more of them, the nearer to N1's 1/f."""
    plain = per_expert_mso(Fraction(f), Fraction(0), Fraction(0))
    assert plain == Fraction(1, f) + Fraction(1, f * f)
    assert Fraction(1, f - 1) - plain == Fraction(1, f * f * (f - 1))
    assert per_expert_mso(Fraction(f), Fraction(1, 2), Fraction(1, 2)) == Fraction(1, f) + Fraction(4, 9 * f * f)
