"""Stored sums: what is written is read back exactly, and nothing else is read."""

import contextlib
import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simgap as sg
from simgap.api.batch import Request, measure_batch
from simgap.selection import ranges, select
from simgap.sums import MOST, Skipped, Sums

SPEC = sg.LayerSpec(d_model=3, d_ff=2, n_experts=4, top_k=2, n_shared_experts=1, activation="relu", router="expert_choice")
PLAIN = measure_batch([Request(SPEC, sg.RunSpec(tokens=30, trials=3, seed=1))], select())[0].to_plain()
NAME = "activation_mso token hidden"


def read(plain):
    return Sums.from_plain(plain, ranges())


def changed(*keys, to):
    """The plain sums with one value replaced, or taken out where `to` is ...; a key that does not exist is added."""
    plain = copy.deepcopy(PLAIN)
    inner = plain
    for key in keys[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return plain


def test_plain_values_survive_json_exactly():
    text = json.dumps(PLAIN, allow_nan=False)
    again = read(json.loads(text)).to_plain()
    assert json.dumps(again) == text
    assert PLAIN["quantities"][NAME]["skipped"] == 3
    assert len(PLAIN["quantities"][NAME]["at"]) == 3


def test_equal_counts_are_one_number():
    assert PLAIN["quantities"]["weight_mso up"]["pairs"] == 6
    assert isinstance(PLAIN["quantities"][NAME]["pairs"], list)
    assert len(PLAIN["quantities"]["weight_mso up"]["total"]) == PLAIN["trials"] == 3
    # Every expert of an expert-choice layer takes as many tokens.
    assert PLAIN["taken"] == [15, 15, 15]
    assert read(PLAIN).taken.tolist() == [[15] * 4] * 3


def test_numbers_of_numpy_are_not_handed_on():
    def kinds(value):
        if isinstance(value, dict):
            return set.union(*map(kinds, value.values()))
        return set.union(*map(kinds, value)) if isinstance(value, list) else {type(value)}

    assert kinds(PLAIN) == {int, float, str}


QUANTITY = PLAIN["quantities"][NAME]


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (None, "sums: expected fields, got None"),
        ([], r"sums: expected fields, got \[\]"),
        (changed("first", to=...), "sums: without first"),
        (changed("more", to=1), "sums: with the unknown field 'more'"),
        (changed(5, to=1), "sums: with the unknown field 5"),
        (changed("first", to=-1), "first: expected a whole number, at least 0, got -1"),
        (changed("first", to=True), "first: expected a whole number, at least 0, got True"),
        (changed("first", to=1.0), "first: expected a whole number, at least 0, got 1.0"),
        (changed("trials", to=0), "trials: expected a whole number, at least 1, got 0"),
        (changed("trials", to=4), "expected a list of 4, got"),
        (changed("trials", to=MOST), "trials: expected at most .* numbers in a table"),
        (changed("experts", to=MOST), "trials: expected at most .* numbers in a table"),
        (changed("experts", to=10**30), "experts: expected a whole number"),
        (changed("taken", to=15), "taken: expected a list of 3, got 15"),
        (changed("taken", to=[15, 15]), "taken: expected a list of 3"),
        (changed("taken", to=[15, 15, [1, 2, 3]]), "taken: expected a list of 4"),
        (changed("taken", to=[15, 15, -1]), "taken: expected a whole number, at least 0, got -1"),
        (changed("dropped", to="x" * 100), "dropped: expected a whole number, at least 0, got 'x*[.]{3}$"),
        (changed("quantities", to=[]), "quantities: expected fields"),
        (changed("quantities", "weight_mso left", to={}), "quantities: with the unknown field 'weight_mso left'"),
        (changed("quantities", NAME, to=3), f"{NAME}: expected fields, got 3"),
        (changed("quantities", NAME, "pairs", to=...), f"{NAME}: without pairs"),
        (changed("quantities", NAME, "mean", to=1), f"{NAME}: with the unknown field 'mean'"),
        (changed("quantities", NAME, "total", to=1.0), f"{NAME} total: expected a list of 3, got 1.0"),
        (changed("quantities", NAME, "total", to=[1.0, 1.0]), f"{NAME} total: expected a list of 3"),
        (changed("quantities", NAME, "total", to=[1.0, 1.0, np.nan]), f"{NAME} total: expected numbers of at least 0, got nan"),
        (changed("quantities", NAME, "total", to=[1.0, 1.0, np.inf]), f"{NAME} total: expected numbers of at least 0, got inf"),
        (changed("quantities", NAME, "total", to=[1.0, 1.0, -0.5]), f"{NAME} total: expected numbers of at least 0, got -0.5"),
        (changed("quantities", NAME, "total", to=[1.0, 1.0, "1"]), f"{NAME} total: expected numbers of at least 0, got '1'"),
        (changed("quantities", NAME, "total", to=[1.0, 1.0, True]), f"{NAME} total: expected numbers of at least 0, got True"),
        (
            changed("quantities", NAME, "total", to=[1e6, 1.0, 1.0]),
            f"{NAME}: expected 0 <= total / pairs <= 1 and pairs <= expected in every trial",
        ),
        (changed("quantities", NAME, "pairs", to=10**6), f"{NAME}: expected 0 <= total / pairs <= 1 and pairs <= expected in every trial"),
        (changed("quantities", NAME, "pairs", to=10**20), f"{NAME} pairs: expected a whole number"),
        (changed("quantities", NAME, "skipped", to=...), f"{NAME} skipped: expected a whole number, at least 1, got None"),
        (changed("quantities", NAME, "skipped", to=0), f"{NAME} skipped: expected a whole number, at least 1, got 0"),
        (changed("quantities", NAME, "skipped", to=2), f"{NAME} at: expected the names of the first 2 skipped ones"),
        (changed("quantities", NAME, "at", to=...), f"{NAME} at: expected the names of the first 3 skipped ones, got None"),
        (changed("quantities", NAME, "at", to=["a", "b", 3]), f"{NAME} at: expected the names of the first 3 skipped ones"),
        (changed("quantities", NAME, "at", to=["a", "b", "c" * 1000]), f"{NAME} at: expected the names of the first 3 skipped ones"),
    ],
)
def test_what_is_not_of_the_form_is_refused(plain, message):
    with pytest.raises(ValueError, match=f"^{message}" if message[0] != "e" else message):
        read(plain)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = [("first",), ("trials",), ("experts",), ("taken",), ("dropped",), ("quantities",), ("quantities", NAME)]
KEYS += [("quantities", NAME, key) for key in QUANTITY]


@settings(max_examples=300)
@given(st.sampled_from(KEYS), JSON)
def test_any_value_in_any_place_is_read_or_refused_by_a_value_error(keys, value):
    plain = changed(*keys, to=value)
    accepted: list[Sums] = []
    with contextlib.suppress(ValueError):
        accepted.append(read(plain))
    # What was read is what is written, up to lists of equal numbers.
    assert all(read(found.to_plain()).to_plain() == found.to_plain() for found in accepted)
    assert all(np.isfinite(found.total).all() for found in accepted)


def test_what_is_skipped_names_three_and_counts_the_rest():
    first, second = Skipped(2, ("a", "b")), Skipped(4, ("c", "d", "e"))
    assert str(first) == "a, b"
    assert first.plus(second) == Skipped(6, ("a", "b", "c"))
    assert str(first.plus(second)) == "a, b, c and 3 more"
    assert first.plus(Skipped()) == first
