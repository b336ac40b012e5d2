"""Law N2B against quadrature, mpmath, enumeration of angles, and draws at a fixed n."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from simgap.certify import BALL, precision
from simgap.theory.symbols import SYMBOLIC
from simgap.theory.token_variance import (
    null_token_sd,
    output_alignment,
    token_covariance,
    token_mso_variance,
    uneven_token_variance,
)
from simgap.theory.weight_null import null_variance

SIGMA = 5.0


@pytest.mark.parametrize("d", [1, 2, 3, 8, 65, 4096])
@pytest.mark.parametrize("c", [0.0, 1e-3, 0.2, -0.7, 0.999])
def test_alignment_against_the_hypergeometric_form(d, c):
    with mpmath.workdps(40):
        x = mpmath.mpf(c) ** 2
        expected = 1 - (1 - x) * (d - 1) / mpmath.mpf(d) * mpmath.hyp2f1(1, 1, mpmath.mpf(d) / 2 + 1, x)
    assert output_alignment(d, c) == pytest.approx(float(expected), abs=1e-14)


@pytest.mark.parametrize("d, c", [(9, 0.4), (20, 0.9)])
def test_alignment_from_the_definition(d, c):
    """y' = c y + s g with y on the first axis, |y|^2 = chi^2_d and the rest of g a chi^2_{d-1}: Gauss rules for all three, good to 1e-6."""
    s2 = 1 - c * c
    g, wg = np.polynomial.hermite_e.hermegauss(40)
    (half, wh), (rest, wr) = (scipy.special.roots_genlaguerre(40, k / 2 - 1) for k in (d, d - 1))
    along = (c * np.sqrt(2 * half)[:, None] + math.sqrt(s2) * g) ** 2
    cos2 = along[..., None] / (along[..., None] + s2 * 2 * rest)
    expected = np.einsum("h,g,r,hgr->", wh, wg, wr, cos2) / (wh.sum() * wg.sum() * wr.sum())
    assert output_alignment(d, c) == pytest.approx(float(expected), abs=1e-6)
    assert output_alignment(d, c) != pytest.approx(c * c + (1 - c * c) / d, abs=1e-3)  # as if lengths did not vary


@pytest.mark.parametrize("c", [0.3, 0.8])
def test_alignment_in_the_plane_by_quadrature(c):
    """d = 2: two rows (y_i, y'_i), so four normals; in polar coordinates of y and y' the angle between them has an explicit density."""
    s2 = 1 - c * c

    def given_angle(t):
        # int int r R exp(-(r^2 + R^2 - 2 c r R cos t)/(2 s2)) dr dR with R = r q, constants apart.
        return scipy.integrate.quad(lambda q: q / (1 + q * q - 2 * c * q * math.cos(t)) ** 2, 0, math.inf)[0]

    angles = 2 * np.pi * np.arange(64) / 64  # periodic and analytic: exponentially accurate
    weights = np.array([given_angle(t) for t in angles]) * s2
    assert output_alignment(2, c) == pytest.approx(float(weights @ np.cos(angles) ** 2 / weights.sum()), rel=1e-7)


@pytest.mark.parametrize("d", [2, 3, 7, 40])
def test_the_recurrence_is_the_same_function(d):
    for c in ("0.25", "0.9"):
        with precision(512):
            ball = output_alignment(d, c, ctx=BALL)
        assert float(ball.mid()) == pytest.approx(output_alignment(d, float(c)), abs=1e-13)
    exact = output_alignment(d, Fraction(1, 3), ctx=SYMBOLIC)
    assert float(exact.evalf(60)) == pytest.approx(output_alignment(d, 1 / 3), abs=1e-13)


def test_alignment_at_its_ends():
    values = output_alignment(6, np.array([-1.0, 0.0, 1.0]))
    assert values == pytest.approx([1, 1 / 6, 1], abs=1e-15)
    assert output_alignment(2, 1) == 1
    assert output_alignment(1, 0.3) == 1
    assert output_alignment(50, 1e-3) - 1 / 50 == pytest.approx(1e-6 * 49 / 52, rel=1e-5)


