"""Law A7 against scipy's quadrature, exact enumeration and draws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from simgap.theory.gated import excess_over_beta, gated_kappa, gated_kurtosis, gated_mso, gated_share_moment, gated_variance
from simgap.theory.weight_null import null_variance, null_variance_general
from tests.reference import ACTIVATIONS

SIGMA = 5.0


def test_the_mean_over_all_row_flips_is_exact():
    """Two tokens, three hidden units: flipping rows of W_up and permuting rows of both matrices, in fractions."""
    gates, ups = ((1, 2), (3, 1), (2, 2)), ((1, -2), (4, 1), (-3, 5))
    other, found = (1, 2, 5), []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1, 1), repeat=3):
            m = [s * sum(g * u for g, u in zip(gates[i], ups[i], strict=True)) for s, i in zip(signs, order, strict=True)]
            dot = sum(a * b for a, b in zip(m, other, strict=True))
            found.append(Fraction(dot * dot, sum(a * a for a in m) * sum(b * b for b in other)))
    assert sum(found) / len(found) == gated_mso(Fraction(3))
    # A flip of one token's up-projection alone is no symmetry of W_up, and its mean is another.
    alone = [[s * gates[i][0] * ups[i][0] + gates[i][1] * ups[i][1] for i in range(3)] for s in (-1, 1)]
    overlaps = [Fraction(sum(a * b for a, b in zip(m, other, strict=True)) ** 2, sum(a * a for a in m) * 30) for m in alone]
    assert sum(overlaps) / 2 != gated_mso(Fraction(3))


@pytest.mark.parametrize("std", [0.5, 1.0, math.sqrt(2)])
@pytest.mark.parametrize("name", ["silu", "gelu", "tanh", "relu"])
def test_the_kurtosis_is_an_integral(name, std):
    def moment(p):
        density = scipy.stats.norm.pdf
        return sum(
            scipy.integrate.quad(lambda z: ACTIVATIONS[name](std * z) ** p * density(z), *ends, epsabs=0)[0] for ends in ((-12, 0), (0, 12))
        )

    # u is normal: E u^4 = 3.
    assert gated_kurtosis(name, std) == pytest.approx(3 * moment(4) / moment(2) ** 2, rel=1e-8)


def test_known_kurtoses():
    assert gated_kurtosis("identity", 0.3) == pytest.approx(9, rel=1e-12)
    assert gated_kurtosis("relu", 7.0) == pytest.approx(18, rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 64])
def test_the_excess_is_the_general_variance_less_betas(n):
    width = Fraction(n)
    for a, b in itertools.product((1 / width, 1 / width**2, 3 / (width * (width + 2)), Fraction(1, 2 * n)), repeat=2):
        assert excess_over_beta(width, a, b) == null_variance_general(width, a, b) - null_variance(width)
    a = 1 / width
    assert excess_over_beta(width, a, a) > 0


@pytest.mark.parametrize("name, f", [("silu", 8), ("identity", 16), ("tanh", 30)])
def test_the_share_moment_against_draws(name, f):
    draws = 40_000
    generator = np.random.default_rng(f)
    g, u = generator.standard_normal((2, draws, f))
    act = {"silu": lambda v: v / (1 + np.exp(-v)), "identity": lambda v: v, "tanh": np.tanh}[name]
    squares = (act(g) * u) ** 2
    values = ((squares / squares.sum(1, keepdims=True)) ** 2).mean(1)
    error = values.std(ddof=1) / math.sqrt(draws)
    assert abs(values.mean() - gated_share_moment(name, 1.0, f)) < SIGMA * error
    # The ratio of expectations is far off at these widths: the biased twin.
    kurtosis = gated_kurtosis(name, 1.0)
    assert abs(values.mean() - kurtosis / (f * (kurtosis + f - 1))) > SIGMA * error


def test_the_share_moment_of_two_normal_products():
    """identity at f = 2: A = E[c^4] with c^2 = (g1 u1)^2 / ((g1 u1)^2 + (g2 u2)^2), by an integral over the ratio of products."""

    def ratio_density(r):  # of |g1 u1| / |g2 u2|, the ratio of products: (4 / pi^2) log r / (r^2 - 1)
        return 4 / math.pi**2 * math.log(r) / (r * r - 1) if r != 1 else 2 / math.pi**2

    ends = ((0, 1), (1, 10), (10, math.inf))
    total = sum(scipy.integrate.quad(ratio_density, *pair)[0] for pair in ends)
    assert total == pytest.approx(1, abs=1e-8)
    expected = sum(scipy.integrate.quad(lambda r: (r * r / (1 + r * r)) ** 2 * ratio_density(r), *pair)[0] for pair in ends)
    assert gated_share_moment("identity", 1.0, 2) == pytest.approx(expected, rel=1e-6)


def test_the_leading_variance_tends_to_the_exact_one():
    """Relative to the excess (K-3)^2 / f^3 the error falls like 1/f."""
    errors = []
    for f in (2**14, 2**16):
        share = gated_share_moment("silu", 1.0, f)
        exact = excess_over_beta(f, share, share)
        errors.append(abs(gated_variance(f, gated_kurtosis("silu", 1.0)) - null_variance(f) - exact) / exact)
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 3.5


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.7])
def test_the_gated_map_of_relu(rho):
    kernel = (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / math.pi
    assert gated_kappa("relu", rho, 1.3) == pytest.approx(rho * kernel, abs=1e-12)


def test_bad_widths_are_refused():
    with pytest.raises(ValueError, match="d_ff: expected an int >= 2, got 1"):
        gated_share_moment("silu", 1.0, 1)
