"""What a sweep measured of each cell, read back from its records as `measure` gives it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from simgap.selection import ranges
from simgap.sums import Sums
from simgap.sweeps.plan import run_of
from simgap.sweeps.store import Store

if TYPE_CHECKING:
    from simgap.results import Gap
    from simgap.stats import Estimate


def gaps(store: Store) -> Iterator["Gap[Estimate]"]:
    """The Gap of every cell that has a record, in the order of the cells, its values trial by trial. Raises ValueError where a record's
    sums are not of its cell."""
    from simgap.api.batch import check_sums, gathered

    known = ranges()
    for at, record in store.newest():
        spec, sums = store.cells[at], Sums.from_plain(record["sums"], known)
        run = replace(run_of(store.run, record["cell"]), trials=record["trials"])
        check_sums(spec, run, sums)
        yield gathered(spec, run, sums, store.selection)
