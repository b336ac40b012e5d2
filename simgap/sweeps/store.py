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

from simgap.records import Records, command_line, locked, now, provenance, read_manifest, source_digest, write_manifest
from simgap.specs import RunSpec, shown
from simgap.sweeps.cells import PATH, Cells, differing
from simgap.sweeps.quantities import Quantities, quantities

FORMAT = 1
RECORDS, MANIFEST, LOG = "records.jsonl", "manifest.json", "sweep.log"
# What must be as it was for a sweep to go on.
FIXED = ("tokens", "seed", "dtype", "device", "metrics")


@dataclass(eq=False)
class Store:
    """A folder opened for writing, or for reading alone.

    begun: whether the folder holds it already; if not, nothing is written before the first session. trials (n,): the trials that are
    recorded of each cell, 0 for none. offsets (n,): where the newest record of each begins. notes: what was found that a user should
    know: a torn line, records of unknown cells, another CPU. held: whether the folder still is the one that was opened.
    """

    path: Path
    cells: Cells
    run: RunSpec
    wanted: Quantities
    manifest: dict[str, Any]
    trials: Int[np.ndarray, " n"]
    offsets: Int[np.ndarray, " n"]
    begun: bool = True
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
            if record is None or not _is_whole(record):
                raise ValueError(f"out: the record of {self.cells.name(at)} in {str(self.path)!r} changed while it was read")
            yield at, record

    def begin(self, trials: int, command: str, engine: str, workers: int) -> None:
        """Note that a session begins: whatever is recorded after it, up to the next, came from it. The first puts the manifest in place."""
        if not self.begun:
            write_manifest(self.path / MANIFEST, self.manifest)
        session = {"trials": trials, "engine": engine, "workers": workers, "source": source_digest(), "provenance": provenance(command)}
        self.records.append({"session": session})

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

    def done(self, trials: int) -> int:
        """Cells that have at least so many trials."""
        return int((self.trials >= trials).sum())


def read_store(path: Path, cells: Cells | None = None) -> Store:
    """The sweep in a folder, as it stands; cells, where they may be those of the folder, need not be built again.

    Raises ValueError where there is none, or something else is in its place.
    """
    manifest = read_manifest(path / MANIFEST)
    if manifest is None:
        raise ValueError(f"out: {str(path)!r} holds no sweep (no {MANIFEST})")
    if manifest.get("format") != FORMAT or manifest["format"] is True:
        raise ValueError(f"out: {str(path)!r} holds a sweep of format {manifest.get('format')!r}, this simgap reads format {FORMAT}")
    if cells is None or cells.to_plain() != manifest.get("cells"):
        cells = Cells.from_plain(manifest.get("cells"))
    plain = manifest.get("run")
    if not isinstance(plain, dict) or not isinstance(plain.get("metrics"), list):
        raise ValueError(f"out: the manifest in {str(path)!r} does not say what was run")
    try:
        run = RunSpec(**{name: value for name, value in plain.items() if name != "metrics"})
    except TypeError as error:
        raise ValueError(f"out: the manifest in {str(path)!r} does not say what was run: {error}") from None
    store = Store(path, cells, run, quantities(plain["metrics"]), manifest, np.zeros(len(cells), np.int32), np.zeros(len(cells), np.int64))
    _index(store)
    return store


@contextlib.contextmanager
def open_store(path: Path, cells: Cells, run: RunSpec, wanted: Quantities, any_version: bool = False) -> Iterator[Store]:
    """The folder of this sweep, begun or gone on with, held for this process.

    Raises ValueError where the folder holds another sweep, is in use, or was begun by other code (unless any_version), OSError where it
    cannot be written. Nothing is changed then.
    """
    with locked(path) as held:
        store = begun_store(path, cells, run, wanted, any_version)
        if store is None:
            n = len(cells)
            manifest = _manifest(cells, run, wanted)
            store = Store(path, cells, run, wanted, manifest, np.zeros(n, np.int32), np.zeros(n, np.int64), begun=False)
        elif torn := store.records.mend():
            # It may have lacked nothing but its end.
            _index(store)
            store.notes.insert(0, f"{RECORDS}: its last line was torn after {torn} bytes by a crash or a full disk")
        store.run, store.held = run, held
        yield store


def begun_store(path: Path, cells: Cells, run: RunSpec, wanted: Quantities, any_version: bool) -> Store | None:
    """The sweep that a folder holds, if it holds one and may be gone on with as this one; only looked at.

    Raises ValueError where the folder holds another sweep, or links, or was begun by other code (unless any_version).
    """
    for name in (RECORDS, MANIFEST, LOG):
        if (path / name).is_symlink():
            raise ValueError(f"out: {str(path / name)!r} is a link; a sweep writes into its own folder alone")
    if not holds_results(path):
        return None
    store = read_store(path, cells)
    _same_sweep(store, cells, run, wanted)
    if store.cells.base.inputs != cells.base.inputs or PATH in store.cells.columns:
        # The same cells, but the files of their inputs lie where they are said to lie now.
        numbers = {key: at for at, key in enumerate(cells.keys.tolist())}
        store.cells = cells.take([numbers[key] for key in store.cells.keys.tolist()])
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
    try:
        # Not abspath, which takes "link/.." for nothing.
        return Path(os.path.expanduser(name)).absolute()
    except OSError:
        raise ValueError(f"out: {name!r} is relative to the current folder, and that is gone") from None


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


