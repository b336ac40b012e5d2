import math

import numpy as np
import pytest
from scipy import stats

from simgap.kernels.normal import box_muller

FIVE_SIGMA_P = math.erfc(5 / math.sqrt(2))
N = 2_000_000
EPS = 2.0**-24


def normals(words, std=1.0):
    out = np.full(words.size, np.nan, np.float32)
    box_muller(words, out, np.float32(std))
    return out


def random_words(size, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)


def in_float64(words):
    """Box-Muller from the same words: u from the 23 high bits, the angle a quadrant and a signed offset, mirrored in odd quadrants."""
    half = words.size // 2
    u = ((words[:half] >> 9).astype(np.float64) + 0.5) * 2.0**-23
    radius = np.sqrt(-2 * np.log(u))
    quadrant = (words[half:] >> 30).astype(np.int64)
    offset = (words[half:] << np.uint32(2)).view(np.int32) * (math.pi / 4 * 2.0**-31)
    angle = quadrant * (math.pi / 2) + np.where(quadrant % 2 == 1, -offset, offset)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]), np.concatenate([radius, radius])


def error_bound(radius):
    """One rounding of u moves radius^2 by 2 eps; its logarithm and the square root cost 4 eps more, sine and cosine as much again.

    radius' error is that of its square over radius, and never above the root of it: near u = 1 the spacing of u is all there is.
    """
    square = 2 * EPS + 8 * EPS * radius**2
    return np.minimum(square / np.maximum(radius, 1e-300), np.sqrt(square)) + 8 * EPS * radius


def test_against_float64():
    words = random_words(400_000)
    exact, radius = in_float64(words)
    assert np.all(np.abs(normals(words) - exact) <= error_bound(radius))


EXTREME = np.array(
    [0, 1, 255, 256, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xBFFFFFFF, 0xC0000000, 0xFFFFFE00, 0xFFFFFFFF], np.uint32
)


def test_extreme_words():
    first, second = (grid.ravel() for grid in np.meshgrid(EXTREME, EXTREME))
    words = np.concatenate([first, second])
    out = normals(words)
    exact, radius = in_float64(words)
    assert np.all(np.isfinite(out))
    assert np.all(np.abs(out - exact) <= error_bound(radius))
    assert np.abs(out).max() <= 5.8


def test_bound_is_nearly_reached():
    out = normals(np.array([0, 0], np.uint32))
    assert np.abs(out).max() == pytest.approx(math.sqrt(48 * math.log(2)), rel=4 * EPS)


@pytest.mark.parametrize("std", [1e-25, 1e25])
def test_std_whose_square_leaves_float32(std):
    words = random_words(1000, seed=4)
    assert normals(words, std) == pytest.approx(std * normals(words).astype(np.float64), rel=4 * EPS)


def test_u_stays_inside_the_unit_interval():
    """No word gives a radius of 0: that would be a zero vector in the making."""
    words = np.array([0xFFFFFFFF, 0], np.uint32)
    assert np.abs(normals(words)).max() > 0


def test_std_scales():
    words = random_words(10_000, seed=1)
    exact, radius = in_float64(words)
    assert np.all(np.abs(normals(words, 0.02) - 0.02 * exact) <= 0.02 * (error_bound(radius) + 4 * EPS * radius))


def test_signs_are_exactly_symmetric():
    """Half a turn flips both numbers, and is a bijection of the words."""
    words = random_words(20_000, seed=2)
    turned = words.copy()
    turned[words.size // 2 :] ^= np.uint32(0x80000000)
    np.testing.assert_array_equal(normals(turned), -normals(words))


def test_the_two_halves_trade_places_under_a_swap_of_axes():
    words = random_words(20_000, seed=3)
    swapped = words.copy()
    swapped[words.size // 2 :] ^= np.uint32(0x40000000)
    first, second = np.split(normals(words), 2)
    np.testing.assert_array_equal(normals(swapped), np.concatenate([second, first]))


# E z^m and the variance of z^m, m = 1, 2, 4, 6.
MOMENTS = {1: (0, 1), 2: (1, 2), 4: (3, 96), 6: (15, 10170)}


def moment_z(values):
    return {m: (np.mean(values**m) - mean) / math.sqrt(variance / values.size) for m, (mean, variance) in MOMENTS.items()}


def test_moments():
    z = moment_z(normals(random_words(N, seed=4)).astype(np.float64))
    assert max(abs(value) for value in z.values()) < 5, z


def test_moments_refuse_one_percent():
    z = moment_z(normals(random_words(N, seed=4), std=1.01).astype(np.float64))
    assert all(z[m] > 5 for m in (2, 4, 6)), z


def test_distribution():
    assert stats.kstest(normals(random_words(N, seed=5)).astype(np.float64), stats.norm.cdf).pvalue > FIVE_SIGMA_P


def test_distribution_refuses_one_percent():
    assert stats.kstest(normals(random_words(N, seed=5), std=1.01).astype(np.float64), stats.norm.cdf).pvalue < FIVE_SIGMA_P


def test_halves_are_uncorrelated_and_so_are_their_squares():
    first, second = np.split(normals(random_words(N, seed=6)).astype(np.float64), 2)
    assert abs(np.mean(first * second)) < 5 / math.sqrt(N / 2)
    assert abs(np.mean((first**2 - 1) * (second**2 - 1))) < 5 * 2 / math.sqrt(N / 2)
    twin = second + 0.01 * first
    assert abs(np.mean(first * twin)) > 5 / math.sqrt(N / 2)


def test_nothing_to_fill():
    assert normals(np.empty(0, np.uint32)).size == 0
