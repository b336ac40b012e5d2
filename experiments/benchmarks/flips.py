"""Run folders with damage: `python -m experiments.benchmarks.flips --count 1000 --out DIR` flips single bits, edits lines, and collects.

A command of its own, as `kills` is. A small sweep is recorded in two sessions; then, one at a time, a bit of one of its files is flipped,
or its records or its manifest are changed as hands and disks do. What `collect` makes of it is held against what was measured: each row
must be, to the bit, one that was measured for that cell, and whatever was changed must have been said, by the name of the file, or be
harmless. Where the folder can be gone on with, the sweep is resumed, and its frame must then be the one that it had.
"""

import contextlib
import json
import logging
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from simgap import LayerSpec
from simgap.cli import Parser, finish
from simgap.moe.canary import canary
from simgap.records import Records, line_of, provenance, read_manifest, record_of, write_manifest
from simgap.seeding import stream
from simgap.sweeps import COSTS, collect, grid, sweep
from simgap.sweeps.store import MANIFEST, RECORDS, read_store

# What became of a thousand flips.
KEPT = Path(__file__).parent / "data" / "flips.jsonl"
CELLS = grid(LayerSpec(d_model=8, d_ff=16, n_experts=4, top_k=2), d_model=[8, 12], d_ff=[16, 24])
# Trials of the first session and of the second.
FIRST, ALL = 1, 2
# Of the flips, those of the manifest, and those of files that are only written: the frame's, the log and the lock.
SHARE_OF_MANIFEST, SHARE_OF_OTHERS = 0.25, 0.05
# One flip in so many is followed by a session that goes on with the folder.
RESUMED = 20
# Said by a refusal or a warning; the same frame to the bit; cells or trials counted as not done, and nothing said.
NAMED, HARMLESS, MISSING, WRONG = "named", "harmless", "missing", "wrong"

Lines = list[bytes]
Rows = dict[tuple[str, int], list[str]]


@dataclass(frozen=True)
class Folder:
    """A sweep to be damaged: where it is, the files that it consists of, the rows that were measured, and those of its frame."""

    path: Path
    files: dict[str, bytes]
    measured: Rows
    wanted: Rows

    def restore(self) -> None:
        for name, content in self.files.items():
            (self.path / name).write_bytes(content)


def measure_to(path: Path, trials: int, tokens: int = 32) -> None:
    quantities = ["weight_mso up", "activation_mso mean output", "gap"]
    sweep(CELLS, quantities=quantities, trials=trials, tokens=tokens, seed=3, out=path, engine="inprocess", progress=False)


def recorded(path: Path) -> Folder:
    """A sweep of two sessions, the second of which added trials to the cells of the first."""
    measure_to(path, FIRST)
    before = rows(collect(path))
    measure_to(path, ALL)
    after = rows(collect(path))
    return Folder(path, {file.name: file.read_bytes() for file in sorted(path.iterdir())}, before | after, after)


def rows(table: pd.DataFrame) -> Rows:
    """The rows of every cell, but for what it cost, in words that tell every bit."""
    table = table.drop(columns=list(COSTS))
    by_cell: Rows = {}
    for row in zip(*(table[name].tolist() for name in table), strict=True):
        values = dict(zip(table.columns, row, strict=True))
        by_cell.setdefault((values["cell"], values["trials"]), []).append(repr(row))
    return by_cell


def outcome(folder: Folder) -> tuple[str, str]:
    """What `collect` makes of a folder, and what it says."""
    try:
        with _warnings() as said:
            by_cell = rows(collect(folder.path, write=False))
    except (ValueError, OSError) as error:
        return (NAMED if MANIFEST in str(error) or RECORDS in str(error) else WRONG), str(error)
    except Exception as error:
        return WRONG, repr(error)
    if any(folder.measured.get(at) != lines for at, lines in by_cell.items()):
        return WRONG, "a row that was not measured"
    if said:
        return (NAMED if all(text.startswith((f"{RECORDS}: line", f"{MANIFEST}: ")) for text in said) else WRONG), "; ".join(said)
    if list(by_cell.items()) == list(folder.wanted.items()):
        return HARMLESS, ""
    return (MISSING if read_store(folder.path).done(ALL) < len(CELLS) else WRONG), "cells or trials are not there"


