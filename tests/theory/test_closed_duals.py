"""Law A2 against quadratures of their own, and at the ends where the value is a single integral."""

import math

import numpy as np
import pytest
import scipy.integrate
from scipy.special import erf

from simgap.theory.closed_duals import erf_dual, gelu_even_dual, identity_dual, relu_even_dual
from tests.theory.gauss import narrow_pair, wide_pair


def gelu_even(x):
    return x * erf(x / math.sqrt(2)) / 2


SMOOTH = [(identity_dual, lambda x: x), (erf_dual, erf), (gelu_even_dual, gelu_even)]


@pytest.mark.parametrize("rho", [-1.0, -0.999, -0.2, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("std", [0.01, 0.7, 1.0])
@pytest.mark.parametrize("law, f", SMOOTH)
def test_smooth_ones(law, f, rho, std):
    assert law(rho, std) == pytest.approx(narrow_pair(f, rho, std), rel=1e-12, abs=1e-17 * std**2)


@pytest.mark.parametrize("rho", [-0.6, 0.3, 0.95])
def test_wide_ones(rho):
    std = 50.0
    assert erf_dual(rho, std) == pytest.approx(wide_pair("erf", rho, std), rel=1e-12)
    assert gelu_even_dual(rho, std) + std**2 * rho / 4 == pytest.approx(wide_pair("gelu", rho, std), rel=1e-12)


@pytest.mark.parametrize("rho", [-0.9, -0.1, 0.0, 0.5, 0.8])
def test_relu_by_angles(rho):
    """E |u||v| = (1/2 pi) int r^3 exp(-r^2/2) dr int |cos t cos(t - p)| dt, rho = cos p, by scipy with its kinks named."""
    p = math.acos(rho)
    kinks = sorted(x % (2 * math.pi) for x in (math.pi / 2, 3 * math.pi / 2, p + math.pi / 2, p + 3 * math.pi / 2))
    angle, _ = scipy.integrate.quad(lambda t: abs(math.cos(t) * math.cos(t - p)), 0, 2 * math.pi, points=kinks, epsabs=1e-13)
    assert relu_even_dual(rho, 3.0) == pytest.approx(9 * angle / math.pi / 4, rel=1e-11)


def test_at_the_ends():
    # E |su|^2 / 4 and E erf^2 by hand, and no cancellation at rho = +-1, where GELU tends to ReLU.
    assert relu_even_dual(1.0, 2.0) == pytest.approx(1.0, rel=1e-15)
    assert relu_even_dual(-1.0, 2.0) == pytest.approx(1.0, rel=1e-15)
    assert relu_even_dual(0.0, 1.0) / (relu_even_dual(1.0, 1.0) + 0.25) == pytest.approx(1 / math.pi, rel=1e-15)
    for sign in (1.0, -1.0):
        assert gelu_even_dual(sign, 1e3) == pytest.approx(relu_even_dual(sign, 1e3), rel=1e-6)
        assert gelu_even_dual(sign, 1e3) != relu_even_dual(sign, 1e3)
    square, _ = scipy.integrate.quad(lambda z: erf(z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12, epsabs=1e-14)
    assert erf_dual(1.0, 1.0) == pytest.approx(square, rel=1e-12)


def test_parity_and_arrays():
    rho, std = np.linspace(-1, 1, 9), np.array([[0.1], [3.0]])
    for law, sign in ((identity_dual, -1), (erf_dual, -1), (relu_even_dual, 1), (gelu_even_dual, 1)):
        value = law(rho, std)
        assert value.shape == (2, 9)
        assert law(-rho, std) == pytest.approx(sign * value, rel=1e-14)
        assert value[1, 2] == law(float(rho[2]), 3.0)


def test_neighbours_differ():
    """erf's argument is 2 s^2 rho / (1 + 2 s^2): a twin with s^2 / (1 + s^2) is another function."""
    twin = 2 / math.pi * math.asin(0.5 / 2)
    assert abs(erf_dual(0.5, 1.0) - twin) > 0.05
    assert narrow_pair(erf, 0.5, 1.0) != pytest.approx(twin, abs=0.05)
