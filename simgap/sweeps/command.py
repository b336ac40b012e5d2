"""What `simgap sweep` does, short of reading flags and printing."""

import contextlib
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simgap.selection import Selection, select
from simgap.specs import RunSpec
from simgap.stats import normal_score
from simgap.sweeps.cells import Cells, LeftOut
from simgap.sweeps.engines import check_here, cores
from simgap.sweeps.file import read_file
from simgap.sweeps.frame import FRAME
from simgap.sweeps.plan import cost_line, plan_cells
from simgap.sweeps.run import Run, admitted_here
from simgap.sweeps.store import MANIFEST, RECORDS, begun_store, folder_of, holds_results, read_store

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Job:
    """A sweep that was asked for: its cells, how each is measured, the quantities and the folder."""

    cells: Cells
    run: RunSpec
    selection: Selection
    out: Path

    def recorded(self) -> int:
        """Bytes of records in the folder: they grow with every cell."""
        with contextlib.suppress(OSError):
            return (self.out / RECORDS).stat().st_size
        return 0

    def standing(self) -> str:
        """'37 of 100 cells done', by what is on the disk."""
        done = fewer = 0
        with contextlib.suppress(OSError, ValueError):
            store = read_store(self.out)
            done = store.done(self.run.trials)
            fewer = store.done(1) - done
        return f"{done:,} of {len(self.cells):,} cells done" + f" and {fewer:,} with fewer trials" * bool(fewer)


def asked(
    file: str | None,
    out: str,
    resume: bool,
    dry_run: bool,
    given: Mapping[str, Any],
    progress: bool | None = None,
    null: str | None = None,
) -> Job:
    """The job of a sweep file, or, without one, the one that the folder holds; `given` replaces what either says of the run, `null` the
    name of the null.

    Raises ValueError where there is neither, and for a folder that holds a sweep unless it is to be resumed or only looked at.
    """
    folder = folder_of(out)

    def selected(selection: Selection) -> Selection:
        return selection if null is None else select(selection.texts, null=null)

    begun = (folder / MANIFEST).exists()
    if not resume and not dry_run and holds_results(folder):
        raise ValueError(f"out: {out!r} holds a sweep; --resume goes on with it")
    if file is not None:
        described = read_file(file, progress)
        return Job(described.cells, RunSpec(**{**described.run, **given}), selected(described.selection), folder)
    if not (resume and begun):
        way = f"{out!r} holds no sweep to go on with" if resume else "with --resume it may be left out"
        raise ValueError(f"FILE.toml: expected a sweep file; {way}")
    store = read_store(folder)
    store.cells.check_keys()
    trials = max(store.run.trials, int(store.trials.max(initial=0)))
    return Job(store.cells, replace(store.run, **{"trials": trials, **given}), selected(store.selection), folder)


class Forecast(NamedTuple):
    """What a sweep would cost: cells that are done already, the cells to do, seconds and the least bytes, all of it in a line, the cells
    that the memory cannot hold, and what was found in the folder that a user should know."""

    done: int
    cells: int
    seconds: float
    memory: int
    line: str
    too_large: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def forecast(job: Job, engine: str | None, workers: int | None, any_version: bool = False, progress: bool | None = None) -> Forecast:
    """What is left to do of a job, and its cost; nothing is written.

    Raises ValueError where there is no such device, or the folder cannot be gone on with; whether it is in use or can be written is not
    looked at.
    """
    check_here(engine, job.run.device)
    left, selection, share = job.cells, job.selection, np.ones(len(job.cells))
    notes: tuple[str, ...] = ()
    if (store := begun_store(job.out, job.cells, job.run, selection, any_version)) is not None:
        share = 1 - store.trials / job.run.trials
        left, share = store.cells.take(np.flatnonzero(share > 0)), share[share > 0]
        if len(left):
            admitted_here(store, engine)
        notes = tuple(store.notes)
    done = len(job.cells) - len(left)
    plan = plan_cells(left, job.run, selection, progress=progress)
    if plan.too_large or not len(left):
        return Forecast(done, len(left), 0.0, 0, "nothing left to do" if job.cells else "no cells", plan.too_large, notes)
    plan = replace(plan, seconds=plan.seconds * share)
    count = workers or (1 if engine == "inprocess" else cores())
    seconds = float(plan.seconds.sum()) / count
    return Forecast(done, len(left), seconds, int(plan.least.max()), cost_line(plan, left, count), notes=notes)


def resuming(given: Sequence[str]) -> str:
    """The command that goes on, for a shell: the flags as they were given, and --resume."""
    flags = list(given)
    if "--resume" not in flags:
        flags.insert(flags.index("--") if "--" in flags else len(flags), "--resume")
    return " ".join(_quoted(word) for word in ("simgap", *flags))


def _quoted(word: str) -> str:
    """A word for a shell. Bytes that would move a terminal's cursor, or are no text, are written as bash, zsh and ksh read them back."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(c if c.isprintable() and c not in "'\\" else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word) + "'"


class Judged(NamedTuple):
    """One quantity that has an exact law, over all cells: the mean excess, their z pooled to one standard normal, the share of them beyond
    2, and the largest |z| with the cell where it is."""

    quantity: str
    cells: int
    excess: float | None
    pooled: float
    beyond: float
    worst: float
    where: str


def judged(table: "DataFrame", cells: Cells) -> list[Judged]:
    """What a sweep's frame says of each exact law whose spread is known. z here is the standard normal number of p, which knows skew."""
    held = table[(table["predicted_kind"] == "exact") & (table["z_unit"] == "null sd") & table["p"].notna()]
    judgements = []
    for quantity, part in held.groupby("quantity", observed=True, sort=False):
        z = np.array([normal_score(p, sign) for p, sign in zip(part["p"], part["z"], strict=True)])
        excess = part["excess"].dropna()
        worst = int(np.abs(z).argmax())
        where = cells.name(int((cells.keys == np.uint64(int(part["cell"].iloc[worst], 16))).argmax()))
        mean = float(excess.mean()) if len(excess) else None
        # The cells are independent: each has a seed of its own.
        pooled = float(z.sum()) / math.sqrt(len(z))
        judgements.append(Judged(str(quantity), len(z), mean, pooled, float((np.abs(z) > 2).mean()), float(abs(z[worst])), where))
    return judgements


def plain_run(run: Run, job: Job) -> dict[str, Any]:
    """A finished run as JSON holds it."""
    counts = {"path": str(run.path), "cells": run.cells, "done": run.done, "computed": run.computed, "seconds": run.seconds}
    named = {"set_aside": plain_cells(run.set_aside), "left_out": plain_cells(run.left_out)}
    return counts | named | {"notes": list(run.notes), "frame": str(job.out / FRAME)}


def plain_cells(cells: Sequence[LeftOut]) -> list[dict[str, str]]:
    return [{"cell": cell.name, "why": cell.why} for cell in cells]
