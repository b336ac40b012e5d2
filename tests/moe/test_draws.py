"""Normal and uniform fillings: their moments at a fixed n, and the seams between pieces."""

import math

import numpy as np
import pytest

from simgap.moe.draws import NORMALS_AT_ONCE, fill_normal, fill_uniform
from simgap.seeding import stream

N = 300_001  # odd, and several pieces long
SIGMA = 5.0
DTYPES = ["float32", "float64"]


def moment_z(values, power, scale):
    """z of the mean of (values / scale)^power under a standard normal law."""
    moments = {1: 0, 2: 1, 3: 0, 4: 3, 6: 15, 8: 105}
    sample = (values.astype(np.float64) / scale) ** power
    return (sample.mean() - moments[power]) / math.sqrt((moments[2 * power] - moments[power] ** 2) / values.size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_moments(dtype):
    values = fill_normal(np.empty(N, dtype), stream(0, "test", trial=1), std=0.3)
    z = {power: moment_z(values, power, 0.3) for power in (1, 2, 3, 4)}
    assert max(map(abs, z.values())) < SIGMA
    # Twins: a scale 2% off (15 sigma of the second moment), a mean of 0.02 (11 sigma of the first), a uniform law of the same variance.
    assert abs(moment_z(values, 2, 0.3 * 1.02)) > SIGMA
    assert abs(moment_z(values + 0.02 * 0.3, 1, 0.3)) > SIGMA
    assert abs(moment_z(fill_uniform(np.empty(N, dtype), stream(0, "test"), math.sqrt(3)), 4, 1.0)) > SIGMA


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_distribution_function(dtype):
    values = np.sort(fill_normal(np.empty(N, dtype), stream(0, "test", trial=2)).astype(np.float64))
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in values[::100]])
    gap = np.abs(np.arange(N)[::100] / N - exact).max() * math.sqrt(N)
    # Kolmogorov: P(gap > 2.75) = 2 exp(-2 x 2.75^2) = 5.4e-7, the two-sided 5 sigma.
    assert gap < 2.75
    shifted = np.array([0.5 * math.erfc(-(v + 0.02) / math.sqrt(2)) for v in values[::100]])
    assert np.abs(np.arange(N)[::100] / N - shifted).max() * math.sqrt(N) > 2.75


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_and_neighbours_are_uncorrelated(dtype):
    values = fill_normal(np.empty(2 * NORMALS_AT_ONCE, dtype), stream(0, "test", trial=3)).astype(np.float64)
    piece = values[:NORMALS_AT_ONCE]
    half = NORMALS_AT_ONCE // 2
    for a, b in ((piece[:half], piece[half:]), (values[:-1], values[1:]), (piece, values[NORMALS_AT_ONCE:])):
        assert abs(float(a @ b)) / math.sqrt(a.size) < SIGMA
        # Cosine and sine of one angle share a radius: squares must not correlate either. Var (a^2 - 1)(b^2 - 1) = 4.
        assert abs(float((a**2 - 1) @ (b**2 - 1))) / (2 * math.sqrt(a.size)) < SIGMA
        twin = b + 0.05 * a
        assert abs(float(a @ twin)) / math.sqrt(a.size) > SIGMA


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 10, NORMALS_AT_ONCE - 1, NORMALS_AT_ONCE, NORMALS_AT_ONCE + 1])
def test_every_entry_is_filled(dtype, size):
    out = np.full(size, np.nan, dtype)
    assert fill_normal(out, stream(0, "test")) is out
    assert np.isfinite(out).all()
    assert np.unique(out).size > 0.99 * size
    assert fill_uniform(np.full(size, np.nan, dtype), stream(0, "test")).min() > -1


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_does_not_enter(dtype):
    flat = fill_normal(np.empty(24, dtype), stream(0, "test"))
    assert np.array_equal(fill_normal(np.empty((2, 3, 4), dtype), stream(0, "test")).ravel(), flat)


def test_whole_pieces_do_not_depend_on_what_follows():
    short = fill_normal(np.empty(NORMALS_AT_ONCE, np.float32), stream(0, "test"))
    long = fill_normal(np.empty(2 * NORMALS_AT_ONCE + 7, np.float32), stream(0, "test"))
    assert np.array_equal(long[:NORMALS_AT_ONCE], short)


@pytest.mark.parametrize("dtype", DTYPES)
def test_std_is_a_scale(dtype):
    one, two = (fill_normal(np.empty(999, dtype), stream(0, "test"), std) for std in (1.0, 2.0))
    # A power of two scales exactly in float64; the float32 kernel scales under the square root, one rounding of it.
    assert np.abs(two / (2 * one) - 1).max() <= 4 * np.finfo(dtype).eps
    assert not fill_normal(np.ones(5, dtype), stream(0, "test"), 0.0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_moments_and_bounds(dtype):
    bound = 0.7
    values = fill_uniform(np.empty(N, dtype), stream(0, "test", trial=4), bound).astype(np.float64)
    assert np.abs(values).max() < bound
    assert np.abs(values).max() > 0.9999 * bound
    z_mean = values.mean() / bound * math.sqrt(3 * N)
    # x^2 has mean 1/3 and variance 4/45 on (-1, 1).
    z_square = ((values / bound) ** 2 - 1 / 3).mean() * math.sqrt(N * 45 / 4)
    assert abs(z_mean) < SIGMA
    assert abs(z_square) < SIGMA
    assert abs(((1.02 * values / bound) ** 2 - 1 / 3).mean() * math.sqrt(N * 45 / 4)) > SIGMA


@pytest.mark.parametrize("dtype, bits", [("float32", 24), ("float64", 53)])
def test_uniform_is_symmetric_to_the_last_bit(dtype, bits):
    class Ends:
        """The smallest and the largest numbers that a generator of this width can give, and the two in the middle."""

        def random(self, dtype, out):
            out[:] = [0.0, 1 - 2.0**-bits, 0.5 - 2.0**-bits, 0.5]

    low, high, below, above = fill_uniform(np.empty(4, dtype), Ends(), 3.0).tolist()
    assert low == -high
    assert below == -above
    assert 0 < above < high < 3.0
