import math

import numpy as np
import pytest
from scipy import stats

from simgap.seeding import stream
from simgap.stats import (
    Estimate,
    difference,
    fisher,
    holm,
    implied_n,
    moment_matched_p,
    normalised_mutual_information,
    pearson,
    pearson_p,
    permutation_within,
    ratio_of_means,
    sign_flip,
)

FIVE_SIGMA_P = math.erfc(5 / math.sqrt(2))


def sigmas_from(values, expected):
    return (np.mean(values) - expected) / (np.std(values, ddof=1) / math.sqrt(len(values)))


def test_estimate_by_hand():
    estimate = Estimate.of(np.array([1.0, 2.0, 3.0, 6.0]), pairs=5)
    assert estimate.mean == 3
    assert estimate.sem == pytest.approx(math.sqrt(14 / 3) / 2, rel=1e-15)
    assert (estimate.trials, estimate.pairs) == (4, 5)
    assert estimate.as_dict() == {"mean": 3.0, "sem": estimate.sem, "trials": 4, "pairs": 5}


def test_estimate_leaves_out_empty_trials_and_says_what_was_dropped():
    estimate = Estimate.of(np.array([1.0, math.nan, 3.0]), 2, 4, "expert 1")
    assert (estimate.mean, estimate.sem, estimate.trials) == (2, 1, 2)
    assert estimate.as_dict()["dropped_at"] == "expert 1"
    assert np.isnan(estimate.values[1])


def test_one_trial_has_no_sem():
    assert Estimate.of(np.array([0.5])).sem is None


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_no_trials_give_no_mean(values):
    estimate = Estimate.of(np.array(values))
    assert estimate.mean is None
    assert estimate.as_dict() == {"mean": None, "sem": None, "trials": 0, "pairs": 0, "why": estimate.why}
    assert "no trial" in estimate.why


def test_difference_keeps_what_trials_share_out_of_the_error():
    rng = np.random.default_rng(0)
    shared, own = rng.standard_normal(200), 0.01 * rng.standard_normal(200)
    a, b = Estimate.of(shared + own + 1, 3), Estimate.of(shared, 7)
    result = difference(a, b)
    assert result.mean == pytest.approx(1 + own.mean(), rel=1e-12)
    assert result.sem == pytest.approx(own.std(ddof=1) / math.sqrt(200), rel=1e-9)
    assert result.sem < 0.02 * math.hypot(a.sem, b.sem)
    assert result.pairs == 3


def test_difference_uses_the_trials_that_have_both():
    result = difference(Estimate.of(np.array([1.0, math.nan, 5.0])), Estimate.of(np.array([0.0, 1.0, 2.0])))
    assert (result.mean, result.trials) == (2, 2)


@pytest.mark.parametrize("combine", [difference, ratio_of_means])
def test_a_gap_and_a_ratio_rest_on_the_fewer_pairs_and_lose_the_more(combine):
    """In whichever order: pairs of either side, those dropped, and where the first was."""
    values = np.array([1.0, 2.0])
    few, many = Estimate.of(values, 6, 2, "expert 3"), Estimate.of(values + 1, 20, 5, "expert 1")
    for a, b in ((few, many), (many, few)):
        assert (combine(a, b).pairs, combine(a, b).dropped, combine(a, b).dropped_at) == (6, 5, a.dropped_at)
    whole = Estimate.of(values, 20)
    for a, b in ((few, whole), (whole, few)):
        assert (combine(a, b).pairs, combine(a, b).dropped, combine(a, b).dropped_at) == (6, 2, "expert 3")


def test_a_difference_has_the_fewer_pairs_of_each_trial():
    a, b = Estimate.of(np.array([1.0, 2.0]), np.array([3, 9])), Estimate.of(np.array([0.0, 0.0]), np.array([5, 4]))
    assert difference(a, b).per_trial.tolist() == difference(b, a).per_trial.tolist() == [3, 4]
    assert difference(a, b).pairs == 7


