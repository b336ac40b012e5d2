"""The null of renumbered units of each pair and of their mean: against draws of orders, and where a normal law would be wrong."""

import numpy as np
import pytest
import torch

from simgap.nulls.renumbered import Renumbered
from simgap.overlaps import order_sums


def of(weights, draws=0):
    return Renumbered(order_sums([torch.from_numpy(weights)], draws))


def normal(experts, units, width, seed=0):
    return np.random.default_rng(seed).standard_normal((experts, units, width))


def test_the_mean_is_of_its_pairs():
    found = of(normal(5, 12, 7) + 0.2)
    mean, variance, third = found.cumulants
    assert mean == pytest.approx(found.nulls.mean(), rel=1e-12)
    assert len(found.nulls) == len(found.pair_p) == len(found.overlaps) == 10
    # Of independent pairs.
    m, sd = found.moments
    assert variance == pytest.approx((2 * sd**4 + 4 * sd**2 * m**2).sum() / 100, rel=1e-12)
    assert third == pytest.approx((8 * sd**6 + 24 * sd**4 * m**2).sum() / 1000, rel=1e-12)


def test_cumulants_and_p_are_near_those_of_drawn_orders():
    """2,000 of them; sd to a tenth, p to a factor of 2 where they have 20 or more beyond."""
    weights = normal(4, 60, 8, seed=1) + 0.1
    found, drawn = of(weights), of(weights, draws=2000)
    assert drawn.sums.drawn.mean() == pytest.approx(found.cumulants[0], rel=0.1)
    assert drawn.cumulants[1] == pytest.approx(found.cumulants[1], rel=0.25)
    for share in (0.5, 0.1, 0.01):
        value = float(np.quantile(drawn.sums.drawn, 1 - share))
        assert share / 2 < found.p(value) < 2 * share


def test_one_unit_that_two_experts_share():
    """It meets itself once in 16 orders, where a normal law would say 1e-5: among six experts too."""
    weights = normal(2, 16, 20000, seed=2)
    weights[1, 0] = weights[0, 0]
    found = of(weights)
    assert 0.01 < found.pair_p[0] < 0.1
    assert found.p(float(found.overlaps[0])) == found.pair_p[0]
    many = normal(6, 16, 2000, seed=3)
    many[1, 0] = many[0, 0]
    found, drawn = of(many), of(many, draws=499)
    overlap = float(found.overlaps.mean())
    assert drawn.p(overlap) > 1e-3
    assert found.p(overlap) > 1e-3


def test_copies_that_are_numbered_alike():
    """However far each unit alone moves the cosine."""
    weights = normal(2, 64, 5000, seed=4)
    weights[1] = weights[0] + weights[1]
    assert of(weights).pair_p[0] < 1e-60


def test_pairs_by_draws_and_by_law():
    weights = normal(4, 30, 10, seed=5)
    weights[1] = weights[0] + 3 * weights[1]
    found, drawn = of(weights), of(weights, draws=999)
    assert drawn.pair_p[0] == 1 / 1000
    assert found.pair_p[0] < 1e-3
    assert found.pair_p[1:] == pytest.approx(drawn.pair_p[1:], abs=0.08)


def test_large_units_on_one_side_alone_rule_nothing():
    weights = normal(2, 64, 100, seed=6)
    weights[0, 0] *= 20
    assert not of(weights).dominated
    weights[1, 5] *= 20
    assert of(weights).dominated
