"""Other tokens beside signs: what is asked for, what is refused, what misleads and is said."""

import numpy as np
import pytest

import simgap as sg
from simgap.theory.other_tokens import least_p


def layer(seed, experts=8, k=2, n=600, d=24, bias=0.0, sizes=0.0):
    rng = np.random.default_rng(seed)
    routing = np.argsort(rng.random((n, experts)), 1)[:, :k]
    x = rng.standard_normal((n, d)) * np.exp(sizes * rng.standard_normal((n, 1)))
    matrices = rng.standard_normal((experts, d, d)) / d**0.5
    return np.einsum("nkdf,nf->nkd", matrices[routing], x) + bias * rng.standard_normal(d), routing


def test_it_stands_beside_signs():
    vectors, routing = layer(0)
    found = sg.token_mso(vectors, routing=routing)
    (second,) = found.beside
    assert second.name == "other_token"
    assert second.law == "T2"
    assert abs(second.z) < 5
    assert second.null == pytest.approx(1 / 24, rel=0.1)
    assert found.elsewhere == pytest.approx(second.null / found.null)
    assert "independent experts, on other tokens of like size, each its own document" in str(found)
    assert sg.token_mso(vectors).beside == ()


def test_documents_and_strata_are_other_tokens():
    vectors, routing = layer(1, bias=2.0)
    documents = np.arange(600) // 50
    by_document = sg.token_mso(vectors, routing=routing, documents=documents)
    assert "of other documents" in by_document.beside[0].supposes
    assert by_document.beside[0].null != sg.token_mso(vectors, routing=routing).beside[0].null
    # Any numbers do, in the shape of the tokens.
    shaped = sg.token_mso(vectors.reshape(30, 20, 2, 24), routing=routing.reshape(30, 20, 2), documents=(7 - documents).reshape(30, 20))
    assert shaped.beside[0].null == pytest.approx(by_document.beside[0].null, rel=1e-12)
    strata = sg.token_mso(vectors, routing=routing, strata=np.arange(600) % 3)
    assert strata.beside[0].null != by_document.beside[0].null


def test_a_document_that_is_repeated_is_one_document():
    # 30 tokens, twenty times over: each by itself, a token's other tokens are itself.
    vectors, routing = layer(2, n=30, k=4, experts=5)
    vectors, routing = np.tile(vectors, (20, 1, 1)), np.tile(routing, (20, 1))
    plain = sg.token_mso(vectors, routing=routing)
    assert "95% of the tokens repeat others" in plain.beside[0].doubt
    assert plain.beside[0].doubt in str(plain)
    apart = sg.token_mso(vectors, routing=routing, documents=np.tile(np.arange(30), 20))
    assert apart.beside[0].null == pytest.approx(sg.token_mso(vectors[:30], routing=routing[:30]).beside[0].null, rel=0.1)


def test_zero_vectors_repeat_nothing():
    vectors, routing = layer(11, k=3)
    vectors[::2, 0] = 0
    assert sg.token_mso(vectors, routing=routing).beside[0].doubt == ""


def test_massive_tokens_are_said():
    vectors, routing = layer(3)
    vectors[::100] *= 100
    assert "1.0% of the tokens are more than 10 times the median in size" in sg.token_mso(vectors, routing=routing).beside[0].doubt
    masked = sg.token_mso(vectors, routing=routing, mask=np.arange(600) % 100 != 0)
    assert masked.beside[0].doubt == ""


def test_tokens_of_unequal_size_are_not_taken_for_meeting():
    said = []
    for seed in range(20):
        vectors, routing = layer(seed, n=1500, bias=1.0, sizes=1.0)
        found = sg.token_mso(vectors, routing=routing)
        said.append(found.verdict.startswith("more than"))
    # At the level of the second null, 0.01: 5 sigma of a binomial number of 20.
    assert sum(said) <= 0.2 + 5 * 0.2**0.5, said


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"documents": np.zeros(600, int)}, "all tokens are of one document"),
        ({"strata": np.arange(600)}, "no pair of experts meets on two tokens of different documents and one stratum"),
    ],
)
def test_signs_alone_are_named(change, why):
    vectors, routing = layer(4)
    found = sg.token_mso(vectors, routing=routing, **change)
    assert found.beside == ()
    assert found.verdict == f"nothing to explain at the level 0.001, by signs alone: {why}"
    biased = sg.token_mso(vectors + 5, routing=routing, **change)
    assert biased.verdict.startswith("cannot tell")
    assert biased.verdict.endswith(why)