def test_difference_and_ratio_pass_on_why_a_side_is_missing():
    known, missing = Estimate.of(np.array([1.0, 2.0])), Estimate.missing("no such site")
    for combine in (difference, ratio_of_means):
        for a, b in ((known, missing), (missing, known)):
            assert combine(a, b).mean is None
            assert combine(a, b).why == "no such site"


def test_ratio_of_means_by_hand():
    result = ratio_of_means(Estimate.of(np.array([2.0, 4.0, math.nan, 9.0])), Estimate.of(np.array([1.0, 3.0, 7.0, math.nan])))
    assert (result.mean, result.trials) == (1.5, 2)
    assert result.sem == pytest.approx(0.25, rel=1e-15)


def test_ratio_over_zero_is_missing():
    result = ratio_of_means(Estimate.of(np.array([1.0, 2.0])), Estimate.of(np.array([-1.0, 1.0])))
    assert result.mean is None
    assert "zero" in result.why
    apart = ratio_of_means(Estimate.of(np.array([1.0, math.nan])), Estimate.of(np.array([math.nan, 1.0])))
    assert "no trial has both" in apart.why


def test_ratio_error_holds_in_simulation():
    """1500 experiments of 200 trials, the sides correlated; the twin propagates the errors as if they were independent."""
    rng = np.random.default_rng(1)
    reported, twin = [], []
    for _ in range(1500):
        bottom = 2 + 0.3 * rng.standard_normal(200)
        top = 1.5 * bottom + 0.2 * rng.standard_normal(200)
        a, b = Estimate.of(top), Estimate.of(bottom)
        ratio = ratio_of_means(a, b)
        reported.append(((ratio.mean - 1.5) / ratio.sem) ** 2)
        twin.append(((ratio.mean - 1.5) / (ratio.mean * math.hypot(a.sem / a.mean, b.sem / b.mean))) ** 2)
    # Student's t on 199 degrees of freedom.
    assert abs(sigmas_from(reported, 199 / 197)) < 5
    assert abs(sigmas_from(twin, 1)) > 5


@pytest.mark.parametrize(("n", "slope"), [(3, 0.0), (10, 0.5), (50, -3.0), (200, 0.05)])
def test_pearson_against_scipy(n, slope):
    rng = np.random.default_rng([n, 7])
    x = rng.standard_normal(n)
    y = slope * x + rng.standard_normal(n)
    exact = stats.pearsonr(x, y)
    assert pearson(x, y) == pytest.approx(exact.statistic, abs=4 * n * np.finfo(float).eps)
    assert pearson_p(pearson(x, y), n) == pytest.approx(exact.pvalue, rel=1e-9)


def test_perfect_correlation():
    x = np.arange(5.0)
    assert pearson(x, 2 * x + 1) == pytest.approx(1, abs=1e-15)
    assert pearson(x, -x) == pytest.approx(-1, abs=1e-15)
    assert pearson_p(1.0, 5) == pearson_p(-1.0, 5) == 0
    assert pearson_p(0.0, 5) == 1


def test_pearson_refuses_bad_series():
    x = np.arange(4.0)
    with pytest.raises(ValueError, match="a constant series has no correlation"):
        pearson(x, np.ones(4))
    for bad in (np.arange(3.0), np.ones((2, 2))):
        with pytest.raises(ValueError, match="two series of equal length, at least 3"):
            pearson(x, bad)
    with pytest.raises(ValueError, match="at least 3"):
        pearson(x[:2], x[:2])


@pytest.mark.parametrize(("r", "n"), [(0.5, 2), (1.01, 10), (-1.01, 10), (math.nan, 10)])
def test_pearson_p_refuses_impossible_input(r, n):
    with pytest.raises(ValueError, match=r"expected \|r\| <= 1 and n >= 3"):
        pearson_p(r, n)


@pytest.mark.parametrize(("r", "p", "n"), [(-0.112, 0.596, 25), (-0.293, 0.523, 7)])
def test_a_reported_correlation_names_its_points(r, p, n):
    assert implied_n(r, p) == [n]
    assert implied_n(-r, p) == [n]


