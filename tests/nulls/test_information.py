"""How often labels that say nothing are called informative: by documents as often as they should, by tokens nearly always."""

import dataclasses
import math

import numpy as np
import pytest

import simgap as sg
from simgap.metrics.information import mutual_information
from simgap.nulls import information
from simgap.nulls.information import reordered

TABLES, DRAWS, DOCUMENTS = 100, 19, 20


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(information, "MOST_DRAWS", 99)


def table(rng, share):
    """Routing and labels of documents of 2 to 30 tokens that know nothing of each other, each alike within a document."""
    documents = np.repeat(np.arange(DOCUMENTS), rng.integers(2, 30, DOCUMENTS))
    scores = rng.gumbel(size=(len(documents), 6)) + rng.standard_normal((DOCUMENTS, 6))[documents]
    if share:
        shares = rng.dirichlet(np.full(3, 0.5), DOCUMENTS)[documents]
        labels = (rng.random((len(documents), 1)) > shares.cumsum(1)[:, :2]).sum(1)
    else:
        labels = rng.integers(0, 3, DOCUMENTS)[documents]
    return np.argsort(-scores, 1)[:, :2], labels[:, None], documents


def end_to_end(documents, number):
    """Whole documents of labels in another order, one after the other, whatever the documents of the tokens."""
    order = np.random.default_rng(number).permutation(documents[-1] + 1)
    return np.concatenate([np.flatnonzero(documents == each) for each in order])


def rate(of, share, level=0.1):
    """How often p, the share of orders that give as much, is at most the level."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(TABLES):
        indices, labels, documents = table(rng, share)
        value = mutual_information(indices, labels)[0]
        drawn = [mutual_information(indices, labels[of(documents, number)])[0] for number in range(DRAWS)]
        called += (1 + sum(one >= value - 1e-12 for one in drawn)) / (DRAWS + 1) <= level
    return called / TABLES


ERROR = math.sqrt(0.1 * 0.9 / TABLES)


def by_document(documents, number):
    return reordered(len(documents), documents, number)


def test_documents_of_one_label_are_called_at_the_level():
    """Within 5 sigma on either side, of 100 tables. Twins: tokens one by one, and labels end to end, which split between documents."""
    assert abs(rate(by_document, share=False) - 0.1) < 5 * ERROR
    assert rate(lambda documents, number: reordered(len(documents), None, number), share=False) > 0.8
    assert rate(end_to_end, share=False) > 0.1 + 5 * ERROR


def test_documents_of_several_labels_are_called_no_more_often():
    """Labels that a longer document gets over again repeat: fewer are called."""
    assert rate(by_document, share=True) < 0.1 + 5 * ERROR


def test_a_document_gets_the_labels_of_one_other():
    documents = np.array([5, 0, 0, 5, 5, 2, 5]) // 2
    numbers = np.unique(documents, return_inverse=True)[1]
    for number in range(8):
        source = reordered(7, numbers, number)
        for own in range(3):
            given = source[numbers == own]
            (of,) = set(numbers[given].tolist())
            its = np.flatnonzero(numbers == of)
            assert given.tolist() == np.resize(its, len(given)).tolist()
    assert sorted(reordered(7, None, 0).tolist()) == list(range(7))


def arrays(n=600):
    rng = np.random.default_rng(1)
    routing = np.argsort(rng.random((n, 6)), 1)[:, :2]
    return rng, routing


def test_labels_that_make_the_routing_are_seen():
    rng, routing = arrays()
    asked = {"routing": routing, "quantities": "mutual_information domain"}
    labels = {"domain": routing[:, 0] // 3}
    found = sg.measure_arrays(labels=labels, documents=np.arange(600) // 3, **asked)["mutual_information domain"]
    assert found.p < 1e-3
    assert "more than labels on other tokens, by whole documents, give" in str(found)
    nothing = sg.measure_arrays(labels={"domain": rng.integers(0, 4, 600)}, **asked)["mutual_information domain"]
    # A multiple of 0 says nothing.
    assert (nothing.excess, nothing.null == pytest.approx(0, abs=2e-4)) == (None, True)
    assert nothing.p > 1e-3


def test_few_documents_have_no_law_beyond_their_orders(monkeypatch):
    """Six documents, more and more of the second label and of the second expert: one order of 720 does as much, 99 draws may miss it, and a
    law of them would go on. Twin: without that bound."""
    documents, place = np.repeat(np.arange(6), 60), np.tile(np.arange(60), 6)
    second = (place < 12 * documents).astype(np.int64)
    asked = {"labels": {"domain": second}, "documents": documents, "quantities": "mutual_information domain"}
    p = sg.measure_arrays(routing=second[:, None], **asked)["mutual_information domain"].p
    assert p >= 2 / 100
    monkeypatch.setattr(information, "FEWEST_UNITS", 2)
    assert sg.measure_arrays(routing=second[:, None], **asked)["mutual_information domain"].p < 1 / 720


def test_two_traces_share_by_their_loads():
    """Experts 0 and 1 are preferred by both: by chance they share more than k/E, and the law knows it."""
    rng = np.random.default_rng(2)
    one, other = (np.argsort(rng.gumbel(size=(800, 6)) - np.arange(6), 1)[:, 4:] for _ in range(2))
    found = sg.measure_arrays(routing=one, labels={"trace": other}, metrics="information")["router_saturation"]
    share, inclusion = (np.bincount(each.ravel(), minlength=6) / 800 for each in (one, other))
    assert found.null == pytest.approx((share * inclusion).sum() / 2)
    assert found.p > 1e-3
    assert abs(found.mean - 2 / 6) > 0.1
    assert sg.measure_arrays(routing=one, labels={"trace": one[:, ::-1]}, metrics="information")["router_saturation"].p < 1e-3


def test_what_arrays_have_no_null_of():
    rng, routing = arrays(50)
    asked = {"labels": {"domain": rng.integers(0, 2, 50)}, "quantities": "mutual_information domain"}
    one = sg.measure_arrays(routing=routing, documents=np.zeros(50, int), **asked)["mutual_information domain"]
    assert (one.null, one.why) == (None, "all tokens are of one document")
    alike = sg.measure_arrays(routing=np.zeros((50, 1), int), n_experts=2, **asked)["mutual_information domain"]
    assert (alike.null, alike.why) == (None, "labels on other tokens change nothing here")
    margin = sg.measure_arrays(routing=routing, scores=rng.random((50, 6)), quantities="gate_margin")["gate_margin"]
    assert margin.why.startswith("no law: scores are in a router's own units")


def test_untrained_layers():
    """A router that reads tokens tells clusters apart untrained; one that does not is at 0 (law I1)."""
    inputs = sg.InputSpec(kind="clusters", n_clusters=3)
    spec = sg.LayerSpec(d_model=8, d_ff=2, n_experts=5, top_k=2, inputs=inputs)
    asked = {"tokens": 200, "quantities": "mutual_information domain"}
    linear = sg.predict(spec, trials=2, **asked)["mutual_information domain"]
    assert (linear.kind, linear.mean > 0.05) == ("simulated", True)
    blind = sg.measure(dataclasses.replace(spec, router=sg.RouterSpec("uniform")), trials=100, **asked)["mutual_information domain"]
    assert abs(blind.mean) < 5 * blind.sem
    # The twin: without its bias, 3 * 2/(2 * 400).
    assert abs(blind.mean + 3 * 2 / 800) > 5 * blind.sem
