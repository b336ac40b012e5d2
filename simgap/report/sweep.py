"""A sweep as lines of text: the cells that were not run, and what all the others together say of the exact laws."""

from collections.abc import Iterable, Sequence

from simgap.checks import printable
from simgap.report.gap import aligned, number

# Names of cells that are shown; the log has them all.
MOST_SHOWN = 20
HEADER = ("quantity", "cells", "mean excess", "pooled z", "|z| > 2", "largest |z|", "at")


def cell_lines(what: str, cells: Sequence[object]) -> list[str]:
    """'2 cells left out:' and a line for each, at most twenty; nothing for none."""
    if not cells:
        return []
    more = [f"  and {len(cells) - MOST_SHOWN:,} more"] if len(cells) > MOST_SHOWN else []
    title = f"{len(cells):,} {'cell' if len(cells) == 1 else 'cells'} {what}:"
    return [title, *(f"  {printable(' '.join(str(cell).split()))}" for cell in cells[:MOST_SHOWN]), *more]


def law_lines(rows: Iterable[tuple[str, int, float | None, float, float, float, str]]) -> list[str]:
    """One line to a quantity with an exact law: cells, their mean excess, z pooled to one, the share beyond 2, the largest |z| and where.

    Where the law holds, the pooled z is standard normal and about one cell in twenty lies beyond 2.
    """
    shown = [
        (printable(name), f"{cells:,}", number(excess), f"{pooled:+.1f}", f"{100 * beyond:.3g} %", f"{worst:.1f}", where)
        for name, cells, excess, pooled, beyond, worst, where in rows
    ]
    return aligned([HEADER, *shown]) if shown else ["no quantity has an exact law here"]
