"""Records and manifests that are torn, damaged, edited or another sweep's: named, never believed, and what they held is done again."""

import json

import pytest

from simgap.records import line_of, read_manifest, record_of, write_manifest
from simgap.seeding import derived
from simgap.sweeps import COSTS
from simgap.sweeps.frame import collect, frame
from simgap.sweeps.store import read_store
from tests.sweeps.scripted import Scripted
from tests.sweeps.test_store import lines, run


@pytest.mark.parametrize("kept", ["nothing", "half", "all but its newline"])
def test_a_torn_last_line_is_seen_and_its_cell_done_again(tmp_path, kept):
    run(tmp_path)
    wanted = frame(read_store(tmp_path)).drop(columns=list(COSTS))
    whole = lines(tmp_path)
    torn = {"nothing": b"", "half": whole[-1][: len(whole[-1]) // 2], "all but its newline": whole[-1][:-1]}[kept]
    (tmp_path / "records.jsonl").write_bytes(b"".join(whole[:-1]) + torn)
    executor = Scripted()
    again = run(tmp_path, executor=executor)
    missing = kept != "all but its newline"
    assert (again.done, again.computed, len(executor.handed_out())) == (6, missing, missing)
    assert lines(tmp_path)[: len(whole) - 1] == whole[:-1], "nothing that was whole is touched"
    log = (tmp_path / "sweep.log").read_text()
    assert (f"its last line was torn after {len(torn)} bytes" in log) == (kept != "nothing")
    assert ("line 7: without a whole checksum at the end (torn, damaged" in log) == (kept == "half")
    assert frame(read_store(tmp_path)).drop(columns=list(COSTS)).equals(wanted)


def test_a_spoiled_line_is_counted_and_left_as_found(tmp_path):
    run(tmp_path)
    whole = lines(tmp_path)
    spoiled = b"\x00" * 40 + b"\n"
    foreign = line_of({"cell": "0" * 16, "trials": 9, "quantities": {}})
    odd = [line_of({"cell": value, "trials": 2}) for value in (3, None, "zz" * 8, [1], "0" * 40, "-000000000000001", "0x00000000000001")]
    (tmp_path / "records.jsonl").write_bytes(b"".join([*whole[:2], spoiled, foreign, *odd, *whole[3:]]))
    assert run(tmp_path).computed == 1
    store = read_store(tmp_path)
    assert store.notes == [
        "records.jsonl: line 3: without a whole checksum at the end (torn, damaged, or of an earlier simgap); left as found, the cells "
        "done again unless they were since",
        "records.jsonl: lines 4, 5, 6, 7, 8, 9, 10 and 11: of a cell that this sweep does not have; left as found",
    ]
    assert spoiled in lines(tmp_path)
    assert len(frame(store)) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"quantities": {"gap": 3}},
        {"quantities": None},
        {"seed": 2**70},
        {"seed": "x"},
        {"sums": None},
        {"trials": True},
        {"trials": 2**40},
    ],
)
def test_a_record_that_lacks_what_a_frame_shows_is_done_again(tmp_path, change):
    run(tmp_path)
    whole = lines(tmp_path)
    damaged = line_of(record_of(whole[3]) | change)
    (tmp_path / "records.jsonl").write_bytes(b"".join([*whole[:3], damaged, *whole[4:]]))
    again = run(tmp_path)
    assert (again.done, again.computed) == (6, 1)
    assert "line 4: not of the form of a record" in again.notes[0]
    assert len(again.frame()) == 6


def _mean(line):
    record = record_of(line)
    record["quantities"]["gap"]["mean"] = 0.123
    return line_of(record)


