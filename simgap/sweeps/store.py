"""The folder of a sweep: what it is of, which cells are done, and whether this is the code and the grid that began it."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from simgap.checks import absolute, shown
from simgap.null_names import check_null_of_layer
from simgap.records import Records, command_line, locked, now, numbered, provenance, read_manifest, source_digest, write_manifest
from simgap.seeding import derived
from simgap.selection import Selection, select
from simgap.specs import RunSpec
from simgap.sweeps.cells import Cells, differing

# 2: every line and the manifest carry a checksum, and sessions the manifest's digest.
FORMAT = 3
RECORDS, MANIFEST, LOG = "records.jsonl", "manifest.json", "sweep.log"
# What must be as it was for a sweep to go on.
FIXED = ("tokens", "seed", "dtype", "device", "quantities", "null", "prepare")
UNKNOWN = "of a cell that this sweep does not have"
# How to go on with what other code or another machine began.
MIX = "go on with that, or add --any-version (any_version=True) to mix them"


@dataclass(eq=False)
class Store:
    """A folder opened for writing, or for reading alone.

    trials (n,): the trials that are recorded of each cell, 0 for none. offsets (n,): where the newest record of each begins. digest: of the
    manifest's file, which sessions name; "" where there is none yet, since nothing is written before the first session. origin: what the
    manifest says beside its cells. canaries: of the machines that measured what is recorded. any_version: whether other versions and
    machines of other arithmetic may go on with it. prepare: the name of what changes the drawn weights. notes: what was found that a user
    should know: torn and damaged lines, records of unknown cells. held: whether the folder still is the one that was opened.
    """

    path: Path
    cells: Cells
    run: RunSpec
    selection: Selection
    trials: Int[np.ndarray, " n"]
    offsets: Int[np.ndarray, " n"]
    digest: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    canaries: set[str] = field(default_factory=set)
    any_version: bool = False
    prepare: str = ""
    notes: list[str] = field(default_factory=list)
    held: Callable[[], bool] = lambda: True

    @property
    def records(self) -> Records:
        return Records(self.path / RECORDS)

    def earlier(self, at: int) -> dict[str, Any] | None:
        """The newest record of a cell, or None."""
        return self.records.at(int(self.offsets[at])) if self.trials[at] else None

    def newest(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and newest record of every cell that has one, in the order of the cells."""
        for at in np.flatnonzero(self.trials).tolist():
            record = self.earlier(at)
            if record is None or record.get("cell") != self.cells.key(at) or self.fault(record):
                raise ValueError(f"out: the record of {self.cells.name(at)} in {str(self.path)!r} changed while it was read")
            yield at, record

    def begin(self, trials: int, command: str, engine: str, workers: int) -> None:
        """Note that a session begins: whatever is recorded after it, up to the next, came from it. The first puts the manifest in place."""
        if not self.digest:
            self.digest = write_manifest(self.path / MANIFEST, _manifest(self))
        session = {"manifest": self.digest, "trials": trials, "engine": engine, "workers": workers, "source": source_digest()}
        self.records.append({"session": session | {"provenance": _origin(command)}})

    def record(self, cells: Sequence[int], lines: Sequence[bytes]) -> None:
        """Write the lines of these cells, and count them as done once they are on the disk.

        Raises OSError where they cannot be written: a folder that was removed or moved meanwhile is not made anew for them.
        """
        gone = FileNotFoundError(errno.ENOENT, f"out: {str(self.path)!r} is gone: it was removed, moved or replaced while the sweep ran")
        if not self.held():
            raise gone
        try:
            offset = self.records.extend(lines, create=False)
        except FileNotFoundError:
            raise gone from None
        for at, line in zip(cells, lines, strict=True):
            self.trials[at], self.offsets[at] = self.run.trials, offset
            offset += len(line)

    def admit(self, canary: str) -> str:
        """Let a machine measure cells; what is noted of it, "" where it computes as those do that measured the others.

        It is the machines that measure which are compared: a coordinator of a cluster may be of any kind. Raises ValueError where the
        arithmetic is another (unless any_version).
        """
        if canary in self.canaries or not self.canaries:
            self.canaries.add(canary)
            return ""
        others = ", ".join(sorted(self.canaries))
        said = f"cells of {str(self.path)!r} were measured by machines of other arithmetic (canary {others}) than {canary}"
        if not self.any_version:
            raise ValueError(f"out: {said}; {MIX}")
        self.canaries.add(canary)
        self.notes.append(f"{said}: last bits may differ")
        return self.notes[-1]

    def fault(self, record: Mapping[str, Any]) -> str:
        """Why a record is none of a cell of this sweep, whatever its cell, as the end of a sentence about a line; "" for one that is."""
        if not _is_whole(record):
            return "not of the form of a record"
        if record["seed"] != derived(self.run.seed, record["cell"]):
            return f"of another seed than {self.run.seed} gives its cell"
        other = next((name for name in ("tokens", "dtype") if record.get(name) != getattr(self.run, name)), "")
        return f"of other {other} than this sweep's" if other else ""

    def done(self, trials: int) -> int:
        """Cells that have at least so many trials."""
        return int((self.trials >= trials).sum())


