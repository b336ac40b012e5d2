"""Law A5 against enumeration, an integral of the plane at f = 2, and draws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.integrate
import scipy.special

from simgap.specs import ODD_ACTIVATIONS
from simgap.theory.activations import Activation
from simgap.theory.finite_width import (
    constant_from_moments,
    exact_token_mso,
    exchangeable_mso,
    finite_width_constant,
    hidden_token_mso,
    relu_token_mso,
)
from tests.theory.gauss import ACT

SIGMA = 5.0


def cos2(u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return Fraction(dot * dot, sum(a * a for a in u) * sum(b * b for b in v))


@pytest.mark.parametrize("u, v", [((1, 2), (3, 1)), ((1, 0, 4), (2, 3, -1)), ((1, 2, 3, -1), (0, 0, 1, 5))], ids=str)
def test_exchangeable_vectors_exactly(u, v):
    """All orders of u make it exchangeable; one such side is enough."""
    f = len(u)
    mean = sum(cos2(order, v) for order in itertools.permutations(u)) / math.factorial(f)
    shares = cos2(u, (1,) * f), cos2(v, (1,) * f)
    assert exchangeable_mso(Fraction(f), *shares) == mean
    assert exchangeable_mso(Fraction(f), shares[0], shares[0]) != Fraction(1, f)
    assert exchangeable_mso(Fraction(f), 0, 0) == Fraction(1, f - 1)
    assert exchangeable_mso(Fraction(f), Fraction(1, f), shares[0]) == Fraction(1, f)


def test_moments_of_signs_and_indicators():
    """h = 1 always: cos^2 = 1 and no 1/f. h in {0, 1}: counts of a hypergeometric law, in fractions, at large f."""
    assert constant_from_moments(1, 1, 1, 1) == 0
    assert constant_from_moments(0, 1, 0, 1) == 1
    p = Fraction(1, 2)
    errors = []
    for f in (40, 80):
        # E of (count of ones)^2 / (f count) = E count / f, given at least one.
        share = p / (1 - (1 - p) ** f)
        exact = exchangeable_mso(Fraction(f), share, share)
        errors.append((exact - p**2 - constant_from_moments(p, p, p, p) / f) * f * f)
    assert abs(errors[0] - errors[1]) < Fraction(1, 40)


def plane(name, std):
    """E cos^2 at f = 2 is 1/2 + 2 G^2, G = E h_1 h_2 / (h_1^2 + h_2^2), by adaptive quadrature of the plane's four quadrants."""
    f = ACT[name]

    def integrand(y, x):
        a, b = float(f(std * x)), float(f(std * y))
        return a * b / (a * a + b * b) * math.exp(-(x * x + y * y) / 2) / (2 * math.pi)

    ends = ((-8, 0), (0, 8))
    options = {"epsabs": 1e-8, "epsrel": 1e-8}
    total = sum(scipy.integrate.dblquad(integrand, *xs, *ys, **options)[0] for xs, ys in itertools.product(ends, ends))
    return 0.5 + 2 * total**2


def test_the_integral_at_two_units():
    assert exact_token_mso("silu", 2, 1.0) == pytest.approx(plane("silu", 1.0), abs=1e-7)
    assert exact_token_mso("silu", 2, 1.2) != pytest.approx(plane("silu", 1.0), abs=1e-5)


def by_logarithms(name, std, f, panels):
    """1/f + (f c - 1)^2 / (f (f-1)) with log |act| free of underflow, panels of z that resolve 1/std everywhere, another lattice of t."""
    edges = np.unique([0.0, *2.0 ** np.arange(-40.0, -6), *np.linspace(2.0**-7, 9, panels)])
    x, w = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + half * (1 + x)).ravel()
    w = (half * w).ravel() * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    z, w = np.concatenate([-z, z]), np.concatenate([w, w])
    gate = -np.logaddexp(0, -std * z) if name == "silu" else scipy.special.log_ndtr(std * z)
    log = np.log(np.abs(std * z)) + gate
    log -= np.log(w @ np.exp(2 * log)) / 2
    pair = 0.0
    for k in np.arange(-38.0, 60, 0.2):
        u = np.minimum(log + k / 2, 10)
        damped = w * np.exp(-np.exp(2 * u))
        added = 0.2 * (damped @ (np.sign(z) * np.exp(u))) ** 2 * damped.sum() ** (f - 2)
        pair += added
        if added < 1e-17 * pair:
            break
    share = 1 / f + (f - 1) * pair
    return 1 / f + (f * share - 1) ** 2 / (f * (f - 1))


@pytest.mark.parametrize("name, std, f", [("silu", 1.0, 2), ("silu", 0.1, 8), ("gelu", 1.0, 4), ("silu", 10.0, 32), ("gelu", 10.0, 32)])
def test_the_integral_to_ten_digits(name, std, f):
    assert exact_token_mso(name, f, std) == pytest.approx(by_logarithms(name, std, f, 700), rel=1e-10)


