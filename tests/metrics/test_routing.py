import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simgap as sg
from simgap.metrics.routing import dropped_tokens, load
from simgap.moe import draws_of, open_inputs, simulate

NAMES = ("load_entropy", "effective_experts", "max_violation", "max_coactivation", "dropped_tokens")


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


def by_loops(indices, n_experts):
    """Statistics of one trial's routing: entropy, effective experts, MaxVio, largest co-activation, share of dropped tokens."""
    p = [float(share) for share in shares(indices, n_experts)]
    entropy = -sum(x * math.log(x) for x in p if x)
    largest = 0.0
    for i in range(n_experts):
        own = [token for token in indices.tolist() if i in token]
        largest = max([largest, *(sum(j in token for token in own) / len(own) for j in range(n_experts) if j != i and own)])
    dropped = sum(all(e < 0 for e in token) for token in indices.tolist()) / len(indices)
    return entropy, math.exp(entropy), max(p) * n_experts - 1, largest, dropped


@pytest.mark.parametrize("router", ["linear", "uniform", "expert_choice", sg.RouterSpec("sigmoid", bias=0.5)])
@pytest.mark.parametrize("memory", ["2GiB", "40MiB"])
def test_statistics_of_a_layer_are_those_of_its_tokens(router, memory):
    spec = sg.LayerSpec(d_model=8, d_ff=16, n_experts=5, top_k=2, router=router)
    # More tokens than a block holds.
    run = {"tokens": 1500, "trials": 2, "seed": 4}
    m = sg.measure(spec, **run, memory=memory, metrics="routing")
    assert [str(quantity) for quantity in m.values] == [f"routing {name}" for name in NAMES]
    draws = draws_of(spec, 4, range(2))
    indices = simulate(draws, sg.RunSpec(tokens=1500), open_inputs(draws)).indices
    expected = np.array([by_loops(trial, 5) for trial in indices])
    for name, values in zip(NAMES, expected.T, strict=True):
        np.testing.assert_allclose(m[f"routing {name}"].values, values, rtol=1e-12, atol=1e-12)
    # Alone, from the loads.
    alone = sg.measure(spec, **run, quantities="routing load_entropy")
    assert alone["routing load_entropy"] == m["routing load_entropy"]


def test_nothing_is_said_of_pairs_where_no_token_meets_two():
    spec = sg.LayerSpec(d_model=4, d_ff=4, n_experts=3, top_k=1)
    m, p = sg.measure(spec, tokens=20, trials=2, metrics="routing"), sg.predict(spec, tokens=20, trials=2, metrics="routing")
    assert m["routing max_coactivation"].mean is None
    assert p["routing max_coactivation"].why == "top_k = 1: no token meets two experts"
    assert m["routing effective_experts"].mean <= 3
