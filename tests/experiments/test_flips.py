"""Damage to a run folder: every edit and some flipped bits, none of which is believed, and a checker that sees what is wrong."""

import pytest

from experiments.benchmarks import flips
from simgap.records import Records, line_of, record_of
from simgap.sweeps.store import MANIFEST, RECORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return flips.recorded(tmp_path_factory.mktemp("flips") / "run")


def test_every_edit_is_named_or_harmless(folder):
    found = {what: (came, why) for what, came, why in flips.edited(folder)}
    assert {why for _, why in found.values()} == {""}
    assert len(found) == 25
    assert found[f"{RECORDS}: another cell's content under a key"][0] == flips.NAMED
    assert found[f"{MANIFEST}: tokens edited, with a checksum"][0] == flips.NAMED
    assert {what for what, (came, _) in found.items() if came == flips.MISSING} == {
        f"{RECORDS}: {what} gone" for what in ("a line", "all lines")
    }


def test_forty_flips(folder):
    found = list(flips.flipped(folder, 40, seed=1))
    assert [(file, bit, why) for file, bit, _, why in found if why] == []
    assert {came for file, _, came, _ in found if file in (RECORDS, MANIFEST)} == {flips.NAMED}
    assert sum(file == MANIFEST for file, *_ in found) > 5


def test_what_is_believed_is_seen_to_be_wrong(folder):
    """A line that was changed with a checksum to match, which no reader can see: the checker must."""
    try:
        lines = folder.files[RECORDS].splitlines(keepends=True)
        record = record_of(lines[-1])
        next(iter(record["quantities"].values()))["mean"] = 0.123
        (folder.path / RECORDS).write_bytes(b"".join([*lines[:-1], line_of(record)]))
        assert flips.outcome(folder) == (flips.WRONG, "a row that was not measured")
        assert flips.resumed(folder) == "resumed, it has another frame"
    finally:
        folder.restore()
    assert flips.outcome(folder) == (flips.HARMLESS, "")


def test_the_record_that_is_kept():
    (record,) = Records(flips.KEPT)
    assert record["count"] == 1000 == sum(sum(found.values()) for found in record["flips"].values())
    assert (record["wrong"], record["provenance"]["dirty"]) == ([], False)
    assert {*record["flips"][RECORDS], *record["flips"][MANIFEST]} == {flips.NAMED}
    assert flips.verdict(record).endswith("Wrong: nothing.")


def test_the_command(tmp_path, capsys, monkeypatch):
    made = {"count": 3, "flips": {RECORDS: {"named": 2, "wrong": 1}}, "edits": {}, "wrong": ["bit 3: a row"]}
    monkeypatch.setattr(flips, "damage", lambda *given: made)
    assert flips.main(["--out", str(tmp_path), "--count", "3"]) == 1
    assert capsys.readouterr().out == "3 flips: 2 named, 1 wrong; 0 edits. Wrong: bit 3: a row.\n"
    assert list(Records(tmp_path / "flips.jsonl")) == [made]
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="2"):
        flips.main(["--out", str(tmp_path), "--count", "0"])
    assert "count: expected at least 1, got 0" in capsys.readouterr().err
