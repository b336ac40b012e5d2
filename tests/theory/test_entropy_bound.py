"""Law R5 against a grid of all distributions, scipy's entropy, and its edges."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from simgap.theory.entropy_bound import entropy_bound, split_entropy

# Round-off of an entropy of at most log 64.
EPS = 1e-13


def grid(experts, steps):
    """Every distribution whose probabilities are multiples of 1/steps, sorted down."""
    for cut in itertools.combinations_with_replacement(range(steps + 1), experts - 1):
        parts = [b - a for a, b in itertools.pairwise((0, *cut, steps))]
        if parts == sorted(parts, reverse=True):
            yield parts


@pytest.mark.parametrize("experts, top, steps", [(3, 1, 60), (4, 2, 24), (4, 3, 24), (3, 3, 60), (2, 1, 100)])
@pytest.mark.parametrize("eps", [Fraction(0), Fraction(1, 12), Fraction(1, 2), Fraction(1)])
def test_no_distribution_of_a_grid_exceeds_it(experts, top, steps, eps):
    """The largest entropy on the grid is below the bound, and above it less what the grid's coarseness can cost."""
    allowed = [p for p in grid(experts, steps) if Fraction(sum(p[:top]), steps) >= 1 - eps]
    most = max(scipy.stats.entropy(np.array(p) / steps) for p in allowed)
    bound = entropy_bound(eps, top, experts)
    assert most <= bound + EPS
    # A neighbour of the maximiser is on the grid; h moves by at most experts * (1/steps) log(steps) over a step of it.
    assert most >= bound - experts * math.log(steps) / steps
    # At eps = 1 and k < E the uncapped form would be log(E - k), which uniform routing exceeds.
    if eps == 1 and top < experts:
        assert most > math.log(experts - top) + 0.1


@pytest.mark.parametrize("eps, top, experts", [(0.1, 2, 8), ("0.3", 1, 4), (Fraction(1, 20), 8, 64), (0.75, 2, 8), (0.9, 2, 8)])
def test_it_is_attained(eps, top, experts):
    cut = min(float(Fraction(eps)), 1 - top / experts)
    p = np.r_[np.full(top, (1 - cut) / top), np.full(experts - top, cut / (experts - top))]
    assert np.sort(p)[::-1][:top].sum() >= 1 - float(Fraction(eps)) - EPS
    assert entropy_bound(eps, top, experts) == pytest.approx(scipy.stats.entropy(p), abs=EPS)


def test_its_ends():
    assert entropy_bound(0, 1, 8) == 0
    assert entropy_bound(0, 2, 8) == pytest.approx(math.log(2), abs=EPS)
    assert entropy_bound("0.3", 8, 8) == entropy_bound(1, 1, 8) == entropy_bound(0, 8, 8) == pytest.approx(math.log(8), abs=EPS)
    assert entropy_bound(Fraction(3, 4), 2, 8) == pytest.approx(split_entropy(0.75, 2, 8), abs=EPS)


def test_it_rises_with_eps_up_to_the_cap():
    values = [entropy_bound(Fraction(i, 100), 2, 8) for i in range(101)]
    assert all(a < b for a, b in itertools.pairwise(values[:76]))
    assert len(set(values[75:])) == 1
    assert split_entropy(0.9, 2, 8) < split_entropy(0.75, 2, 8)


@pytest.mark.parametrize("top", [0, 9])
def test_a_top_out_of_range_is_refused(top):
    with pytest.raises(ValueError, match=rf"^top_k: expected a whole number in 1..8, got {top}"):
        entropy_bound(0.1, top, 8)


@pytest.mark.parametrize("eps", [-0.1, "1.5", Fraction(-1, 9)])
def test_an_eps_out_of_range_is_refused(eps):
    with pytest.raises(ValueError, match=r"^eps: expected a number in \[0, 1\], got"):
        entropy_bound(eps, 2, 8)