@pytest.mark.parametrize("n", [3, 5, 12, 40, 300])
def test_implied_n_contains_the_truth(n):
    rng = np.random.default_rng(n)
    for _ in range(5):
        x, y = rng.standard_normal((2, n))
        exact = stats.pearsonr(x, y)
        assert n in implied_n(round(exact.statistic, 3), round(exact.pvalue, 3), n_max=5000)


def test_implied_n_by_checking_every_n():
    def possible(n):
        corners = [pearson_p(r, n) for r in (0.4, 0.5)]
        return min(corners) <= 0.03 and max(corners) >= 0.02

    assert implied_n(0.45, 0.025, 0.05, 0.005, n_max=200) == [n for n in range(3, 201) if possible(n)]


def test_implied_n_is_empty_where_nothing_fits():
    assert implied_n(0.9, 0.9) == []
    assert implied_n(0.001, 0.001, n_max=1000) == []


NULLS = 1000
PERMUTATIONS = 199


def seeds_and_conditions(rng):
    """Ten seeds by five conditions: both sides move with the seed, neither with the condition."""
    seed = rng.standard_normal((10, 1))
    return seed + rng.standard_normal((10, 5)), seed + rng.standard_normal((10, 5))


def uniform_p(p_values):
    """p of ten equal bins under uniform p-values."""
    counts, _ = np.histogram(p_values, np.linspace(0, 1, 11) + 1e-9)
    return stats.chisquare(counts).pvalue


def test_permutation_within_is_uniform_under_its_null():
    """1000 null experiments; the twin takes the fifty points for independent ones."""
    rng = np.random.default_rng(2)
    within, twin = [], []
    for _ in range(NULLS):
        x, y = seeds_and_conditions(rng)
        within.append(permutation_within(x, y, rng, PERMUTATIONS))
        twin.append(pearson_p(pearson(x.ravel(), y.ravel()), x.size))
    assert uniform_p(within) > FIVE_SIGMA_P
    assert uniform_p(twin) < FIVE_SIGMA_P


def test_permutation_within_sees_conditions_that_move_both():
    rng = np.random.default_rng(3)
    x, y = (side + 2 * np.arange(5) for side in seeds_and_conditions(rng))
    assert permutation_within(x, y, rng, 999) == 1 / 1000
    assert permutation_within(x - x.mean(1, keepdims=True), -y + y.mean(1, keepdims=True), rng, 999) == 1 / 1000


def test_permutation_within_counts_the_order_it_was_given():
    """With two points in one row, half of all orders are as extreme: p is never zero."""
    rng = np.random.default_rng(4)
    x = np.array([[0.0, 1.0], [0.0, 1.0]])
    p = permutation_within(x, x, rng, 4000)
    # Of four orders two have |r| = 1.
    assert abs(p - 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_permutation_within_repeats_from_its_generator():
    x, y = seeds_and_conditions(np.random.default_rng(5))
    first, second = (permutation_within(x, y, np.random.default_rng(6), 99) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("x", "y"), [((3, 2), (3, 3)), ((6,), (6,)), ((6, 1), (6, 1))])
def test_permutation_within_refuses_other_shapes(x, y):
    with pytest.raises(ValueError, match=r"two finite \(seeds, conditions\) arrays with at least 2 conditions"):
        permutation_within(np.ones(x), np.ones(y), np.random.default_rng(0), 9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])


def test_holm_bounds_the_family_wise_error_and_the_bare_p_values_do_not():
    p = np.random.default_rng(7).random((4000, 5))
    line = 0.05 + 5 * math.sqrt(0.05 * 0.95 / 4000)
    assert np.mean([min(holm(row)) <= 0.05 for row in p]) < line
    assert np.mean(p.min(1) <= 0.05) > line


def test_fisher_against_scipy():
    p = [0.01, 0.2, 0.7]
    assert fisher(p) == pytest.approx(stats.combine_pvalues(p).pvalue, rel=1e-12)
    assert fisher([0.3]) == pytest.approx(0.3, rel=1e-12)
    assert fisher([0.0, 0.5]) == 0


