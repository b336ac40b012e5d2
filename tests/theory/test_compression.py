"""Law A3 and A4 against single integrals by mpmath and scipy, finite differences of the dual map's oracle, and roots found elsewhere."""

import math

import mpmath
import numpy as np
import pytest
import scipy.optimize

from simgap.specs import ACTIVATIONS, ODD_ACTIVATIONS
from simgap.theory.activations import Activation
from simgap.theory.compression import compression_threshold, dual_slope, odd_bound, root_between, slope_excess
from tests.theory.gauss import pair

SOFTPLUS = Activation(
    "softplus",
    lambda x, ctx: ctx.log(1 + ctx.exp(x)),
    lambda x, ctx: ctx.logistic(x),
    lambda x, ctx: ctx.log(2 * ctx.exp(x / 2) / 2 + ctx.exp(-x / 2)),
    linear=0.5,
)


@pytest.mark.parametrize("name, std", [("silu", 1.0), ("gelu_tanh", 0.3), ("tanh", 0.8), ("erf", 1.0), ("silu", 0.01)])
def test_the_slope_at_one_by_differences(name, std):
    """(3 kappa(1) - 4 kappa(1-h) + kappa(1-2h)) / 2h has error h^2 kappa''' / 3 and round-off 1e-15 / h."""
    step = 1e-4
    at = [pair(name, 1 - j * step, std) for j in (0, 1, 2)]
    slope = (3 * at[0] - 4 * at[1] + at[2]) / (2 * step) / at[0]
    assert dual_slope(name, std) == pytest.approx(slope, abs=1e-6)
    assert dual_slope(name, 1.1 * std) - 1 != pytest.approx(slope - 1, rel=1e-4)


