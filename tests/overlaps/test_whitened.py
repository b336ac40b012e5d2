"""Whitening by other experts, against inverse roots and loops; by the same vectors it would not do."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from simgap.overlaps import TokenPairs, Whitening, entries_of, other_tokens
from simgap.overlaps.whitened import GROUPS, RIDGE, why_not
from tests import reference


def test_pairs_are_whitened_by_the_groups_that_hold_neither():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 8, 4)) * [5, 1, 1, 0.2]
    routing, there = np.stack([rng.permutation(8) for _ in range(3)]), np.ones((3, 8), bool)
    data = torch.from_numpy(vectors)
    whitening = Whitening.of(data, entries_of(routing, there, 8))
    assert sorted(np.bincount(whitening.group)) == [8 // GROUPS] * GROUPS
    (found,) = whitening.other_tokens(data, [(TokenPairs.of(routing, there, 8), (None,))])
    assert found.named.tolist() == [list(pair) for pair in combinations(range(8), 2)]
    at = {(t, e): vectors[t, list(routing[t]).index(e)] for t in range(3) for e in range(8)}
    for (e, f), same, other in zip(found.named.tolist(), found.same, found.other, strict=True):
        others = [g for g in range(8) if whitening.group[g] not in (whitening.group[e], whitening.group[f])]
        units = [at[t, g] / np.linalg.norm(at[t, g]) for t in range(3) for g in others]
        moment = np.mean([np.outer(u, u) for u in units], 0) + RIDGE / 4 * np.eye(4)
        sizes, axes = np.linalg.eigh(moment)
        root = axes @ np.diag(sizes**-0.5) @ axes.T
        # Whitened vectors are kept in float32.
        assert same == pytest.approx(np.mean([reference.cos2(root @ at[t, e], root @ at[t, f]) for t in range(3)]), rel=1e-5)
        apart = [reference.cos2(root @ at[t, e], root @ at[s, f]) for t, s in permutations(range(3), 2)]
        assert other == pytest.approx(np.mean(apart), rel=1e-5)


def test_bits_do_not_depend_on_threads():
    from simgap.threads import pool

    rng = np.random.default_rng(1)
    data = torch.from_numpy(rng.standard_normal((50, 4, 6), np.float32))
    routing, there = np.argsort(rng.random((50, 9)), 1)[:, :4], np.ones((50, 4), bool)
    entries, pairs = entries_of(routing, there, 9), TokenPairs.of(routing, there, 9)
    results = []
    for workers in (1, 2):
        with pool(workers) as (task_map, _):
            (found,) = Whitening.of(data, entries, task_map).other_tokens(data, [(pairs, (None,))], task_map=task_map)
            results.append(found.same)
    assert (results[0] == results[1]).all()


def test_meeting_adds_nothing_for_independent_experts():
    # Half of the tokens are repeated. The control: a share of the vectors that experts have in common on a token.
    gains = {0.0: [], 0.5: []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        experts, x = rng.standard_normal((8, 16, 8)), rng.standard_normal((32, 8))
        common = rng.standard_normal((64, 1, 16)) * 8**0.5
        h = np.einsum("edf,nf->ned", experts, np.concatenate([x, x]))
        routing, there, documents = np.tile(np.arange(8), (64, 1)), np.ones((64, 8), bool), np.arange(64) % 32
        for share, found in gains.items():
            data, pairs = torch.from_numpy(h + share * common), TokenPairs.of(routing, there, 8)
            (other,) = Whitening.of(data, entries_of(routing, there, 8)).other_tokens(data, [(pairs, (None,))], documents)
            found.append(other.over_pairs(other.gains))
    for share, values in gains.items():
        z = np.mean(values) / (np.std(values, ddof=1) / 60**0.5)
        assert (abs(z) < 5) == (share == 0.0), (share, z)


def test_whitening_by_the_same_vectors_is_no_null():
    # Half of the tokens are one: law T4's counterexample.
    by_others, by_themselves = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        experts, x = rng.standard_normal((8, 32, 32)), rng.standard_normal((200, 32))
        x[:100] = x[0]
        routing, there = np.argsort(rng.random((200, 8)), 1)[:, :4], np.ones((200, 4), bool)
        h = np.einsum("nkdf,nf->nkd", experts[routing], x)
        data, pairs = torch.from_numpy(h), TokenPairs.of(routing, there, 8)
        (found,) = Whitening.of(data, entries_of(routing, there, 8)).other_tokens(data, [(pairs, (None,))])
        by_others.append(found.over_pairs(found.gains))
        units = (h / np.linalg.norm(h, axis=-1, keepdims=True)).reshape(-1, 32)
        root = np.linalg.inv(np.linalg.cholesky(units.T @ units / len(units) + RIDGE / 32 * np.eye(32)))
        same = other_tokens(torch.from_numpy(h @ root.T), pairs)
        by_themselves.append(same.over_pairs(same.gains))
    for values, unbiased in ((by_others, True), (by_themselves, False)):
        z = np.mean(values) / (np.std(values, ddof=1) / 30**0.5)
        assert (abs(z) < 5) == unbiased, z


def test_too_few_vectors_are_named():
    entries = entries_of(np.tile(np.arange(8), (6, 1)), np.ones((6, 8), bool), 8)
    assert why_not(entries, 12) == ""
    assert why_not(entries, 16) == "24 vectors of other experts are 1.5 to a dimension, and it takes 2"
