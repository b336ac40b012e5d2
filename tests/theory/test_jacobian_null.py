"""Law N6 against mpmath, exact sums over signs, Monte Carlo averages of another form, and draws."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from simgap.theory.activations import Activation
from simgap.theory.jacobian_null import (
    SlopeMoments,
    null_jacobian_alignment,
    overlap_of_shares,
    share_slope,
    shared_overlap,
    slope_moments,
    slope_ratio,
    wide_share,
)

SIGMA = 5.0
CUBE = Activation("cube", lambda x, ctx: x**3 / 3, lambda x, ctx: x * x)


def silu_slope(x):
    e = mpmath.exp(-x)
    return (1 + e + x * e) / (1 + e) ** 2


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
def test_slope_moments_by_mpmath(std):
    def mean(power, z_power):
        return mpmath.quad(lambda z: silu_slope(std * z) ** power * z**z_power * mpmath.npdf(z), [-14, -4, 0, 4, 14])

    square = mean(2, 0)
    expected = [mean(2, 2) / square, *(mean(4, p) / square**2 for p in (0, 2, 4))]
    found = slope_moments("silu", std)
    assert [found.ratio, found.fourth, found.fourth_z2, found.fourth_z4] == pytest.approx([float(x) for x in expected], rel=1e-11)
    assert slope_ratio("silu", std) == found.ratio


@pytest.mark.parametrize("std", [0.1, 1.0, 7.0])
def test_homogeneous_slopes_ignore_the_scale(std):
    relu, linear = slope_moments("relu", std), slope_moments("identity", std)
    assert [relu.ratio, relu.fourth, relu.fourth_z2, relu.fourth_z4] == pytest.approx([1, 2, 2, 6], rel=1e-12)
    assert [linear.ratio, linear.fourth, linear.fourth_z2, linear.fourth_z4] == pytest.approx([1, 1, 1, 3], rel=1e-12)


@pytest.mark.parametrize("d, f", [(2, 2), (5, 20), (64, 256)])
@pytest.mark.parametrize("kurtosis", [0.0, -1.2, -2.0])
def test_linear_and_relu_experts_overlap_by_one_over_d_squared(d, f, kurtosis):
    for activation in ("identity", "relu"):
        assert null_jacobian_alignment(d, f, activation, 1.4, kurtosis) == pytest.approx(1 / d**2, rel=1e-11)
    assert null_jacobian_alignment(d, 32 * f, "silu", 1.4, kurtosis) > (1 + 1e-4) / d**2


@pytest.mark.parametrize("d, ratio", [(2, 1.36), (3, 0.23), (8, 5.0), (64, 1.3), (7, 1.0)])
def test_the_wide_share_is_hypergeometric(d, ratio):
    expected = ratio / d * mpmath.hyp2f1(1, mpmath.mpf(d) / 2 + 1, mpmath.mpf(d * d) / 2 + 1, 1 - ratio)
    assert wide_share(d, ratio) == pytest.approx(float(expected), rel=1e-12)
    if ratio != 1:
        assert wide_share(d, ratio) != pytest.approx(ratio / (d - 1 + ratio), rel=1e-5)


def test_overlap_of_two_dimensional_rank_one_jacobians_by_enumeration():
    """J = u w' with u of signs and w = (+-a, +-b): the share along the first axis is a^2/(a^2 + b^2), the overlap a sum over signs."""

    def law_of(a, b):
        return [(u, (s * a, t * b)) for u in itertools.product((-1, 1), repeat=2) for s, t in itertools.product((-1, 1), repeat=2)]

    for (a, b), (c, e) in (((1, 2), (3, 1)), ((1, 1), (5, 2)), ((0, 1), (1, 0))):
        total = Fraction(0)
        pairs = list(itertools.product(law_of(a, b), law_of(c, e)))
        for (u, w), (v, x) in pairs:
            rows = sum(p * q for p, q in zip(u, v, strict=True)) ** 2
            columns = sum(p * q for p, q in zip(w, x, strict=True)) ** 2
            total += Fraction(rows * columns, 4 * (a * a + b * b) * (c * c + e * e))
        shares = Fraction(a * a, a * a + b * b), Fraction(c * c, c * c + e * e)
        assert total / len(pairs) == overlap_of_shares(Fraction(2), *shares)
    assert overlap_of_shares(Fraction(6), Fraction(1, 6)) == Fraction(1, 36)


