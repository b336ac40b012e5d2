"""Labels and scores of a user's own tokens: checked by name, masked with the tokens."""

import numpy as np
import pytest

import simgap as sg
from simgap.nulls import information

RNG = np.random.default_rng(0)
ROUTING = np.stack([RNG.permutation(4)[:2] for _ in range(40)])
DOMAIN, SCORES = RNG.integers(0, 3, 40), RNG.random((40, 4))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(information, "MOST_DRAWS", 99)


def measured(labels=None, **more):
    return sg.measure_arrays(routing=ROUTING, labels=labels, metrics="information", **more)


def test_labels_of_padded_tokens_are_not_read():
    mask = np.arange(40) < 30
    domain, scores = DOMAIN.copy(), SCORES.copy()
    domain[30:], scores[30:] = 77, np.nan
    padded = measured({"domain": domain}, mask=mask, scores=scores, documents=np.arange(40) // 4)
    whole = sg.measure_arrays(
        routing=ROUTING[:30], labels={"domain": DOMAIN[:30]}, scores=SCORES[:30], documents=np.arange(30) // 4, metrics="information"
    )
    for quantity, one in whole.values.items():
        assert (padded[str(quantity)].mean, padded[str(quantity)].p) == (one.mean, one.p)


def test_names_of_labels_are_arbitrary():
    plain = measured({"domain": DOMAIN})["mutual_information domain"]
    assert measured({"domain": 10**9 - DOMAIN})["mutual_information domain"].mean == pytest.approx(plain.mean, rel=1e-9)
    assert measured({"domain": DOMAIN.reshape(40).tolist()})["mutual_information domain"] == plain


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ({"domian": DOMAIN}, "labels: expected some of domain, token_type, previous, trace, got 'domian'; did you mean 'domain'"),
        (DOMAIN, "labels: expected a mapping of domain, token_type, previous, trace to whole numbers"),
        ({"domain": DOMAIN[:39]}, r"labels domain: expected \(40,\) whole numbers, one to a token, got shape \(39,\)"),
        ({"previous": DOMAIN}, r"labels previous: expected \(40,\) whole numbers, \(..., m\), got shape \(40,\)"),
        ({"domain": DOMAIN / 2}, "labels domain: expected whole numbers or booleans"),
        ({"domain": DOMAIN - 2}, "labels domain: expected whole numbers from 0, or -1 for none, got -2"),
        ({"domain": DOMAIN * 0}, "labels domain: expected at least two different ones, got 1: they say nothing of a token"),
        ({"previous": np.array([[0, 1]] * 39 + [[2, 2]])},
         "labels previous: expected different experts .*, got expert 2 twice at token 39"),
        ({"trace": ROUTING + 10**6}, "labels trace: expected experts below 4096"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(labels, line):
    with pytest.raises(ValueError, match=line):
        measured(labels)


def test_scores_are_of_every_expert():
    with pytest.raises(ValueError, match="scores: expected 4 to a token, one of each expert, got 3"):
        measured(scores=SCORES[:, :3])
    with pytest.raises(ValueError, match=r"scores: expected \(40, E\), got \(39, 4\)"):
        measured(scores=SCORES[:39])


def test_one_token_says_nothing():
    with pytest.raises(ValueError, match="at least two different ones, got 1"):
        sg.measure_arrays(routing=ROUTING[:1], labels={"domain": [0]}, metrics="information")


def test_what_is_not_given():
    with pytest.raises(ValueError, match="labels domain are not given"):
        sg.measure_arrays(routing=ROUTING, quantities="mutual_information domain")
    with pytest.raises(ValueError, match="scores are not given"):
        sg.measure_arrays(routing=ROUTING, quantities="gate_margin")
    with pytest.raises(ValueError, match=r"documents, strata: expected null='other_token'"):
        measured({"domain": DOMAIN}, strata=DOMAIN)
    with pytest.raises(ValueError, match="labels, scores: expected routing too"):
        sg.measure_arrays(weights={"up": RNG.standard_normal((3, 5, 12))}, scores=SCORES)
