"""The words for a user's overlap: what follows from p, from other tokens, and from what was not given."""

import dataclasses
import html
import json

import numpy as np
import pytest

import simgap as sg
from simgap.api.overlap import LEAST_P, SecondNull, SignNull, verdict


def overlap(**changes):
    whole = {
        "mean": 0.02,
        "sem": 0.001,
        "pairs": 100,
        "null": 0.01,
        "null_sd": 0.001,
        "excess": 2.0,
        "z": 10.0,
        "p": 1e-6,
        "round_null": 0.005,
    }
    return sg.Overlap(**(whole | {"verdict": "why"} | changes))


def test_a_sentence_names_its_parts():
    text = str(overlap())
    assert text == (
        "overlap 0.02 ± 0.001 over 100 pairs is 2 times its null 0.01 (independent, sign-symmetric in this basis; 0.005 in a round space), "
        "z 10.0 sd of the null, p 1e-06, approximately: why"
    )
    assert "; 3 undefined vectors left out (expert 1)" in str(overlap(dropped=3, dropped_at="expert 1"))


@pytest.mark.parametrize(
    ("p", "draws", "text"),
    [
        (LEAST_P, 0, "p < 1e-300:"),
        (2e-300, 0, "p 2e-300, approximately:"),
        (1.0, 0, "p 1, approximately:"),
        (1e-4, 9999, "p <= 0.0001 by 9999 draws:"),
        (0.02, 9999, "p 0.02 by 9999 draws:"),
    ],
)
def test_p_in_words(p, draws, text):
    assert text in str(overlap(p=p, draws=draws))


def test_p_is_never_zero():
    null = SignNull(0.01, 1e-8, 0.0)
    assert null.p(0.9) == LEAST_P
    assert 0 < null.p(0.0) <= 1
    assert SignNull(0.01, 1e-8, 1e-13, np.full(9, 0.02)).p(0.5) == 1 / 10
    assert SignNull(0.01, 1e-8, 1e-13, np.array([0.5 * (1 - 1e-12), 0.1, 0.7])).p(0.5) == 3 / 4


def test_an_overlap_of_exactly_zero_is_no_surprise():
    vectors = np.zeros((6, 2, 8))
    vectors[:, 0, :4], vectors[:, 1, 4:] = 1, 1
    found = sg.token_mso(vectors, routing=np.tile([0, 1], (6, 1)))
    assert (found.mean, found.null, found.null_sd, found.z, found.p, found.excess) == (0, 0, 0, 0, 1, 1)
    assert "nothing to explain" in str(found)


def test_html_is_escaped():
    shown = overlap(verdict="a < b & c")._repr_html_()
    assert shown == f"<pre>{html.escape(str(overlap(verdict='a < b & c')))}</pre>"
    assert "a &lt; b &amp; c" in shown


def test_a_dict_of_every_field():
    found = sg.weight_mso(np.random.default_rng(0).standard_normal((4, 30)))
    plain = found.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert sg.Overlap(**plain | {"beside": ()}) == found
    assert list(plain) == [field.name for field in dataclasses.fields(found) if field.name != "table"]
    assert plain.pop("beside") == []
    assert all(type(value) in (int, float, str, type(None)) for value in plain.values())


def second(**changes):
    whole = {"name": "renumbered", "null": 0.016, "null_sd": 0.002, "excess": 1.25, "z": 2.0, "p": 0.04, "law": "T8"}
    return SecondNull(**(whole | {"supposes": "units in any order", "unseen": "what they share in another order"} | changes))


def test_other_nulls_stand_before_the_verdict():
    found = overlap(beside=(second(), second(name="other", draws=99, p=0.01, doubt="few of them")))
    assert str(found) == (
        "overlap 0.02 ± 0.001 over 100 pairs is 2 times its null 0.01 (independent, sign-symmetric in this basis; 0.005 in a round space), "
        "z 10.0 sd of the null, p 1e-06, approximately; 1.25 times its null 0.016 renumbered (units in any order; it cannot see what they "
        "share in another order), z 2.0, p 0.04, approximately; 1.25 times its null 0.016 other (units in any order; it cannot see what "
        "they share in another order), z 2.0, p <= 0.01 by 99 draws (few of them): why"
    )
    plain = found.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert [SecondNull(**one) for one in plain["beside"]] == list(found.beside)


@pytest.mark.parametrize("kind", ["weights", "means", "unnamed"])
def test_within_the_null(kind):
    assert verdict(0.0011, kind) == "nothing to explain at the level 0.001"


def test_without_names_it_asks_for_them():
    assert verdict(1e-9, "unnamed").startswith("cannot tell")
    assert "pass routing=" in verdict(1e-9, "unnamed")


def test_one_vector_to_an_expert_says_more_and_not_which():
    for kind in ("weights", "means"):
        assert verdict(1e-9, kind).startswith("more than this null gives: experts that are alike, or a space that experts share")
        assert "cannot say which" in verdict(1e-9, kind)
    assert "bias" not in verdict(1e-9, "weights")
