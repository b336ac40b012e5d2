"""Laws T7 and T7B against integrals, limits and draws."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.special

from simgap.theory.centred_means import (
    centred_correlation,
    centred_directions_spread,
    directions_error,
    null_centred_directions,
    null_centred_mso,
)


@pytest.mark.parametrize("width, n_experts, said", [(64, 8, 0.03512), (8, 3, 0.30787)])
def test_known_values(width, n_experts, said):
    assert null_centred_mso(width, n_experts) == pytest.approx(said, abs=5e-6)
    assert null_centred_mso(width, n_experts) != pytest.approx(1 / width, rel=0.5)


@pytest.mark.parametrize("width", [2, 7, 64, 1000])
@pytest.mark.parametrize("n_experts", [3, 8, 64])
def test_the_series(width, n_experts):
    rho2 = 1 / (n_experts - 1) ** 2
    series = 1 - (1 - rho2) * (width - 1) / width * scipy.special.hyp2f1(1, 1, width / 2 + 1, rho2)
    assert null_centred_mso(width, n_experts) == pytest.approx(series, rel=1e-11)
    # Wide, it is what its docstring says.
    if width == 1000:
        assert null_centred_mso(width, n_experts) == pytest.approx(rho2 + (1 - rho2) * (1 - 2 * rho2) / width, abs=3 / width**2)


def test_two_experts_are_opposite():
    assert null_centred_mso(5, 2) == null_centred_directions(5, 2) == 1
    assert centred_correlation(2) == -1


@pytest.mark.parametrize("variances", [(1, 1, 1), (9, 1, 4, 1), (100, 1, 1, 1, 1)])
def test_correlations_are_those_of_the_projection(variances):
    e = len(variances)
    centre = np.eye(e) - 1 / e
    covariance = centre @ np.diag(variances) @ centre
    for i in range(e):
        for j in range(i):
            expected = covariance[i, j] / np.sqrt(covariance[i, i] * covariance[j, j])
            found = centred_correlation(e, variances[i], variances[j], sum(variances))
            assert found == pytest.approx(expected, rel=1e-12)
            if len(set(variances)) == 1:
                assert centred_correlation(e) == pytest.approx(found, rel=1e-12)
    assert centred_correlation(e, 9, 1, 11) != pytest.approx(centred_correlation(e), rel=0.01)


def test_directions_by_draws():
    """20,000 sets of vectors of any lengths, by pairs of centred Gram matrices: within 5 standard errors and the stated error; the law of
    Gaussian vectors of one variance is refused, and so is half the spread."""
    for e, d in ((3, 8), (5, 32)):
        z = np.random.default_rng(e).standard_normal((20_000, e, d)) * np.arange(1, e + 1)[:, None]
        gram = z @ z.transpose(0, 2, 1)
        lengths = np.sqrt(np.einsum("nii->ni", gram))
        gram /= lengths[:, :, None] * lengths[:, None]
        centre = np.eye(e) - 1 / e
        gram = centre @ gram @ centre
        squares = np.einsum("nii->ni", gram)
        cos2 = gram**2 / (squares[:, :, None] * squares[:, None])
        values = (cos2.sum((1, 2)) - e) / (e * (e - 1))
        sem = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - null_centred_directions(d, e)) < 5 * sem + directions_error(d)
        if e == 3:
            assert abs(values.mean() - null_centred_mso(d, e)) > 5 * sem + directions_error(d)
        else:
            # A standard deviation strays by itself / sqrt(2 n), more where the law has tails; the law's own error is 3/d of the variance.
            assert values.std() == pytest.approx(math.sqrt(centred_directions_spread(d, e)[0]), rel=1.5 / d + 0.05)


def test_directions_in_fractions():
    assert null_centred_directions(Fraction(10), Fraction(3)) == Fraction(1, 4) + Fraction(1, 40) + Fraction(11, 1200)
    assert centred_directions_spread(Fraction(8), Fraction(3)) == (Fraction(1, 16) / 64, Fraction(2, 64) / 512)
