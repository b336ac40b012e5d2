"""Executors that do as a test tells them: what the runner makes of deaths, failures and stops, without a layer being drawn."""

from collections.abc import Callable
from concurrent.futures import Executor, Future

from simgap.moe.canary import canary
from simgap.records import line_of, source_digest
from simgap.sweeps.worker import OF_RUN, Cell, Outcome, Report, Task

Act = Callable[[Cell, Task], str]


def record(cell: Cell, arithmetic: str = "0" * 16) -> dict:
    """A record with numbers that depend on the cell and its trials alone."""
    row = {"mean": cell.run.seed / 3, "n": cell.run.trials, "predicted_kind": "exact", "predicted_sd_kind": "leading", "law": "N3"}
    row |= {"z": 0.5, "z_unit": "null sd", "why": ""}
    found = {"cell": cell.key} | {name: getattr(cell.run, name) for name in OF_RUN}
    found |= {"canary": arithmetic, "seconds": 0.1, "device": "cpu", "host": "here"}
    return found | {"quantities": {"gap": row}, "sums": {"from": cell.recorded}}


class Scripted(Executor):
    """Answers each task at once. act(cell, task) says why a cell fails, "" if it does not, or raises what the future then raises."""

    def __init__(self, act: Act = lambda cell, task: "", source: str | None = None, arithmetic: str | None = None) -> None:
        self.act, self.source, self.canary, self.tasks = act, source or source_digest(), arithmetic or canary(), []

    def submit(self, function, /, task, **kwargs):  # type: ignore[override]
        self.tasks.append(task)
        future: Future = Future()
        try:
            outcomes = []
            for cell in task.cells:
                why = self.act(cell, task)
                outcomes.append(Outcome(cell.number, why=why) if why else Outcome(cell.number, line_of(record(cell, self.canary)), 0.5))
            future.set_result(Report(tuple(outcomes), self.source, self.canary, 0.01))
        except Exception as error:
            future.set_exception(error)
        return future

    def handed_out(self) -> list[str]:
        """The cells handed out, in order."""
        return [cell.key for task in self.tasks for cell in task.cells]
