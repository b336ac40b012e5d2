"""Tables that people read (Markdown) and programs read (CSV), from the same cells."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simgap.report.files import with_ending, write_whole


@dataclass
class Table:
    """A titled table; cells are text, numbers or None. notes follow it as paragraphs, sections as further tables."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sections: list["Table"] = field(default_factory=list)

    def write(self, stem: Path) -> list[Path]:
        """Write STEM.md with everything, and STEM.csv with the first table at full precision (sections as STEM_1.csv, ...)."""
        paths = [write_whole(with_ending(stem, ".md"), lambda path: path.write_text(self.markdown(), encoding="utf-8"))]
        for number, table in enumerate([self, *self.sections]):
            name = stem if number == 0 else stem.with_name(f"{stem.name}_{number}")
            paths.append(write_whole(with_ending(name, ".csv"), table._write_csv))
        return paths

    def markdown(self, level: int = 1) -> str:
        cells = [[_shown(cell) for cell in row] for row in self.rows]
        lines = [f"{'#' * level} {self.title}", ""]
        lines += [_row(self.columns), _row(["---"] * len(self.columns)), *(_row(row) for row in cells), ""]
        lines += [line for note in self.notes for line in (note, "")]
        return "\n".join(lines) + "".join("\n" + section.markdown(level + 1) for section in self.sections)

    def _write_csv(self, path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([["" if cell is None else cell for cell in row] for row in self.rows])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"


def _shown(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float | np.floating) else str(cell)
