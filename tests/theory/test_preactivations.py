"""Standard deviations by hand, norms and cosines against their exact laws."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from simgap.theory.preactivations import over_cosines, over_norms, preactivation_std


@pytest.mark.parametrize(
    "init, expected",
    [("kaiming_normal", 2), ("kaiming_uniform", 2), ("xavier_normal", 2 * 8 / 40), ("xavier_uniform", 2 * 8 / 40), ("orthogonal", 8 / 32)],
)
def test_std_by_hand(init, expected):
    assert preactivation_std(init, 8, 32) == pytest.approx(math.sqrt(expected))
    assert preactivation_std(init, 8, 32, power=4.0) == pytest.approx(2 * math.sqrt(expected))


def test_experts_that_share_a_base_have_none():
    with pytest.raises(ValueError, match="init: expected a kaiming, xavier or orthogonal one, got 'upcycled'"):
        preactivation_std("upcycled", 8, 32)


@pytest.mark.parametrize("dimension", [1, 2.5, 8, 256])
def test_norms_are_chi(dimension):
    """Against the integral over chi^2, for a function smooth in std^2; one of a fixed norm is beyond doubt another number."""

    def f(s):
        return np.exp(-(s**2) / 3)

    density = stats.chi2(dimension).pdf
    exact = integrate.quad(lambda u: f(1.3 * u / math.sqrt(dimension)) * density(u * u) * 2 * u, 0, 12 + 2 * math.sqrt(dimension))[0]
    assert over_norms(f, 1.3, dimension) == pytest.approx(exact, rel=1e-6 if dimension < 8 else 1e-9)
    assert abs(f(1.3) - exact) > 1e-4


@pytest.mark.parametrize("dimension, room", [(2, 1e-3), (8, 1e-6), (16, 1e-8), (64, 1e-8)])
@pytest.mark.parametrize("std", [1.0, 10.0])
def test_overlaps_over_norms(dimension, room, std):
    """The errors that the docstring states, for GELU's kappa0^2, by the chi law in log r^2; the norm's mean alone is further off."""

    def overlap(s):
        # E gelu(sz) = s^2 / sqrt(2 pi (1 + s^2)); E gelu^2 is law A2 at rho = 1.
        a = np.asarray(s, float) ** 2
        square = a / 4 + (a * np.arcsin(a / (1 + a)) + 2 * a * a / (1 + a) / np.sqrt(1 + 2 * a)) / (2 * math.pi)
        return (a * a / (2 * math.pi * (1 + a)) / square) ** 2

    x, w = np.polynomial.legendre.leggauss(400)
    low, high = math.log(1e-13 if dimension < 8 else dimension / 1000), math.log(dimension + 60 + 12 * math.sqrt(2 * dimension))
    u = np.exp(low + (high - low) * (x + 1) / 2)
    w = w * (high - low) / 2 * u * stats.chi2(dimension).pdf(u)
    exact = overlap(std * np.sqrt(u / dimension)) @ w
    assert over_norms(overlap, std, dimension) == pytest.approx(exact, abs=room)
    assert abs(overlap(std) - exact) > 1e-6


@pytest.mark.parametrize("dimension", [0, -3.0, math.nan])
def test_no_dimension(dimension):
    with pytest.raises(ValueError, match="dimension: expected a number above 0"):
        over_norms(lambda s: s, 1.0, dimension)
    with pytest.raises(ValueError, match="d_model: expected at least 1"):
        over_cosines(lambda r: r, dimension)


def test_tokens_of_one_norm():
    assert over_norms(lambda s: s**3, 2.0, math.inf) == 8.0


@pytest.mark.parametrize("d", [2, 3, 16, 1000])
def test_cosines_of_the_sphere(d):
    """E rho^2 = 1/d and E rho^4 = 3 / (d (d + 2)), and |rho| against its Beta law."""
    assert over_cosines(lambda r: r**2, d) == pytest.approx(1 / d, rel=1e-12)
    assert over_cosines(lambda r: r**4, d) == pytest.approx(3 / (d * (d + 2)), rel=1e-12)
    assert over_cosines(lambda r: np.exp(r), d) == pytest.approx(
        integrate.quad(lambda t: math.exp(math.cos(t)) * math.sin(t) ** (d - 2), 0, math.pi)[0]
        / integrate.quad(lambda t: math.sin(t) ** (d - 2), 0, math.pi)[0],
        rel=1e-8,
    )


def test_cosines_in_one_dimension_and_with_a_common_part():
    assert over_cosines(lambda r: (1 + r) ** 2, 1) == 2.0
    assert over_cosines(lambda r: r, 9, mean_cosine=0.25) == pytest.approx(0.25, abs=1e-15)
