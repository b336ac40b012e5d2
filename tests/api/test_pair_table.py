"""The table of pairs: what it holds, which pairs stand out, and how seldom others do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

import simgap as sg
from simgap.api.pair_table import FEWEST_PAIRS, FEWEST_TOKENS, PairTable
from simgap.stats import benjamini_yekutieli
from tests import reference


def layer(seed, experts=16, k=2, n=800, d=32, f=64, scale=1.0, alike=()):
    rng = np.random.default_rng(seed)
    up, down = rng.standard_normal((experts, f, d)), rng.standard_normal((experts, d, f))
    for a, b in alike:
        up[b], down[b] = up[a] + 0.2 * up[b], down[a] + 0.2 * down[b]
    x = rng.standard_normal((n, d))
    routing = np.argsort(-(x @ rng.standard_normal((d, experts))), 1)[:, :k]
    vectors = np.empty((n, k, d))
    for e in range(experts):
        t, slot = np.nonzero(routing == e)
        vectors[t, slot] = np.maximum(x[t] @ up[e].T, 0) @ down[e].T
    return (vectors * scale).astype(np.float32), routing


def table(overlap, null, spread=None):
    overlap = np.asarray(overlap, float)
    count = len(overlap)
    spread = np.ones(count) if spread is None else spread
    none = np.full(count, math.nan)
    named = np.stack([np.arange(count), np.arange(count) + 1], 1)
    return PairTable(named, np.zeros(count, np.int64), overlap, np.full(count, float(null)), spread, none, np.full((3, count), math.nan))


def test_weights_pair_by_pair():
    weights = np.random.default_rng(0).standard_normal((5, 12))
    weights[2] = 0
    found = sg.weight_mso(weights)
    frame = found.by_pair()
    kept = [0, 1, 3, 4]
    expected = [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :]]
    assert list(zip(frame["expert"], frame["other"], strict=True)) == expected
    assert frame["overlap"].to_numpy() == pytest.approx([reference.cos2(weights[a], weights[b]) for a, b in expected], rel=1e-12)
    assert frame["null"].to_numpy() == pytest.approx([reference.sign_null([weights[a], weights[b]])[0] for a, b in expected], rel=1e-12)
    assert frame["overlap"].mean() == pytest.approx(found.mean, rel=1e-12)
    assert frame["null"].mean() == pytest.approx(found.null, rel=1e-12)
    # A chi-square of one degree of freedom, times the null.
    chi_square = scipy.stats.chi2(1).sf(frame["overlap"] / frame["null"])
    assert frame["own_p"].to_numpy() == pytest.approx(chi_square, rel=1e-9)
    assert frame["conditional_error"].isna().all()


def test_weights_with_units_have_their_second_null_pair_by_pair():
    weights = np.random.default_rng(7).standard_normal((6, 8, 5))
    weights[4] = weights[1] + 0.1 * weights[4]
    weights[2] = 0
    found = sg.weight_mso(weights, units=1)
    frame = found.by_pair()
    assert len(frame) == 10
    assert frame["renumbered_null"].mean() == pytest.approx(found.beside[0].null, rel=1e-12)
    alike = frame[(frame["expert"] == 1) & (frame["other"] == 4)].iloc[0]
    assert alike["renumbered_p"] == frame["renumbered_p"].min() < 1e-3
    assert "renumbered_p" not in sg.weight_mso(weights).by_pair()


def test_means_have_their_own_numbers():
    rng = np.random.default_rng(1)
    routing = np.array([[2, 9], [9, 4], [4, 2]] * 5)
    frame = sg.mean_mso(rng.standard_normal((15, 2, 6)), routing).by_pair()
    assert frame[["expert", "other"]].to_numpy().tolist() == [[2, 4], [2, 9], [4, 9]]


def test_tokens_pair_by_pair():
    vectors, routing = layer(2, experts=6, n=200)
    found = sg.token_mso(vectors, routing=routing * 7)
    frame = found.by_pair()
    assert set(frame["expert"]) | set(frame["other"]) == set((np.arange(6) * 7).tolist())
    for row in frame.itertuples():
        pair = {row.expert // 7, row.other // 7}
        own = [t for t in range(200) if set(routing[t].tolist()) == pair]
        assert row.tokens == len(own)
        assert row.overlap == pytest.approx(np.mean([reference.cos2(*vectors[t].astype(float)) for t in own]), rel=1e-6)
    assert (frame["tokens"] @ frame["overlap"]) / frame["tokens"].sum() == pytest.approx(found.mean, rel=1e-9)
    assert (frame["tokens"] @ frame["null"]) / frame["tokens"].sum() == pytest.approx(found.beside[0].null, rel=1e-9)
    # Under signs a pair's p is uniform, about: none of 15 is tiny, and not all are large.
    assert frame["own_p"].between(1e-4, 1).all()
    assert frame["own_p"].min() < 0.5


@pytest.mark.parametrize("scale", [1.0, np.r_[np.full(4, 10.0), np.ones(28)]], ids=["round", "outliers"])
def test_alike_experts_are_the_first_rows(scale):
    vectors, routing = layer(3, n=2400, alike=[(2, 11)], scale=scale)
    found = sg.token_mso(vectors, routing=routing)
    first = found.top(1)
    assert first[["expert", "other"]].to_numpy().tolist() == [[2, 11]]
    assert first["p_adjusted"][0] < 0.01
    assert "experts 2 and 11 stand out from all pairs" in found.verdict
    assert "experts" not in sg.token_mso(layer(3, n=2400, scale=scale)[0], routing=routing).verdict


def test_few_others_stand_out():
    said = sum(
        bool(sg.token_mso(vectors, routing=routing).table.standing_out(0.05)) for vectors, routing in (layer(s, n=400) for s in range(60))
    )
    # At a rate of 0.05 of 60: 5 sigma.
    assert said <= 3 + 5 * 3**0.5
    # Judged by a normal law, whose tail is thinner than that of overlaps, more would.
    naive = sum(
        bool((benjamini_yekutieli(scipy.stats.norm.sf(frame["difference"] / frame["conditional_error"])) <= 0.05).any())
        for frame in (sg.token_mso(vectors, routing=routing).by_pair() for vectors, routing in (layer(s, n=400) for s in range(60)))
    )
    assert naive > 3 + 5 * 3**0.5


def test_pairs_that_meet_often_do_not_stand_out_for_that():
    # Loads by a power law in a rotated space: the gain of two fixed experts does not shrink with their tokens.
    said = 0
    for seed in range(40):
        rng = np.random.default_rng([9, seed])
        routing = np.argsort(-(rng.gumbel(size=(600, 16)) - np.log(np.arange(1, 17))), 1)[:, :3]
        turn = np.linalg.qr(rng.standard_normal((24, 24)))[0] * np.arange(1, 25) ** -0.5
        matrices = rng.standard_normal((16, 24, 24))
        vectors = np.einsum("nkdf,nf->nkd", matrices[routing], np.maximum(rng.standard_normal((600, 24)), 0)) @ turn.T
        said += bool(sg.token_mso(vectors, routing=routing).table.standing_out(0.05))
    # At a rate of 0.05 of 40: 5 sigma.
    assert said <= 2 + 5 * 2**0.5


def test_scores_are_robust():
    rng = np.random.default_rng(4)
    plain = rng.standard_normal(500)
    planted = plain.copy()
    planted[7] = 1e6
    assert np.delete(table(planted, 0).score, 7) == pytest.approx(np.delete(table(plain, 0).score, 7), abs=0.02)
    assert table(planted, 0).standing_out(0.01) == [(7, 8)]
    assert np.median(np.abs(table(plain, 0).score)) == pytest.approx(1 / 1.4826, rel=1e-9)


def test_pairs_on_few_tokens_are_not_judged():
    rng = np.random.default_rng(8)
    scores = rng.standard_normal(200)
    scores[[3, 4]] = 1e6
    plain = table(scores, 0)
    few = replace(plain, count=np.where(np.arange(200) == 3, FEWEST_TOKENS - 1, FEWEST_TOKENS))
    assert few.standing_out(0.01) == [(4, 5)]
    assert np.isnan(few.p[3])
    assert np.isnan(few.frame()["p_adjusted"][3])
    assert few.top(2)["expert"].tolist() == [3, 4]


def test_what_says_nothing_is_not_judged():
    few = table(np.r_[np.zeros(FEWEST_PAIRS - 2), 1e9], 0)
    assert np.isnan(few.p).all()
    assert few.standing_out(0.5) == []
    equal = table(np.full(40, 0.3), 0.1)
    assert not equal.score.any()
    assert equal.standing_out(0.5) == []


def test_no_table_says_why():
    with pytest.raises(ValueError, match=r"^pairs: no table of them: null='law' has one, of vectors on tokens with routing="):
        sg.token_mso(np.random.default_rng(5).standard_normal((20, 2, 4))).by_pair()
    with pytest.raises(ValueError, match=r"^n: expected a whole number, at least 1, got 0"):
        sg.weight_mso(np.random.default_rng(5).standard_normal((4, 4))).top(0)


def test_adjusted_p_against_loops():
    rng = np.random.default_rng(6)
    p = np.r_[rng.random(30) ** 3, math.nan]
    known = p[:30]
    harmonic = sum(1 / i for i in range(1, 31))
    expected = [min(1.0, min(30 * harmonic * q / (1 + sum(known < q)) for q in known if q >= one)) for one in known]
    assert benjamini_yekutieli(p)[:30] == pytest.approx(expected, rel=1e-12)
    assert math.isnan(benjamini_yekutieli(p)[30])


@pytest.mark.parametrize("experts", [5, 8])
def test_few_pairs_know_their_tail_badly(experts):
    # Of 10 and 28 pairs of independent vectors some stands out no more often than is said. The control: as if their median were known.
    layers, width = 1500, 200
    said = known = 0
    for seed in range(layers):
        vectors = np.random.default_rng([10, experts, seed]).standard_normal((experts, width))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        found = PairTable.of_vectors(np.arange(experts), (vectors @ vectors.T) ** 2, np.full((experts, experts), 1 / width))
        said += bool(found.standing_out(0.01))
        scores = np.sort(found.score)
        start, middle = (scores[round(share * (len(scores) - 1))] for share in (0.5, 0.75))
        p = np.where(scores > start, 0.5 * 2 ** (-(scores - start) / (1.5 * (middle - start))), 1.0)
        known += bool((benjamini_yekutieli(p) <= 0.01).any())
    limit = layers * 0.01 + 5 * (layers * 0.01 * 0.99) ** 0.5
    assert said <= limit < known
