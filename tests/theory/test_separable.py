"""Law T9 against Kronecker products that are written out, and against what is known for equal scales."""

from fractions import Fraction

import numpy as np
import pytest

from simgap.theory.separable import direction_spread, separable_error, separable_mso, separable_variance
from simgap.theory.weight_null import null_mso, null_variance


def test_it_is_the_trace_of_the_product_of_second_moments():
    g = np.random.default_rng(0)
    sides = [[a @ a.T for a in (g.standard_normal((size, 5)) for _ in range(2))] for size in (3, 4)]
    whole, other = (np.kron(sides[0][e], sides[1][e]) for e in (0, 1))
    expected = np.trace(whole @ other) / (np.trace(whole) * np.trace(other))
    shares = [np.trace(a @ b) / (np.trace(a) * np.trace(b)) for a, b in sides]
    assert separable_mso(*shares) == pytest.approx(expected, rel=1e-12)


def test_equal_scales_are_a_round_space():
    n = Fraction(12)
    assert separable_mso(Fraction(1, 3), Fraction(1, 4)) == null_mso(n)
    assert separable_error(1 / n, 1 / n**2) == direction_spread(1 / n, 1 / n**2, 1 / n**3) == 0
    assert separable_variance(1 / n, 0, Fraction(2)) == null_variance(n) * (n + 2) / (n - 1)


def test_the_error_by_draws():
    """30,000 times three Gaussian vectors of two scales: the mean is below s2, by the error to a quarter of itself."""
    scales = np.repeat([1.0, 5.0], [120, 8])
    p = scales / scales.sum()
    s2, s3 = ((p**k).sum() for k in (2, 3))
    u = np.random.default_rng(0).standard_normal((30_000, 3, 128)) * np.sqrt(scales)
    u /= np.linalg.norm(u, axis=2, keepdims=True)
    values = ((u @ u.transpose(0, 2, 1)) ** 2).sum((1, 2)) / 6 - 0.5
    sem = values.std() / np.sqrt(len(values))
    assert values.mean() + 5 * sem < s2
    assert abs(values.mean() - (s2 - separable_error(s2, s3))) < 5 * sem + separable_error(s2, s3) / 4


def test_directions_by_their_eigenvalues():
    """Half the variance of the form u'(S - s2)u, by Isserlis."""
    p = np.array([0.1, 0.2, 0.3, 0.4])
    s2, s3, s4 = ((p**k).sum() for k in (2, 3, 4))
    expected = ((p * (p - s2)) ** 2).sum()
    assert direction_spread(s2, s3, s4) == pytest.approx(expected, rel=1e-12)
    assert separable_variance(s2, expected, 5) == pytest.approx((2 * s2**2 + 18 * expected) / 10, rel=1e-12)