EDITS = {
    "a mean edited": (lambda one, other: _mean(one)[:-12] + one[-12:], "line 4: damaged, the checksum is of other content"),
    "a bit of a digit": (lambda one, other: one.replace(b'"n": 2', b'"n": 3'), "line 4: damaged, the checksum is of other content"),
    "a line of an earlier simgap": (lambda one, other: json.dumps(record_of(one)).encode() + b"\n", "line 4: without a whole checksum"),
    "cut short": (lambda one, other: one[:-5] + b"\n", "line 4: without a whole checksum"),
    # With a checksum that says that all is well, as another sweep of these cells has it.
    "another cell's content": (
        lambda one, other: line_of(record_of(other) | {"cell": record_of(one)["cell"]}),
        "line 4: of another seed than 0 gives its cell",
    ),
    "of another root": (
        lambda one, other: line_of(record_of(one) | {"seed": derived(1, record_of(one)["cell"])}),
        "line 4: of another seed than 0 gives its cell",
    ),
    "other tokens": (lambda one, other: line_of(record_of(one) | {"tokens": 9}), "line 4: of other tokens than this sweep's"),
    "another dtype": (lambda one, other: line_of(record_of(one) | {"dtype": "float64"}), "line 4: of other dtype than this sweep's"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_record_that_is_not_what_was_measured_is_named_and_done_again(tmp_path, name):
    run(tmp_path)
    wanted = frame(read_store(tmp_path)).drop(columns=list(COSTS))
    change, says = EDITS[name]
    whole = lines(tmp_path)
    (tmp_path / "records.jsonl").write_bytes(b"".join([*whole[:3], change(whole[3], whole[4]), *whole[4:]]))
    key = record_of(whole[3])["cell"]
    store = read_store(tmp_path)
    assert [note.startswith(f"records.jsonl: {says}") for note in store.notes] == [True]
    assert frame(store)["mean"].tolist() == wanted["mean"][wanted["cell"] != key].tolist()
    executor = Scripted()
    assert (run(tmp_path, executor=executor).computed, executor.handed_out()) == (1, [key])
    assert frame(read_store(tmp_path)).drop(columns=list(COSTS)).equals(wanted)


def test_records_of_another_manifest_are_refused(tmp_path):
    """A manifest that is whole, with a checksum of its own, and not the one that the cells were measured under."""
    run(tmp_path)
    path = tmp_path / "manifest.json"
    manifest, _ = read_manifest(path)
    write_manifest(path, manifest | {"run": manifest["run"] | {"tokens": 9}})
    says = r"out: manifest.json in '.*' is not the one that line 2 of records.jsonl was recorded under: it was changed or exchanged"
    for look in (collect, run):
        with pytest.raises(ValueError, match=says):
            look(tmp_path)


def test_an_edited_manifest_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for old, new in ((b'"tokens": 8', b'"tokens": 9'), (b'"seed": 0', b'"seed": 1'), (b'"dtype": "float32"', b'"dtype": "float64"')):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        for look in (collect, run):
            with pytest.raises(ValueError, match=r"manifest.json' is no whole manifest: damaged, the checksum is of other content"):
                look(tmp_path)
    path.write_bytes(whole)
    assert run(tmp_path).computed == 0


def test_a_session_whose_line_is_damaged_is_named_and_its_cells_kept(tmp_path):
    run(tmp_path, trials=1)
    run(tmp_path)
    text = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(text.replace(b'"workers": 2', b'"workers": 3'))
    store = read_store(tmp_path)
    assert ["lines 1 and 8: damaged, the checksum" in note for note in store.notes] == [True]
    assert store.trials.tolist() == [2] * 6


def test_whole_lines_may_come_twice_in_another_order_or_be_gone(tmp_path):
    run(tmp_path)
    wanted = frame(read_store(tmp_path))
    whole = lines(tmp_path)
    for other in ([*whole, whole[3]], [*whole[:3], whole[4], whole[3], *whole[5:]], [whole[1], whole[0], *whole[2:]]):
        (tmp_path / "records.jsonl").write_bytes(b"".join(other))
        store = read_store(tmp_path)
        assert store.notes == []
        assert frame(store).equals(wanted)
    (tmp_path / "records.jsonl").write_bytes(b"".join([*whole[:3], *whole[4:]]))
    assert read_store(tmp_path).done(2) == 5
    assert run(tmp_path).computed == 1
