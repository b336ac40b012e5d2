"""The atlas: where do the laws hold, each axis of a layer alone and 300 layers spread over all of them at once?"""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Bench, Record
from experiments.sweeps.atlas_figures import SPREADS, draw_all
from experiments.sweeps.atlas_verdicts import DOUBT, FAILS, HOLDS, IN_DOUBT, LEADING, NO_LAW, SPREAD_OFF, TEN_TIMES, VERDICTS, Judged, judge
from simgap import RunSpec
from simgap.report.files import with_ending, write_whole
from simgap.report.table import Table
from simgap.specs import LayerSpec
from simgap.stats import normal_p
from simgap.sweeps import Cells, LeftOut, sweep
from simgap.sweeps.fields import NAMES, flat
from simgap.sweeps.file import SweepFile, read_file
from simgap.sweeps.plan import plan_cells
from simgap.sweeps.store import read_store

PRESETS = ("smoke", "cpu", "full")
FILE = Path(__file__).with_suffix(".toml")
# Trials of layers up to so many parameters, fixed beforehand, fewer where one takes longer; each is a sweep in a folder of its own.
TRIALS_UP_TO = ((1e7, 30), (1e8, 10), (1e9, 3), (math.inf, 3))
# The most parameters that two cores are asked for.
CPU_PARAMETERS = 1e9
SMOKE_CELLS, SMOKE_PARAMETERS, SMOKE_RUN = 12, 1.1e6, {"tokens": 64, "trials": 10}
SIGMAS = (2, 3, 5)


def compute(preset: str, bench: Bench) -> list[Record]:
    """Sweep the cells of atlas.toml, or go on with it: a record for every cell, and one that names those left out and why."""
    described = read_file(FILE)
    cells, left_out = chosen(described, preset)
    if preset == "smoke":
        return sweep_parts([("smoke", cells, SMOKE_RUN)], described, bench, left_out)
    parts = [(f"to_{most:g}", part, {"trials": trials}) for most, trials, part in by_size(cells)]
    # On workers, a layer that ends one ends no more than that.
    return sweep_parts(parts, described, bench, left_out, "local")


def sweep_parts(
    parts: Sequence[tuple[str, Cells, dict[str, int]]],
    described: SweepFile,
    bench: Bench,
    left_out: list[LeftOut],
    engine: str = "inprocess",
) -> list[Record]:
    """The records of cells in parts, each (folder, cells, what of the file's run is other there), and one of those that have none."""
    settings = {**described.run, "seed": bench.seed, "device": bench.device}
    records: list[Record] = []
    for name, part, own in parts:
        folder = bench.out / bench.artefact / name
        run = sweep(
            part,
            quantities=described.selection.texts,
            **{**settings, **own},
            out=folder,
            engine=engine,
            progress=False if bench.quiet else None,
        )
        left_out += run.set_aside
        records += swept(folder, part)
    return [*records, {"left_out": [[cell.name, cell.why] for cell in left_out]}]


def chosen(described: SweepFile, preset: str) -> tuple[Cells, list[LeftOut]]:
    """The cells that a preset runs, and those of the file that it cannot: too large for it, or for the memory."""
    cells = described.cells if preset == "full" else described.cells.at_most(SMOKE_PARAMETERS if preset == "smoke" else CPU_PARAMETERS)
    if preset == "smoke":
        few = np.unique(np.linspace(0, len(cells) - 1, SMOKE_CELLS).astype(int))
        return replace(cells.take(few), left_out=()), []
    too_large = plan_cells(cells, RunSpec(**described.run), described.selection).too_large
    names = {cell.name for cell in too_large}
    kept = cells.take([at for at in range(len(cells)) if cells.name(at) not in names])
    # They are named once, and not by each part.
    return replace(kept, left_out=()), [*cells.left_out, *too_large]


def by_size(cells: Cells) -> list[tuple[float, int, Cells]]:
    """The cells in parts of so many parameters at most, with the trials of each part; empty parts left out."""
    sizes = np.array([spec.parameters for spec in cells])
    parts, least = [], 0.0
    for most, trials in TRIALS_UP_TO:
        numbers = np.flatnonzero((sizes > least) & (sizes <= most))
        if len(numbers):
            parts.append((most, trials, cells.take(numbers)))
        least = most
    return parts


