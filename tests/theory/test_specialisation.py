"""Law R7 against routers small enough to enumerate, and against linear programming."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize

from simgap.theory.specialisation import indecision_bound, information_shortfall, shortfall_bound, tied_mass


def largest(objective, masses, rows, limits):
    """The largest mean of `objective` over the laws of M on `masses` that keep the mean of each row within its limit."""
    result = scipy.optimize.linprog(-objective, A_ub=rows, b_ub=limits, A_eq=np.ones((1, len(masses))), b_eq=[1.0])
    return -result.fun


@pytest.mark.parametrize("eta, delta", [(0.01, 0.1), (0.1, 0.1), (0.05, 0.5)])
def test_indecision_is_the_worst_of_all_laws(eta, delta):
    masses = np.linspace(0.25, 1, 301)
    worst = largest((masses <= 1 - delta + 1e-12).astype(float), masses, [1 - masses], [eta])
    assert worst == pytest.approx(indecision_bound(eta, delta), abs=1e-9)
    assert indecision_bound(Fraction(1, 20), Fraction(1, 10)) == Fraction(1, 2)


@pytest.mark.parametrize("tau, delta, experts, k", [(0.1, 0.1, 8, 2), (0.5, 0.2, 4, 1), (0.0, 0.3, 4, 2), (1.0, 0.05, 8, 1)])
def test_the_shortfall_is_the_worst_of_all_laws(tau, delta, experts, k):
    masses = np.linspace(k / experts, 1, 301)
    masses[np.argmin(np.abs(masses - 1 + delta))] = 1 - delta
    worst = largest(1 - masses, masses, [(masses < 1 - delta - 1e-12).astype(float)], [tau])
    assert worst == pytest.approx(shortfall_bound(tau, delta, experts, k), abs=1e-9)


def information(p):
    def entropy(q):
        return -sum(x * math.log(x) for x in q if x > 0)

    return entropy(p.mean(axis=0)) - float(np.mean([entropy(row) for row in p]))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_uniform_rows_attain_the_information_bound(size):
    experts = 6
    p = np.array([[1 / size if (j - i) % experts < size else 0.0 for j in range(experts)] for i in range(experts)])
    deficit = math.log(experts) - information(p)
    assert 1 - p.max(axis=1).mean() == pytest.approx(information_shortfall(deficit), abs=1e-12)


def test_no_router_is_above_the_information_bound():
    generator = np.random.default_rng(0)
    gaps = []
    for sharpness in np.geomspace(0.1, 30, 200):
        p = np.exp(sharpness * generator.standard_normal((60, 5)))
        p /= p.sum(axis=1, keepdims=True)
        gaps.append(information_shortfall(math.log(5) - information(p)) - (1 - p.max(axis=1).mean()))
    assert min(gaps) > -1e-12
    assert min(gaps) < 0.1  # not far from attained


@pytest.mark.parametrize("gap, experts, k", [(0.0, 4, 1), (0.001, 8, 2), (2.0, 3, 1)])
def test_tied_mass_is_a_softmax(gap, experts, k):
    logits = np.array([gap] * k + [0.0] * (experts - k))
    p = np.exp(logits) / np.exp(logits).sum()
    assert tied_mass(gap, experts, k) == pytest.approx(p[:k].sum(), rel=1e-14)


def test_a_wide_gap_gives_all_the_mass():
    assert tied_mass(1000.0, 8, 2) == 1
    assert tied_mass(np.inf, 8, 2) == 1


def test_an_informative_choice_may_be_undecided():
    """Every expert is chosen by a seventh of the tokens, as sure as log 7 nats, yet no token gives it a fifth of its mass."""
    experts = 7
    logits = 0.1 * np.eye(experts)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    choice = np.eye(experts)[p.argmax(axis=1)]
    assert information(choice) == pytest.approx(math.log(experts), rel=1e-12)
    assert p.max() == pytest.approx(tied_mass(0.1, experts, 1), rel=1e-12)
    assert p.max() < 0.2
