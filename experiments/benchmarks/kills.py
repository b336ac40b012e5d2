"""Sweeps under SIGKILL: `python -m experiments.benchmarks.kills --count 1000 --out DIR` kills, resumes, and compares with undisturbed runs.

A command of its own, which `make bench` leaves out: a thousand kills take a while.

Coordinators and workers are killed at random moments, and every sweep is resumed until it is done. Then each cell must be there once, and
the frame, in memory and on the disk, must be that of a run which nobody disturbed, bit for bit. simgap knows nothing of this: the phases
are marked by functions put around its own, in a process that was forked with everything loaded, as two seconds of imports before every kill
would be most of the time. Workers are simgap's own, spawned afresh.
"""

import contextlib
import faulthandler
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.benchmarks.phases import DONE, PHASES, Board, Session, marked
from experiments.benchmarks.unharmed import Kind, complaints, kinds
from simgap.cli import Parser, finish
from simgap.moe.canary import canary
from simgap.records import Records, line_of, provenance, record_of
from simgap.report.table import Table
from simgap.seeding import stream
from simgap.sweeps import collect
from simgap.sweeps.store import RECORDS

Record = dict[str, Any]
# A thousand kills as they were written down: when, in which phase, whom, and what became of their sweeps.
KEPT = Path(__file__).parent / "data" / "kills.jsonl"
# Phases that kills of coordinators must hit, each in one case of twenty at the least.
ASKED, SHARE = ("compute", "mid-line", "flush", "collect"), 20
# Seconds that a piece of a line is held up; see `marked`.
DWELL = 0.003
# Seconds within which the blow falls once its phase has begun, a little less than that lasts; "any": since the session began.
SPANS = {"start": 0.03, "compute": 0.015, "collect": 0.1, "any": 1.5}
SPAN_OF_WORKER, SPAN_OF_WORKERS_START, DWELLS = 0.5, 2.5, 1.6
# How often the phase is there before it is the one that is hit.
MOST_TURNS = 4
WORKERS, MOST_MORE_WORKERS = 2, 3
A_SWEEP = 10  # kills, at most
PATIENCE = 20.0  # seconds for workers to end with their coordinator
SET_ASIDE, FAILED = 3, 70  # exit statuses


@dataclass(frozen=True)
class Blow:
    """A kill to be: whom, in which phase of the coordinator ("any": at any time), and in a session of which engine."""

    victim: str
    target: str
    engine: str = "inprocess"


def blows(generator: np.random.Generator, most: int) -> list[Blow]:
    """The kills of one sweep: of coordinators that work alone, in a random order, among them some of one session with workers; and at the
    end of such as are at the frame."""
    alone = {phase: Blow("coordinator", phase) for phase in ("mid-line", "compute", "flush", "start", "any")}
    worker, either = Blow("worker", "compute", "local"), str(generator.choice(["start", "compute", "mid-line", "flush"]))
    last, more = Blow("coordinator", "collect"), int(generator.integers(MOST_MORE_WORKERS + 1))
    # In the order in which a short run would have them.
    every = [alone["mid-line"], alone["compute"], worker, alone["flush"], last, Blow("coordinator", either, "local"), *[worker] * more]
    every = [*every, last, alone["start"], alone["any"], alone["mid-line"]][:most]
    lone = [blow for blow in every if blow in alone.values()]
    lone = [lone[at] for at in generator.permutation(len(lone)).tolist()]
    # A worker is killed before its coordinator is.
    local = sorted((blow for blow in every if blow.engine == "local"), key=lambda blow: blow.victim == "coordinator")
    at = int(generator.integers(len(lone) + 1))
    return lone[:at] + local + lone[at:] + [blow for blow in every if blow == last]


def forked(work: Callable[[], object], log: Path) -> int:
    """The pid of a copy of this process that does some work and ends with the status which that returns; what it says goes to a log."""
    pid = os.fork()
    if pid:
        return pid
    status = FAILED
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, sys.stdout.fileno())
        os.dup2(handle, sys.stderr.fileno())
        result = work()
        status = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


