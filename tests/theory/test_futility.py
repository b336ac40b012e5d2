"""Law F4 against Haar averages on the plane, quadrature over small Gaussian matrices, and draws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.futility import futility_share, trace_share, unit_norm_futility_share

SIGMA = 5.0
# Three Gauss-Hermite nodes integrate polynomials of degree 5 in each entry: 0 and +-sqrt(3) with weights 2/3, 1/6, 1/6.
NODES = np.array([-math.sqrt(3), 0.0, math.sqrt(3)])
WEIGHTS = np.array([1 / 6, 2 / 3, 1 / 6])


def grid(entries):
    """All points of the product rule, and their weights."""
    points = np.array(list(itertools.product(range(3), repeat=entries)))
    return NODES[points], WEIGHTS[points].prod(1)


def second_moment_over_x(m):
    """E (x'Mx)^2 for normal x, from the eigenvalues of the symmetric part: (sum l)^2 + 2 sum l^2."""
    values = np.linalg.eigvalsh((m + np.swapaxes(m, -1, -2)) / 2)
    return values.sum(-1) ** 2 + 2 * (values**2).sum(-1)


def exact_share(d, f):
    """The share by quadrature over both matrices, exact: (x'Mx)^2 and ||W_1||^2 (x'M'x)^2 are polynomials of degree up to 4 in each entry.

    W_2 enters quadratically; (x'M'x)^2 ||W_1||^4 has degree 6 in W_1. Its length is chi^2 of N = f d degrees and independent of the
    direction, so E p/n^2 = E p / ((N+2)(N+4)) for p of degree 6.
    """
    points, weights = sphere_grid(d * f)
    w2, weights2 = grid(d * f)
    before = after = 0.0
    for u, wu in zip(points, weights, strict=True):
        w1 = u.reshape(f, d)
        second = w2.reshape(-1, f, d)
        dot = (second * w1).sum((1, 2))
        projected = second - dot[:, None, None] * w1
        before += wu * weights2 @ second_moment_over_x(w1.T @ second)
        after += wu * weights2 @ second_moment_over_x(w1.T @ projected)
    return 1 - after / before


def sphere_grid(size):
    """A rule on the unit sphere, exact for the degree 6 that is needed: circle by the trapezoid rule, S^3 by Hopf coordinates."""
    angles = 2 * math.pi * np.arange(8) / 8
    if size == 2:
        return np.stack([np.cos(angles), np.sin(angles)], 1), np.full(8, 1 / 8)
    heights, w = np.polynomial.legendre.leggauss(4)
    points, weights = [], []
    for h, weight in zip((heights + 1) / 2, w / 2, strict=True):
        for s, t in itertools.product(angles, angles):
            points.append(
                [math.sqrt(h) * math.cos(s), math.sqrt(h) * math.sin(s), math.sqrt(1 - h) * math.cos(t), math.sqrt(1 - h) * math.sin(t)]
            )
            weights.append(weight / 64)
    return np.array(points), np.array(weights)


@pytest.mark.parametrize("d, f", [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_the_share_by_exact_quadrature(d, f):
    assert futility_share(d, f) == pytest.approx(exact_share(d, f), rel=1e-12)
    if d > 1:
        assert 1 / (d + 2) != pytest.approx(exact_share(d, f), rel=0.1)


def test_the_stated_values():
    assert futility_share(8, 32) == pytest.approx(0.1318, abs=5e-5)
    assert futility_share(32, 128) == pytest.approx(0.0317, abs=5e-5)


@pytest.mark.parametrize("d, f", [(1, 1), (2, 7), (8, 32), (512, 2048)])
def test_both_forms_and_the_bounds_in_fractions(d, f):
    share = futility_share(Fraction(d), Fraction(f))
    assert share == (1 + Fraction(2 * (f + d + 1), f * d + 2)) / (d + 2)
    assert Fraction(1, d) <= share <= Fraction(3, d + 2)
    assert futility_share(Fraction(d), Fraction(1)) == Fraction(3, d + 2)
    assert share > trace_share(Fraction(d))


@pytest.mark.parametrize("d, f", [(2, 3), (3, 1)])
def test_shares_against_draws(d, f):
    draws = 40_000
    generator = np.random.default_rng(10 * d + f)
    w1, w2 = generator.standard_normal((2, draws, f, d))
    dot, norm = (w1 * w2).sum((1, 2)), (w1**2).sum((1, 2))
    projected = w2 - (dot / norm)[:, None, None] * w1
    before, after = (second_moment_over_x(np.swapaxes(w1, 1, 2) @ w) for w in (w2, projected))
    unit_before, unit_after = (q / (norm * (w**2).sum((1, 2))) for q, w in ((before, w2), (after, projected)))
    for top, bottom, claimed in (
        (before - after, before, futility_share(d, f)),
        (dot**2, before, trace_share(d)),
        (unit_before - unit_after, unit_before, unit_norm_futility_share(d, f)),
    ):
        residual = top - claimed * bottom
        error = residual.std(ddof=1) / math.sqrt(draws)
        assert abs(residual.mean()) < SIGMA * error
        twin = top - (claimed - 0.05) * bottom
        assert abs(twin.mean()) > SIGMA * error


def test_unit_norms_of_vectors():
    """f = 1: W_2' stands at right angles to W_1, so that E (x'M'x)^2 at unit norms is 1 before and after, up to the 1/d of the cosine."""
    for d in (2, 5):
        # E over x of (u'x v'x)^2 is 1 + 2 cos^2: 1 + 2/d on average for independent directions, 1 for orthogonal ones.
        assert unit_norm_futility_share(Fraction(d), Fraction(1)) == 1 - 1 / (1 + Fraction(2, d))
