"""Sizes of directions against their definitions, and at the ends of what can be asked for."""

import numpy as np
import pytest
import scipy.stats

from simgap.spaces import direction_scales
from simgap.specs import SpaceSpec


def test_a_power_law():
    found = direction_scales(SpaceSpec("powerlaw", alpha=1.5), 50) ** 2
    assert found / found[0] == pytest.approx(np.arange(1, 51) ** -1.5, rel=1e-12)
    assert direction_scales(SpaceSpec("powerlaw", alpha=0.0), 5) == pytest.approx(1.0, rel=1e-15)


def test_a_lognormal_law():
    logs = np.log(direction_scales(SpaceSpec("lognormal", spread=0.7), 101))
    assert logs - logs[50] == pytest.approx(0.7 * scipy.stats.norm.ppf(1 - (np.arange(101) + 0.5) / 101), abs=1e-12)


@pytest.mark.parametrize("kind", ["round", "powerlaw", "lognormal"])
def test_outliers_are_so_many_times_larger_than_they_were(kind):
    plain, with_outliers = (direction_scales(SpaceSpec(kind, outliers=n, scale=8.0), 16) for n in (0, 3))
    ratio = with_outliers / plain
    assert ratio[:3] / ratio[3] == pytest.approx(8.0, rel=1e-12)
    assert ratio[3:] == pytest.approx(ratio[3], rel=1e-12)
    # Equal sizes are equal to the bit, so that they are counted and not told apart.
    assert len(np.unique(direction_scales(SpaceSpec(outliers=3), 16))) == 2


@pytest.mark.parametrize(
    "space",
    [
        SpaceSpec(),
        SpaceSpec(outliers=7, scale=1e300),
        SpaceSpec(outliers=1, scale=1e-300),
        SpaceSpec(outliers=7),
        SpaceSpec("powerlaw", alpha=1e6, outliers=2, scale=1e8),
        SpaceSpec("lognormal", spread=1e308),
    ],
    ids=str,
)
def test_the_mean_square_is_one(space):
    found = direction_scales(space, 7)
    assert np.mean(found**2) == pytest.approx(1.0, rel=1e-12)
    assert (found >= 0).all()
    assert not found.flags.writeable
    assert direction_scales(space, 1) == pytest.approx([1.0], rel=1e-15)


def test_which_sides_are_scaled():
    sides = {
        scaled: [SpaceSpec(outliers=1, scaled=scaled).scales(side) for side in ("outputs", "inputs")]
        for scaled in ("outputs", "inputs", "both")
    }
    assert sides == {"outputs": [True, False], "inputs": [False, True], "both": [True, True]}
    assert not any(SpaceSpec(scaled="both").scales(side) for side in ("outputs", "inputs"))