@dataclass
class Lane:
    """One sweep after the other, each killed up to ten times: in this folder, told line by line to a pipe."""

    number: int
    folder: Path
    tell: int
    seed: int
    dwell: float
    kinds: dict[str, Kind]
    start: float = field(default_factory=time.monotonic)
    size: int = 0

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(self, count: int) -> None:
        names, number = list(self.kinds), 0
        while count:
            generator = stream(self.seed, "test", self.number, number)
            count -= self.sweep(number, names[(number + self.number) % len(names)], blows(generator, min(A_SWEEP, count)), generator)
            number += 1

    def sweep(self, number: int, name: str, planned: list[Blow], generator: np.random.Generator) -> int:
        """One sweep to its end; the kills that hit it. Those of the plan that it left no time for are not made."""
        folder, kind, kills, ended = self.folder / f"sweep_{number}", self.kinds[name], list[Record](), Counter[str]()
        where = {"lane": self.number, "sweep": number, "kind": name}
        alone = self.undisturbed(name)
        if kind.begun:
            shutil.copytree(alone / "begun", folder)
        self.size = _size(folder / RECORDS)
        while not ended["finished"]:
            ended["sessions"] += 1
            moments = stream(self.seed, "test", self.number, number, ended["sessions"])
            session = self.begin(kind, folder, planned[0].engine if planned else "inprocess", moments)
            while planned and (hit := strike(session, planned[0], generator, self.dwell)) is not None:
                kills.append(hit | self.torn(folder / RECORDS, session))
                self.say({"what": "kill", "time": _now(), "seconds": round(time.monotonic() - self.start, 3)} | where | kills[-1])
                planned.pop(0)
            ended[self.end(session)] += 1
            ended["orphans"] += orphans(session)
        torn, whole = (sum(kill[name] for kill in kills) for name in ("torn", "whole"))
        wrong = self.checked(partial(complaints, folder, alone / "whole", kind.trials, torn - whole, whole))
        counts = {name: ended[name] for name in ("sessions", "set aside", "orphans")}
        counts |= {"kills": len(kills), "torn": torn, "left over": len(list(folder.glob(".*.part")))}
        self.say({"what": "sweep"} | where | counts | {"wrong": wrong})
        if wrong:
            shutil.copytree(folder, self.folder.parent.parent / f"wrong_{self.number}_{number}")
        shutil.rmtree(folder)
        return len(kills)

    def undisturbed(self, name: str) -> Path:
        """Where this sweep is, "whole", done in one go, and, where kills come later, as it is "begun"."""
        folder, kind = self.folder / f"undisturbed {name}", self.kinds[name]
        if not folder.exists():

            def once() -> None:
                kind.begin(folder / "begun")
                kind.run(folder / "whole")

            self.other(once)
        return folder

    def begin(self, kind: Kind, folder: Path, engine: str, moments: np.random.Generator) -> Session:
        board = Board()

        def coordinate() -> int:
            os.close(self.tell)
            faulthandler.register(signal.SIGUSR1)
            with marked(board, moments, self.dwell):
                run = kind.run(folder, engine=engine, workers=WORKERS if engine == "local" else None)
                if run.set_aside:
                    return SET_ASIDE
                board.enter("collect")
                collect(folder)
                board.enter(DONE)
            return 0

        board.enter("start")
        return Session(forked(coordinate, self.log), board, engine)

    def end(self, session: Session) -> str:
        session.until(lambda: False)
        status = session.wait()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return "killed"
        if status and os.WEXITSTATUS(status) != SET_ASIDE:
            raise ValueError(f"kills: a coordinator ended by itself (status {status}): {_tail(self.log)}")
        return "set aside" if status else "finished"

    def torn(self, records: Path, session: Session) -> dict[str, bool]:
        """Whether the records of a dead coordinator end in a part of a line that was not there at the last death, and whether that is
        whole but for its newline."""
        if session.status is None:
            return {"torn": False, "whole": False}
        before, self.size = self.size, _size(records)
        last = records.read_bytes().rpartition(b"\n")[2] if self.size > before else b""
        return {"torn": bool(last), "whole": bool(last) and record_of(last + b"\n") is not None}

    def checked(self, check: Callable[[], list[str]]) -> list[str]:
        """What a check finds."""
        report = self.folder / "report.json"

        def write() -> None:
            report.write_text(json.dumps(check()))

        self.other(write)
        return json.loads(report.read_text())

    def other(self, work: Callable[[], object]) -> None:
        """Done in another process: this one has no threads and has to stay so, for a fork keeps none."""
        finish_or_fail(forked(work, self.log), self.log)

    def say(self, record: Record) -> None:
        os.write(self.tell, line_of(record))


