"""What the theory figures share: simulated points beside their law, as series of a figure and as rows of a table."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cells import Cell
from simgap import RunSpec
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table
from simgap.stats import Estimate

ROUND_OFF = 1e-12


@dataclass(frozen=True)
class Point:
    """One simulated value at x, and what the law gives there. line: which line of the figure it lies on."""

    line: str
    x: float
    law: float
    measured: Estimate

    @property
    def mean(self) -> float:
        if self.measured.mean is None:
            raise ValueError(f"{self.line} at {self.x:g}: {self.measured.why}")
        return self.measured.mean

    @property
    def sem(self) -> float:
        return self.measured.sem or 0.0

    @property
    def z(self) -> float:
        """Deviation from the law in standard errors; where trials do not vary but for round-off, 0 if the law is met up to it."""
        away = self.mean - self.law
        if self.sem <= ROUND_OFF:
            return 0.0 if abs(away) <= 10 * ROUND_OFF else math.inf
        return away / self.sem


def own_seed(cell: Cell, run: RunSpec) -> int:
    """A seed for the cell's labels: cells of one layer share the run's seed, and their points would share its draws."""
    named = json.dumps([run.seed, cell.labels], sort_keys=True)
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:4])


def lines_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points by line, in order."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point.line, []).append(point)
    return lines


def simulated(points: Sequence[Point], label: str) -> Series:
    return Series(label, [p.x for p in points], [p.mean for p in points], [p.sem for p in points])


def over_law(points: Sequence[Point], label: str) -> Series:
    """Measured over law, with its error: what a figure over decades cannot show."""
    return Series(label, [p.x for p in points], [p.mean / p.law for p in points], [p.sem / p.law for p in points])


def deviations(title: str, groups: dict[str, Sequence[Point]], x_label: str = "correlation rho of the pre-activations") -> Panel:
    """Every point's distance from its law in standard errors, one mark to a point, between the lines that none may cross."""
    panel = Panel(title, x_label, "standard errors from the law", x_scale="linear", y_limits=(-6, 6))
    ends = [p.x for group in groups.values() for p in group]
    # A NaN lifts the pen between the two lines.
    panel.laws = [Series("five standard errors", [min(ends), max(ends), math.nan, min(ends), max(ends)], [5, 5, math.nan, -5, -5])]
    for label, group in groups.items():
        panel.ours.append(Series(label, [p.x for p in group], [p.z for p in group]))
    return panel


def write(
    points: Sequence[Point], panels: Sequence[Panel], title: str, notes: Sequence[str], stem: Path, columns: int | None = None
) -> list[Path]:
    """The figure, and under the same name the table of its points: law, simulation, standard error and z."""
    page = Table(title, ["line", "x", "law", "simulated", "sem", "trials", "z"])
    page.rows = [[p.line, p.x, p.law, p.mean, p.sem, p.measured.trials, p.z] for p in points]
    random = [p for p in points if p.sem > ROUND_OFF]
    worst = max(random, key=lambda p: abs(p.z))
    squares = sum(p.z**2 for p in random) / len(random)
    exact = f" {len(points) - len(random)} more have no error, and meet it up to round-off." if len(random) < len(points) else ""
    page.notes = [
        f"{len(random)} points: the mean of z^2 is {squares:.2f}, the largest |z| is {abs(worst.z):.1f} ({worst.line}, x = {worst.x:.4g}). "
        f"Five standard errors are the line that none may cross.{exact}",
        *notes,
    ]
    return page.write(stem) + draw(panels, title, stem, columns)