def resumed(folder: Folder) -> str:
    """Why a folder that can be gone on with is not what it was, once that is done; "" if it is."""
    with tempfile.TemporaryDirectory(dir=folder.path.parent) as name:
        other = Path(name, "run")
        shutil.copytree(folder.path, other)
        with _warnings():
            measure_to(other, ALL)
            by_cell = rows(collect(other, write=False))
        return "" if by_cell == folder.wanted else "resumed, it has another frame"


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the log of the sweeps warns of meanwhile."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger("simgap.sweeps"), Handler(logging.WARNING)
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = propagates


def by_hand(line: bytes, **changes: Any) -> bytes:
    """A line as an editor leaves it: changed, and its checksum as it was."""
    return json.dumps(json.loads(line) | changes).encode() + b"\n"


def edits_of_lines(other: Lines) -> dict[str, tuple[Callable[[Lines], Lines], str]]:
    """Changes of the file of records and what is to come of each. Its first line is a session's, the next four are cells', and so again;
    other: the lines of a sweep of the same cells with other tokens."""

    def mean(line: bytes) -> bytes:
        table = record_of(line)["quantities"]  # type: ignore[index]
        name = next(iter(table))
        return by_hand(line, quantities={**table, name: table[name] | {"mean": 0.123}})

    def last(change: Callable[[bytes, bytes], bytes]) -> Callable[[Lines], Lines]:
        return lambda lines: [*lines[:-1], change(lines[-1], lines[-2])]

    def cell(line: bytes) -> str:
        return (record_of(line) or {})["cell"]

    return {
        "another cell's content under a key": (last(lambda one, near: by_hand(near, cell=cell(one))), NAMED),
        "the same with a checksum": (last(lambda one, near: line_of((record_of(near) or {}) | {"cell": cell(one)})), NAMED),
        "a mean edited": (last(lambda one, _: mean(one)), NAMED),
        "quantities emptied": (last(lambda one, _: by_hand(one, quantities={})), NAMED),
        "trials 999": (last(lambda one, _: by_hand(one, trials=999)), NAMED),
        "another line's checksum": (last(lambda one, near: one[:-11] + near[-11:]), NAMED),
        "without a checksum": (last(lambda one, _: json.dumps(record_of(one)).encode() + b"\n"), NAMED),
        "torn": (last(lambda one, _: one[: len(one) // 2]), NAMED),
        "a block of zeros": (last(lambda one, _: bytes(512) + one[512:]), NAMED),
        "a session edited": (lambda lines: [by_hand(lines[0], session={}), *lines[1:]], NAMED),
        "two lines swapped": (lambda lines: [*lines[:-2], lines[-1], lines[-2]], HARMLESS),
        "a line twice": (lambda lines: [*lines, lines[-1]], HARMLESS),
        "an older line again": (lambda lines: [*lines, lines[1]], HARMLESS),
        "a session's line gone": (lambda lines: lines[1:], HARMLESS),
        "a line gone": (lambda lines: lines[:-1], MISSING),
        "all lines gone": (lambda lines: [], MISSING),
        "a line of other tokens": (lambda lines: [*lines, other[-1]], NAMED),
        "all lines of other tokens": (lambda lines: [*lines, *other], NAMED),
    }


def edits_of_manifest(other: bytes) -> dict[str, Callable[[Path], object]]:
    """Changes of the manifest, all of which must be named; other: that of another sweep of the same cells."""

    def replaced(old: bytes, new: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(path.read_bytes().replace(old, new, 1))

    def rewritten(path: Path) -> None:
        manifest, _ = read_manifest(path) or ({}, "")
        write_manifest(path, manifest | {"run": manifest["run"] | {"tokens": 33}})

    return {
        "seed edited": replaced(b'"seed": 3', b'"seed": 4'),
        "tokens edited": replaced(b'"tokens": 32', b'"tokens": 33'),
        "tokens edited, with a checksum": rewritten,
        "another sweep's manifest": lambda path: path.write_bytes(other),
        "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
        "emptied": lambda path: path.write_bytes(b""),
        "gone": lambda path: path.unlink(),
    }


def edited(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """Every edit, what came of it, and why that is wrong, "" if it is not."""
    with tempfile.TemporaryDirectory(dir=folder.path.parent) as name:
        measure_to(Path(name), ALL, tokens=33)
        lines, manifest = (Path(name, file).read_bytes() for file in (RECORDS, MANIFEST))
    for what, (change, expected) in edits_of_lines(lines.splitlines(keepends=True)).items():
        (folder.path / RECORDS).write_bytes(b"".join(change(folder.files[RECORDS].splitlines(keepends=True))))
        result, said = outcome(folder)
        why = f"{result}, not {expected}: {said}" if result != expected else ""
        # Where another sweep's sessions are among the lines, it can only be refused; where nothing was lost, there is nothing to do.
        if not why and result != HARMLESS and MANIFEST not in said:
            why = resumed(folder)
        yield f"{RECORDS}: {what}", result, why
        folder.restore()
    for what, put in edits_of_manifest(manifest).items():
        put(folder.path / MANIFEST)
        result, said = outcome(folder)
        yield f"{MANIFEST}: {what}", result, "" if result == NAMED else said or result
        folder.restore()


def flipped(folder: Folder, count: int, seed: int) -> Iterator[tuple[str, int, str, str]]:
    """So many flips: file, bit, what came of it, and why that is wrong, "" if it is not."""
    generator = stream(seed, "test")
    others = [name for name, content in folder.files.items() if name not in (RECORDS, MANIFEST) and content]
    for number in range(count):
        kind = generator.choice(3, p=[1 - SHARE_OF_MANIFEST - SHARE_OF_OTHERS, SHARE_OF_MANIFEST, SHARE_OF_OTHERS])
        name = (RECORDS, MANIFEST, str(generator.choice(others)))[int(kind)]
        content = np.frombuffer(folder.files[name], np.uint8).copy()
        bit = int(generator.integers(8 * len(content)))
        content[bit // 8] ^= 1 << bit % 8
        (folder.path / name).write_bytes(content.tobytes())
        result, said = outcome(folder)
        why = said if result == WRONG else f"{result}: {said}" if result == MISSING else ""
        if not why and name != MANIFEST and number % RESUMED == 0:
            why = resumed(folder)
        yield name, bit, result, why
        folder.restore()


def damage(count: int, out: Path, seed: int = 0, command: str = "") -> dict[str, Any]:
    """Every edit and so many flips of a sweep that is made in `out`; the record of what came of them."""
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    out.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="flips-", dir=out) as name:
        folder = recorded(Path(name, "run"))
        edits = {}
        for what, result, why in edited(folder):
            edits[what] = result
            wrong += [f"{what}: {why}"] * bool(why)
        for file, bit, result, why in tqdm(flipped(folder, count, seed), total=count, desc="flips", unit="flip", disable=None):
            counts.setdefault(file, Counter())[result] += 1
            wrong += [f"{file}: bit {bit}: {why}"] * bool(why)
        sizes = {name: len(content) for name, content in folder.files.items()}
    described = {"count": count, "seed": seed, "bytes": sizes, "flips": {file: dict(outcomes) for file, outcomes in sorted(counts.items())}}
    return described | {"edits": edits, "wrong": wrong, "provenance": provenance(command, canary())}


def verdict(record: dict[str, Any]) -> str:
    total: Counter[str] = Counter()
    for outcomes in record["flips"].values():
        total.update(outcomes)
    said = ", ".join(f"{number} {what}" for what, number in total.most_common())
    return f"{record['count']:,} flips: {said}; {len(record['edits'])} edits. Wrong: {'; '.join(record['wrong'][:20]) or 'nothing'}."


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m experiments.benchmarks.flips", description="Run folders with damage.", allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1000, help="flipped bits (default: 1000)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the record")
    parser.add_argument("--seed", type=int, default=0, help="of which bits are flipped")
    given = sys.argv[1:] if argv is None else argv
    options, command = parser.parse_args(given), shlex.join([*parser.prog.split(), *given])

    def run() -> int:
        record = damage(options.count, options.out, options.seed, command)
        Records(options.out / "flips.jsonl").append(record)
        print(verdict(record))
        return 1 if record["wrong"] else 0

    return finish(run, parser)


if __name__ == "__main__":
    sys.exit(main())