def strike(session: Session, blow: Blow, generator: np.random.Generator, dwell: float) -> Record | None:
    """Wait for the blow's moment and kill; None where the session came to its end before that. phase: what the board says after death."""
    worker, board = blow.victim == "worker", session.board
    turns = int(generator.integers(1, MOST_TURNS + 1)) if blow.target in ("compute", "mid-line", "flush") else 1
    span = SPAN_OF_WORKER if worker else SPANS.get(blow.target, DWELLS * dwell)
    if blow.target == "start" and session.engine == "local":
        span = SPAN_OF_WORKERS_START
    delay = generator.uniform(0, span)
    if blow.target not in ("any", "start"):
        turns += board.begun(blow.target) - (board.phase == blow.target)
        if not session.until(lambda: board.begun(blow.target) >= turns):
            return None
    moment = time.monotonic() + delay
    if not session.until(lambda: time.monotonic() >= moment) or board.phase == DONE:
        return None
    record = {"victim": blow.victim, "target": blow.target, "engine": session.engine}
    if worker:
        if not (there := board.workers()):
            return None
        os.kill(there[int(generator.integers(len(there)))], signal.SIGKILL)
        return record | {"phase": board.phase}
    os.kill(session.pid, signal.SIGKILL)
    # One that had just ended, or was all done, does not count.
    hit = os.WIFSIGNALED(session.wait()) and board.phase != DONE
    return record | {"phase": board.phase} if hit else None


def orphans(session: Session) -> int:
    """Workers that outlive their coordinator by more than they may."""
    deadline = time.monotonic() + PATIENCE
    while session.board.workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    left = session.board.workers()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


def kill(count: int, out: Path, seed: int = 0, lanes: int = 2, dwell: float = DWELL, command: str = "") -> list[Record]:
    """So many kills, in so many lanes at a time; their records and those of their sweeps, each written as it happens.

    Raises ValueError where the folder has some already, and for a session that ends by itself other than it should.
    """
    if count < 1 or lanes < 1:
        raise ValueError(f"count, lanes: expected at least 1, got {count} and {lanes}")
    file = Records(out / "kills.jsonl")
    if file.path.exists():
        raise ValueError(f"out: {str(out)!r} has kills already; choose another folder")
    # More of them would not survive a fork, and lanes share the cores.
    torch.set_num_threads(1)
    described = {"what": "begun", "count": count, "seed": seed, "lanes": lanes, "provenance": provenance(command, canary())}
    file.append(described)
    records, known = [described], kinds()
    # tqdm's own lock is shared by all processes forked from here: one that is killed holding it would stop all others.
    tqdm.set_lock(threading.RLock())
    with tempfile.TemporaryDirectory(prefix="kills-", dir=out, ignore_cleanup_errors=True) as name:
        # Loads what has to be loaded, and compiles.
        next(iter(known.values())).run(Path(name, "warm"))
        lane_of = partial(Lane, seed=seed, dwell=dwell, kinds=known)
        with _at_work(count, Path(name), lanes, lane_of) as lines, tqdm(total=count, desc="kills", unit="kill", disable=None) as bar:
            for line in lines:
                if (record := record_of(line.encode())) is None:
                    raise ValueError(f"kills: a lane said {line[:100]!r}, which is no record")
                records.append(record)
                file.append(record)
                bar.update(record["what"] == "kill")
    return records


def finish_or_fail(pid: int, log: Path) -> None:
    """Raises ValueError with the log's last line for a process that fails."""
    if os.waitpid(pid, 0)[1]:
        raise ValueError(f"kills: a process failed: {_tail(log)}")


