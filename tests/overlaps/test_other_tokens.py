"""Pairs of experts on a token and on others, against loops; what other tokens are, and are not."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from simgap.overlaps import TokenPairs, lengths_at, other_tokens, size_order
from simgap.overlaps.other_tokens import PARTNERS
from tests import reference


def layer(seed, n=40, k=3, width=5, experts=6):
    rng = np.random.default_rng(seed)
    routing = np.argsort(rng.random((n, experts)), 1)[:, :k]
    there = rng.random((n, k)) < 0.8
    return rng.standard_normal((n, k, width)), routing, there


def brute(vectors, routing, there, documents, order=None, strata=None, experts=6):
    """Each pair by itself: its tokens in the order of TokenPairs, or by `order` of (e, f, token), and the nearest of other documents."""
    pairs = TokenPairs.of(routing, there, experts)
    meetings = {}
    for at in range(len(pairs.tokens)):
        meetings.setdefault(pairs.names(at), []).append(at)
    found = []
    for name, own in sorted(meetings.items()):
        keyed = own if order is None else sorted(own, key=lambda at: order[at])
        same, other, kept = [], [], []
        for place, at in enumerate(keyed):
            t = pairs.tokens[at]
            alike = [i for i, one in enumerate(keyed) if strata is None or strata[pairs.tokens[one]] == strata[t]]
            others = sorted(
                (i for i in alike if documents[pairs.tokens[keyed[i]]] != documents[t]),
                key=lambda i: (abs(alike.index(i) - alike.index(place)), -i),
            )
            if not others:
                continue
            u = vectors[t, pairs.slots[at, 0]]
            right = [vectors[pairs.tokens[keyed[i]], pairs.slots[keyed[i], 1]] for i in others[:PARTNERS]]
            same.append(reference.cos2(u, vectors[t, pairs.slots[at, 1]]))
            other.append(np.mean([reference.cos2(u, v) for v in right]))
            kept.append(documents[t])
        if same:
            gains = np.subtract(same, other)
            gains = gains - gains.mean()
            error = sum(sum(g for g, d in zip(gains, kept, strict=True) if d == one) ** 2 for one in set(kept)) ** 0.5 / len(same)
            found.append((*name, len(same), np.mean(same), np.mean(other), error))
    return np.array(found)


@pytest.mark.parametrize("leading", [(40,), (5, 8)])
@pytest.mark.parametrize("case", ["tokens", "documents", "strata", "order", "one document"])
def test_against_loops(leading, case):
    vectors, routing, there = layer(3)
    rng = np.random.default_rng(4)
    documents = np.arange(40) // 7 if case == "documents" else np.zeros(40, np.int64) if case == "one document" else np.arange(40)
    strata = rng.integers(0, 3, 40) if case == "strata" else None
    pairs = TokenPairs.of(routing, there, 6)
    order = rng.standard_normal(len(pairs.tokens)) if case == "order" else None
    h = torch.from_numpy(vectors.reshape(*leading, 3, 5))
    found = other_tokens(h, pairs, documents, order, strata)
    expected = brute(vectors, routing, there, documents, order, strata)
    if case == "one document":
        assert len(found.count) == len(expected) == 0
        return
    table = np.column_stack([found.named, found.count, found.same, found.other, found.error])
    assert table == pytest.approx(expected, rel=1e-10, abs=1e-12)
    whole = found.table()
    assert whole.sum() / 2 == pytest.approx(found.over_pairs(found.gains), rel=1e-12)
    assert np.array_equal(whole, whole.T)
    assert not np.diag(whole).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_layout_and_precision(dtype):
    vectors, routing, there = layer(5, width=6)
    h = torch.from_numpy(vectors).to(dtype)
    pairs = TokenPairs.of(routing, there, 6)
    plain = other_tokens(h.double(), pairs, np.arange(40))
    for layout in (h, h.mT.contiguous().mT, torch.stack([h, h], 1)[:, 0]):
        found = other_tokens(layout, pairs, np.arange(40))
        # Half precision squares nothing in its own format: 1e-6 is float32's.
        assert found.same == pytest.approx(plain.same, rel=1e-6)
        assert found.other == pytest.approx(plain.other, rel=1e-6)


def test_as_tensor_operations(monkeypatch):
    vectors, routing, there = layer(11, n=60)
    h, pairs = torch.from_numpy(vectors), TokenPairs.of(routing, there, 6)
    plain = other_tokens(h, pairs, np.arange(60) // 3)
    # As if the vectors were on another device.
    for module in ("other_tokens", "lengths"):
        monkeypatch.setattr(sys.modules[f"simgap.overlaps.{module}"], "on_cpu", lambda vectors: False)
    found = other_tokens(h, pairs, np.arange(60) // 3)
    assert found.count.tolist() == plain.count.tolist()
    assert found.same == pytest.approx(plain.same, rel=1e-12)
    assert found.other == pytest.approx(plain.other, rel=1e-12)


def test_what_is_not_there_is_not_read():
    vectors, routing, there = layer(6)
    pairs = TokenPairs.of(routing, there, 6)
    clean = other_tokens(
        torch.from_numpy(vectors),
        pairs,
        np.arange(40),
        size_order(lengths_at(torch.from_numpy(vectors), np.arange(len(vectors)), there), pairs),
    )
    vectors[~there] = np.nan
    h = torch.from_numpy(vectors)
    found = other_tokens(h, pairs, np.arange(40), size_order(lengths_at(h, np.arange(40), there), pairs))
    assert np.array_equal(found.same, clean.same)
    assert np.array_equal(found.other, clean.other)


def test_a_zero_vector_takes_no_part():
    vectors, routing, there = layer(7)
    there[:] = True
    vectors[3, 1] = 0
    h = torch.from_numpy(vectors)
    found = other_tokens(h, TokenPairs.of(routing, there, 6), np.arange(40))
    whole = other_tokens(torch.from_numpy(layer(7)[0]), TokenPairs.of(routing, there, 6), np.arange(40))
    expert = routing[3, 1]
    touched = (found.named == expert).any(1)
    assert np.array_equal(found.count[~touched], whole.count[~touched])
    assert found.count[touched].sum() == whole.count[touched].sum() - 2


def test_the_order_is_by_the_size_of_all_but_the_right_one():
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((30, 4, 6)) * np.exp(rng.standard_normal((30, 1, 1)))
    routing = np.argsort(rng.random((30, 5)), 1)[:, :4]
    there = rng.random((30, 4)) < 0.9
    pairs = TokenPairs.of(routing, there, 5)
    found = size_order(lengths_at(torch.from_numpy(vectors), np.arange(len(vectors)), there), pairs)
    logs = np.log(np.linalg.norm(vectors, axis=2))
    for at in range(len(pairs.tokens)):
        t, own = pairs.tokens[at], pairs.slots[at]
        rest = [logs[t, j] for j in range(4) if there[t, j] and j != own[1]]
        assert found[at] == pytest.approx(np.mean(rest) if rest else 0.0, rel=1e-12)


def test_pairs_that_meet_once_say_nothing():
    found = other_tokens(torch.ones(1, 2, 3), TokenPairs.of(np.array([[0, 1]]), np.ones((1, 2), bool), 2), np.zeros(1, np.int64))
    assert found.count.size == 0


BITS = """
import numpy as np
from simgap.nulls.other_token import NO_LABELS, of_gains
from simgap.overlaps import OtherTokens
from simgap.settings import own_settings

