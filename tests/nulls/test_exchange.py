"""The p of trials among draws: exact for any law, at most as small as the divisions allow, and said so."""

import math
from itertools import combinations

import numpy as np
import pytest

from simgap.api.calibration import compare
from simgap.nulls import Prediction
from simgap.nulls.exchange import DIVISIONS, draws_of_size, exchange_p
from simgap.stats import Estimate, student_p


def held(trials, draws, skew=None):
    """A comparison of trials with a simulated null that these are the draws of."""
    spread = draws.std(ddof=1) * math.sqrt(1 / len(trials) + 1 / len(draws))
    null = Prediction(float(draws.mean()), float(spread), "simulated", "simulated", "mine", skew=skew, supposes="these draws", draws=draws)
    return compare(Estimate.of(np.asarray(trials)), null, overlap=False)


def test_one_trial_has_the_p_of_its_rank():
    draws = np.arange(1.0, 21.0)
    assert exchange_p(np.array([0.0]), draws) == (2 / 21, True)
    assert exchange_p(np.array([21.0]), draws) == (2 / 21, True)
    # One draw is as large, or is by round-off.
    assert exchange_p(np.array([20.0]), draws) == exchange_p(np.array([20 * (1 + 1e-15)]), draws) == (4 / 21, False)
    assert exchange_p(np.array([10.5]), draws) == (1.0, False)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (2, 16)])
def test_several_trials_are_held_against_all_divisions(shape):
    """Against a loop over all of them."""
    g = np.random.default_rng(0)
    trials, draws = g.standard_normal(shape[0]) + 0.5, g.standard_normal(shape[1])
    pooled = np.concatenate([trials, draws])
    means = np.array([pooled[list(of)].mean() for of in combinations(range(len(pooled)), len(trials))])
    above, below = ((means >= trials.mean() - 1e-9).mean(), (means <= trials.mean() + 1e-9).mean())
    assert exchange_p(trials, draws)[0] == pytest.approx(min(1, 2 * min(above, below)), rel=1e-12)


def test_many_divisions_are_sampled():
    g = np.random.default_rng(1)
    trials, draws = g.standard_normal(10) + 0.6, g.standard_normal(199)
    z = (trials.mean() - draws.mean()) / math.sqrt(1 / 10 + 1 / 199)
    p, _ = exchange_p(trials, draws)
    # Normal values of sd 1: 5 standard errors of the share, and what sd those that there are have.
    assert abs(p - math.erfc(z / math.sqrt(2))) < 10 * math.sqrt(p / 2 / DIVISIONS) + 0.3 * p
    assert exchange_p(trials + 9, draws) == (2 / DIVISIONS, True)
    # Where few divisions are possible none but the observed one is as extreme.
    for n_trials, n_draws in ((2, 199), (4, 16), (5, 16), (10, 16), (300, 16)):
        p, beyond = exchange_p(np.linspace(9, 10, n_trials), draws[:n_draws])
        assert beyond
        assert p == pytest.approx(2 / DIVISIONS, rel=1e-2)


def test_the_rate_is_that_of_the_level_for_a_skewed_value_and_students_is_not():
    """2,000 repetitions of exponential values, fixed beforehand: rates within 5 sigma, where Student's t (the twin) is far above."""
    g, repetitions = np.random.default_rng(2), 2000
    for n_trials, levels in ((1, (2 / 17, 4 / 17)), (3, (0.05, 2 / 969)), (10, (0.05, 0.001))):
        p, student = [], []
        for _ in range(repetitions):
            one = held(g.exponential(size=n_trials), g.exponential(size=16))
            p.append(one.p)
            student.append(student_p(one.z, 15))
        # All p are multiples of 2/17, 2/969 and 2/4000.
        for level in levels:
            rate = np.mean(np.array(p) <= level + 1e-12)
            assert abs(rate - level) < 5 * math.sqrt(level * (1 - level) / repetitions), (n_trials, level)
        assert np.mean(np.array(student) < 0.001) > 0.001 + 5 * math.sqrt(0.001 / repetitions), n_trials


def test_what_lies_beyond_all_draws_says_so():
    draws = np.random.default_rng(3).standard_normal(20)
    assert str(held([40.0], draws)).endswith("p <= 0.095 by 20 draws: beyond all of them; the level 0.001 asks for more draws or trials")
    assert str(held([draws.max()], draws)).endswith("p 0.19: nothing to explain at the level 0.001")
    several = str(held([40.0, 41.0, 42.0, 43.0, 44.0], draws))
    assert several.endswith("p <= 0.0005 by 20 draws: more than these draws give, at the level 0.001")
    assert str(held([40.0], draws)).startswith("40, its null -0.1324, z ")
    assert str(held([40.0], draws + 10)).startswith("4.05 times its null, z ")
    # Draws on both sides of 0 have a mean that is no denominator.
    assert str(held([40.0], draws + 1)).startswith("40, its null 0.8676, z ")
    # No trials are known, but their mean.
    null = Prediction(0.0, 1.0, "simulated", "simulated", "mine", draws=draws)
    assert compare(Estimate(40.0, 0.1, 3, 3), null).p == 2 / 21


def test_a_skewed_law_goes_on_beyond_the_draws_on_its_longer_side():
    draws = np.random.default_rng(4).exponential(size=1000)
    far, near = held([20.0], draws, skew=2.0), held([-1e-9], draws, skew=2.0)
    assert far.p == pytest.approx(2 * math.exp(-20), rel=0.9)
    assert (far.bound, near.bound, near.p) == (0, 1000, 2 / 1001)
    assert held([5.0], draws, skew=2.0).p == held([5.0], draws).p


def test_small_nulls_are_drawn_more_often():
    assert [draws_of_size(numbers, 4, 16, 199) for numbers in (10.0, 1e5, 1e9)] == [199, 79, 16]
    assert draws_of_size(10.0, 128, 16, 199) == 16