@contextlib.contextmanager
def _at_work(count: int, held: Path, lanes: int, lane_of: Callable[..., Lane]) -> Iterator[Iterator[str]]:
    """What the lanes say, line by line, until they end."""
    reader, writer = os.pipe()
    running = {}
    for number in range(lanes):
        lane = lane_of(number, held / f"lane_{number}", writer)
        lane.folder.mkdir()
        running[forked(partial(lane.run, (count + number) // lanes), lane.log)] = lane.log
    os.close(writer)
    try:
        with open(reader, encoding="utf-8") as lines:
            yield lines
        while running:
            finish_or_fail(*running.popitem())
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-4000:]


def summary(records: Sequence[Record]) -> Table:
    """Kills by victim and phase, what became of the sweeps, and whether the bars are met."""
    kills, sweeps = ([r for r in records if r["what"] == what] for what in ("kill", "sweep"))
    page = Table("Sweeps under SIGKILL", ["victim", "phase of the coordinator", "kills", "meant for it", "lines torn"])
    for victim in ("coordinator", "worker"):
        for phase in PHASES:
            hit = [r for r in kills if (r["victim"], r["phase"]) == (victim, phase)]
            meant = sum(r["target"] in (phase, "any") for r in hit)
            page.rows.append([victim, phase, len(hit), meant, sum(r["torn"] for r in hit)])
    counted = ("kills", "sessions", "torn", "set aside", "orphans", "left over")
    ends = Table("The sweeps", ["kind", "sweeps", *counted, "wrong"])
    for kind in dict.fromkeys(r["kind"] for r in sweeps):
        of_kind = [r for r in sweeps if r["kind"] == kind]
        ends.rows.append([kind, len(of_kind), *(sum(r[name] for r in of_kind) for name in counted), sum(bool(r["wrong"]) for r in of_kind)])
    ends.notes = [
        "Each sweep was resumed until it was done. Wrong: a cell missing or there twice, a bit of the frame or of its file other than in a "
        "run left alone, a line spoiled that no kill tore. Set aside: sessions that gave up a cell whose workers were killed three times, "
        "and were resumed as well. Orphans: workers that outlived their coordinator. Left over: temporary files.",
        *(f"Wrong in lane {r['lane']}, sweep {r['sweep']}: {'; '.join(r['wrong'])}." for r in sweeps if r["wrong"]),
    ]
    page.notes = [verdict(records)]
    page.sections = [ends]
    return page


def failures(records: Sequence[Record]) -> list[str]:
    """Which bars are missed, in words."""
    sweeps, hits, least = [r for r in records if r["what"] == "sweep"], phases_hit(records), records[0]["count"] // SHARE
    wrong, orphaned = sum(bool(r["wrong"]) for r in sweeps), sum(r["orphans"] for r in sweeps)
    said = [f"{wrong} sweeps are wrong"] * bool(wrong) + [f"{orphaned} workers outlived their coordinator"] * bool(orphaned)
    return said + [f"{phase} was hit {hits[phase]} times, not {least}" for phase in ASKED if hits[phase] < least]


def phases_hit(records: Sequence[Record]) -> Counter[str]:
    """Kills of coordinators by the phase that they were in."""
    return Counter(r["phase"] for r in records if r["what"] == "kill" and r["victim"] == "coordinator")


def verdict(records: Sequence[Record]) -> str:
    kills, hits = [r for r in records if r["what"] == "kill"], phases_hit(records)
    return (
        f"{len(kills):,} kills in {max(r['seconds'] for r in kills):,.0f} s, of coordinators in {len(hits)} phases: "
        f"{', '.join(f'{phase} {hits[phase]}' for phase in PHASES)}. Missed: {'; '.join(failures(records)) or 'nothing'}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m experiments.benchmarks.kills", description="Sweeps under SIGKILL.", allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1000, help="kills (default: 1000)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the records and the table")
    parser.add_argument("--seed", type=int, default=0, help="of whom to kill and when")
    parser.add_argument("--lanes", type=int, default=2, help="sweeps at a time (default: 2)")
    parser.add_argument("--dwell", type=float, default=DWELL, help=f"seconds that a piece of a line is held up (default: {DWELL:g})")
    given = sys.argv[1:] if argv is None else argv
    options, command = parser.parse_args(given), shlex.join([*parser.prog.split(), *given])

    def run() -> int:
        records = kill(options.count, options.out, options.seed, options.lanes, options.dwell, command)
        print(verdict(records), *summary(records).write(options.out / "kills"), sep="\n")
        return 1 if failures(records) else 0

    return finish(run, parser)


if __name__ == "__main__":
    sys.exit(main())