def swept(folder: Path, cells: Cells) -> list[Record]:
    """The record of every cell that a sweep's folder has, without what only adding trials needs."""
    store = read_store(folder, cells)
    records = []
    for at, record in store.newest():
        spec = store.cells[at]
        kept = {name: value for name, value in record.items() if name != "sums"}
        records.append({"name": name_of(spec, store.cells.base), "spec": spec.to_dict(), "tokens": store.run.tokens, **kept})
    return records


def name_of(spec: LayerSpec, base: LayerSpec) -> str:
    """What a cell changes of the base layer, in words."""
    before = flat(base)
    return ", ".join(f"{name} = {value}" for name, value in flat(spec).items() if value != before[name]) or "the base layer"


def render(records: Sequence[Record], out: Path) -> list[Path]:
    """The map as a table and figures, and every quantity of every cell as CSV. Reads only the records."""
    cells = [record for record in records if "spec" in record]
    left_out = [cell for record in records for cell in record.get("left_out", ())]
    judged = judge(cells)
    page = Table("Where the laws hold", ["quantity", *VERDICTS, "laws"])
    for quantity, points in by(judged, "quantity"):
        counts = Counter(point.verdict for point in points)
        laws = ", ".join(sorted({point.law_id for point in points if point.law_id}))
        page.rows.append([quantity, *(counts[verdict] for verdict in VERDICTS), laws or None])
    page.notes = _notes(cells, judged, left_out)
    page.sections = [z_table(judged), _leading(judged), _remarkable(judged), _no_law(judged), _left_out(left_out)]
    return [*page.write(out / "atlas"), _write_cells(judged, out / "atlas_cells"), *draw_all(judged, out)]


def by(judged: Iterable[Judged], name: str) -> list[tuple[Any, list[Judged]]]:
    """The points by one of their values, in the order in which it comes up."""
    groups: dict[Any, list[Judged]] = {}
    for point in judged:
        groups.setdefault(getattr(point, name), []).append(point)
    return list(groups.items())


def _notes(cells: Sequence[Record], judged: Sequence[Judged], left_out: Sequence[Sequence[str]]) -> list[str]:
    counts, sizes = Counter(point.verdict for point in judged), [point.spec.parameters for point in judged]
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    trials = ", ".join(f"{n} cells of {t} trials" for t, n in sorted(Counter(cell["trials"] for cell in cells).items(), reverse=True))
    spent = sum(cell["seconds"] for cell in cells)
    run = f"{trials}; {cells[0]['tokens']} tokens"
    return [
        f"{len(cells)} layers of {min(sizes):.4g} to {max(sizes):.4g} parameters ({run}), {len(left_out)} left out; {len(judged)} "
        f"quantities: {said}. {spent:.3g} seconds of simulation.",
        "Verdicts. holds within error: not refused at five sigma after correction for all quantities of all layers (Holm), and five "
        "errors are less than the law. not resolved: not refused, but five errors are more than the law. in doubt: an exact law, not "
        f"refused, with a corrected p below {DOUBT}. spread off: refused in units of a spread known to leading order, while the trials' "
        f"own scatter does not refuse the mean. leading order only: refused, by at most {TEN_TIMES} times the order that the law states "
        "for its error. fails: refused otherwise. no law: none applies, for the reason listed. A quantity that a layer does not have "
        "(W_gate where nothing is gated) is not counted.",
        "The error is the spread that the law gives to a mean over so many trials, where it gives one, else the standard error over "
        "trials.",
    ]


