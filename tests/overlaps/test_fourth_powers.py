"""Fourth powers, and sums over tokens that experts share, against loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from simgap.overlaps import TokenPairs, fourth_powers
from simgap.overlaps.fourth_powers import nonzero, token_variance
from simgap.theory.exchangeable_spread import overlap_covariance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fourth_powers(dtype, monkeypatch):
    monkeypatch.setattr(fourth_powers, "AT_ONCE", 7)
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 30))).to(dtype)
    vectors[2] = 0
    if dtype == torch.float64:
        vectors[1] *= 1e200
    largest, squares, fourths = fourth_powers.fourth_powers(vectors)
    for e, row in enumerate(vectors.double().tolist()):
        top = max(abs(x) for x in row)
        assert largest[e] == top
        assert squares[e] == pytest.approx(sum((x / top) ** 2 for x in row) if top else 0, rel=1e-13)
        assert fourths[e] == pytest.approx(sum((x / top) ** 4 for x in row) if top else 0, rel=1e-13)


def test_nonzero():
    vectors = torch.zeros(5, 2, 3)
    vectors[1, 0, 2] = -1e-30
    assert nonzero(vectors).nonzero()[0].tolist() == [1]


def loops(vectors, named):
    """The variance, token by token."""
    units, total = vectors / np.linalg.norm(vectors, axis=2, keepdims=True), 0.0
    meetings = {}
    for t, (e, f) in enumerate(named.tolist()):
        meetings.setdefault((min(e, f), max(e, f)), []).append((t, 0, 1) if e < f else (t, 1, 0))
    for met in meetings.values():
        for (t, i, j), (s, k, m) in itertools.product(met, repeat=2):
            a, b = ((units[t, x] ** 2 * units[s, y] ** 2).sum() for x, y in ((i, k), (j, m)))
            g, h = ((units[t, x] * units[s, y]).sum() ** 2 for x, y in ((i, k), (j, m)))
            total += overlap_covariance(vectors.shape[2], a, b, g, h)
    return total


def of(vectors, named):
    pairs = TokenPairs.of(named, np.ones(named.shape, bool), 4)
    return token_variance(torch.from_numpy(vectors), pairs, lambda *tables: overlap_covariance(vectors.shape[2], *tables))


def drawn(tokens, width):
    """Vectors that keep half of what they are from token to token."""
    g = np.random.default_rng(1)
    named = g.random((tokens, 4)).argsort(1)[:, :2]
    return g.standard_normal((4, width))[named] + g.standard_normal((tokens, 2, width)), named


def test_token_variance():
    vectors, named = drawn(40, 6)
    assert of(vectors, named) == pytest.approx(loops(vectors, named), rel=1e-12)
    # Tokens that share no expert spread less.
    assert loops(vectors, named) > 1.2 * sum(loops(vectors[t : t + 1], named[t : t + 1]) for t in range(40))


def test_some_tokens_stand_for_all(monkeypatch):
    """A quarter of some 330 tokens of each pair, drawn: within 5 times the spread over subsets, taken as that of a mean over them."""
    vectors, named = drawn(2000, 6)
    whole = of(vectors, named)
    monkeypatch.setattr(fourth_powers, "MOST_TOKENS", 80)
    some = of(vectors, named)
    assert some != whole
    assert some == pytest.approx(whole, rel=5 / math.sqrt(6 * 80))
