import math

import numpy as np
import pytest
from scipy import stats

from simgap.kernels.normal import NORMALS_AT_ONCE, box_muller, fill_normals
from simgap.seeding import Label, stream, words

FIVE_SIGMA_P = math.erfc(5 / math.sqrt(2))
N = 2_000_000
EPS = 2.0**-24


def normals(bits, std=1.0):
    """Both numbers from each 53-bit integer: 2^-53 times it is the uniform number."""
    out = np.full(2 * bits.size, np.nan, np.float32)
    box_muller(bits * 2.0**-53, out, np.float32(std))
    return out


def random_bits(size, seed=0):
    """Enough 53-bit integers for `size` normal numbers."""
    return np.random.default_rng(seed).integers(0, 2**53, size // 2, dtype=np.int64)


def in_float64(bits):
    """Box-Muller from the same bits: u from the 23 high ones, then a quadrant and a signed offset, mirrored in odd quadrants."""
    u = ((bits >> 30) + 0.5) * 2.0**-23
    radius = np.sqrt(-2 * np.log(u))
    quadrant = (bits >> 28) & 3
    offset = ((bits & (2**28 - 1)) * 2.0**-28 - 0.5) * (math.pi / 2)
    angle = quadrant * (math.pi / 2) + np.where(quadrant % 2 == 1, -offset, offset)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]), np.concatenate([radius, radius])


def error_bound(radius):
    """One rounding of u moves radius^2 by 2 eps; its logarithm and the square root cost 4 eps more, sine and cosine as much again.

    radius' error is that of its square over radius, and never above the root of it: near u = 1 the spacing of u is all there is.
    """
    square = 2 * EPS + 8 * EPS * radius**2
    return np.minimum(square / np.maximum(radius, 1e-300), np.sqrt(square)) + 8 * EPS * radius


def test_against_float64():
    bits = random_bits(400_000)
    exact, radius = in_float64(bits)
    assert np.all(np.abs(normals(bits) - exact) <= error_bound(radius))


HIGH = np.array([0, 1, 2, 2**22 - 1, 2**22, 2**23 - 2, 2**23 - 1], np.int64)
LOW = np.array([0, 1, 2**27, 2**28 - 1, 2**28, 2**29 - 1, 2**29, 3 * 2**28, 2**30 - 1], np.int64)


def test_extreme_bits():
    bits = (HIGH[:, None] << 30 | LOW).ravel()
    out = normals(bits)
    exact, radius = in_float64(bits)
    assert np.all(np.isfinite(out))
    assert np.all(np.abs(out - exact) <= error_bound(radius))
    assert np.abs(out).max() <= 5.8


def test_bound_is_nearly_reached():
    out = normals(np.array([2**27], np.int64))
    assert np.abs(out).max() == pytest.approx(math.sqrt(48 * math.log(2)), rel=4 * EPS)


@pytest.mark.parametrize("std", [1e-25, 1e25])
def test_std_whose_square_leaves_float32(std):
    bits = random_bits(1000, seed=4)
    assert normals(bits, std) == pytest.approx(std * normals(bits).astype(np.float64), rel=4 * EPS)


def test_u_stays_inside_the_unit_interval():
    """No number gives a radius of 0: that would be a zero vector in the making."""
    assert np.abs(normals(np.array([2**53 - 1], np.int64))).max() > 0


def test_std_scales():
    bits = random_bits(10_000, seed=1)
    exact, radius = in_float64(bits)
    assert np.all(np.abs(normals(bits, 0.02) - 0.02 * exact) <= 0.02 * (error_bound(radius) + 4 * EPS * radius))


def test_signs_are_exactly_symmetric():
    """Half a turn flips both numbers, and is a bijection of the bits."""
    bits = random_bits(20_000, seed=2)
    np.testing.assert_array_equal(normals(bits ^ 2**29), -normals(bits))


def test_the_two_halves_trade_places_under_a_swap_of_axes():
    bits = random_bits(20_000, seed=3)
    first, second = np.split(normals(bits), 2)
    np.testing.assert_array_equal(normals(bits ^ 2**28), np.concatenate([second, first]))


# E z^m and the variance of z^m, m = 1, 2, 4, 6.
MOMENTS = {1: (0, 1), 2: (1, 2), 4: (3, 96), 6: (15, 10170)}


def moment_z(values):
    return {m: (np.mean(values**m) - mean) / math.sqrt(variance / values.size) for m, (mean, variance) in MOMENTS.items()}


def test_moments():
    z = moment_z(normals(random_bits(N, seed=4)).astype(np.float64))
    assert max(abs(value) for value in z.values()) < 5, z


def test_moments_refuse_one_percent():
    z = moment_z(normals(random_bits(N, seed=4), std=1.01).astype(np.float64))
    assert all(z[m] > 5 for m in (2, 4, 6)), z


def test_distribution():
    assert stats.kstest(normals(random_bits(N, seed=5)).astype(np.float64), stats.norm.cdf).pvalue > FIVE_SIGMA_P


def test_distribution_refuses_one_percent():
    assert stats.kstest(normals(random_bits(N, seed=5), std=1.01).astype(np.float64), stats.norm.cdf).pvalue < FIVE_SIGMA_P


def test_halves_are_uncorrelated_and_so_are_their_squares():
    first, second = np.split(normals(random_bits(N, seed=6)).astype(np.float64), 2)
    assert abs(np.mean(first * second)) < 5 / math.sqrt(N / 2)
    assert abs(np.mean((first**2 - 1) * (second**2 - 1))) < 5 * 2 / math.sqrt(N / 2)
    twin = second + 0.01 * first
    assert abs(np.mean(first * twin)) > 5 / math.sqrt(N / 2)


def test_nothing_to_fill():
    assert normals(np.empty(0, np.int64)).size == 0


@pytest.mark.parametrize("size", [1, 2, 3, 100, 4097, 2**16, 2**16 + 1, 3 * 2**16 + 5])
def test_many_streams_at_once_are_numpys_own(size):
    """The kernel's SFC64 against numpy's, bit for bit, through every length of the last piece."""
    labels = [Label(9, role, trial, expert) for role in ("up", "down") for trial in (0, 7) for expert in (0, 3)]
    drawn = np.full((len(labels), size), np.nan, np.float32)
    fill_normals(words(labels), drawn, np.float32(0.3))
    for row, label in zip(drawn, labels, strict=True):
        generator, expected = stream(*label), np.empty(size, np.float32)
        for start in range(0, size, NORMALS_AT_ONCE):
            piece = expected[start : start + NORMALS_AT_ONCE]
            box_muller(generator.random((piece.size + 1) // 2), piece, np.float32(0.3))
        np.testing.assert_array_equal(row, expected)
