"""Law N1 against enumeration in fractions, against scipy, and against draws at a fixed n."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from simgap.theory.weight_null import (
    haar_variance,
    null_all_weights_mso,
    null_mso,
    null_variance,
    null_variance_general,
    null_weight_mso,
    share_moment,
)

SIGMA = 5.0


def exact_cos2(u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return Fraction(dot * dot, sum(a * a for a in u) * sum(b * b for b in v))


def signs(width):
    return itertools.product((-1, 1), repeat=width)


FIXED = [(1, 2), (3, 1, 2), (1, 0, 0, 5), (2, 2, 2, 2), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("v", FIXED, ids=str)
def test_the_mean_over_all_signs_is_exact(v):
    width = len(v)
    mean = sum(exact_cos2(u, v) for u in signs(width)) / 2**width
    assert mean == null_mso(Fraction(width))
    # Not so without the symmetry: signs that favour +1 feel the other vector's mean.
    biased = [u for u in signs(width) if u[0] == u[-1] == 1]
    assert sum(exact_cos2(u, v) for u in biased) / len(biased) != null_mso(Fraction(width))


@pytest.mark.parametrize("v", FIXED, ids=str)
def test_the_general_variance_over_all_signs_is_exact(v):
    """Signs have A = 1/N^2; for a fixed v, B is the mean of (v_i^2 / |v|^2)^2, since only exchangeable averages enter."""
    n = len(v)
    fourth = sum(exact_cos2(u, v) ** 2 for u in signs(n)) / 2**n
    b = Fraction(sum(x**4 for x in v), n * sum(x * x for x in v) ** 2)
    width = Fraction(n)
    assert null_variance_general(width, 1 / width**2, b) == fourth - 1 / width**2
    if b != 1 / width**2:
        assert null_variance_general(width, 1 / width**2, 1 / width**2) != fourth - 1 / width**2


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_the_general_variance_of_two_axes_is_exact(n):
    """Signed axes put all of a vector on one entry: A = B = 1/N, cos^2 is 1 with probability 1/N and 0 otherwise."""
    width = Fraction(n)
    assert null_variance_general(width, 1 / width, 1 / width) == 1 / width - 1 / width**2


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_the_general_variance_reduces_to_the_gaussian_one(n):
    width = Fraction(n)
    gaussian = 3 / (width * (width + 2))
    assert null_variance_general(width, gaussian, gaussian) == null_variance(width)
    # One isotropic side is enough, whatever the other is.
    for other in (1 / width, 1 / width**2, Fraction(1, 2 * n)):
        assert null_variance_general(width, gaussian, other) == null_variance(width)
        assert null_variance_general(width, other, gaussian) == null_variance(width)
    assert null_variance_general(width, 1 / width**2, 1 / width**2) != null_variance(width)


@pytest.mark.parametrize("n", [2, 3, 17, 4096])
def test_mean_and_variance_are_those_of_the_beta_law(n):
    law = scipy.stats.beta(0.5, (n - 1) / 2)
    assert null_mso(n) == pytest.approx(law.mean(), rel=1e-14)
    assert null_variance(n) == pytest.approx(law.var(), rel=1e-13)
    assert null_variance(n) != pytest.approx(scipy.stats.beta(0.5, n / 2).var(), rel=1e-5)


def test_one_dimension_has_no_spread():
    assert null_mso(1) == 1
    assert null_variance(1) == 0


@pytest.mark.parametrize("d, f", [(1, 1), (3, 7), (128, 512)])
def test_weights_are_one_flattened_vector(d, f):
    assert null_weight_mso(Fraction(d), Fraction(f)) == Fraction(1, d * f)


@pytest.mark.parametrize("n", [1, 2, 5, 300])
def test_share_moments(n):
    width = Fraction(n)
    assert share_moment(width, Fraction(3)) == Fraction(3, n * (n + 2))  # E u_1^4 of a point of the sphere
    assert share_moment(width, Fraction(1)) == Fraction(1, n * n)  # every share is 1/N


def test_share_moment_of_uniform_entries():
    """Leading order, with relative error O(1/N): at N = 200 the exact value differs by at most a percent."""
    n, draws = 200, 20_000
    squares = np.random.default_rng(0).uniform(-1, 1, (draws, n)) ** 2
    values = ((squares / squares.sum(1, keepdims=True)) ** 2).mean(1)
    error = values.std(ddof=1) / math.sqrt(draws)
    assert abs(values.mean() - share_moment(n, 1.8)) < SIGMA * error + 0.01 * share_moment(n, 1.8)
    for twin in (1.7, 3.0):
        assert abs(values.mean() - share_moment(n, twin)) > SIGMA * error + 0.01 * share_moment(n, twin)


def haar(generator, count, tall, narrow):
    """Haar frames: QR of a Gaussian with the signs of R's diagonal moved into Q."""
    q, r = np.linalg.qr(generator.standard_normal((count, tall, narrow)))
    return q * np.sign(np.einsum("bii->bi", r))[:, None, :]


