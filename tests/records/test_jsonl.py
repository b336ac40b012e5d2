"""Records: written whole or not at all, read back as written, and found again only by the code that wrote them."""

import json
import math

import pytest

from simgap.records import PACKAGES, Records, line_of, provenance

CLEAN = {"commit": "a" * 40, "dirty": False, "versions": {"python": "3.11.2", "numpy": "2.0.0"}, "cpu": "A CPU", "time": "then", "cores": 2}


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path / "runs" / "records.jsonl")


def test_round_trip(records):
    written = [
        {"key": "a", "value": 0.1 + 0.2, "tiny": 5e-324, "none": None, "list": [1, True, "é\u2028 \n|"], "nested": {"x": -0.0}},
        {"key": "b"},
        {},
    ]
    for record in written:
        records.append(record)
    assert list(records) == written
    assert list(Records(str(records.path))) == written
    assert records.path.read_bytes().count(b"\n") == 3


def test_a_file_that_does_not_exist_holds_nothing(records):
    assert list(records) == []
    assert records.find("a", CLEAN) is None
    assert not records.path.parent.exists()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_word_for_is_refused_before_anything_is_written(records, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.append({"value": [number]})
    assert not records.path.exists()
    records.append({"value": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.append({"value": number})
    assert list(records) == [{"value": 1}]


def test_a_file_that_must_be_there_is_not_made(tmp_path):
    records = Records(tmp_path / "run" / "records.jsonl")
    with pytest.raises(FileNotFoundError, match=r"cannot write '.*records.jsonl': No such file"):
        records.extend([line_of({"a": 1})], create=False)
    assert list(tmp_path.iterdir()) == []
    records.append({"a": 1})
    assert records.extend([line_of({"a": 2})], create=False) > 0
    assert [record["a"] for record in records] == [1, 2]


def test_a_torn_last_line_spoils_only_itself(records):
    """A crash at any byte of the second line: it is never read, and what is appended afterwards always is."""
    records.append({"key": "first"})
    whole = records.path.read_bytes()
    torn = (json.dumps({"key": "second", "value": [1.5, "é"]}) + "\n").encode()
    for length in range(1, len(torn)):
        records.path.write_bytes(whole + torn[:length])
        assert list(records) == [{"key": "first"}], length
        records.append({"key": "third"})
        found = list(records)
        assert (found[0], found[-1]) == ({"key": "first"}, {"key": "third"}), length
        # A line that lacks nothing but its newline is whole once it has one.
        assert len(found) == (3 if length == len(torn) - 1 else 2), length


def test_garbage_lines_are_skipped(records):
    records.append({"key": "first"})
    with open(records.path, "ab") as file:
        file.write(b'\n  \nnot json\n[1, 2]\n"text"\n17\nnull\n{"key": \n\xff\xfe\x00\n')
    records.append({"key": "last"})
    assert list(records) == [{"key": "first"}, {"key": "last"}]


def test_find_gives_the_newest_of_its_key(records):
    for value in (1, 2):
        records.append({"key": "a", "value": value, "provenance": CLEAN})
    records.append({"key": "b", "value": 3, "provenance": CLEAN})
    assert records.find("a", CLEAN)["value"] == 2
    assert records.find("b", CLEAN)["value"] == 3
    assert records.find("c", CLEAN) is None


def test_find_does_not_mind_when_or_how_it_was_started(records):
    records.append({"key": "a", "provenance": CLEAN})
    assert records.find("a", CLEAN | {"time": "now", "command": "again", "cores": 64, "platform": "elsewhere"}) is not None
    reordered = dict(reversed(CLEAN["versions"].items()))
    assert records.find("a", CLEAN | {"versions": reordered}) is not None


@pytest.mark.parametrize(
    "change", [{"commit": "b" * 40}, {"versions": {"python": "3.11.2", "numpy": "2.1.0"}}, {"cpu": "Another"}], ids=str
)
def test_find_only_matches_the_same_code_on_the_same_machine(records, change):
    records.append({"key": "a", "provenance": CLEAN})
    assert records.find("a", CLEAN | change) is None
    records.append({"key": "a", "provenance": CLEAN | change})
    assert records.find("a", CLEAN | change) is not None


@pytest.mark.parametrize("change", [{"dirty": True}, {"commit": None, "dirty": None}, {"commit": ""}], ids=str)
def test_code_that_is_not_known_is_never_found_again(records, change):
    unknown = CLEAN | change
    records.append({"key": "a", "provenance": unknown})
    assert records.find("a", unknown) is None
    assert records.find("a", CLEAN) is None
    records.append({"key": "a", "provenance": CLEAN})
    assert records.find("a", unknown) is None
    assert records.find("a", CLEAN) is not None


def test_a_record_without_provenance_is_never_found(records):
    records.append({"key": "a"})
    assert records.find("a", CLEAN) is None
    assert records.find("a", {}) is None


def test_provenance_says_where_a_record_came_from(records):
    origin = provenance("python -m something")
    assert list(origin) == ["commit", "dirty", "versions", "cpu", "cores", "platform", "time", "command"]
    assert list(origin["versions"]) == ["python", *PACKAGES]
    assert origin["versions"]["numpy"]
    assert origin["command"] == "python -m something"
    assert origin["cores"] >= 1
    assert origin["time"].endswith("+00:00")
    assert (origin["commit"] is None) == (origin["dirty"] is None)
    records.append({"key": "a", "provenance": origin})
    assert list(records) == [{"key": "a", "provenance": origin}]


def test_lines_that_break_the_parser_are_skipped(tmp_path):
    path = tmp_path / "r.jsonl"
    hostile = [
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a": NaN}',
        '{"key": "b", "provenance": null}',
        '{"key": "b", "provenance": 3}',
    ]
    path.write_text("\n".join(hostile) + "\n")
    records = Records(path)
    assert [record.get("key") for record in records] == ["b", "b"]
    assert records.find("b", {"commit": "c", "dirty": False}) is None