rng = np.random.default_rng(0)
named = np.stack(np.triu_indices(257, 1), 1)
count = rng.integers(1, 9, len(named))
same, other, error = rng.random((3, len(named)))
found = OtherTokens(named, count, same, other, error, 257)
null = own_settings(of_gains)(found, NO_LABELS)
print(null.mean.hex(), null.sd.hex(), null.skew.hex(), found.over_pairs(found.gains).hex())
"""


def test_the_bits_do_not_know_how_many_threads_numpy_has():
    """numpy cuts long products by its threads: 32,896 pairs of 257 experts are long enough."""
    found = [
        subprocess.run(
            [sys.executable, "-c", BITS], env={**os.environ, "OPENBLAS_NUM_THREADS": n}, capture_output=True, text=True, check=True
        )
        for n in ("1", "2")
    ]
    assert found[0].stdout == found[1].stdout
    assert found[0].stdout.count("0x") == 4


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float64, 1e200), (torch.float64, 1e-200), (torch.float32, 1e30), (torch.float32, 1e-30)]
)
def test_sizes_of_any_scale_have_their_order(dtype, scale):
    vectors, routing, there = layer(9)
    pairs, plain = TokenPairs.of(routing, there, 6), torch.from_numpy(vectors)
    found = size_order(lengths_at((plain * scale).to(dtype), np.arange(40), there), pairs)
    # float32 rounds a norm by some 1e-7 of it.
    assert found - np.log(scale) == pytest.approx(size_order(lengths_at(plain, np.arange(40), there), pairs), abs=1e-5)