@pytest.mark.parametrize("p", [[], [-0.1], [1.1]])
def test_fisher_refuses_what_is_no_p(p):
    with pytest.raises(ValueError, match="p_values: expected at least one"):
        fisher(p)


def test_permutation_within_sees_conditions_against_the_seeds():
    """Seeds move the two sides together, conditions move them apart: only the conditions count."""
    rng = np.random.default_rng(31)
    seeds, conditions = 5 * rng.standard_normal((10, 1)), np.arange(5)
    x = seeds + 0.3 * conditions + 0.1 * rng.standard_normal((10, 5))
    y = seeds - 0.3 * conditions + 0.1 * rng.standard_normal((10, 5))
    assert pearson(x.ravel(), y.ravel()) > 0.9
    assert permutation_within(x, y, rng, 999) == 1 / 1000
    assert permutation_within(x, np.broadcast_to(seeds, x.shape), rng, 999) == 1


def test_ratio_of_means_has_a_positive_error_below_zero():
    ratio = ratio_of_means(Estimate.of(np.array([1.0, 2.0, 3.0])), Estimate.of(-np.array([1.0, 2.0, 4.0])))
    assert ratio.mean == pytest.approx(-6 / 7)
    assert ratio.sem > 0


def test_other_trials_do_not_broadcast():
    three, one = Estimate.of(np.array([1.0, 2.0, 3.0])), Estimate.of(np.array([1.0]))
    for combine in (difference, ratio_of_means):
        with pytest.raises(ValueError, match="the same trials, got 3 and 1"):
            combine(three, one)


def test_a_nan_is_nowhere_a_p_value():
    with pytest.raises(ValueError, match="value: expected a number"):
        moment_matched_p(math.nan, 0.1, 0.01)
    with pytest.raises(ValueError, match="p_values: expected numbers"):
        holm([0.1, math.nan, 0.01])


@pytest.mark.parametrize(("series", "why"), [((0.1, 0.1, 0.1), "constant"), ((1 / 3,) * 10, "constant"), ((1, math.nan, 2), "not finite")])
def test_pearson_says_why_there_is_none(series, why):
    with pytest.raises(ValueError, match=why):
        pearson(np.array(series), np.arange(len(series)))


def test_pearson_at_any_scale():
    x = np.random.default_rng(7).standard_normal(20)
    y = x + 1
    y[0] = -3
    assert pearson(1e-170 * x, 1e170 * y) == pytest.approx(pearson(x, y), abs=1e-14)


def test_fisher():
    values = [0.01, 0.2, 0.7]
    assert fisher(values) == pytest.approx(stats.combine_pvalues(values).pvalue, rel=1e-12)
    assert fisher([0.3]) == pytest.approx(0.3, rel=1e-12)
    assert fisher([0.0, 1.0]) == 0
    with pytest.raises(ValueError, match="p_values: expected at least one, each"):
        fisher([])


def responses(rng, rows, conditions):
    """Rows that respond smoothly to a condition on both sides, each in a direction of its own: no relation between the sides."""
    steps = np.arange(conditions)
    return [rng.standard_normal((rows, 1)) + rng.standard_normal((rows, 1)) * steps for _ in range(2)]


def test_seeds_are_the_sample():
    """400 scans of 10 seeds x 5 conditions under the null: the flip keeps its level at 5 sigma, shuffling inside rows does not."""
    rng = np.random.default_rng(53)
    scans = [responses(rng, 10, 5) for _ in range(400)]
    line = 400 * 0.05 + 5 * math.sqrt(400 * 0.05 * 0.95)
    assert sum(sign_flip(x, y, rng) <= 0.05 for x, y in scans) < line
    assert sum(permutation_within(x, y, rng, 199) <= 0.05 for x, y in scans) > line


@pytest.mark.parametrize("rows", [10, 30])
def test_sign_flip_sees_what_seeds_agree_on(rows):
    rng = np.random.default_rng(54)
    x, y = responses(rng, rows, 5)
    assert sign_flip(x, x + 0.1 * y, rng) < 0.005
    assert sign_flip(x, -x + 0.1 * y, rng) < 0.005
    assert sign_flip(x, np.zeros_like(x), rng) == 1