def z_table(judged: Sequence[Judged]) -> Table:
    """How the z of exact laws are spread, beside what a standard normal's are."""
    columns = ["quantity", "spread", "cells", "mean z", "sd of z"]
    columns += [column for s in SIGMAS for column in (f"|z| > {s}", "expected")]
    table = Table("Exact laws: z against the standard normal", [*columns, "largest |z|", "at", "its corrected p"])
    exact = [point for point in judged if point.kind == "exact" and point.p is not None]
    groups = [((quantity, SPREADS[spread]), points) for quantity, own in by(exact, "quantity") for spread, points in by(own, "sd_kind")]
    groups += [(("all", SPREADS[spread]), points) for spread, points in by(exact, "sd_kind")]
    for (quantity, spread), points in groups:
        z = np.array([point.normal for point in points])
        worst = points[int(np.abs(z).argmax())]
        beyond = [value for s in SIGMAS for value in (int((np.abs(z) > s).sum()), len(z) * normal_p(s))]
        sd = float(z.std(ddof=1)) if len(z) > 1 else None
        row = [quantity, spread, len(z), float(z.mean()), sd, *beyond]
        table.rows.append([*row, float(np.abs(z).max()), worst.cell, worst.corrected])
    table.notes = [
        "z is the standard normal number of the same two-sided p, so that the skew of means over few pairs does not count as a deviation. "
        "Spread: of the law, exact or to leading order, or measured over the trials (Student's t). Layers have seeds of their own, so the "
        "z of one quantity are independent; those of one layer are not, and rows of all quantities together spread more than they would."
    ]
    return table


def _leading(judged: Sequence[Judged]) -> Table:
    """Laws to leading order: how often their error shows, and how large it is in units of the order that they state."""
    columns = ["quantity", "law", "cells", *(f"{name}" for name in (HOLDS, LEADING, SPREAD_OFF, FAILS)), "median |deviation|"]
    table = Table("Laws to leading order", [*columns, "largest |deviation|", "at", "largest constant where resolved", "at"])
    for quantity, own in by([point for point in judged if point.kind == "leading"], "quantity"):
        for law, points in by(own, "law_id"):
            counts = Counter(point.verdict for point in points)
            deviations = np.array([abs(point.deviation or 0.0) for point in points])
            worst = points[int(deviations.argmax())]
            resolved = [point for point in points if point.verdict in (LEADING, FAILS)]
            steep = max(resolved, key=lambda point: abs(point.constant or 0.0), default=None)
            row = [quantity, law, len(points), *(counts[name] for name in (HOLDS, LEADING, SPREAD_OFF, FAILS))]
            row += [float(np.median(deviations)), float(deviations.max()), worst.cell]
            table.rows.append([*row, steep and steep.constant, steep and steep.cell])
    table.notes = ["Deviation: measured over law, less one. Constant: measured less law, over the order that the law states for its error."]
    return table


def _remarkable(judged: Sequence[Judged]) -> Table:
    """Every quantity that asks for a look."""
    columns = [
        "verdict",
        "quantity",
        "cell",
        "law",
        "kind",
        "predicted",
        "measured",
        "error",
        "z",
        "corrected p",
        "order of the law's error",
    ]
    table = Table("What asks for a look", columns)
    for verdict in (FAILS, IN_DOUBT, SPREAD_OFF):
        for p in judged:
            if p.verdict == verdict:
                table.rows.append([verdict, p.quantity, p.cell, p.law_id, p.kind, p.law, p.measured, p.error, p.z, p.corrected, p.order])
    table.notes = [] if table.rows else ["Nothing: no law fails, none is in doubt, no spread is off."]
    return table


def _no_law(judged: Sequence[Judged]) -> Table:
    """Why there is no law, how often, and for how many quantities."""
    table = Table("Where there is no law", ["reason", "cells", "quantities"])
    reasons: dict[str, list[Judged]] = {}
    for point in judged:
        if point.verdict == NO_LAW:
            reasons.setdefault(point.why, []).append(point)
    for why, points in sorted(reasons.items(), key=lambda item: -len(item[1])):
        table.rows.append([why, len({point.spec.key() for point in points}), len(points)])
    return table


def _left_out(cells: Sequence[Sequence[str]]) -> Table:
    table = Table("Layers left out", ["layer", "why"])
    table.rows = [list(cell) for cell in cells]
    return table


def _write_cells(judged: Sequence[Judged], stem: Path) -> Path:
    """Every quantity of every cell, with the fields of its layer."""
    own = [field.name for field in fields(Judged) if field.name not in ("cell", "spec")]

    def write(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*NAMES, *own, "error", "deviation", "constant"])
            for point in judged:
                values = [*flat(point.spec).values(), *(getattr(point, name) for name in own), point.error, point.deviation, point.constant]
                writer.writerow(["" if value is None else value for value in values])

    return write_whole(with_ending(stem, ".csv"), write)
