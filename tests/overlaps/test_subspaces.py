"""Principal components of pieces against those of all rows at once, and angles against scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from simgap.metrics.subspace import HELD as planned
from simgap.overlaps import subspaces as subject
from simgap.overlaps.subspaces import Rows, distances, principal_angles


def basis(rng, d, r):
    return np.linalg.qr(rng.standard_normal((d, r)))[0]


def angles(one, other):
    return principal_angles(torch.from_numpy(one), torch.from_numpy(other)).numpy()


def turned(rng, d, true):
    """Two bases whose principal angles are those given."""
    q = basis(rng, d, 2 * len(true))
    one, aside = q[:, : len(true)], q[:, len(true) :]
    return one, one * np.cos(true) + aside * np.sin(true)


@pytest.mark.parametrize(("r", "q"), [(3, 3), (3, 5), (5, 2), (1, 1)])
def test_angles_against_scipy(r, q):
    rng = np.random.default_rng(r + 10 * q)
    one, other = basis(rng, 12, r), basis(rng, 12, q)
    np.testing.assert_allclose(angles(one, other), np.sort(subspace_angles(one, other)), atol=1e-13)


@pytest.mark.parametrize(
    "true", [[0.0, 0.0], [1e-9, 0.5], [1e-9, 1e-9], [0.3, math.pi / 2], [math.pi / 2, math.pi / 2], [1e-9, math.pi / 2 - 1e-9]]
)
def test_angles_that_are_hard(true):
    one, other = turned(np.random.default_rng(4), 9, np.array(true))
    # One basis is mixed, since angles belong to the spans.
    mix = basis(np.random.default_rng(5), 2, 2)
    np.testing.assert_allclose(angles(one, other @ mix), np.sort(true), atol=1e-15, rtol=1e-6)
    given = distances(torch.tensor(np.sort(true)))
    theta = np.array(true)
    assert given["geodesic"] == pytest.approx(math.sqrt((theta**2).sum()), rel=1e-12)
    # By projectors, which need no angles: |P - Q|_F = sqrt 2 sin, and tr P Q.
    p, q = one @ one.T, other @ other.T
    assert given["chordal"] == pytest.approx(np.linalg.norm(p - q) / math.sqrt(2), abs=1e-8)
    assert given["overlap"] == pytest.approx(np.trace(p @ q) / 2, abs=1e-12)
    assert given["largest"] == pytest.approx(np.linalg.norm(p @ q, 2) ** 2, abs=1e-12)


def test_what_angles_are_invariant_to_and_what_not():
    """Any basis of the same span and any common rotation; not a common linear map."""
    rng = np.random.default_rng(6)
    one, other = basis(rng, 10, 3), basis(rng, 10, 3)
    mix, turn, stretch = basis(rng, 3, 3), basis(rng, 10, 10), np.diag([8.0, *np.ones(9)])
    before = angles(one, other)
    np.testing.assert_allclose(angles(turn @ one @ mix, turn @ other), before, atol=1e-12)
    assert np.abs(angles(*(np.linalg.qr(stretch @ each)[0] for each in (one, other))) - before).max() > 0.05


def direct(rows, weights):
    """Eigenvalues and vectors of the weighted covariance, all at once."""
    mean = weights @ rows / weights.sum()
    apart = (rows - mean) * np.sqrt(weights / weights.sum())[:, None]
    values, vectors = np.linalg.eigh(apart.T @ apart)
    return values[::-1].copy(), vectors[:, ::-1].copy()


def components(rows, weights, cuts=()):
    state = Rows(rows.shape[1])
    for part, w in zip(np.split(rows, cuts), np.split(weights, cuts), strict=True):
        state.add(torch.from_numpy(part), torch.from_numpy(w))
    return state.components()


@pytest.mark.parametrize(("n", "width"), [(40, 7), (700, 12), (60, 400), (256, 400)])
def test_components_are_those_of_all_rows_at_once_where_they_are_exact(n, width):
    rng = np.random.default_rng(n)
    rows, weights = rng.standard_normal((n, width)) * np.linspace(1, 3, width) + 50, rng.random(n) + 0.1
    found, (values, vectors) = components(rows, weights), direct(rows, weights)
    r = len(found.values)
    assert r == min(n - 1, width)
    np.testing.assert_allclose(found.values.numpy(), values[:r], rtol=1e-8, atol=1e-9 * values[0])
    assert np.abs(angles(found.vectors[:, :5].numpy(), vectors[:, :5])).max() < 1e-6
    share = values[:r] / values[:r].sum()
    assert found.effective_rank() == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-8)
    assert found.participation_ratio() == pytest.approx(1 / (share**2).sum(), rel=1e-8)
    assert found.rank_of_variance(0.9) == int(np.argmax(share.cumsum() >= 0.9)) + 1


def test_cutting_the_rows_changes_no_bit_and_weights_are_repetitions():
    rng = np.random.default_rng(7)
    rows, weights = rng.standard_normal((900, 300)), rng.random(900)
    whole, parts = components(rows, weights), components(rows, weights, (1, 255, 256, 700))
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.vectors, parts.vectors)
    few = rng.standard_normal((30, 5))
    twice, weighted = components(np.repeat(few, 2, 0), np.ones(60)), components(few, np.full(30, 2.0))
    np.testing.assert_allclose(twice.values.numpy(), weighted.values.numpy(), rtol=1e-12)
    assert weighted.rows == pytest.approx(30)


def test_leading_directions_of_more_rows_than_are_held():
    """10 directions of variance 25 beside 390 of variance 1, on 3,000 rows: the sketch has them, and their shares within 1%."""
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((3000, 400)) * np.where(np.arange(400) < 10, 5.0, 1.0)
    found, (values, vectors) = components(rows, np.ones(3000)), direct(rows, np.ones(3000))
    assert np.abs(angles(found.vectors[:, :10].numpy(), vectors[:, :10])).max() < 0.02
    np.testing.assert_allclose(found.values[:10].numpy(), values[:10], rtol=0.01)
    assert found.total == pytest.approx(values.sum(), rel=1e-10)
    assert found.rank_beyond_noise() == 10


def test_rank_beyond_noise_sees_planted_directions_and_none_in_noise():
    rng = np.random.default_rng(9)
    noise = rng.standard_normal((2000, 50))
    assert components(noise, np.ones(2000)).rank_beyond_noise() == 0
    planted = noise.copy()
    planted[:, :3] *= 2
    assert components(planted, np.ones(2000)).rank_beyond_noise() == 3


@pytest.mark.parametrize("rows", [np.ones((5, 4)), np.ones((1, 4)), np.empty((0, 4))])
def test_rows_that_do_not_vary_have_no_components(rows):
    assert components(rows, np.ones(len(rows))) is None


def test_rows_of_low_rank_have_as_many_components():
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((100, 2)) @ rng.standard_normal((2, 30)) + 7
    found = components(rows, np.ones(100))
    assert len(found.values) == 2
    assert found.effective_rank() < 2 + 1e-6


def test_a_metric_plans_for_the_rows_that_are_held():
    assert planned == subject.HELD
