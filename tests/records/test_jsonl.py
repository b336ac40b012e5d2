"""Records: written whole or not at all, read back as written or not at all, and found again only by the code that wrote them."""

import json
import logging
import math
import zlib

import pytest

from simgap.records import PACKAGES, Records, line_of, numbered, provenance, record_of
from simgap.records.jsonl import with_checksum

CLEAN = {"commit": "a" * 40, "dirty": False, "versions": {"python": "3.11.2", "numpy": "2.0.0"}, "canary": "c" * 16, "time": "then"}


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
    torn = line_of({"key": "second", "value": [1.5, "é"]})
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


def test_a_line_ends_with_its_checksum_and_is_json():
    line = line_of({"key": "a", "value": [0.1, "é"]})
    assert json.loads(line) == {"key": "a", "value": [0.1, "é"], "checksum": f"{zlib.crc32(line[:-24]):08x}"}
    assert line_of({}) == b'{"checksum": "%08x"}\n' % zlib.crc32(b"{")
    assert record_of(line) == {"key": "a", "value": [0.1, "é"]}, "and is read without it"


def test_every_flipped_bit_of_a_line_is_seen():
    line = line_of({"key": "a", "mean": 0.25, "why": "é", "n": None})
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert record_of(bytes(flipped)) is None, bit


def test_a_flipped_bit_spoils_its_line_and_no_other(records):
    written = [{"key": "a", "mean": 0.25, "trials": 12}, {"key": "b", "mean": -1.5e-7, "why": "", "n": None}, {}]
    for record in written:
        records.append(record)
    whole = records.path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    # Every fifth, and all of the newlines.
    for bit in {*range(0, 8 * len(whole), 5), *(8 * end - left for end in ends for left in range(1, 9))}:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        records.path.write_bytes(flipped)
        own = sum(end <= bit // 8 for end in ends)
        # Without its newline it is one line with the next.
        spoiled = {own, own + 1} if bit // 8 + 1 in ends else {own}
        assert list(records) == [record for at, record in enumerate(written) if at not in spoiled], bit


def test_a_line_of_other_content_or_without_its_checksum_is_none():
    one, other = line_of({"cell": "a", "mean": 0.25}), line_of({"cell": "b", "mean": 0.5})
    assert record_of(other[: other.index(b'"checksum"')] + one[one.index(b'"checksum"') :]) is None
    assert record_of(one.replace(b"0.25", b"0.75")) is None
    assert record_of(json.dumps({"cell": "a", "mean": 0.25}).encode() + b"\n") is None, "as an earlier simgap wrote it"
    assert record_of(json.dumps(json.loads(one)).encode()) is None, "its newline is part of it"
    assert record_of(one.upper()) is None


def test_what_is_passed_over_is_said_once(records, caplog):
    for n in range(4):
        records.append({"n": n})
    lines = records.path.read_bytes().splitlines(keepends=True)
    lines[1], lines[3] = lines[1].replace(b'"n": 1', b'"n": 7'), b'{"n": 3}\n'
    records.path.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING, "simgap.records"):
        assert [record["n"] for record in records] == [0, 2]
        assert len(list(records)) == 2
    assert [message.partition("': ")[2] for message in caplog.messages] == [
        "line 2: damaged, the checksum is of other content; passed over",
        "line 4: without a whole checksum at the end (torn, damaged, or of an earlier simgap); passed over",
    ]


def test_lines_by_their_numbers():
    assert [numbered(range(1, n)) for n in (2, 3, 4, 9, 10)] == [
        "line 1",
        "lines 1 and 2",
        "lines 1, 2 and 3",
        "lines 1, 2, 3, 4, 5, 6, 7 and 8",
        "lines 1, 2, 3, 4, 5, 6, 7, 8 and 1 more",
    ]


def test_find_gives_the_newest_of_its_key(records):
    for value in (1, 2):
        records.append({"key": "a", "value": value, "provenance": CLEAN})
    records.append({"key": "b", "value": 3, "provenance": CLEAN})
    assert records.find("a", CLEAN)["value"] == 2
    assert records.find("b", CLEAN)["value"] == 3
    assert records.find("c", CLEAN) is None


def test_find_does_not_mind_when_or_how_it_was_started(records):
    records.append({"key": "a", "provenance": CLEAN})
    assert records.find("a", CLEAN | {"time": "now", "command": "again", "cores": 64, "cpu": "Another"}) is not None
    reordered = dict(reversed(CLEAN["versions"].items()))
    assert records.find("a", CLEAN | {"versions": reordered}) is not None


@pytest.mark.parametrize(
    "change", [{"commit": "b" * 40}, {"versions": {"python": "3.11.2", "numpy": "2.1.0"}}, {"canary": "d" * 16}], ids=str
)
def test_find_only_matches_the_same_code_on_the_same_machine(records, change):
    records.append({"key": "a", "provenance": CLEAN})
    assert records.find("a", CLEAN | change) is None
    records.append({"key": "a", "provenance": CLEAN | change})
    assert records.find("a", CLEAN | change) is not None


@pytest.mark.parametrize("change", [{"dirty": True}, {"commit": None, "dirty": None}, {"commit": ""}, {"canary": None}], ids=str)
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
    origin = provenance("python -m something", "0123456789abcdef")
    assert list(origin) == ["commit", "dirty", "versions", "cpu", "cores", "platform", "canary", "time", "command"]
    assert (origin["canary"], provenance()["canary"]) == ("0123456789abcdef", None)
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
    path.write_bytes(b"".join(with_checksum(text.encode()) for text in hostile))
    records = Records(path)
    assert [record.get("key") for record in records] == ["b", "b"]
    assert records.find("b", {"commit": "c", "dirty": False}) is None
