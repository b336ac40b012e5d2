import math

import numpy as np
import pytest

from simgap.kernels.expert_sums import add_by_expert

EPS = np.finfo(np.float64).eps


def sums_of(rows, experts, count, gap=0):
    size, width = rows.shape
    held = np.zeros((size, width + gap), rows.dtype)
    held[:, :width] = rows
    sums = np.zeros((count, width))
    add_by_expert(held.reshape(-1), np.arange(size) * (width + gap), experts, width, sums)
    return sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
@pytest.mark.parametrize(("width", "gap"), [(1, 0), (7, 2), (64, 0), (130, 5)])
def test_within_round_off_of_the_exact_sums(dtype, width, gap):
    rng = np.random.default_rng(width)
    rows, experts = rng.standard_normal((90, width)), rng.integers(-1, 4, 90)
    rows = (rows.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else rows.astype(dtype)
    plain = (rows.astype(np.uint32) << 16).view(np.float32).astype(float) if dtype == np.uint16 else rows.astype(float)
    sums = sums_of(rows, experts, 5, gap)
    for e in range(5):
        kept = plain[experts == e]
        for column in range(width):
            assert abs(sums[e, column] - math.fsum(kept[:, column])) <= len(kept) * EPS * np.abs(kept[:, column]).sum()
    assert not sums[4].any()


def test_by_hand():
    rows = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], np.float32)
    assert sums_of(rows, np.array([1, -1, 1]), 2).tolist() == [[0.0, 0.0], [101.0, 202.0]]


def test_float32_is_summed_in_float64():
    rows = np.full((50_000, 1), 0.1, np.float32)
    found = sums_of(rows, np.zeros(50_000, np.int64), 1)[0, 0]
    assert found == pytest.approx(50_000 * float(np.float32(0.1)), rel=50_000 * EPS)
    assert float(np.cumsum(rows)[-1]) != pytest.approx(50_000 * float(np.float32(0.1)), rel=50_000 * EPS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_with_its_expert_and_column(bad):
    rows = np.ones((4, 3), np.float32)
    rows[2, 1] = bad
    found = sums_of(rows, np.array([0, 1, 1, -1]), 2)
    np.testing.assert_array_equal(np.isfinite(found), [[True, True, True], [True, False, True]])


def test_a_row_of_nobody_is_not_read_into_any_sum():
    rows = np.full((2, 4), np.nan)
    assert not sums_of(rows, np.array([-1, -1]), 3).any()
    assert not sums_of(np.ones((0, 4)), np.empty(0, np.int64), 3).any()