def read_store(path: Path, cells: Cells | None = None) -> Store:
    """The sweep in a folder, as it stands; cells, where they may be those of the folder, need not be built again.

    Raises ValueError where there is none, or something else is in its place.
    """
    stored = read_manifest(path / MANIFEST)
    if stored is None:
        raise ValueError(f"out: {str(path)!r} holds no sweep (no {MANIFEST})")
    manifest, digest = stored
    if manifest.get("format") != FORMAT or manifest["format"] is True:
        raise ValueError(f"out: {str(path)!r} holds a sweep of format {manifest.get('format')!r}, this simgap reads format {FORMAT}")
    # Not kept, since it may be large.
    described = manifest.pop("cells", None)
    if cells is None or cells.to_plain() != described:
        cells = Cells.from_plain(described)
    plain = manifest.get("run")
    if not isinstance(plain, dict) or not isinstance(plain.get("quantities"), list):
        raise ValueError(f"out: the manifest in {str(path)!r} does not say what was run")
    try:
        run = RunSpec(**{name: value for name, value in plain.items() if name not in ("quantities", "null", "prepare")})
        check_null_of_layer(null := plain.get("null", "law"))
        # Older folders say nothing of what they do not have.
        if not isinstance(prepare := plain.get("prepare", ""), str):
            raise ValueError(f"prepare: expected a name, got {shown(prepare)}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"out: the manifest in {str(path)!r} does not say what was run: {error}") from None
    n, selection = len(cells), select(plain["quantities"], null=null)
    store = Store(path, cells, run, selection, np.zeros(n, np.int32), np.zeros(n, np.int64), digest, manifest, prepare=prepare)
    _index(store)
    return store


@contextlib.contextmanager
def open_store(
    path: Path, cells: Cells, run: RunSpec, selection: Selection, any_version: bool = False, prepare: str = ""
) -> Iterator[Store]:
    """The folder of this sweep, begun or gone on with, held for this process.

    Raises ValueError where the folder holds another sweep, is in use, or was begun by other code (unless any_version), OSError where it
    cannot be written. Nothing is changed then.
    """
    with locked(path) as held:
        store = begun_store(path, cells, run, selection, any_version, prepare)
        if store is None:
            n = len(cells)
            store = Store(
                path, cells, run, selection, np.zeros(n, np.int32), np.zeros(n, np.int64), any_version=any_version, prepare=prepare
            )
        elif torn := store.records.mend():
            # It may have lacked nothing but its end.
            _index(store)
            store.notes.insert(0, f"{RECORDS}: its last line was torn after {torn} bytes by a crash or a full disk")
        store.run, store.held = run, held
        yield store


def begun_store(path: Path, cells: Cells, run: RunSpec, selection: Selection, any_version: bool, prepare: str = "") -> Store | None:
    """The sweep that a folder holds, if it holds one and may be gone on with as this one; only looked at.

    Raises ValueError where the folder holds another sweep, or links, or was begun by other code (unless any_version).
    """
    for name in (RECORDS, MANIFEST, LOG):
        if (path / name).is_symlink():
            raise ValueError(f"out: {str(path / name)!r} is a link; a sweep writes into its own folder alone")
        if (path / name).exists() and not (path / name).is_file():
            # To write into a pipe would wait for its reader.
            raise ValueError(f"out: {str(path / name)!r} cannot be written: not a regular file")
    if not holds_results(path):
        return None
    store = read_store(path, cells)
    _same_sweep(store, cells, run, selection, prepare)
    # The same cells, but the files of their inputs lie where they are said to lie now.
    order = np.argsort(cells.keys)
    store.cells = cells.take(order[np.searchsorted(cells.keys, store.cells.keys, sorter=order)])
    store.any_version = any_version
    if not any_version:
        _same_code(store)
    if run.trials < (most := int(store.trials.max(initial=0))):
        raise ValueError(f"trials: {str(path)!r} has {most} of a cell already, got {run.trials}; ask for {most} or choose another folder")
    return store


def folder_of(out: str | os.PathLike[str]) -> Path:
    """The folder that a user names, whatever the current one is later; "~" is their home. Raises ValueError for what names none."""
    name = out if isinstance(out, str) else os.fspath(out) if isinstance(out, os.PathLike) else ""
    # The name of none would be the current one.
    if not name or not isinstance(name, str) or "\0" in name:
        raise ValueError(f"out: expected a folder, got {out!r}")
    return Path(absolute("out", name))


def holds_results(path: Path) -> bool:
    """Whether a sweep has recorded a cell in this folder: one that has not may be begun anew, whatever it was to be of.

    Raises ValueError for records without a manifest.
    """
    recorded = any("session" not in (entry.record or {}) for entry in Records(path / RECORDS).entries())
    if (path / MANIFEST).exists():
        return recorded
    if (path / RECORDS).exists():
        raise ValueError(f"out: {str(path)!r} has {RECORDS} but no {MANIFEST}; choose another folder")
    return False


def _manifest(store: Store) -> dict[str, Any]:
    origin, run = _origin(command_line()), _described(store.run, store.selection, store.prepare)
    return {"format": FORMAT, "begun": now(), "source": source_digest(), "provenance": origin, "run": run, "cells": store.cells.to_plain()}


def _described(run: RunSpec, selection: Selection, prepare: str) -> dict[str, Any]:
    """How the cells are measured. Any memory gives the same."""
    plain = run.to_dict() | {"quantities": selection.texts, "null": selection.null, "prepare": prepare}
    return {name: value for name, value in plain.items() if name != "memory"}


def _origin(command: str = "") -> dict[str, Any]:
    from simgap.moe.canary import canary

    return provenance(command, canary())


def _index(store: Store) -> None:
    """Find the newest record of every cell, and note the lines that are none. Raises ValueError for records of another manifest."""
    store.notes.clear()
    order = np.argsort(store.cells.keys)
    keys = store.cells.keys[order]
    faults: dict[str, list[int]] = {}
    # Of the session that the lines are of; None where that is not known, as after a damaged line, which may have begun another.
    digest: object = None
    for number, entry in enumerate(store.records.entries(), 1):
        record, fault = entry.record, entry.fault
        if record is None:
            if entry.size == 1:
                continue
            digest = None
        elif "session" in record:
            session = record["session"]
            digest = session.get("manifest") if isinstance(session, dict) else None
        elif digest not in (None, store.digest):
            raise ValueError(
                f"out: {MANIFEST} in {str(store.path)!r} is not the one that line {number} of {RECORDS} was recorded under: it was "
                f"changed or exchanged since"
            )
        else:
            key = _key(record)
            at = int(np.searchsorted(keys, np.uint64(key))) if key is not None else len(keys)
            if at == len(keys) or keys[at] != key:
                fault = UNKNOWN
            elif not (fault := store.fault(record)):
                store.canaries.add(record["canary"])
                if (trials := record["trials"]) >= store.trials[order[at]]:
                    store.trials[order[at]], store.offsets[order[at]] = trials, entry.offset
        if fault:
            faults.setdefault(fault, []).append(number)
    for fault, numbers in faults.items():
        again = "" if fault == UNKNOWN else ", the cells done again unless they were since"
        store.notes.append(f"{RECORDS}: {numbered(numbers)}: {fault}; left as found{again}")


def _key(record: Mapping[str, Any]) -> int | None:
    key = record.get("cell")
    return int(key, 16) if isinstance(key, str) and re.fullmatch("[0-9a-f]{16}", key) else None


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record has what a frame shows and what more trials are added to."""
    trials, seed, rows, canary = (record.get(name) for name in ("trials", "seed", "quantities", "canary"))
    if not isinstance(canary, str) or not re.fullmatch("[0-9a-f]{1,64}", canary):
        return False
    counted = type(trials) is int and 1 <= trials < 1 << 31 and type(seed) is int and 0 <= seed < 1 << 63
    return (
        counted and isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()) and isinstance(record.get("sums"), dict)
    )


def _same_sweep(store: Store, cells: Cells, run: RunSpec, selection: Selection, prepare: str) -> None:
    gone, new = np.isin(store.cells.keys, cells.keys, invert=True), np.isin(cells.keys, store.cells.keys, invert=True)
    if gone.any() or new.any():
        both = ("gone", store.cells, gone), ("new", cells, new)
        first = "".join(f"; {word} is {part.name(int(mask.argmax()))}" for word, part, mask in both if mask.any())
        bases = differing(store.cells.base, cells.base)
        around = f", around layers that differ in {', '.join(bases)}" if bases else ""
        raise ValueError(
            f"out: {str(store.path)!r} holds a sweep of other cells: {gone.sum()} of its {len(gone)} are gone and {new.sum()} are "
            f"new{around}{first}; choose another folder"
        )
    before, after = _described(store.run, store.selection, store.prepare), _described(run, selection, prepare)
    for name in FIXED:
        if before[name] != after[name]:
            raise ValueError(
                f"{name}: {str(store.path)!r} was begun with {shown(before[name])}, got {shown(after[name])}; choose another folder"
            )


def _same_code(store: Store) -> None:
    """Refuse what may give other bits: other versions and other code. Machines are compared when they measure; see `Store.admit`."""
    origin = provenance()
    before = store.origin.get("provenance")
    before = before if isinstance(before, dict) else {}
    mine, theirs = origin["versions"], before.get("versions")
    theirs = theirs if isinstance(theirs, dict) else {}
    for name in mine:
        if mine[name] != theirs.get(name):
            raise ValueError(f"out: {str(store.path)!r} was begun with {name} {theirs.get(name)}, this is {mine[name]}; {MIX}")
    if store.origin.get("source") != source_digest():
        was, here = (str(commit or "no commit")[:12] for commit in (before.get("commit"), origin["commit"]))
        begun = store.origin.get("source")
        raise ValueError(
            f"out: {str(store.path)!r} was begun by another simgap {mine['simgap']} (source {begun}, {was}), this is {source_digest()}, "
            f"{here}; {MIX}"
        )