def draws(d, f, slope, entries, count, seed):
    generator = np.random.default_rng(seed)
    up = generator.standard_normal((count, f, d))
    return (entries(generator, (count, d, f)) * slope(up[:, None, :, 0])) @ up


LAWS = {0.0: lambda g, size: g.standard_normal(size), -2.0: lambda g, size: g.choice([-1.0, 1.0], size)}


@pytest.mark.parametrize("kurtosis", [0.0, -2.0])
def test_the_term_in_one_over_f_against_draws(kurtosis):
    """tanh at d = 3, f = 16: the expansion's own error is below 3 a_inf / f^2, 1.2% here."""
    d, f, count = 3, 16, 50_000
    jacobians = draws(d, f, lambda x: 1 / np.cosh(x) ** 2, LAWS[kurtosis], count, 11)
    share = (jacobians[:, :, 0] ** 2).sum(1) / (jacobians**2).sum((1, 2))
    moments = slope_moments("tanh")
    limit = wide_share(d, moments.ratio)
    room = SIGMA * share.std(ddof=1) / math.sqrt(count) + 3 * limit / f**2
    assert abs(share.mean() - limit - share_slope(d, moments, kurtosis) / f) < room
    assert abs(share.mean() - limit) > room
    # By E |A|^4 the kurtosis scales the whole term.
    assert share_slope(d, moments, kurtosis) == pytest.approx((d + 2 + kurtosis) / (d + 2) * share_slope(d, moments), rel=1e-12)


def test_the_law_against_draws_of_cos2():
    """A slope x^2 (q = 5) at d = 3, f = 256, where a_1/f is 1% of a: the overlap is 43% above 1/d^2, seen at 15 sigma."""
    d, f, count = 3, 256, 3_000
    first, second = (draws(d, f, lambda x: x * x, LAWS[0.0], count, seed) for seed in (1, 2))
    cos2 = (first * second).sum((1, 2)) ** 2 / ((first**2).sum((1, 2)) * (second**2).sum((1, 2)))
    error = SIGMA * cos2.std(ddof=1) / math.sqrt(count)
    assert abs(cos2.mean() - null_jacobian_alignment(d, f, CUBE)) < error
    assert abs(cos2.mean() - 1 / d**2) > error


def test_shared_w_up_of_one_hidden_unit_is_a_cosine_of_columns():
    assert shared_overlap(Fraction(5), 1, SlopeMoments(2, 3, 7, 11)) == Fraction(1, 5)


@pytest.mark.parametrize("activation, factor", [("identity", 1), ("relu", 2)])
def test_shared_w_up_of_wide_layers(activation, factor):
    d, f = 10**6, 4 * 10**6
    assert d * d * shared_overlap(d, f, slope_moments(activation)) == pytest.approx(1 + factor * d / f, rel=1e-5)


def test_an_f_too_small_is_refused():
    with pytest.raises(ValueError, match=r"^d_ff: too small for an expansion in 1/f at d_model = 8, got 2"):
        null_jacobian_alignment(8, 2, CUBE)


@pytest.mark.parametrize("sizes, name", [((1, 8), "d_model"), ((8, 0), "d_ff"), ((8, -3), "d_ff"), ((8, math.nan), "d_ff")])
def test_sizes_out_of_range_are_refused(sizes, name):
    with pytest.raises(ValueError, match=f"^{name}: expected at least"):
        null_jacobian_alignment(*sizes)


def test_balls_take_only_what_their_tails_allow():
    from simgap.certify import BALL

    for d, ratio in ((3, 2), (4, Fraction(1, 2))):
        with pytest.raises(ValueError, match=r"^d_model, ratio: outside floats expected an even d_model"):
            wide_share(d, BALL.number(ratio), ctx=BALL)
