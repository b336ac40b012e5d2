"""Sweeps under SIGKILL: a few kills as a whole, the marking and the plan by themselves, and damage that the comparison must see."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simgap as sg
from experiments.benchmarks import kills, phases, unharmed
from simgap.records import Records, jsonl
from simgap.report.table import Table
from simgap.seeding import stream
from simgap.sweeps import collect, grid, sweep
from simgap.sweeps.frame import FRAME, frame
from simgap.sweeps.store import RECORDS, read_store
from tests.sweeps.scripted import Scripted

ROOT = Path(__file__).parent.parent.parent
CELLS = grid(sg.LayerSpec(d_model=4, d_ff=8, n_experts=4, top_k=2), d_model=[4, 6, 8])


def struck(out: Path, *more: str) -> list[dict]:
    """The records of a run of its own: this process has threads, and must not be forked."""
    command = [sys.executable, "-m", "experiments.benchmarks.kills", "--out", str(out), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    return list(Records(out / "kills.jsonl"))


def check(records: list[dict], count: int) -> None:
    """So many kills of either victim, sweeps that all came out right, and half lines where the board says so and nowhere else."""
    dead, sweeps = [r for r in records if r["what"] == "kill"], [r for r in records if r["what"] == "sweep"]
    assert len(dead) == count == sum(r["kills"] for r in sweeps)
    assert {r["victim"] for r in dead} == {"coordinator", "worker"}
    assert {"mid-line", "compute"} <= {r["phase"] for r in dead}
    assert all(r["torn"] == (r["phase"] == "mid-line") for r in dead if r["victim"] == "coordinator")
    assert not any(r["torn"] for r in dead if r["victim"] == "worker")
    assert [r["wrong"] for r in sweeps] == [[]] * len(sweeps)
    assert all(r["orphans"] == 0 for r in sweeps)
    # One session to begin with, and one more for each that was killed or gave a cell up; a kill of one that was all done is not noted.
    for sweep_ in sweeps:
        own = [r for r in dead if (r["lane"], r["sweep"], r["victim"]) == (sweep_["lane"], sweep_["sweep"], "coordinator")]
        assert 0 <= sweep_["sessions"] - 1 - len(own) - sweep_["set aside"] <= 1


def test_a_few_kills(tmp_path):
    check(struck(tmp_path, "--count", "6", "--lanes", "1", "--dwell", "0.02"), 6)
    assert {path.name for path in tmp_path.iterdir()} == {"kills.jsonl", "kills.md", "kills.csv", "kills_1.csv"}


def test_the_record_that_is_kept():
    records = list(Records(kills.KEPT))
    check(records, 1000)
    assert kills.failures(records) == []
    assert records[0]["provenance"]["dirty"] is False
    times = [r["time"] for r in records if r["what"] == "kill"]
    assert len(set(times)) > 990
    assert min(kills.phases_hit(records)[phase] for phase in kills.ASKED) >= 50


@pytest.mark.slow
def test_sixty_kills(tmp_path):
    records = struck(tmp_path, "--count", "60", "--seed", "1")
    check(records, 60)
    assert {r["lane"] for r in records[1:]} == {0, 1}
    assert min(kills.phases_hit(records)[phase] for phase in kills.ASKED) >= 3


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_has_its_kills_where_they_can_fall(seed):
    generator = stream(seed, "test")
    plan = kills.blows(generator, kills.A_SWEEP)
    assert len(plan) == kills.A_SWEEP
    local = [at for at, blow in enumerate(plan) if blow.engine == "local"]
    assert local == list(range(local[0], local[-1] + 1)), "one session with workers"
    assert [plan[at].victim for at in local] == ["worker"] * (len(local) - 1) + ["coordinator"]
    last = [at for at, blow in enumerate(plan) if blow.target == "collect"]
    assert last == list(range(len(plan) - len(last), len(plan))), "the last cell is done when the frame is made"
    short = kills.blows(generator, 6)
    assert len(short) == 6
    assert {blow.target for blow in short} >= {"mid-line", "compute", "flush", "collect"}
    assert {blow.victim for blow in short} == {"coordinator", "worker"}


def test_plans_differ():
    plans = {tuple(kills.blows(stream(seed, "test"), kills.A_SWEEP)) for seed in range(20)}
    assert len(plans) > 10
    assert {blow.target for plan in plans for blow in plan} == {*phases.PHASES, "any"}


def test_cuts_leave_half_a_line():
    data, generator = b'{"a": 1}\n{"b": 22}\n{"c": 333}\n', stream(0, "test")
    found = [phases.cuts(data, generator) for _ in range(400)]
    for first, second in found:
        assert 0 < first <= second < len(data)
        assert not data[:first].endswith(b"\n")
        assert not data[:second].endswith(b"\n")
    assert len({first for first, _ in found}) > 20
    share = np.mean([second == len(data) - 1 for _, second in found])
    # One in four, and 1/28 of the rest; 400 draws: 5 sigma are 0.11.
    assert 0.16 < share < 0.40


def test_what_the_board_says_is_so(tmp_path, monkeypatch):
    """Looked at in every pause that the marking makes: half a line in the middle of lines, all of them at the flush, and the same bytes."""
    board, seen, lines = phases.Board(), [], [jsonl.line_of({"cell": at, "x": "y" * 50}) for at in range(3)]
    path, plain, fsync = tmp_path / "records", tmp_path / "plain", os.fsync

    def look(seconds):
        assert seconds == 0.5
        text = path.read_bytes()
        seen.append((board.phase, text.endswith(b"\n"), len(text) == len(b"".join(lines))))

    monkeypatch.setattr(phases.time, "sleep", look)
    # A file that is there: of a new one the folder is flushed too.
    path.touch()
    board.enter("compute")
    with phases.marked(board, stream(0, "test"), 0.5):
        Records(path).extend(lines)
    assert seen == [("mid-line", False, False)] * 2 + [("flush", True, True)] * 2
    assert [board.phase, board.begun("mid-line"), board.begun("flush"), board.begun("compute")] == ["compute", 1, 1, 2]
    assert os.fsync is fsync
    board.enter("collect")
    with phases.marked(board, stream(0, "test"), 0.5 / phases.FRAME_DWELLS), open(path) as file:
        os.fsync(file.fileno())
    assert [phase for phase, *_ in seen[4:]] == ["collect"] * 2, "a frame's flush takes its time"
    assert board.phase == "collect"
    Records(plain).extend(lines)
    assert len(seen) == 6, "unmarked"
    assert path.read_bytes() == plain.read_bytes()


def test_what_a_death_leaves_of_a_line(tmp_path):
    """Half a line, one that lacks its newline alone, the same again at the next death, and whole ones."""
    lane, path = kills.Lane(0, tmp_path, 0, 0, 0.0, {}), tmp_path / "records"
    dead, going = (kills.Session(0, phases.Board(), "local", status) for status in (9, None))
    found = []
    one, three = jsonl.line_of({"a": 1}), jsonl.line_of({"c": 3})
    for text in (None, b"", one, one + b'{"b', one + b'{"b', one + b'{"b\n' + three[:-1], one + b'{"b\n' + three):
        if text is not None:
            path.write_bytes(text)
        assert lane.torn(path, going) == {"torn": False, "whole": False}, "whoever lives goes on writing"
        found.append(tuple(lane.torn(path, dead).values()))
    assert found == [(False, False)] * 3 + [(True, False), (False, False), (True, True), (False, False)]


def test_the_board_knows_its_workers():
    board, child = phases.Board(), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        board.hire(child.pid)
        board.hire(os.getpid())
        assert board.workers() == [child.pid, os.getpid()]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert board.workers() == [os.getpid()], "a zombie is dead"


@pytest.fixture
def pair(tmp_path):
    """The same sweep twice, the second with a line that was torn midway."""
    folders = [tmp_path / name for name in ("alone", "killed")]
    for folder in folders:
        sweep(CELLS, out=folder, trials=2, engine=Scripted(), workers=1)
        collect(folder)
    records = folders[1] / RECORDS
    first, rest = records.read_bytes().split(b"\n", 1)
    records.write_bytes(first + b'\n{"cell": "0\n' + rest)
    return folders


def told(pair, torn=1):
    return unharmed.complaints(pair[1], pair[0], 2, torn)


def edit(folder, change):
    lines = (folder / RECORDS).read_bytes().split(b"\n")
    (folder / RECORDS).write_bytes(b"\n".join(change(lines)))


def test_an_unharmed_sweep_is_none_to_complain_of(pair):
    assert told(pair) == []


def test_a_spoiled_line_that_no_kill_tore_is_seen(pair):
    assert told(pair, 0) == ["1 lines are spoiled, 0 were torn"]
    assert told(pair, 2) == ["1 lines are spoiled, 2 were torn"]


def test_a_cell_that_is_gone_is_seen(pair):
    edit(pair[1], lambda lines: [*lines[:-2], b""])
    said = told(pair)
    assert said[0] == "2 of 3 cells are done"
    assert said[1].startswith("frame: 1 cells missing")
    assert len(said) == 3, "the frame's file still has it"


def test_a_cell_recorded_once_more_is_seen(pair):
    edit(pair[1], lambda lines: [*lines[:-1], lines[-2], b""])
    assert told(pair) == ["1 cells are recorded once more, 0 lines lacked their newline"]
    assert unharmed.complaints(pair[1], pair[0], 2, 1, 1) == [], "after a line that lacked its newline it may be"


def test_one_bit_of_a_record_is_seen(pair):
    def change(lines):
        record = jsonl.record_of(lines[-2] + b"\n")
        record["quantities"]["gap"]["mean"] = float(np.nextafter(record["quantities"]["gap"]["mean"], np.inf))
        return [*lines[:-2], jsonl.line_of(record)]

    edit(pair[1], change)
    assert told(pair) == ["frame: mean differs"]
    collect(pair[1])
    assert told(pair) == ["frame: mean differs", f"{FRAME}: mean differs"]


def test_what_a_cell_cost_may_differ(pair):
    def change(lines):
        return [*lines[:-2], jsonl.line_of(jsonl.record_of(lines[-2] + b"\n") | {"seconds": 5.0, "host": "elsewhere"})]

    edit(pair[1], change)
    assert told(pair) == []


def test_a_sweep_that_cannot_be_read_or_did_not_end_is_seen(pair):
    log = pair[1] / "sweep.log"
    log.write_text("\n".join(log.read_text().splitlines()[:-1]))
    assert told(pair) == ["sweep.log does not end with the sweep done"]
    (pair[1] / "manifest.json").write_text("{")
    assert "is no whole manifest" in told(pair)[0]


def test_frames_that_differ(pair):
    table = frame(read_store(pair[0]))
    assert unharmed.differences(table, table.copy()) == []
    twice = table.iloc[[0, *range(len(table))]].reset_index(drop=True)
    assert unharmed.differences(twice, table) == ["1 rows come twice", f"{len(table) + 1} rows, not {len(table)}"]
    assert unharmed.differences(table.assign(z=-0.0), table.assign(z=0.0)) == ["z differs"]
    assert unharmed.differences(table.astype({"n": "int32"}), table) == ["n differs"]
    assert "d_model differs" in unharmed.differences(table[::-1].reset_index(drop=True), table)
    assert unharmed.differences(table.drop(columns="p"), table) == ["other columns"]
    other = table.assign(cell=table["cell"].astype(object).replace(CELLS.key(0), "0" * 16))
    assert [line.split(",")[0] for line in unharmed.differences(other, table)[:2]] == [
        "1 cells missing",
        "1 cells that are not of the sweep",
    ]


def made(hits: dict[str, int], count: int, wrong: list[str], orphans: int = 0) -> list[dict]:
    """Records of a run whose kills of coordinators hit these phases, and one of a worker."""
    kill = {"what": "kill", "lane": 0, "sweep": 0, "kind": "a", "seconds": 1.5, "torn": False}
    dead = [kill | {"victim": "coordinator", "phase": phase, "target": "any"} for phase, many in hits.items() for _ in range(many)]
    dead.append(kill | {"victim": "worker", "phase": "collect", "target": "compute", "seconds": 2.5})
    ended = {"what": "sweep", "lane": 0, "sweep": 0, "kind": "a", "sessions": 3, "set aside": 1, "orphans": orphans, "left over": 0}
    return [{"what": "begun", "count": count}, *dead, ended | {"kills": len(dead), "torn": 0, "wrong": wrong}]


def test_bars():
    hits = {"start": 1, "compute": 5, "mid-line": 3, "flush": 4, "collect": 2}
    assert kills.failures(made(hits, 40, [])) == []
    assert kills.failures(made(hits, 60, [])) == ["collect was hit 2 times, not 3"], "that of a worker does not count"
    assert kills.failures(made(hits, 40, ["n differs"], 2)) == ["1 sweeps are wrong", "2 workers outlived their coordinator"]
    assert kills.verdict(made(hits, 40, [])) == (
        "16 kills in 2 s, of coordinators in 5 phases: start 1, compute 5, mid-line 3, flush 4, collect 2. Missed: nothing."
    )


def test_table():
    page = kills.summary(made({"flush": 2}, 3, ["n differs"]))
    assert isinstance(page, Table)
    assert [row for row in page.rows if row[2]] == [["coordinator", "flush", 2, 2, 0], ["worker", "collect", 1, 0, 0]]
    assert page.sections[0].rows == [["a", 1, 3, 3, 0, 1, 0, 0, 1]]
    assert "Wrong in lane 0, sweep 0: n differs." in page.markdown()


def test_refusals_are_one_line(tmp_path, capsys):
    for arguments, says in (["--count", "0"], "count, lanes: expected at least 1, got 0 and 2"), ([], "has kills already; choose another"):
        if not arguments:
            Records(tmp_path / "kills.jsonl").append({"what": "begun"})
        with pytest.raises(SystemExit) as stopped:
            kills.main(["--out", str(tmp_path), *arguments])
        assert stopped.value.code == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
