"""One expert on different tokens, and the mean of all, against loops."""

from itertools import permutations

import numpy as np
import pytest
import torch

from simgap.overlaps import common_mean, entries_of, other_tokens, own_of
from tests import reference


def layer(seed, n, experts=6, d=4, mean=0.0):
    rng = np.random.default_rng(seed)
    routing = np.argsort(rng.random((n, experts)), 1)[:, :5]
    return rng.standard_normal((n, 5, d)) + mean, routing, rng.random((n, 5)) < 0.8


def test_own_is_a_mean_over_different_documents():
    # Three tokens of three documents: the two partners of each are all that there are.
    vectors, routing, _ = layer(0, 3, experts=5)
    there = np.ones((3, 5), bool)
    found = own_of(other_tokens(torch.from_numpy(vectors), entries_of(routing, there, 5), np.arange(3)))
    for e in range(5):
        rows = [vectors[t, list(routing[t]).index(e)] for t in range(3)]
        assert found[e] == pytest.approx(np.mean([reference.cos2(rows[i], rows[j]) for i, j in permutations(range(3), 2)]), rel=1e-12)
    one_document = own_of(other_tokens(torch.from_numpy(vectors), entries_of(routing, there, 5), np.zeros(3, int)))
    assert np.isnan(one_document).all()


@pytest.mark.parametrize("full", [True, False])
def test_the_common_mean_is_of_four_experts_and_four_documents(full):
    vectors, routing, there = layer(1, 4)
    there = np.ones_like(there) if full else there
    found, without = common_mean(torch.from_numpy(vectors), entries_of(routing, there, 6), np.arange(4))
    units = {(t, routing[t, s]): vectors[t, s] / np.linalg.norm(vectors[t, s]) for t in range(4) for s in range(5) if there[t, s]}
    count = [sum(e == named for _, named in units) for e in range(6)]

    def mean_without(left_out):
        above = below = 0.0
        for e, f, g, h in permutations([e for e in range(6) if e != left_out], 4):
            for a, b, c, d in permutations(range(4)):
                if {(a, e), (b, f), (c, g), (d, h)} <= units.keys():
                    weight = count[e] * count[f] * count[g] * count[h]
                    above += weight * (units[a, e] @ units[b, f]) * (units[c, g] @ units[d, h])
                    below += weight
        return above / below

    assert found == pytest.approx(mean_without(None), rel=1e-9)
    assert without == pytest.approx([mean_without(e) for e in range(6)], rel=1e-9)


def test_the_common_mean_is_unbiased():
    # |m|^4 of unit vectors (1 + noise): from many draws of few tokens, beside the square of one large mean.
    rng = np.random.default_rng(2)
    many = rng.standard_normal((200_000, 4)) + 0.5
    m = (many / np.linalg.norm(many, axis=1, keepdims=True)).mean(0)
    found = []
    for seed in range(200):
        vectors, routing, there = layer(seed, 40, mean=0.5)
        found.append(common_mean(torch.from_numpy(vectors), entries_of(routing, there, 6), np.arange(40))[0])
    apart = np.array(found) - (m @ m) ** 2
    assert abs(apart.mean()) < 5 * apart.std() / len(apart) ** 0.5
    # Two experts alone, each with a mean of its own in a space of few directions, would say otherwise.
    assert abs(apart.mean() - 0.05) > 5 * apart.std() / len(apart) ** 0.5


def test_own_means_of_experts_are_no_common_mean():
    found, twin = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        routing = np.tile(np.arange(6), (24, 1))
        vectors = rng.standard_normal((24, 6, 4)) + 3 * rng.standard_normal((6, 4)) * np.array([3, 1, 1, 1])
        found.append(common_mean(torch.from_numpy(vectors), entries_of(routing, np.ones((24, 6), bool), 6), np.arange(24))[0])
        m = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).mean(0)
        twin.append(np.mean([(m[e] @ m[f]) ** 2 for e in range(6) for f in range(e)]))
    assert abs(np.mean(found)) < 5 * np.std(found) / len(found) ** 0.5
    assert np.mean(twin) > 5 * np.std(twin) / len(twin) ** 0.5


def test_too_few_documents_have_no_common_mean():
    vectors, routing, there = layer(3, 9)
    found, without = common_mean(torch.from_numpy(vectors), entries_of(routing, there, 6), np.arange(9) % 3)
    assert np.isnan(found)
    assert np.isnan(without).all()


def test_entries_are_sampled_evenly():
    _, routing, there = layer(4, 300)
    entries = entries_of(routing, there, 6, 100)
    assert len(entries.tokens) == 100
    assert (np.diff(entries.named[:, 0]) >= 0).all()
    assert (routing[entries.tokens, entries.slots[:, 0]] == entries.named[:, 0]).all()
    assert there[entries.tokens, entries.slots[:, 1]].all()