def test_too_few_draws_do_not_say_that_nothing_is_there():
    vectors, routing = layer(8)
    vectors[:, 1] = vectors[:, 0]
    for found in (
        sg.token_mso(vectors, routing=routing, draws=99),
        sg.token_mso(vectors, draws=99),
        sg.weight_mso(np.stack([vectors[0, 0]] * 6), draws=99),
        sg.weight_mso(np.stack([vectors[:20, 0]] * 6), units=1, draws=99),
    ):
        assert found.p == 0.01
        assert found.verdict == "cannot tell at the level 0.001: 99 draws give no p below 0.01; pass draws=999 or more"
    assert sg.token_mso(vectors, routing=routing, draws=999).verdict.startswith("more than")
    # Where draws exceed it, so few say enough.
    assert sg.token_mso(*layer(8)[:1], routing=layer(8)[1], draws=99).verdict == "nothing to explain at the level 0.001"


def test_whether_tokens_are_independent_is_in_the_verdict():
    vectors, routing = layer(9, n=1500)
    vectors[:, 1] += vectors[:, 0]
    said = "; tokens count as independent: pass documents= where they are not"
    assert sg.token_mso(vectors, routing=routing).verdict.endswith(said)
    assert not sg.token_mso(vectors, routing=routing, documents=np.arange(1500)).verdict.endswith(said)


def test_more_experts_than_a_table_holds_are_named(monkeypatch):
    monkeypatch.setattr("simgap.nulls.other_token.MOST_EXPERTS", 7)
    vectors, routing = layer(10)
    assert "more than 7 experts, whose pairs are not held in one table" in sg.token_mso(vectors, routing=routing).verdict


def test_few_experts_are_named():
    vectors, routing = layer(5, experts=4, bias=5.0)
    found = sg.token_mso(vectors, routing=routing)
    assert found.beside == ()
    assert found.verdict.endswith("4 experts meet, and fewer than 5 say nothing of how experts stray")
    five = sg.token_mso(*[layer(5, experts=5, bias=5.0)[0]], routing=layer(5, experts=5, bias=5.0)[1])
    assert five.verdict.endswith("so few experts give no p below 0.03")
    assert least_p(5) > 0.01 > least_p(7)


def test_equal_tokens_say_nothing_more():
    vectors, routing = layer(6, n=1, k=5, experts=5)
    found = sg.token_mso(np.tile(vectors, (40, 1, 1)), routing=np.tile(routing, (40, 1)))
    (second,) = found.beside
    # The same on every token: nothing is added by meeting.
    assert second.z == pytest.approx(0, abs=1e-6) or abs(second.excess - 1) < 1e-9
    assert second.p > 0.01
    assert not found.verdict.startswith("more than")
    assert "repeat others" in second.doubt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": np.arange(599)}, r"^documents: expected \(600,\) whole numbers, one to a token, got shape \(599,\)"),
        ({"strata": np.zeros((600, 2), int)}, r"^strata: expected \(600,\) whole numbers, one to a token, got shape \(600, 2\)"),
        ({"documents": np.arange(600) / 2}, r"^documents: "),
        ({"routing": None, "documents": np.arange(600)}, r"^routing: expected \(\.\.\., k\) integers beside documents and strata"),
    ],
)
def test_what_is_refused(change, message):
    vectors, routing = layer(7)
    with pytest.raises(ValueError, match=message):
        sg.token_mso(vectors, **({"routing": routing} | change))
