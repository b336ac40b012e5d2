"""Law R6 against rows built by rotations, and against draws."""

import math

import numpy as np
import pytest

from simgap.theory.router_rows import aligned_angle, aligned_ceiling, confidence_margin, margin_ceiling, plain_ceiling, witness_rows


@pytest.mark.parametrize("beta", [0.5, 1.0, 30.0])
@pytest.mark.parametrize("iota", [0.4, 0.01, 1e-6])
def test_the_margin_gives_the_softmax_mass(iota, beta):
    margin = confidence_margin(iota, beta)
    logits = beta * np.array([margin, 0.0])
    assert np.exp(logits[0]) / np.exp(logits).sum() == pytest.approx(1 - iota, rel=1e-12)
    assert np.exp(margin) / (1 + np.exp(margin)) != pytest.approx(1 - iota, rel=1e-12) or beta == 1


@pytest.mark.parametrize("overlap", [-1.0, -0.3, 0.0, 0.5, 0.99])
def test_a_witness_has_its_overlap_at_the_largest_margin_allowed(overlap):
    first, second = np.array(witness_rows(overlap))
    assert first @ first == pytest.approx(1, abs=1e-14)
    assert second @ second == pytest.approx(1, abs=1e-14)
    assert first @ second == pytest.approx(overlap, abs=1e-14)
    margin = first[0] - second[0]
    assert second[1] - first[1] == pytest.approx(margin, abs=1e-14)
    assert margin_ceiling(margin, math.sqrt(2)) == pytest.approx(overlap, abs=1e-14)


def test_no_confident_router_is_above_the_margin_ceiling():
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((20_000, 2, 4))
    tokens = rows + 0.5 * generator.standard_normal(rows.shape)
    rows, tokens = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (rows, tokens))
    gap = rows[:, 0] - rows[:, 1]
    margin = np.minimum((gap * tokens[:, 0]).sum(-1), -(gap * tokens[:, 1]).sum(-1))
    sure = margin > 0
    ceiling = margin_ceiling(margin, np.linalg.norm(tokens[:, 0] - tokens[:, 1], axis=-1))
    inner = (rows[:, 0] * rows[:, 1]).sum(-1)
    assert sure.sum() > 10_000
    assert (inner <= ceiling + 1e-12)[sure].all()
    # A ceiling with twice the drop is passed by some: the test has power.
    assert (inner > 2 * ceiling - 1)[sure].any()


def angle(eps, delta, iota):
    return math.asin(eps) + 4 * math.acos(1 - iota) + 4 * math.asin(delta / 2)


CASES = [(0.0, 0.0, 0.0), (0.1, 0.05, 0.001), (0.3, 0.0, 0.005), (0.0, 0.3, 0.0), (0.9, 0.01, 1e-6)]


@pytest.mark.parametrize("eps, delta, iota", CASES)
def test_the_aligned_ceiling_is_the_sine_of_its_angle(eps, delta, iota):
    # arccos near 1 loses half the digits: sqrt(2e-16) of the angle.
    assert aligned_angle(eps, delta, iota) == pytest.approx(angle(eps, delta, iota), abs=1e-7)
    assert aligned_ceiling(eps, delta, iota) == pytest.approx(math.sin(angle(eps, delta, iota)), abs=1e-7)


@pytest.mark.parametrize("eps, delta, iota", CASES[1:])
def test_rows_of_a_plane_attain_the_aligned_ceiling(eps, delta, iota):
    def turn(v, by):
        return np.array([v[0] * math.cos(by) - v[1] * math.sin(by), v[0] * math.sin(by) + v[1] * math.cos(by)])

    phi, psi = math.acos(1 - iota), 2 * math.asin(delta / 2)
    rows = np.array([1.0, 0.0]), np.array([eps, math.sqrt(1 - eps * eps)])
    after = []
    for row, way in zip(rows, (1, -1), strict=True):
        token = turn(row, way * phi)
        moved = turn(token, way * psi)
        after.append(turn(moved, way * phi))
        assert row @ token == pytest.approx(1 - iota, abs=1e-12)
        assert after[-1] @ moved == pytest.approx(1 - iota, abs=1e-12)
        assert np.linalg.norm(moved - token) == pytest.approx(delta, abs=1e-7)
    reached = after[0] @ after[1]
    assert reached == pytest.approx(aligned_ceiling(eps, delta, iota), abs=1e-7)
    assert reached > eps + delta + 2 * iota  # what one side alone, or a linear rate, would allow


@pytest.mark.parametrize("eps", [0.0, 0.2, 0.9])
def test_the_plain_ceiling_covers_every_angle(eps):
    for delta in (0.0, 0.01, 0.1, 0.5, 2.0):
        for iota in (0.0, 1e-6, 0.001, 0.05, 1.0):
            reached = math.sin(min(angle(eps, delta, iota), math.pi / 2))
            assert plain_ceiling(eps, delta, iota) >= reached - 1e-12
    assert plain_ceiling(0.0, 1e-4, 1e-8) < 1.04 * aligned_ceiling(0.0, 1e-4, 1e-8)


def test_beyond_a_right_angle_the_ceiling_is_one():
    """The sine of a wider angle falls again, below overlaps that aligned tokens reach by turning less than they may."""
    assert math.sin(angle(0.5, 1.0, 0.1)) < 0
    assert aligned_ceiling(0.5, 1.0, 0.1) == 1
    assert aligned_ceiling(0.5, np.array([0.0, 1.0]), 0.1)[1] == 1


def test_arrays_go_through():
    iota = np.array([0.0, 0.001, 0.01])
    ceiling = aligned_ceiling(0.1, 0.02, iota)
    assert ceiling.shape == (3,)
    assert ceiling[1] == aligned_ceiling(0.1, 0.02, 0.001)
