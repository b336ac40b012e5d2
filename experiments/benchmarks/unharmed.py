"""Small sweeps to be disturbed, and whether one that was is what it would be had nobody done so: every cell once, every bit the same."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simgap import LayerSpec
from simgap.sweeps import COSTS, Cells, Run, grid, sweep
from simgap.sweeps.frame import FRAME, frame
from simgap.sweeps.store import LOG, read_store


@dataclass(frozen=True)
class Kind:
    """A sweep that is run over and over: its cells, their trials, and how many of these are recorded before the first kill."""

    cells: Cells
    trials: int
    begun: int = 0

    def begin(self, folder: Path) -> None:
        """Put on record what is there before the first kill."""
        if self.begun:
            self.run(folder, self.begun)

    def run(self, folder: Path, trials: int | None = None, **engine: Any) -> Run:
        return sweep(self.cells, out=folder, trials=trials or self.trials, tokens=256, seed=7, progress=False, **engine)


def kinds() -> dict[str, Kind]:
    """Forty to fifty cells of some 30 ms each: one or several to a line written, and with trials added to recorded ones."""
    spec = LayerSpec(d_model=32, d_ff=64, n_experts=4, top_k=2)
    shapes = grid(spec, d_model=list(range(32, 112, 4)), d_ff=[64, 96])
    alike = grid(spec, {"router.temperature": [0.5, 1.0, 2.0, 4.0]}, d_model=list(range(32, 80, 4)))
    return {"a cell to a unit": Kind(shapes, 4), "four cells to a unit": Kind(alike, 4), "more trials": Kind(shapes, 4, 1)}


def complaints(folder: Path, undisturbed: Path, trials: int, torn: int, unended: int = 0) -> list[str]:
    """What is wrong with a sweep that was killed and resumed, beside the same one left alone; torn: the lines that kills tore; unended:
    those from which they took the newline alone."""
    try:
        store, other = read_store(folder), read_store(undisturbed)
    except ValueError as error:
        return [str(error)]
    wrong = [] if store.done(trials) == len(other.cells) else [f"{store.done(trials)} of {len(other.cells)} cells are done"]
    entries = list(store.records.entries())
    spoiled = sum(entry.record is None for entry in entries)
    lines = Counter((record["cell"], record["trials"]) for entry in entries if (record := entry.record) and "session" not in record)
    if spoiled != torn:
        wrong.append(f"{spoiled} lines are spoiled, {torn} were torn")
    # A line that lacks its newline alone gets one from the next session, whose cells may by then be chosen: to be done again, to the same
    # bits, or, should that session be killed before, to be found done.
    if (twice := sum(lines.values()) - len(lines)) > unended:
        wrong.append(f"{twice} cells are recorded once more, {unended} lines lacked their newline")
    wanted = frame(other)
    for name, table in (("frame", frame(store)), (FRAME, pd.read_parquet(folder / FRAME))):
        wrong += [f"{name}: {why}" for why in differences(table, wanted)]
    if f"{len(other.cells)} of {len(other.cells)} cells done" not in (folder / LOG).read_text(encoding="utf-8").splitlines()[-1]:
        wrong.append(f"{LOG} does not end with the sweep done")
    return [line[:300] for line in wrong[:8]]


def differences(actual: pd.DataFrame, wanted: pd.DataFrame) -> list[str]:
    """How two frames differ, to the bit, but for what a cell cost."""
    said = []
    cells = [set(table["cell"]) for table in (actual, wanted)]
    if missing := cells[1] - cells[0]:
        said.append(f"{len(missing)} cells missing, {min(missing)} among them")
    if more := cells[0] - cells[1]:
        said.append(f"{len(more)} cells that are not of the sweep, {min(more)} among them")
    if rows := int(actual.duplicated(["cell", "quantity"]).sum()):
        said.append(f"{rows} rows come twice")
    if list(actual.columns) != list(wanted.columns):
        said.append("other columns")
    elif len(actual) != len(wanted):
        said.append(f"{len(actual)} rows, not {len(wanted)}")
    else:
        said += [f"{name} differs" for name in wanted if name not in COSTS and not _same(actual[name], wanted[name])]
    return said


def _same(a: pd.Series, b: pd.Series) -> bool:
    if a.dtype != b.dtype:
        return False
    # As bits: equal numbers may have other signs of zero.
    return a.to_numpy().tobytes() == b.to_numpy().tobytes() if a.dtype == np.float64 else a.equals(b)