@pytest.mark.parametrize("name, std", [("silu", 100.0), ("gelu", 10.0), ("gelu", 100.0)])
def test_few_wide_units_to_three_digits(name, std):
    """At f = 2 the mean of a b / (a^2 + b^2) = +- 1 / (2 cosh log |a/b|), on the plane; a quarter of the vectors are all negative."""
    edges = np.unique([0.0, *2.0 ** np.arange(-30.0, -4), *np.linspace(2.0**-5, 9, 150)])
    x, w = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges)[:, None] / 2
    z, w = (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()
    w = w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    z, w = np.concatenate([-z, z]), np.concatenate([w, w])
    log = np.log(np.abs(z)) + (-np.logaddexp(0, -std * z) if name == "silu" else scipy.special.log_ndtr(std * z))
    ratio = np.minimum(np.abs(log[:, None] - log), 700)
    mean = (w * np.sign(z)) @ (0.5 / np.cosh(ratio)) @ (w * np.sign(z))
    assert exact_token_mso(name, 2, std) == pytest.approx(0.5 + 2 * mean**2, rel=1e-3)


@pytest.mark.parametrize("std", [100.0, 1000.0])
def test_wide_gelu_is_relu(std):
    """GELU differs from ReLU by entries of probability O(1/s); its vectors are never dead, and at 24 units few of ReLU's are."""
    gelu, relu = exact_token_mso("gelu", 24, std), relu_token_mso(24)
    assert gelu == pytest.approx(relu, rel=0.3 / std)
    assert gelu != pytest.approx(relu, rel=1e-3 / std)


def test_relu_at_two_units():
    """Both alive: h has one positive entry (2/3) or two (1/3). With two, E cos^2(h, 1) = 1/2 + E sin(2t)/2 = 1/2 + 1/pi; with one, 1/2."""
    share = Fraction(1, 2) + 1 / (3 * math.pi)
    assert relu_token_mso(2) == pytest.approx(float(exchangeable_mso(2, share, share)), rel=1e-14)
    assert relu_token_mso(4096) == pytest.approx(1 / math.pi**2 + (1 - 3 / math.pi**2) / 4096, abs=1 / 4096**2)
    assert exact_token_mso("relu", 64) == relu_token_mso(64)


@pytest.mark.parametrize("name", ["silu", "relu", "gelu_tanh"])
@pytest.mark.parametrize("std", [0.1, 10.0])
def test_the_leading_order_errs_by_less_than_one_over_f_squared(name, std):
    for f in (16, 1000):
        error = exact_token_mso(name, f, std) - hidden_token_mso(name, f, std)
        assert abs(error) < 1 / f**2
        assert error != 0


@pytest.mark.parametrize("name", ODD_ACTIVATIONS)
def test_odd_ones(name):
    assert finite_width_constant(name, 2.0) == pytest.approx(1, abs=1e-12)
    assert hidden_token_mso(name, 50, 2.0) == pytest.approx(1 / 50, rel=1e-12)
    assert exact_token_mso(name, 50, 2.0) == 1 / 50


def test_stated_values():
    assert hidden_token_mso("silu", 256) == pytest.approx(0.01766, abs=5e-6)
    assert hidden_token_mso("relu", 256) == pytest.approx(0.10404, abs=5e-6)
    assert hidden_token_mso("relu", 256, 3.0) == pytest.approx(hidden_token_mso("relu", 256), rel=1e-12)


def test_draws():
    """20000 pairs at f = 12: sd of cos^2 about 0.1, so that a twin with 1/f is 40 standard errors off."""
    f, pairs = 12, 20_000
    h = ACT["silu"](1.4 * np.random.default_rng(3).standard_normal((2, pairs, f)))
    values = (h[0] * h[1]).sum(1) ** 2 / ((h[0] ** 2).sum(1) * (h[1] ** 2).sum(1))
    error = values.std(ddof=1) / math.sqrt(pairs)
    assert abs(values.mean() - exact_token_mso("silu", f, 1.4)) < SIGMA * error
    assert abs(values.mean() - 1 / f) > SIGMA * error
    assert abs(values.mean() - exact_token_mso("silu", f, 1.0)) > SIGMA * error


def test_refusals():
    with pytest.raises(ValueError, match="d_ff: expected at least 2, got 1"):
        exact_token_mso("silu", 1)
    with pytest.raises(ValueError, match="std: expected a finite number above 0, got 0"):
        exact_token_mso("silu", 8, 0.0)
    with pytest.raises(ValueError, match="d_ff: expected at least 2, got nan"):
        exact_token_mso("silu", math.nan)
    with pytest.raises(ValueError, match="activation: 'tilted' is not odd; expected its even part"):
        exact_token_mso(Activation("tilted", lambda x, ctx: x + x * x, lambda x, ctx: 1 + 2 * x), 8)
