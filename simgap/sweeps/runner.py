"""Running the cells of a sweep that are not done yet: handing out, taking in, recording, and starting over what a dead worker left."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from simgap.checks import format_bytes
from simgap.records import source_digest
from simgap.sweeps.cells import LeftOut
from simgap.sweeps.engines import Engine, Inline
from simgap.sweeps.plan import Plan, Unit, run_of
from simgap.sweeps.stopping import LOOK_EVERY, Stopping
from simgap.sweeps.store import Store
from simgap.sweeps.worker import Cell, Outcome, Report, Task, compute

# Workers that a cell may kill before it is set aside.
MOST_DEATHS = 3
# Units among which the first that fits the free memory is looked for.
LOOK_AHEAD = 64


@dataclass(eq=False)
class Runner:
    """The cells that a session does, and what becomes of them.

    tell: told of progress: how many cells were recorded, their seconds by the plan, and the largest |z| among them and where. prepare:
    as of `sweep`. set_aside: cells that failed or killed their workers, with the reason. computed: cells recorded in this session.
    """

    store: Store
    plan: Plan
    engine: Engine
    memory: int
    log: logging.Logger
    tell: Callable[[int, float, float, str], None]
    prepare: Callable[[Any], Any] | None = None
    set_aside: list[LeftOut] = field(default_factory=list)
    computed: int = 0
    _deaths: Counter[int] = field(default_factory=Counter)
    _again: deque[Unit] = field(default_factory=deque)
    _suspects: deque[Unit] = field(default_factory=deque)

    def run(self, numbers: np.ndarray) -> None:
        """Do the given cells. What is done is on disk whenever this ends, and however."""
        share = self.memory // self.engine.sharing if self.engine.sharing else self.memory
        units = self._fitting(self.plan.units(numbers, share, 1 if self.engine.sharing else self.engine.workers), share)
        waiting: deque[Unit] = deque()
        flying: dict[Future, Unit] = {}
        try:
            with Stopping() as stopping:
                while True:
                    waiting.extend(islice(units, LOOK_AHEAD - len(waiting)))
                    self._launch(waiting, flying, stopping)
                    if not flying:
                        return
                    done, _ = wait(flying, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
                    self._take_in({future: flying.pop(future) for future in done}, alone=len(flying) == 0 and len(done) == 1)
                    stopping.look()
        finally:
            # Nobody takes in what is still out: tasks that have not begun need not.
            for future in flying:
                future.cancel()

    def _fitting(self, units: Iterable[Unit], share: int) -> Iterator[Unit]:
        """The units that the memory can hold; the others are set aside at once, by name."""
        for unit in units:
            if unit.memory <= share:
                yield unit
                continue
            for at in unit.cells:
                needs = format_bytes(int(self.plan.least[at]))
                self._set_aside(at, f"memory: needs {needs}, a worker here has {format_bytes(share)}")

    def _launch(self, waiting: deque[Unit], flying: dict[Future, Unit], stopping: Stopping) -> None:
        """Hand out units, the first that fit, while there are workers and memory."""
        while len(flying) < self.engine.taken:
            free = self.memory - sum(unit.memory for unit in flying.values()) if self.engine.sharing is None else self.memory
            unit = _first_that_fits(self._again, free) or _first_that_fits(waiting, free)
            if unit is None and self._suspects and not flying:
                unit = self._suspects.popleft()
            if unit is None:
                return
            task = self._task(unit)
            try:
                # In this process the work is done right here.
                with stopping.anytime() if isinstance(self.engine.executor, Inline) else nullcontext():
                    future = self.engine.executor.submit(compute, task)
            except (BrokenExecutor, RuntimeError) as error:
                raise ValueError(f"engine: the executor takes no more tasks: {error}") from None
            flying[future] = unit

    def _task(self, unit: Unit) -> Task:
        cells = []
        for at in unit.cells:
            key = self.store.cells.key(at)
            before = self.store.earlier(at)
            earlier, recorded = (None, 0) if before is None else (before.get("sums"), int(self.store.trials[at]))
            cells.append(Cell(at, key, self.store.cells[at], run_of(self.store.run, key, unit.memory), earlier, recorded))
        return Task(tuple(cells), self.store.selection, self.engine.threads, self.prepare)

    def _take_in(self, done: dict[Future, Unit], alone: bool) -> None:
        """Record what came back, all of it in one write, and only then count it as done. alone: nothing else was running."""
        good: list[Outcome] = []
        seconds, stop = 0.0, None
        for future, unit in done.items():
            try:
                report = self._report(future)
            except BaseException as error:
                if self.engine.died(error):
                    self._died(unit, alone)
                else:
                    # Raised when what the others brought is safe.
                    stop = error
                continue
            seconds += report.seconds
            for outcome in report.outcomes:
                if outcome.line:
                    good.append(outcome)
                else:
                    self._failed(outcome, unit)
        if good:
            self._record(good, seconds)
        if stop is not None:
            raise stop

    def _report(self, future: Future) -> Report:
        try:
            report: Report = future.result()
        except CancelledError:
            raise ValueError("engine: the executor cancelled its tasks; is its scheduler still there?") from None
        if report.source != source_digest():
            raise ValueError(
                f"engine: a worker runs another simgap (source {report.source}), this is {source_digest()}; install the same one everywhere"
            )
        if said := self.store.admit(report.canary):
            self.log.warning(said)
        return report

    def _record(self, good: list[Outcome], seconds: float) -> None:
        numbers = [outcome.number for outcome in good]
        self.store.record(numbers, [outcome.line for outcome in good])
        self.computed += len(good)
        names, worst = self.store.cells.name, max(good, key=lambda outcome: outcome.worst_z)
        self.log.info("%d done in %.3g s: %s%s", len(good), seconds, names(numbers[0]), " and others" * (len(good) > 1))
        self.tell(len(good), float(self.plan.seconds[numbers].sum()), worst.worst_z, names(worst.number))

    def _died(self, unit: Unit, alone: bool) -> None:
        """Cells whose worker died go to another, one by one, so that it shows which of them it was.

        Where other tasks may have shared the worker, that shows only when nothing else runs: they wait until all others are done.
        """
        innocent = self.engine.mixed and not (alone and len(unit.cells) == 1)
        for at in unit.cells:
            if not innocent:
                self._deaths[at] += self.engine.deaths if len(unit.cells) == 1 else 1
            self.log.warning("a worker died over %s (%d of %d)", self.store.cells.name(at), self._deaths[at], MOST_DEATHS)
            if self._deaths[at] >= MOST_DEATHS:
                self._set_aside(at, f"killed {MOST_DEATHS} workers")
            else:
                (self._suspects if self.engine.mixed else self._again).append(Unit((at,), unit.memory))

    def _failed(self, outcome: Outcome, unit: Unit) -> None:
        self.log.error("%s: %s\n%s", self.store.cells.name(outcome.number), outcome.why, outcome.details)
        if outcome.why.startswith("memory:") and unit.memory < self.memory and self.engine.sharing is None:
            # Its router loaded an expert more than the estimate allows for: alone it may have everything.
            self._again.append(Unit((outcome.number,), self.memory))
        else:
            self._set_aside(outcome.number, outcome.why)

    def _set_aside(self, at: int, why: str) -> None:
        cell = LeftOut(self.store.cells.name(at), why)
        self.set_aside.append(cell)
        self.log.error("set aside: %s", cell)


def _first_that_fits(units: deque[Unit], free: int) -> Unit | None:
    first = next((unit for unit in units if unit.memory <= free), None)
    if first is not None:
        units.remove(first)
    return first
