"""What a sweep costs and in which order it is done: memory and time of every cell, and units of cells that are batched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from simgap.checks import format_bytes
from simgap.seeding import derived
from simgap.selection import Selection
from simgap.specs import LayerSpec, RunSpec
from simgap.sweeps.cells import Cells, LeftOut
from simgap.sweeps.progress import counted

# Cells in one batch: enough to forget the cost of starting one, few enough that a stop loses little.
MOST_TOGETHER = 256
# Seconds that a unit of several cells should take at most.
UNIT_SECONDS = 1.0
# Fitted on two cores to layers of 1e4 to 1e9 parameters; right within a factor of three, which is all that an order and an estimate need.
SECONDS_A_CELL = 2e-3
SECONDS_A_DRAW = 8e-9
SECONDS_A_PRODUCT = 2.5e-11
SECONDS_A_NUMBER = 2e-9
SECONDS_A_PAIR = 1.5e-10


@dataclass(frozen=True, slots=True)
class Unit:
    """Cells that are done together, by number, and the memory that they are given."""

    cells: tuple[int, ...]
    memory: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Every cell's cost: seconds (n,) on one core, least (n,) and liked (n,) bytes: with which it can be done, and beyond which more buys
    nothing; batch (n,): cells of one number may be measured together. too_large: cells that the budget cannot hold. kept: the bytes of a
    cell's trials, which each cell of a unit adds."""

    seconds: Float[np.ndarray, " n"]
    least: Int[np.ndarray, " n"]
    liked: Int[np.ndarray, " n"]
    batch: Int[np.ndarray, " n"]
    too_large: tuple[LeftOut, ...]
    kept: int = 0

    def units(self, numbers: Sequence[int] | Int[np.ndarray, " m"], memory: int, workers: int) -> Iterator[Unit]:
        """The given cells, longest first: small ones of one batch key together, large ones alone.

        A unit is given what it likes, at most its share of the memory, or, where a cell needs more, what that one needs.
        """
        numbers = np.asarray(numbers, np.int64)
        share = memory // workers
        # Cells of one batch key lie side by side, those with the longest cell first.
        longest = np.zeros(int(self.batch.max(initial=0)) + 1)
        np.maximum.at(longest, self.batch[numbers], self.seconds[numbers])
        order = numbers[np.lexsort((numbers, -self.seconds[numbers], self.batch[numbers], -longest[self.batch[numbers]]))]
        start = 0
        while start < len(order):
            first = order[start]
            most = min(MOST_TOGETHER, max(1, int(UNIT_SECONDS / self.seconds[first])))
            if self.kept:
                most = min(most, max(1, 1 + (share - int(self.least[first])) // self.kept))
            stop = start + 1
            while stop < len(order) and stop - start < most and self.batch[order[stop]] == self.batch[first]:
                stop += 1
            part = order[start:stop]
            others = self.kept * (len(part) - 1)
            liked, least = int(self.liked[part].max()) + others, int(self.least[part].max()) + others
            yield Unit(tuple(part.tolist()), liked if liked <= share else max(share, least))
            start = stop


def run_of(run: RunSpec, key: str, memory: int | None = None) -> RunSpec:
    """The run of one cell: a seed of its own, since layers of one seed begin with the same numbers, and the memory that it is given, which
    changes no result."""
    return replace(run, seed=derived(run.seed, key), memory=run.memory if memory is None else memory)


def plan_cells(
    cells: Cells,
    run: RunSpec,
    selection: Selection,
    numbers: Sequence[int] | None = None,
    progress: bool | None = False,
    prepared: bool = False,
) -> Plan:
    """The cost of every cell, or of those of these numbers, before anything is drawn. prepared: what is drawn is then changed, which asks
    for whole weights, and for one cell at a time, as weights do not say whose they are."""
    from simgap.api.batch import batch_key, cost_key

    n, kept = len(cells), 0
    seconds, sizes, batches, too_large = np.zeros(n), np.zeros((n, 2), np.int64), np.zeros(n, np.int64), []
    numbered: dict[int, int] = {}
    before, costs, why, number = None, (0.0, 0, 0), "", 0
    todo = range(n) if numbers is None else numbers
    for at in counted(todo, "planning", len(todo), progress):
        spec = cells[at]
        # Neighbours are often of one shape, and a comparison costs next to nothing beside an estimate.
        if (alike := cost_key(spec, run)) != before:
            before, (costs, of_trials, why) = alike, _costs(spec, run, selection, prepared)
            kept = max(kept, of_trials)
            # By its hash, which is small: two of one hash are told apart when they are measured.
            number = numbered.setdefault(hash(batch_key(spec, run)), len(numbered))
        batches[at] = at if prepared else number
        seconds[at], *sizes[at] = costs
        if why:
            too_large.append(LeftOut(cells.name(at), why))
    return Plan(seconds, sizes[:, 0], sizes[:, 1], batches, tuple(too_large), kept)


def _costs(spec: LayerSpec, run: RunSpec, selection: Selection, prepared: bool) -> tuple[tuple[float, int, int], int, str]:
    """A cell's seconds, least and liked bytes, those of its trials among them, and why the budget cannot hold it."""
    from simgap.api.plan import kept_of, memory_needed
    from simgap.moe.budget import group_size

    seconds = estimated_seconds(spec, run, selection)
    try:
        kept = kept_of(spec, run, selection)
        held, least = memory_needed(spec, run, selection, prepared)
    except ValueError as error:
        return (seconds, 0, 0), 0, str(error)
    # As many trials at once as share a group, and two groups side by side; a layer that is streamed uses half of what it is given.
    return (seconds, least, kept + 2 * (held - kept) * group_size(spec, run, selection.needs(spec).every)), kept, ""


def estimated_seconds(spec: LayerSpec, run: RunSpec, selection: Selection) -> float:
    """About how long a cell takes on one core of a desktop CPU, in seconds."""
    experts = spec.n_experts + spec.n_shared_experts
    size = spec.d_model * spec.d_ff
    needs = selection.needs(spec)
    every, sites = needs.every, len(needs.sites)
    rows = run.tokens * ((spec.n_experts if every else spec.top_k) + spec.n_shared_experts)
    roles = 3 if spec.gated else 2
    pairs = experts * experts / 2
    draws = roles * size * experts + run.tokens * spec.d_model
    products = 2 * roles * size * rows
    numbers = rows * (2 * spec.d_ff + spec.d_model) * (1 + sites)
    overlaps = roles * pairs * size + (run.tokens * pairs * (spec.d_ff + spec.d_model) * sites if every else 0)
    work = SECONDS_A_DRAW * draws + SECONDS_A_PRODUCT * products + SECONDS_A_NUMBER * numbers + SECONDS_A_PAIR * overlaps
    return SECONDS_A_CELL + run.trials * work


def cost_line(plan: Plan, cells: Cells, workers: int) -> str:
    """One line: cells, parameters, estimated time and memory."""
    if not len(cells):
        return "no cells"
    parameters = [spec.parameters for spec in cells]
    took = format_seconds(plan.seconds.sum() / workers)
    return (
        f"{len(cells):,} cell{'s' * (len(cells) > 1)}, {min(parameters):.3g} to {max(parameters):.3g} parameters ({sum(parameters):.3g} in "
        f"all); about {took} on {workers} core{'s' * (workers > 1)}, at least {format_bytes(int(plan.least.max()))} of memory"
    )


def format_seconds(seconds: float) -> str:
    """5400 -> '1.5 h'."""
    for unit, size in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < 1.5 * size:
            return f"{seconds:.2g} {unit}"
        seconds /= size
    return f"{seconds:.2g} days"