def fourth_moment_z(cos2, width, variance):
    """z of E cos^4 - 1/N^2 against a variance; the mean 1/N is exact, so that only the fourth moment is estimated."""
    values = cos2**2 - 1 / width**2
    return (values.mean() - variance) / (values.std(ddof=1) / math.sqrt(len(values)))


# Pairs drawn, so that the Gaussian variance lies 12 sigma away and more: 38%, 12% and 20% off, against 0.8% of standard error.
HAAR_PAIRS = 100_000


@pytest.mark.parametrize("d, f", [(3, 3), (2, 5), (5, 2), (4, 3)])
def test_haar_variance(d, f):
    generator = np.random.default_rng(d * 10 + f)
    a, b = (haar(generator, HAAR_PAIRS, max(d, f), min(d, f)).reshape(HAAR_PAIRS, -1) for _ in range(2))
    cos2 = (a * b).sum(1) ** 2 / min(d, f) ** 2
    width = d * f
    assert abs(cos2.mean() - null_mso(width)) < SIGMA * cos2.std(ddof=1) / math.sqrt(HAAR_PAIRS)
    assert abs(fourth_moment_z(cos2, width, haar_variance(d, f))) < SIGMA
    assert abs(fourth_moment_z(cos2, width, null_variance(width))) > SIGMA


@pytest.mark.parametrize("n", [2, 3, 11])
def test_haar_variance_at_its_ends(n):
    wide = Fraction(n)
    # One column is a point of the sphere, so the Gaussian law; a square matrix has Gaussian trace moments, 3 / m^4.
    assert haar_variance(wide, Fraction(1)) == null_variance(wide)
    assert haar_variance(Fraction(1), wide) == null_variance(wide)
    assert haar_variance(wide, wide) == 3 / wide**4 - 1 / wide**4
    assert haar_variance(wide, Fraction(2)) == haar_variance(Fraction(2), wide)


def test_haar_variance_over_the_plane_is_an_integral():
    """O(2): half are reflections with trace 0, half rotations with trace 2 cos t; E cos^4 = (1/2) E cos^4 t = 3/16."""
    assert haar_variance(Fraction(2), Fraction(2)) == Fraction(3, 16) - Fraction(1, 16)


def test_all_weights_at_one_scale_are_one_vector():
    sizes = (Fraction(6), Fraction(10), Fraction(3))
    assert null_all_weights_mso(sizes, (Fraction(7),) * 3) == Fraction(1, 19)
    assert null_all_weights_mso(sizes, (1, 0, 0)) == Fraction(1, 6)


@pytest.mark.parametrize("d, f", [(2, 3), (8, 32), (64, 64)])
def test_all_weights_under_kaiming(d, f):
    n = Fraction(d * f)
    kaiming = null_all_weights_mso((n, n), (Fraction(2, d), Fraction(2, f)))
    assert kaiming == Fraction(d * d + f * f, (d + f) ** 2 * d * f)
    assert (kaiming == Fraction(1, 2 * d * f)) == (d == f)


def test_all_weights_against_draws():
    """W_up and W_down of Kaiming experts, flattened together, at d = 8, f = 32. The law's own error is O(1/N), N = 512: within 2%."""
    d, f, pairs = 8, 32, 8_000
    generator = np.random.default_rng(5)
    scale = np.repeat([math.sqrt(2 / d), math.sqrt(2 / f)], d * f)
    u, v = (generator.standard_normal((pairs, 2 * d * f)) * scale for _ in range(2))
    cos2 = (u * v).sum(1) ** 2 / ((u**2).sum(1) * (v**2).sum(1))
    law = null_all_weights_mso((d * f, d * f), (2 / d, 2 / f))
    error = cos2.std(ddof=1) / math.sqrt(pairs)
    assert abs(cos2.mean() - law) < SIGMA * error + 0.02 * law
    assert abs(cos2.mean() - 1 / (2 * d * f)) > SIGMA * error + 0.02 * law  # all entries at one scale: 26% less, 16 sigma


def test_sizes_and_variances_go_together():
    with pytest.raises(ValueError, match="shorter"):
        null_all_weights_mso((1, 2), (1,))


def test_pairs_that_share_a_vector_are_uncorrelated():
    """Over all signs, cos^2 with a first and with a second vector: their covariance is zero exactly."""
    first, second = (1, 2, 3), (3, 0, 1)
    products = [
        exact_cos2(u, tuple(a * s for a, s in zip(first, flips, strict=True))) * exact_cos2(u, second)
        for u in signs(3)
        for flips in signs(3)
    ]
    assert sum(products) / len(products) == Fraction(1, 9)
