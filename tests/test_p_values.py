"""p of a value under the law of a null: one law to a function, numbers and arrays alike."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from simgap.stats import least_p, moment_matched_p, normal_p, normal_score, p_text, student_p, two_sided_p


@pytest.mark.parametrize("width", [2, 3, 16, 512, 10**6])
@pytest.mark.parametrize("quantile", [1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6])
def test_moment_matched_p_is_exact_at_one_pair(width, quantile):
    law = stats.beta(0.5, (width - 1) / 2)
    value = law.ppf(quantile)
    p = moment_matched_p(value, law.mean(), law.std())
    # The Beta's parameters come back from mean and sd with relative error of a few eps times the size mean / sd^2 takes on.
    assert p == pytest.approx(2 * min(law.cdf(value), law.sf(value)), rel=1e-8)


def test_moment_matched_p_tends_to_the_normal():
    mean, pairs = 1 / 64, 10**6
    sd = math.sqrt(2 * 63 / (64**2 * 66) / pairs)
    for z in (-3, -1, 0.5, 2, 4):
        assert moment_matched_p(mean + z * sd, mean, sd) == pytest.approx(normal_p(z), rel=0.05)


def test_moment_matched_p_outside_the_interval_is_at_its_end():
    assert moment_matched_p(-0.1, 0.1, 0.01) == moment_matched_p(0.0, 0.1, 0.01) == 0
    assert moment_matched_p(1.1, 0.1, 0.01) == moment_matched_p(1.0, 0.1, 0.01) == 0


def test_the_least_p_is_attained():
    """Cantelli: of the laws of this mean and sd, the one on two points of which 0 is one."""
    mean, sd = 0.3, 0.4
    share = sd**2 / (sd**2 + mean**2)
    other = mean / (1 - share)
    assert math.isclose(share * mean**2 + (1 - share) * (other - mean) ** 2, sd**2)
    assert least_p(np.zeros(3), mean, 0.2).tolist() == pytest.approx([2 * 0.04 / 0.13] * 3, rel=1e-14)
    assert least_p(0.0, mean, sd) == min(1.0, 2 * share) == 1


def test_no_p_is_printed_as_zero():
    assert [p_text(p) for p in (1.0, 0.05, 0.00123, 1e-300, 9.9e-301, 5e-324, 0.0)] == [
        *("p 1", "p 0.05", "p 0.0012", "p 1e-300"),
        *["p < 1e-300"] * 3,
    ]


def test_a_two_sided_p_is_twice_the_smaller_tail():
    law, x = stats.beta(2.5, 40), np.concatenate([[0.0, 1.0], np.linspace(0.001, 0.3, 200)])
    asked = []

    def sf(values):
        asked.extend(np.atleast_1d(values))
        return law.sf(values)

    found = two_sided_p(x, law.cdf, sf)
    np.testing.assert_allclose(found, 2 * np.minimum(law.cdf(x), law.sf(x)), rtol=1e-13)
    assert asked == x[x > law.median()].tolist(), "the upper tail is asked for where it is the smaller"
    assert [two_sided_p(float(value), law.cdf, law.sf) for value in x] == found.tolist()
    assert two_sided_p(0.5, lambda _: 0.5, lambda _: math.nan) == 1
    assert math.isnan(two_sided_p(0.5, lambda _: math.nan, law.sf))
    assert math.isnan(two_sided_p(0.9, lambda _: 0.9, lambda _: math.nan))
    assert np.isnan(two_sided_p(x, lambda values: values + math.nan, law.sf)).all()


@pytest.mark.parametrize("p", [partial(moment_matched_p, mean=0.1, sd=0.03), normal_p, partial(student_p, dof=4)])
def test_numbers_have_the_bits_of_arrays(p):
    values = np.linspace(-0.2, 1.2, 301)
    one_by_one = [p(value) for value in values.tolist()]
    assert {type(value) for value in one_by_one} == {float}
    assert one_by_one == p(values).tolist()
    assert one_by_one[40:200] == p(values[40:200]).tolist()


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 0.1), (1.0, 0.1), (0.5, 0.0), (0.5, 0.5), (0.5, 0.6), (-0.1, 0.1)])
def test_moment_matched_p_refuses_what_no_beta_has(mean, sd):
    with pytest.raises(ValueError, match=r"null: no Beta law on \[0, 1\]"):
        moment_matched_p(0.5, mean, sd)


@pytest.mark.parametrize("z", [0.0, 0.1, -1.96, 5.0, -12.0])
def test_normal_p(z):
    assert normal_p(z) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-12)


@pytest.mark.parametrize("dof", [1, 9, 1000])
@pytest.mark.parametrize("t", [0.0, 1.3, -4.0])
def test_student_p(t, dof):
    assert student_p(t, dof) == pytest.approx(2 * stats.t.sf(abs(t), dof), rel=1e-12)


@pytest.mark.parametrize("z", [-6.0, -1.5, 0.3, 4.0])
def test_a_normal_score_undoes_a_normal_p(z):
    assert normal_score(normal_p(z), z) == pytest.approx(z, rel=1e-10)


def test_normal_scores_at_the_ends():
    assert normal_score(1.0, -1.0) == 0.0
    assert normal_score(0.0, -1.0) == -math.inf
