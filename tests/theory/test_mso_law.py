"""Law N1B against exact moments, against scipy's Beta law, and false positive rates against draws at a fixed n."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import scipy.stats

from simgap.theory.gap_law import null_ratio_floor
from simgap.theory.mso_law import (
    cycle_moment,
    mso_cumulants,
    mso_distribution,
    mso_interval,
    mso_p,
    overlap_cumulants,
    overlap_distribution,
)

SIGMA = 5.0


@pytest.mark.parametrize("n", [2, 3, 4, 17, 1000])
def test_cumulants_of_one_pair_are_those_of_the_beta_law(n):
    mean, variance, skew, kurtosis = scipy.stats.beta(0.5, (n - 1) / 2).stats("mvsk")
    expected = (mean, variance, skew * variance**1.5, kurtosis * variance**2)
    assert overlap_cumulants(n) == pytest.approx(expected, rel=1e-11, abs=1e-18)
    assert overlap_cumulants(n) != pytest.approx(overlap_cumulants(n + 1), rel=1e-3)


def test_vectors_of_the_plane_are_angles():
    """At N = 2, cos^2 - 1/2 = cos(2 t)/2: the moments of cycles are averages over whole turns, exact on a grid of more than 8 points."""
    turns = 2 * np.pi * np.arange(9) / 9
    a, b, c = np.meshgrid(turns, turns, turns)
    x = [np.cos(2 * (s - t)) / 2 for s, t in ((0, a), (a, b), (b, c), (c, 0))]
    assert cycle_moment(2, 4) == pytest.approx((x[0] * x[1] * x[2] * x[3]).mean(), rel=1e-12)
    assert cycle_moment(2, 3) == pytest.approx((np.cos(2 * a) * np.cos(2 * (a - b)) * np.cos(2 * b) / 8).mean(), rel=1e-12)
    mso = ((np.cos(2 * a) + np.cos(2 * (a - b)) + np.cos(2 * b)) / 2 + 1.5) / 3
    moments = [((mso - 0.5) ** p).mean() for p in (2, 3, 4)]
    _, second, third, fourth = mso_cumulants(Fraction(2), Fraction(3))
    assert (second, third, fourth + 3 * second**2) == pytest.approx(moments, rel=1e-12)
    assert third != pytest.approx(mso_cumulants(2, 2, 3)[2], abs=1e-4)  # three pairs without a triangle have no skew


def test_trials_divide_each_cumulant():
    one, many = mso_cumulants(Fraction(5), Fraction(4)), mso_cumulants(Fraction(5), Fraction(4), Fraction(7))
    assert [a / b for a, b in zip(one, many, strict=True)] == [1, 7, 49, 343]


def test_many_vectors_tend_to_a_chi_square():
    """|sum_i A_i|^2 over E tends to chi^2 on D = (N-1)(N+2)/2 degrees of freedom: skewness sqrt(8/D), excess 12/D; O(1/E) away."""
    _, second, third, fourth = mso_cumulants(4, 10**6)
    assert third / second**1.5 == pytest.approx(math.sqrt(8 / 9), rel=1e-4)
    assert fourth / second**2 == pytest.approx(12 / 9, rel=1e-4)


def test_one_pair_has_the_beta_law_exactly():
    law = scipy.stats.beta(0.5, 6.5)
    values = np.array([0.0, 1e-9, 0.03, 0.5, 1.0])
    assert mso_p(values, 14, 1, 1, side="upper") == pytest.approx(law.sf(values), rel=1e-14)
    assert mso_p(values, 14, 1, 1, side="lower") == pytest.approx(law.cdf(values), rel=1e-14)
    assert mso_p(0.03, 14.0, 1, 1, n_experts=2) == pytest.approx(2 * min(law.sf(0.03), law.cdf(0.03)), rel=1e-14)
    assert mso_interval(14, 1, 1, 0.9) == pytest.approx((law.ppf(0.05), law.ppf(0.95)), rel=1e-12)
    assert overlap_distribution(14).mean() == pytest.approx(1 / 14)


@pytest.mark.parametrize("width, experts, trials", [(14, 2, 1), (8, 4, 1), (4, 64, 1), (2.5, 3, 2), (300, 8, 20), (4, 6, 50), (16, 8, 2)])
def test_numbers_have_the_bits_of_arrays(width, experts, trials):
    values = np.concatenate([np.linspace(0, 1, 41), 1 / width * np.linspace(0.9, 1.1, 41), [5e-324, 1e-12, math.nextafter(1, 0)]])
    pairs = experts * (experts - 1) // 2
    for side in ("two", "upper", "lower"):
        together = mso_p(values, width, pairs, trials, experts, side)
        one_by_one = [mso_p(value, width, pairs, trials, experts, side) for value in values.tolist()]
        assert {type(p) for p in one_by_one} == {float}
        np.testing.assert_array_equal(one_by_one, together)
    assert mso_p(np.float64(0.25), width, pairs, trials, experts) == mso_p(0.25, width, pairs, trials, experts)
    assert mso_p(1, width, pairs, trials, experts) == mso_p(1.0, width, pairs, trials, experts)


CELLS = [(4, 64, 1, 30_000), (16, 8, 1, 60_000), (64, 2, 10, 60_000), (512, 8, 1, 3_000)]


@cache
def msos(n, experts, trials, draws):
    generator = np.random.default_rng([n, experts, trials])
    if experts == 2:
        z = generator.standard_normal((draws, trials)) ** 2
        return (z / (z + generator.chisquare(n - 1, (draws, trials)))).mean(1)
    found = np.empty(draws)
    step = max(1, 1_000_000 // (n * experts * trials))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        v = generator.standard_normal((count * trials, experts, n), dtype=np.float32)
        v /= np.linalg.norm(v, axis=2, keepdims=True)
        gram = v.transpose(0, 2, 1) @ v if experts > n else v @ v.transpose(0, 2, 1)
        mso = ((gram.astype(np.float64) ** 2).sum((1, 2)) - experts) / (experts * (experts - 1))
        found[start : start + count] = mso.reshape(count, trials).mean(1)
    return found


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize("level", [1e-2, 1e-3])
def test_false_positive_rates(cell, level):
    """How many nulls have p below the level, against 5 sigma of a binomial and a tenth (1e-2) or a quarter (1e-3) of the level."""
    n, experts, trials, draws = cell
    mso, pairs = msos(*cell), experts * (experts - 1) // 2
    room = SIGMA * math.sqrt(level / draws) + (0.1 if level > 5e-3 else 0.25) * level
    law = mso_distribution(n, pairs, trials, experts)
    assert abs((mso > law.isf(level)).mean() - level) < room
    assert abs((mso < law.ppf(level)).mean() - level) < room
    low, high = mso_interval(n, pairs, trials, 1 - level, experts)
    assert abs(((mso < low) | (mso > high)).mean() - level) < room
    assert mso_p(high, n, pairs, trials, experts) == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize("cell", [(8, 3, 2, 60_000), (64, 3, 1, 40_000), (16, 2, 2, 60_000)], ids=str)
def test_few_pairs_keep_the_upper_tail_and_are_conservative_in_the_lower(cell):
    n, experts, trials, draws = cell
    mso, law = msos(*cell), mso_distribution(n, experts * (experts - 1) // 2, trials, experts)
    for level, share in ((1e-2, 0.1), (1e-3, 0.25)):
        room = SIGMA * math.sqrt(level / draws) + share * level
        assert abs((mso > law.isf(level)).mean() - level) < room
        assert (mso < law.ppf(level)).mean() < level + room


def test_a_normal_law_has_too_many_false_positives():
    """The biased twin: at 4 dimensions and 64 vectors a z beyond the upper 0.1% point is 10 times as frequent as that."""
    mso = msos(*CELLS[0])
    mean, variance, *_ = mso_cumulants(4, 64)
    assert (mso > mean + 3.09 * math.sqrt(variance)).mean() > 5e-3
    # So has the law without triangles, which takes the pairs for independent.
    assert (mso > mso_distribution(4, 2016).isf(1e-3)).mean() > 5e-3


@pytest.mark.parametrize("experts, trials", [(2, 3), (3, 1), (4, 1), (5, 1), (3, 7), (16, 1), (70, 2)])
@pytest.mark.parametrize("n", [2, 2.5, 3, 8, 64, 1e6])
def test_every_law_is_one(n, experts, trials):
    """Monotone, whole, and with the mean of the null: the integral of its tail over [0, 1], which the law may leave by little."""
    pairs = experts * (experts - 1) // 2
    mean, variance, *_ = mso_cumulants(n, experts, trials)
    grid = np.clip(mean + math.sqrt(variance) * np.linspace(-8, 25, 700), 0, 1)
    tail = mso_p(grid, n, pairs, trials, experts, side="upper")
    assert (np.diff(tail) <= 1e-12).all()
    assert tail + mso_p(grid, n, pairs, trials, experts, side="lower") == pytest.approx(np.ones(700), abs=1e-11)
    area = grid[0] + np.trapezoid(tail, grid)
    assert area == pytest.approx(mean, abs=0.03 * math.sqrt(variance))


def test_the_mean_ratio_is_at_least_its_floor():
    """A gamma weight MSO of shape k has E 1/w = 1/(1 - c^2), c^2 = 1/k, skewness 2c: the floor lies below, 2 c^4 and less so at small c."""
    for k in (Fraction(3), Fraction(50)):
        c = 1 / math.sqrt(k)
        assert 1 + c**2 - 2 * c**4 <= null_ratio_floor(1, c, 2 * c) <= 1 / (1 - c**2)
        assert null_ratio_floor(1, c, 0.0) == pytest.approx(1 + c**2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.1, 1, 1, 1), "width: expected a finite number >= 2"),
        ((0.1, math.nan, 1, 1), "width: expected"),
        ((0.1, 4, 0, 1), "pairs: expected a whole number >= 1, got 0"),
        ((0.1, 4, 1, 1.5), "trials: expected a whole number >= 1, got 1.5"),
        ((0.1, 4, 5, 1, 4), "pairs: expected all 6 pairs of n_experts = 4, got 5"),
        ((1.5, 4, 6, 1, 4), r"value: expected an MSO in \[0, 1\], got 1.5"),
        ((math.nan, 4, 6, 1, 4), "value: expected"),
        ((0.1, 4, 6, 1, 4, "both"), "side: expected one of two, upper, lower, got 'both'"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        mso_p(*arguments)


def test_errors_of_the_others():
    with pytest.raises(ValueError, match="width: expected"):
        overlap_distribution(1)
    with pytest.raises(ValueError, match="level: expected a probability between 0 and 1, got 1"):
        mso_interval(4, 1, 1, 1)
