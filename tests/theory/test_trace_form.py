"""Laws F1 and F2 against mpmath's integrals over the circle and the sphere, Haar averages and brute force."""

import math

import mpmath
import numpy as np
import pytest

from simgap.theory.trace_form import (
    balanced_mso,
    balanced_overlap,
    balanced_witness,
    form_mean,
    form_variance,
    symmetric_norm,
    symmetric_part,
)

SIGMA = 5.0
MATRICES = {
    2: [[[1, 2], [3, 4]], [[0, 5], [-5, 0]], [[2, 7], [1, -2]]],
    3: [[[1, 2, 0], [4, -3, 1], [2, 2, 5]], [[0, 1, 2], [-1, 0, 3], [-2, -3, 0]]],
}


def moment_by_trapezoid(matrix, power):
    """The mean of (x'Mx)^power over the circle or the sphere: the trapezoid rule in the angle is exact for trigonometric polynomials, and
    Gauss-Legendre in the height for the polynomials that are left."""
    matrix = np.array(matrix, float)
    angles = 2 * math.pi * np.arange(32) / 32
    if len(matrix) == 2:
        points, weights = np.stack([np.cos(angles), np.sin(angles)], 1), np.full(32, 1 / 32)
    else:
        heights, w = np.polynomial.legendre.leggauss(8)
        radius = np.sqrt(1 - heights**2)
        points = np.array([[r * math.cos(t), r * math.sin(t), h] for h, r in zip(heights, radius, strict=True) for t in angles])
        weights = np.repeat(w / 2, 32) / 32
    return float(weights @ np.einsum("ni,ij,nj->n", points, matrix, points) ** power)


@pytest.mark.parametrize("matrix", MATRICES[2] + MATRICES[3], ids=str)
def test_mean_and_variance_over_the_sphere(matrix):
    d, trace = len(matrix), sum(matrix[i][i] for i in range(len(matrix)))
    mean = moment_by_trapezoid(matrix, 1)
    assert form_mean(trace, d) == pytest.approx(mean, abs=1e-12)
    variance = moment_by_trapezoid(matrix, 2) - mean**2
    assert form_variance(symmetric_norm(matrix), trace, d) == pytest.approx(variance, abs=1e-11)
    # The whole matrix in place of its symmetric part is another number unless M is symmetric.
    assert form_variance((np.array(matrix) ** 2).sum(), trace, d) != pytest.approx(variance, abs=1e-3)


def test_variance_over_the_circle_to_thirty_digits():
    with mpmath.workdps(40):

        def form(t):
            x, y = mpmath.cos(t), mpmath.sin(t)
            return x * x + 5 * x * y + 4 * y * y

        mean = mpmath.quad(form, [0, mpmath.pi, 2 * mpmath.pi]) / (2 * mpmath.pi)
        square = mpmath.quad(lambda t: form(t) ** 2, [0, mpmath.pi, 2 * mpmath.pi]) / (2 * mpmath.pi)
        assert abs(square - mean**2 - mpmath.mpf("4.25")) < mpmath.mpf(10) ** -30
    assert form_variance(symmetric_norm([[1, 2], [3, 4]]), 5, 2) == 4.25


def test_variance_does_not_see_a_rotation_or_an_antisymmetric_part():
    generator = np.random.default_rng(0)
    m = generator.standard_normal((6, 6))
    q, _ = np.linalg.qr(generator.standard_normal((6, 6)))
    b = generator.standard_normal((6, 6))
    for other in (q.T @ m @ q, m + b - b.T):
        assert symmetric_norm(other) == pytest.approx(symmetric_norm(m), rel=1e-12)
    assert symmetric_norm(m + b) != pytest.approx(symmetric_norm(m), rel=1e-3)


def test_a_multiple_of_the_identity_has_no_spread():
    assert form_variance(symmetric_norm(3 * np.eye(5)), 15, 5) == pytest.approx(0, abs=1e-14)
    np.testing.assert_array_equal(symmetric_part([[0, 1], [-1, 0]]), np.zeros((2, 2)))


def test_variance_in_many_dimensions_against_draws():
    d, draws = 40, 20_000
    generator = np.random.default_rng(1)
    m = generator.standard_normal((d, d))
    x = generator.standard_normal((draws, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    squares = (((x @ m) * x).sum(1) - np.trace(m) / d) ** 2
    error = squares.std(ddof=1) / math.sqrt(draws)
    assert abs(squares.mean() - form_variance(symmetric_norm(m), np.trace(m), d)) < SIGMA * error
    assert abs(squares.mean() - 2 * form_variance(symmetric_norm(m), np.trace(m), d)) > SIGMA * error


@pytest.mark.parametrize("d", [2, 4, 10])
def test_the_witness_is_orthogonal_and_overlaps(d):
    w1, w2 = balanced_witness(d)
    assert (w1 * w2).sum() == 0
    axis, split = np.eye(d)[0], np.eye(d)[0] + np.eye(d)[-1]
    assert balanced_overlap(axis) == 1
    assert balanced_overlap(split) == 0


@pytest.mark.parametrize("d", [2, 6])
def test_the_overlap_at_each_input_is_the_cosine_of_the_outputs(d):
    w1, w2 = balanced_witness(d)
    x = np.random.default_rng(d).standard_normal((5, d))
    for row, value in zip(x, balanced_overlap(x), strict=True):
        y1, y2 = w1 @ row, w2 @ row
        assert value == pytest.approx((y1 @ y2 / (np.linalg.norm(y1) * np.linalg.norm(y2))) ** 2, abs=1e-14)


@pytest.mark.parametrize("d", [2, 4, 12])
def test_the_mean_overlap_is_that_of_a_beta_law(d):
    """The share b of the first half is Beta(d/4, d/4), and cos^2 = (2b - 1)^2, so its mean is 4 Var b."""
    scipy_stats = pytest.importorskip("scipy.stats")
    variance = scipy_stats.beta(d / 4, d / 4).var()
    assert balanced_mso(d) == pytest.approx(4 * variance, rel=1e-13)
    assert 2 / (d + 1) != pytest.approx(4 * variance, rel=1e-2)


@pytest.mark.parametrize("d", [0, 3, -2])
def test_the_witness_needs_an_even_width(d):
    with pytest.raises(ValueError, match=f"d_model: expected an even number of at least 2, got {d}"):
        balanced_witness(d)


def test_small_integers_do_not_overflow_in_the_overlap():
    assert balanced_overlap(np.array([100, 1, 2, 3], np.int8)) == pytest.approx((9988 / 10014) ** 2, rel=1e-15)


def test_the_overlap_needs_two_halves():
    with pytest.raises(ValueError, match=r"^x: expected an even number of coordinates, got 3"):
        balanced_overlap([1.0, 2.0, 3.0])