def _manifest(cells: Cells, run: RunSpec, wanted: Quantities) -> dict[str, Any]:
    origin = provenance(command_line())
    described = {name: value for name, value in run.to_dict().items() if name != "memory"} | {"metrics": wanted.names}
    return {"format": FORMAT, "begun": now(), "source": source_digest(), "provenance": origin, "run": described, "cells": cells.to_plain()}


def _index(store: Store) -> None:
    """Find the newest record of every cell."""
    store.notes.clear()
    order = np.argsort(store.cells.keys)
    keys = store.cells.keys[order]
    unknown = spoiled = 0
    for entry in store.records.entries():
        if entry.record is None:
            spoiled += entry.size > 1
        elif "session" not in entry.record:
            key, trials = _key(entry.record), entry.record.get("trials")
            at = int(np.searchsorted(keys, np.uint64(key))) if key is not None else len(keys)
            if at == len(keys) or keys[at] != key:
                unknown += 1
            elif not _is_whole(entry.record):
                spoiled += 1
            elif trials >= store.trials[order[at]]:
                store.trials[order[at]], store.offsets[order[at]] = trials, entry.offset
    if spoiled:
        lines = "1 line is no whole record" if spoiled == 1 else f"{spoiled} lines are no whole records"
        store.notes.append(f"{RECORDS}: {lines}; left as found, their cells are done again unless they were since")
    if unknown:
        store.notes.append(f"{RECORDS}: {unknown} record{'s' * (unknown > 1)} of cells that this sweep does not have; left as found")


def _key(record: Mapping[str, Any]) -> int | None:
    key = record.get("cell")
    return int(key, 16) if isinstance(key, str) and re.fullmatch("[0-9a-f]{16}", key) else None


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record has what a frame shows and what more trials are added to."""
    trials, seed, rows = record.get("trials"), record.get("seed"), record.get("quantities")
    counted = type(trials) is int and 1 <= trials < 1 << 31 and type(seed) is int and 0 <= seed < 1 << 63
    return (
        counted
        and isinstance(rows, dict)
        and all(isinstance(row, dict) for row in rows.values())
        and isinstance(record.get("tallies"), dict)
    )


def _same_sweep(store: Store, cells: Cells, run: RunSpec, wanted: Quantities) -> None:
    begun, asked = set(store.cells.keys.tolist()), set(cells.keys.tolist())
    if begun != asked:
        gone = next((f"; gone is {store.cells.name(at)}" for at, key in enumerate(store.cells.keys.tolist()) if key not in asked), "")
        new = next((f"; new is {cells.name(at)}" for at, key in enumerate(cells.keys.tolist()) if key not in begun), "")
        bases = differing(store.cells.base, cells.base)
        around = f", around layers that differ in {', '.join(bases)}" if bases else ""
        raise ValueError(
            f"out: {str(store.path)!r} holds a sweep of other cells: {len(begun - asked)} of its {len(begun)} are gone and "
            f"{len(asked - begun)} are new{around}{gone}{new}; choose another folder"
        )
    before = store.run.to_dict() | {"metrics": store.wanted.names}
    after = run.to_dict() | {"metrics": wanted.names}
    for name in FIXED:
        if before[name] != after[name]:
            raise ValueError(
                f"{name}: {str(store.path)!r} was begun with {shown(before[name])}, got {shown(after[name])}; choose another folder"
            )


def _same_code(store: Store) -> None:
    """Refuse what may give other bits; note another CPU, which may too, but which a cluster cannot always avoid."""
    origin = provenance()
    before = store.manifest.get("provenance")
    before = before if isinstance(before, dict) else {}
    way = "go on with that, or add --any-version (any_version=True) to mix them"
    mine, theirs = origin["versions"], before.get("versions")
    theirs = theirs if isinstance(theirs, dict) else {}
    for name in mine:
        if mine[name] != theirs.get(name):
            raise ValueError(f"out: {str(store.path)!r} was begun with {name} {theirs.get(name)}, this is {mine[name]}; {way}")
    if store.manifest.get("source") != source_digest():
        was, here = (str(commit or "no commit")[:12] for commit in (before.get("commit"), origin["commit"]))
        begun = store.manifest.get("source")
        raise ValueError(
            f"out: {str(store.path)!r} was begun by another simgap {mine['simgap']} (source {begun}, {was}), this is {source_digest()}, "
            f"{here}; {way}"
        )
    if before.get("cpu") != origin["cpu"]:
        store.notes.append(f"begun on {before.get('cpu')!r}, this is {origin['cpu']!r}: the last bits of new cells may differ")
