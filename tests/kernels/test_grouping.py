"""Orders by group, against numpy's."""

import numpy as np
import pytest

from simgap.kernels.grouping import by_group, within_groups


@pytest.mark.parametrize(("size", "count"), [(0, 3), (1, 1), (200, 7), (50, 300)])
def test_by_group(size, count):
    groups, order = np.random.default_rng(size).integers(0, count, size), np.empty(size, np.int64)
    by_group(groups, count, order)
    np.testing.assert_array_equal(order, np.argsort(groups, kind="stable"))


@pytest.mark.parametrize("distinct", [1, 3, 10**9])
def test_within_groups(distinct):
    rng = np.random.default_rng(distinct)
    ends = np.array([0, 1, 3, 3, 36, 100, 101])
    values, order = rng.integers(0, distinct, 101).astype(float), np.empty(101, np.int64)
    within_groups(ends, values, order)
    group = np.searchsorted(ends, np.arange(101), side="right")
    np.testing.assert_array_equal(order, np.lexsort((values, group)))