def test_covariance_in_the_plane_is_an_average_over_turns():
    """d = 2, outputs at fixed angles p (expert 1) and q (expert 2) between the tokens, each pair turned or mirrored at random."""
    p, q = 0.4, 1.1
    turn = 2 * np.pi * np.arange(12) / 12
    a, b = np.meshgrid(turn, turn)
    products = [np.cos(a - b) ** 2 * np.cos(a + m * p - b - k * q) ** 2 for m in (-1, 1) for k in (-1, 1)]
    expected = np.mean(products) - 0.25
    assert token_covariance(2, math.cos(p) ** 2, math.cos(q) ** 2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [2, 5, 300])
def test_one_token_twice_has_the_variance(d):
    assert token_covariance(Fraction(d), 1, 1) == null_variance(Fraction(d))
    assert token_covariance(Fraction(d), Fraction(1, d), 1) == 0


def test_variance_of_means():
    d, v, cov = Fraction(4), null_variance(Fraction(4)), Fraction(1, 100)
    assert token_mso_variance(d, Fraction(1), 6, 3, cov) == v / 18
    assert token_mso_variance(d, Fraction(10), 6, 3, cov) == (v / 10 + cov * Fraction(9, 10)) / 18
    assert uneven_token_variance(d, [10] * 6, cov) == token_mso_variance(d, Fraction(10), 6, 1, cov)
    # Two pairs with 1 and 3 tokens: four variances and six ordered pairs of tokens.
    assert uneven_token_variance(d, [1, 3, 0], cov) == (4 * v + 6 * cov) / 16
    assert null_token_sd(4, 6, 3, 10**9, 0.01) == pytest.approx(math.sqrt(0.01 / 18), rel=1e-6)
    assert null_token_sd(1, 6, 3, 10, 0.0) == 0


def test_variance_against_layers():
    """3 ReLU experts on 8 fixed tokens, wide limit not needed: the hidden vectors are given. Biased twin: no floor."""
    generator = np.random.default_rng(7)
    d, f, tokens, layers = 4, 8, 8, 8_000
    hidden = np.maximum(generator.standard_normal((3, f, 5)) @ generator.standard_normal((5, tokens)), 0).transpose(0, 2, 1) + 0.1
    down = generator.standard_normal((layers, 3, f, d))
    y = np.matmul(hidden, down)
    y /= np.linalg.norm(y, axis=3, keepdims=True)
    cos2 = [(y[:, i] * y[:, j]).sum(2) ** 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    mso = np.mean(cos2, axis=(0, 2))
    unit = hidden / np.linalg.norm(hidden, axis=2, keepdims=True)
    q = output_alignment(d, np.clip(unit @ unit.transpose(0, 2, 1), -1, 1))
    apart = ~np.eye(tokens, dtype=bool)
    covariance = np.mean([token_covariance(d, q[i], q[j])[apart].mean() for i, j in ((0, 1), (0, 2), (1, 2))])
    squares = (mso - 1 / d) ** 2
    error = squares.std(ddof=1) / math.sqrt(layers)
    assert abs(squares.mean() - token_mso_variance(d, tokens, 3, 1, covariance)) < SIGMA * error
    assert abs(squares.mean() - token_mso_variance(d, tokens, 3, 1, 0.0)) > SIGMA * error


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"c: expected cosines in \[-1, 1\], got 1.5"):
        output_alignment(4, np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match=r"d_model: expected a whole number >= 1, got 2\.5"):
        output_alignment(2.5, 0.5)
    with pytest.raises(ValueError, match="counts: expected whole numbers >= 0, not all 0"):
        uneven_token_variance(4, [0, 0], 0.0)
    with pytest.raises(ValueError, match="tokens_per_pair: expected at least 1, got 0"):
        null_token_sd(4, 1, 1, 0, 0.0)
