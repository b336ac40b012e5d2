"""Which experts meet, against loops."""

import itertools
import tracemalloc

import numpy as np

from simgap.overlaps import TokenPairs
from simgap.overlaps.token_pairs import _shares


def layer(seed, n=40, k=3, width=5, experts=6):
    rng = np.random.default_rng(seed)
    routing = np.argsort(rng.random((n, experts)), 1)[:, :k]
    there = rng.random((n, k)) < 0.8
    return rng.standard_normal((n, k, width)), routing, there


def brute_meetings(routing, there):
    return {
        (*sorted((int(slots[i]), int(slots[j]))), t)
        for t, slots in enumerate(routing)
        for i, j in itertools.combinations(range(len(slots)), 2)
        if there[t, i] and there[t, j]
    }


def test_every_meeting_once_and_in_groups():
    _, routing, there = layer(0)
    pairs = TokenPairs.of(routing, there, 6)
    found = [(*pairs.names(at), int(pairs.tokens[at])) for at in range(len(pairs.tokens))]
    assert len(found) == len(set(found))
    assert set(found) == brute_meetings(routing, there)
    for (e, f, t), (i, j) in zip(found, pairs.slots.tolist(), strict=True):
        assert (routing[t, i], routing[t, j]) == (e, f)
    names = [[pairs.names(at) for at in part] for part in pairs.groups(4)]
    assert all(len(set(group)) == 1 and len(group) <= 4 for group in names)
    assert [name for group in names for name in group] == [(e, f) for e, f, _ in found]


def test_without_names_all_are_one_group():
    _, _, there = layer(1)
    pairs = TokenPairs.of(None, there)
    assert {pairs.names(at) for at in range(len(pairs.tokens))} == {(0, 0)}
    assert len(pairs.tokens) == sum(m * (m - 1) // 2 for m in there.sum(1))
    assert [len(part) for part in pairs.groups(10**6)] == [len(pairs.tokens)]


def test_a_sample_is_part_of_all(monkeypatch):
    monkeypatch.setattr("simgap.overlaps.token_pairs.STRETCH", 7)
    _, routing, there = layer(2)
    some = TokenPairs.of(routing, there, 6, most=20)
    assert len(some.tokens) == 20
    found = {(*some.names(at), int(some.tokens[at])) for at in range(20)}
    assert len(found) == 20
    assert found <= brute_meetings(routing, there)


def test_meetings_are_counted_of_all_pairs_though_few_are_drawn():
    rng = np.random.default_rng(7)
    routing = rng.random((90, 6)).argsort(1)[:, :3]
    there = rng.random((90, 3)) < 0.8
    expected = np.zeros((6, 6), int)
    for left, right, _ in brute_meetings(routing, there):
        expected[left, right] += 1
    assert (TokenPairs.of(routing, there, 6, 10, counted=True).met == expected).all()
    assert (TokenPairs.of(routing, there, 6, counted=True).met == expected).all()
    assert TokenPairs.of(routing, there, 6).met is None


def test_every_pair_is_drawn_as_often():
    """Of each stretch and two columns the whole part of its share, and one more by chance; 5 sigma, and a control that takes the first."""
    generator, counts = np.random.default_rng(0), [3, 1, 0, 5, 2]
    found = np.array([_shares(counts, 4, generator) for _ in range(4000)])
    assert (found.sum(1) == 4).all()
    assert (found <= counts).all()
    expected = np.array(counts) * 4 / 11
    # One more or not varies by a quarter at most.
    within = 5 * np.sqrt(0.25 / 4000)
    assert (abs(found.mean(0) - expected) <= within).all()
    assert not (abs(np.array([3, 1, 0, 0, 0]) - expected) <= within).all()


def test_many_tokens_are_not_held():
    """Of 3 million pairs 1,000 are drawn: all of them, three numbers each, would be 72 MB."""
    there = np.ones((1 << 20, 3), bool)
    routing = np.tile(np.arange(3, dtype=np.int64), (1 << 20, 1))
    TokenPairs.of(routing[:10], there[:10], 3, 10)
    tracemalloc.start()
    TokenPairs.of(routing, there, 3, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The places of one stretch of tokens, twice.
    assert peak < 40 << 20
