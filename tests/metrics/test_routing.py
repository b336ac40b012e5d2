from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.metrics.routing import dropped_tokens, load


def shares(indices, n_experts):
    """Each expert's share of the assignments, counted one by one."""
    taken = [int(e) for token in indices for e in token if e >= 0]
    return [Fraction(taken.count(e), len(taken)) for e in range(n_experts)]


def test_by_hand():
    indices = torch.tensor([[[0, 1], [1, 2], [1, -1], [-1, -1]], [[3, 2], [2, 3], [3, 2], [2, 3]]])
    np.testing.assert_allclose(load(indices, 4), [[0.2, 0.6, 0.2, 0], [0, 0, 0.5, 0.5]], rtol=2e-16)
    assert dropped_tokens(indices).tolist() == [1, 0]


@pytest.mark.parametrize(("n", "k", "experts"), [(1, 1, 1), (50, 1, 7), (64, 3, 5)])
def test_against_counting(n, k, experts):
    rng = np.random.default_rng([n, k, experts])
    indices = np.array([[rng.permutation(experts)[:k] for _ in range(n)] for _ in range(3)]).reshape(3, n, k)
    indices[:, 1:][rng.random((3, n - 1, k)) < 0.3] = -1
    result = load(torch.from_numpy(indices), experts)
    assert result.dtype == np.float64
    for trial in range(3):
        assert result[trial].tolist() == pytest.approx([float(share) for share in shares(indices[trial], experts)], rel=4e-16)
        assert int(dropped_tokens(torch.from_numpy(indices))[trial]) == sum(all(e < 0 for e in token) for token in indices[trial])


def test_balanced_routing_gives_each_expert_the_same():
    indices = torch.arange(12).view(1, 6, 2) % 4
    np.testing.assert_array_equal(load(indices, 4), [[0.25] * 4])
    assert not dropped_tokens(indices).any()


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 4))
def test_shares_sum_to_one_and_follow_the_names(seed, n, k):
    rng = np.random.default_rng(seed)
    indices = torch.from_numpy(rng.integers(-1, 6, (1, n, k)))
    indices[0, 0, 0] = 0
    names = torch.from_numpy(rng.permutation(6))
    renamed = torch.where(indices < 0, -1, names[indices.clamp(min=0)])
    shares = load(indices, 6)
    assert float(shares.sum()) == pytest.approx(1, abs=6 * np.finfo(float).eps)
    assert np.array_equal(load(renamed, 6)[0, names], shares[0])
    assert np.array_equal(dropped_tokens(renamed), dropped_tokens(indices))


def test_dropped_tokens_without_tokens():
    assert dropped_tokens(torch.empty(2, 0, 3, dtype=torch.int64)).tolist() == [0, 0]
    assert dropped_tokens(torch.full((1, 5, 2), -1)).tolist() == [5]