@pytest.mark.parametrize("rows", [13, 16])
def test_random_signs_are_those_of_every_flip(rows):
    """Beyond 12 rows 40,000 random flips stand for all 2^rows, within 5 sigma; a flip that favours one sign does not."""
    rng, draws = np.random.default_rng(55), 40_000
    covariance = rng.standard_normal(rows) + 0.35
    x, y = np.outer(np.ones(rows), [-1.0, 1.0]), np.outer(covariance, [-0.5, 0.5])
    signs = 1 - 2 * (np.arange(2**rows)[:, None] >> np.arange(rows) & 1)
    exact = float((np.abs(signs @ covariance) >= abs(covariance.sum()) * (1 - 1e-12)).mean())
    assert 0.01 < exact < 0.5
    error = math.sqrt(exact * (1 - exact) / draws)
    assert abs(sign_flip(x, y, rng, draws) - exact) < 5 * error
    biased = rng.choice([-1.0, 1.0], (draws, rows), p=[0.35, 0.65])
    assert abs((np.abs(biased @ covariance) >= abs(covariance.sum())).mean() - exact) > 5 * error


def test_sign_flip_is_exact_for_few_rows():
    x = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0]])
    assert sign_flip(x, x, np.random.default_rng(0)) == 2 / 8
    with pytest.raises(ValueError, match="two finite"):
        sign_flip(x, x[:, :1], np.random.default_rng(0))


def test_mutual_information_of_labellings_by_hand():
    """Four items, a = 0011, b = 0111: I = H(a) + H(b) - H(a, b)."""
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    h_b = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    joint = -(2 * 0.25 * math.log(0.25) + 0.5 * math.log(0.5))
    expected = 2 * (math.log(2) + h_b - joint) / (math.log(2) + h_b)
    assert normalised_mutual_information(a, b) == pytest.approx(expected, rel=1e-14)
    assert normalised_mutual_information(b, a) == pytest.approx(expected, rel=1e-14)


def test_mutual_information_is_one_by_another_name_and_zero_without_relation():
    a = np.array([0, 0, 1, 2, 2, 2])
    assert normalised_mutual_information(a, np.array([7, 7, -1, 4, 4, 4])) == pytest.approx(1, rel=1e-14)
    # Two kinds merged: the smaller entropy would give 1.
    assert normalised_mutual_information(a, np.array([0, 0, 0, 1, 1, 1])) < 0.9
    every = np.arange(12)
    assert normalised_mutual_information(every % 3, every // 3) == pytest.approx(0, abs=1e-14)
    assert normalised_mutual_information(a, np.zeros(6, int)) == 0
    assert normalised_mutual_information(np.zeros(6, int), np.zeros(6, int)) == 0


def test_mutual_information_of_shuffled_labels_is_its_bias():
    """2 n I is chi squared of (A - 1)(B - 1) = 9 degrees: its mean over 400 shufflings strays by 2.4%. With 16 the same line fails."""
    generator = stream(0, "test")
    a, b = (generator.integers(0, 4, 4000) for _ in range(2))
    found = np.mean([normalised_mutual_information(a, generator.permutation(b)) for _ in range(400)])
    entropies = sum(-sum(p * math.log(p) for p in np.bincount(labels) / 4000) for labels in (a, b))
    assert found == pytest.approx(9 / 4000 / entropies, rel=5 * math.sqrt(2 / 9 / 400))
    assert found != pytest.approx(16 / 4000 / entropies, rel=5 * math.sqrt(2 / 16 / 400))


@pytest.mark.parametrize("a, b", [([0, 1], [0]), ([], []), ([[0]], [[0]])])
def test_labellings_that_do_not_fit_are_refused(a, b):
    with pytest.raises(ValueError, match=r"a, b: expected two labellings \(n,\) of the same n > 0 items, got"):
        normalised_mutual_information(np.array(a), np.array(b))