def test_constants_of_silu():
    """Certified in law A3."""
    assert dual_slope("silu", 1) == pytest.approx(1.066634241241914995, rel=1e-13)
    assert dual_slope("silu", 2) == pytest.approx(1.061329412450518662, rel=1e-13)
    assert compression_threshold("silu", 1.0) == pytest.approx(0.65866717474315888, abs=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("std", [0.1, 1.0, 20.0])
def test_the_excess_is_the_slope_less_one(name, std):
    excess = slope_excess(name, std)
    assert dual_slope(name, std) - 1 == pytest.approx(excess, abs=1e-12)
    assert excess == pytest.approx(0, abs=1e-15) if name in ("identity", "relu") else excess > 1e-5


def test_the_excess_needs_zero_at_zero():
    """Softplus is log 2 at 0, and its slope at 1 is by mpmath below 1."""
    with mpmath.workdps(20):
        slope = mpmath.quad(lambda z: mpmath.npdf(z) / (1 + mpmath.exp(-z)) ** 2, [-14, 0, 14])
        square = mpmath.quad(lambda z: mpmath.npdf(z) * mpmath.log(1 + mpmath.exp(z)) ** 2, [-14, 0, 14])
    assert dual_slope(SOFTPLUS, 1.0) == pytest.approx(float(slope / square), rel=1e-12)
    assert dual_slope(SOFTPLUS, 1.0) < 0.5
    assert compression_threshold(SOFTPLUS, 1.0) is None


@pytest.mark.parametrize("name, std", [("silu", 1.0), ("gelu", 0.5), ("gelu_tanh", 1.0), ("silu", 0.05), ("gelu", 100.0)])
def test_the_threshold_by_brent(name, std):
    """kappa(rho) - rho divided by 1 - rho, from the oracle's own quadrature, by scipy."""
    size = pair(name, 1.0, std)
    root = scipy.optimize.brentq(lambda rho: (pair(name, rho, std) / size - rho) / (1 - rho), 0.3, 1 - 1e-5, xtol=1e-15, rtol=1e-14)
    # The oracle's round-off, 1e-14, over the slope of the quotient there.
    assert compression_threshold(name, std) == pytest.approx(root, abs=1e-9 if std > 10 else 1e-11)
    assert compression_threshold(name, 1.1 * std) > root + 1e-6


@pytest.mark.parametrize("std", [0.01, 1.0, 100.0])
def test_the_threshold_of_gelu_to_ten_digits(std):
    """The root in 40 digits, of law A2's closed form, which compression_threshold evaluates in floats."""
    found = compression_threshold("gelu", std)
    with mpmath.workdps(40):
        a = mpmath.mpf(std) ** 2

        def even(rho):
            c = a * rho
            return c * mpmath.asin(c / (1 + a)) + (a * a + c * c * (1 - a) / (1 + a)) / mpmath.sqrt((1 + a) ** 2 - c * c)

        near = [mpmath.mpf(found) + side * (1 - mpmath.mpf(found)) / 1000 for side in (-1, 1)]
        root = mpmath.findroot(lambda rho: (even(rho) - rho * even(1)) / (1 - rho), near)
    assert found == pytest.approx(float(root), abs=1e-10)


def test_limits_of_the_threshold():
    """Small s: e = c x^2 + O(x^4), and 1 + 2 rho^2 = 3 rho has the root 1/2. Large s: ReLU, which has none below 1."""
    assert compression_threshold("silu", 1e-4) == pytest.approx(0.5, abs=1e-8)
    assert compression_threshold("gelu", 1e-4) == pytest.approx(0.5, abs=1e-7)
    assert 0.9999 < compression_threshold("gelu", 200.0) < 1


@pytest.mark.parametrize("name", ["relu", *ODD_ACTIVATIONS])
def test_where_there_is_none(name):
    assert compression_threshold(name, 1.0) is None
    assert np.isnan(compression_threshold(name, np.array([0.5, 2.0]))).all()


def test_arrays():
    std = np.array([[0.5, 1.0], [1.0, 2.0]])
    found = compression_threshold("gelu", std)
    assert found.shape == (2, 2)
    assert found[0, 1] == found[1, 0] == pytest.approx(compression_threshold("gelu", 1.0), rel=1e-13)
    assert (np.diff(found.ravel()[[0, 1, 3]]) > 0).all()
    with pytest.raises(ValueError, match="std: expected finite numbers above 0"):
        compression_threshold("silu", np.array([1.0, -1.0]))


def test_odd_bound():
    assert odd_bound(-0.25) == 0.25
    for name in ODD_ACTIVATIONS:
        for rho in (-0.9, 0.3):
            assert abs(pair(name, rho, 1.0)) <= odd_bound(rho) * pair(name, 1.0, 1.0) * (1 + 1e-13)
    assert pair("silu", 0.3, 1.0) > odd_bound(0.3) * pair("silu", 1.0, 1.0)


def test_root_between():
    """Each element its own; flat, steep and linear ones; an end that is the root; no change of sign."""
    target = np.array([0.0, 1e-12, 0.3, 0.999, 1.0])
    calls = []

    def function(x):
        calls.append(1)
        return x**3 - target

    root = root_between(function, np.zeros(5), np.ones(5))
    # Where the function is flat at its root, round-off in the value is amplified.
    assert root[1:] == pytest.approx(np.cbrt(target[1:]), rel=1e-13)
    assert root[0] == 0
    assert len(calls) < 40
    beyond = root_between(lambda x: x + np.array([1.0, -3.0]), np.zeros(2), np.ones(2))
    assert beyond.tolist() == [0.0, 1.0]
    steep = root_between(lambda x: np.tanh(1e6 * (x - 1 / math.pi)), np.zeros(1), np.ones(1))
    assert steep[0] == pytest.approx(1 / math.pi, abs=1e-15)


def test_the_threshold_of_a_function():
    """Squared ReLU, whose odd part is not linear, by the kernel's closed form; SiLU by its name."""

    def over(rho):
        angle = math.acos(rho)
        kernel = (3 * math.sin(angle) * rho + (math.pi - angle) * (1 + 2 * rho * rho)) / (3 * math.pi)
        return (kernel - rho) / (1 - rho)

    root = scipy.optimize.brentq(over, 0.1, 0.99, xtol=1e-14)
    for std in (0.5, 2.0):
        assert compression_threshold(lambda x: np.maximum(x, 0) ** 2, std) == pytest.approx(root, abs=1e-8)
    assert dual_slope(lambda x: np.maximum(x, 0) ** 2) == pytest.approx(4 / 3, rel=1e-9)
    assert compression_threshold(lambda x: x / (1 + np.exp(-x)), 1.0) == pytest.approx(compression_threshold("silu", 1.0), abs=1e-8)
    assert compression_threshold(np.tanh, 1.0) is None


def test_a_jump_has_no_threshold():
    with pytest.raises(ValueError, match="has a jump at 0; law A3 needs"):
        compression_threshold(lambda x: np.where(x > 0, 1.0 + x, 0.0), 1.0)
