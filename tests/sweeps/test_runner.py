"""The runner: what it hands out and takes in, and what becomes of cells that fail, kill their workers, or do not fit."""

import logging
import re
import threading
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

import simgap as sg
from simgap.moe.canary import canary
from simgap.records import Records
from simgap.selection import select
from simgap.sweeps import grid, sweep
from simgap.sweeps.command import Job, forecast
from simgap.sweeps.engines import Engine
from simgap.sweeps.plan import Plan, plan_cells, run_of
from simgap.sweeps.runner import MOST_DEATHS, Runner
from simgap.sweeps.store import open_store
from tests.sweeps.scripted import Scripted

SPEC = sg.LayerSpec(d_model=4, d_ff=8, n_experts=4, top_k=2)
CELLS = grid(SPEC, {"router.temperature": [0.5, 1.0, 2.0]}, d_model=[4, 6])


def run(out, executor, cells=CELLS, **more):
    return sweep(cells, **{"trials": 2, "tokens": 8, "out": out, "engine": executor, "workers": 2} | more)


def test_every_cell_is_handed_out_once_with_a_seed_of_its_own(tmp_path):
    executor = Scripted()
    found = run(tmp_path, executor, seed=5)
    assert (found.cells, found.done, found.computed, found.set_aside) == (6, 6, 6, ())
    assert sorted(executor.handed_out()) == sorted(CELLS.key(at) for at in range(6))
    runs = {cell.key: cell.run for task in executor.tasks for cell in task.cells}
    assert len({found.seed for found in runs.values()}) == 6
    for key, found in runs.items():
        assert (found.trials, found.tokens, found.seed) == (2, 8, run_of(sg.RunSpec(seed=5), key).seed)


def test_cells_of_one_shape_go_together_and_others_do_not(tmp_path):
    executor = Scripted()
    run(tmp_path, executor)
    assert [{cell.spec.d_model for cell in task.cells} for task in executor.tasks] == [{6}, {4}], "longest first"
    assert [len(task.cells) for task in executor.tasks] == [3, 3]


def test_what_is_done_is_not_done_again(tmp_path):
    run(tmp_path, Scripted(), cells=CELLS)
    again = Scripted()
    found = run(tmp_path, again, cells=CELLS[::-1])
    assert (again.tasks, found.done, found.computed) == ([], 6, 0)


def test_more_trials_are_added_to_those_recorded(tmp_path):
    run(tmp_path, Scripted())
    more = Scripted()
    found = run(tmp_path, more, trials=5)
    assert (found.done, found.computed) == (6, 6)
    assert {(cell.recorded, cell.run.trials) for task in more.tasks for cell in task.cells} == {(2, 5)}
    assert all(cell.earlier == {"from": 0} for task in more.tasks for cell in task.cells)
    with pytest.raises(ValueError, match=r"trials: .* has 5 of a cell already, got 2; ask for 5 or choose another folder"):
        run(tmp_path, Scripted())


def test_a_cell_that_kills_its_workers_is_set_aside_by_name_and_the_rest_goes_on(tmp_path):
    killer = CELLS.key(4)

    def act(cell, task):
        if cell.key == killer:
            raise BrokenProcessPool("a process in the process pool was terminated abruptly")
        return ""

    executor = Scripted(act)
    found = run(tmp_path, executor)
    assert (found.done, found.computed) == (5, 5)
    assert [(cell.name, cell.why) for cell in found.set_aside] == [(CELLS.name(4), "killed 3 workers")]
    assert executor.handed_out().count(killer) == MOST_DEATHS
    assert all(len(task.cells) == 1 for task in executor.tasks[2:]), "after a death, one by one"
    assert f"a worker died over {CELLS.name(4)} (3 of 3)" in (tmp_path / "sweep.log").read_text()
    healed = Scripted()
    assert run(tmp_path, healed).done == 6
    assert healed.handed_out() == [killer]


class Crowded(Scripted):
    """Three tasks at a time share a worker: a killer among them takes all three along, and so says every future."""

    def __init__(self, killer: str) -> None:
        super().__init__()
        self.killer, self.held = killer, []

    def submit(self, function, /, task, **kwargs):
        self.tasks.append(task)
        future: Future = Future()
        self.held.append((task, future))
        threading.Timer(0.05, self.finish).start()
        return future

    def finish(self) -> None:
        held, self.held = self.held, []
        doomed = any(cell.key == self.killer for task, _ in held for cell in task.cells)
        for task, future in held:
            if doomed:
                future.set_exception(BrokenProcessPool("killed"))
            else:
                future.set_result(Scripted().submit(None, task).result())


def test_only_a_cell_that_died_alone_is_set_aside_where_tasks_share_a_worker(tmp_path):
    cells = grid(SPEC, d_model=[4, 5, 6, 7, 8, 9])
    settings, wanted = sg.RunSpec(tokens=8, trials=2), select(None)
    plan = plan_cells(cells, settings, wanted)
    executor = Crowded(cells.key(2))
    with open_store(tmp_path, cells, settings, wanted) as store:
        store.begin(2, "", "test", 3)
        engine = Engine(executor, workers=3, taken=3, threads=1, sharing=3, deaths=4, mixed=True)
        runner = Runner(store, plan, engine, 10**9, logging.getLogger("test"), lambda *told: None)
        runner.run(np.arange(6))
    assert [(cell.name, cell.why) for cell in runner.set_aside] == [("d_model = 6", "killed 3 workers")]
    assert runner.computed == 5


def test_tasks_that_nobody_takes_in_are_cancelled(tmp_path):
    class Stuck(Scripted):
        def submit(self, function, /, task, **kwargs):
            if self.tasks:
                self.tasks.append(task)
                self.left = Future()
                return self.left
            return super().submit(function, task)

    def act(cell, task):
        raise RuntimeError("a bug")

    executor = Stuck(act)
    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path, executor)
    assert executor.left.cancelled()


def test_a_process_that_asks_to_exit_does_not_lose_what_others_brought(tmp_path):
    def act(cell, task):
        if cell.spec.d_model == 4:
            raise RuntimeError("x")
        return ""

    class Exiting(Scripted):
        def submit(self, function, /, task, **kwargs):
            future = super().submit(function, task)
            if future.exception() is not None:
                future = Future()
                future.set_exception(SystemExit(3))
            return future

    with pytest.raises(SystemExit):
        run(tmp_path, Exiting(act))
    assert run(tmp_path, Scripted()).computed == 3


def test_cells_that_are_done_need_no_memory_any_more(tmp_path):
    """Large cells recorded, a small one left: it goes on with what that one needs."""
    cells = grid(SPEC, d_model=[4, 256])
    plan = plan_cells(cells, sg.RunSpec(tokens=8, trials=2), select(None))
    run(tmp_path, Scripted(lambda cell, task: "no" if cell.spec.d_model == 4 else ""), cells=cells)
    assert run(tmp_path, Scripted(), cells=cells, memory=int(plan.least.max()) - 1).done == 2


def test_a_worker_that_dies_once_costs_nothing_but_time(tmp_path):
    struck = []

    def act(cell, task):
        if not struck:
            struck.append(cell.key)
            raise BrokenProcessPool("killed")
        return ""

    found = run(tmp_path, Scripted(act))
    assert (found.done, found.set_aside) == (6, ())


def test_a_cell_that_fails_is_set_aside_with_its_reason(tmp_path):
    executor = Scripted(lambda cell, task: "inputs: no such thing" if cell.number == 2 else "")
    found = run(tmp_path, executor)
    assert found.done == 5
    assert [str(cell) for cell in found.set_aside] == [f"{CELLS.name(2)}: inputs: no such thing"]
    assert "inputs: no such thing" in (tmp_path / "sweep.log").read_text()


def test_a_cell_that_its_share_cannot_hold_is_given_all_of_the_memory(tmp_path):
    tight = Scripted(lambda cell, task: "memory: needs more" if cell.number == 0 and cell.run.memory < 10**9 else "")
    found = run(tmp_path, tight, memory=10**9)
    assert (found.done, found.set_aside) == (6, ())
    assert [cell.run.memory for task in tight.tasks for cell in task.cells if cell.number == 0][-1] == 10**9
    never = Scripted(lambda cell, task: "memory: needs more" if cell.number == 0 else "")
    found = run(tmp_path / "never", never, memory=10**9)
    assert (found.done, len(found.set_aside)) == (5, 1)
    assert never.handed_out().count(CELLS.key(0)) == 2


def test_a_cell_larger_than_the_budget_is_refused_before_anything_runs(tmp_path):
    executor = Scripted()
    needed = plan_cells(CELLS, sg.RunSpec(tokens=8, trials=2), select(None)).least
    named = r"^memory: .* needs .*, the budget is .*: cell router.temperature = 0.5, d_model = 6 \(and 2 more\)"
    with pytest.raises(ValueError, match=named):
        run(tmp_path, executor, memory=int(needed.max()) - 1)
    assert executor.tasks == []
    assert run(tmp_path, executor).done == 6, "the same folder, with more memory"


def test_an_unexpected_error_of_the_executor_stops_the_run_and_loses_nothing(tmp_path):
    def act(cell, task):
        if cell.spec.d_model == 4:
            raise RuntimeError("a bug")
        return ""

    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path, Scripted(act), workers=1)
    log = (tmp_path / "sweep.log").read_text()
    assert "stopped with 3 of 6 cells done: RuntimeError" in log
    assert run(tmp_path, Scripted()).computed == 3


def test_a_cancelled_task_is_no_result(tmp_path):
    class Cancelling(Scripted):
        def submit(self, function, /, task, **kwargs):
            future: Future = Future()
            future.set_exception(CancelledError())
            return future

    with pytest.raises(ValueError, match="engine: the executor cancelled its tasks"):
        run(tmp_path, Cancelling())


def test_a_broken_executor_is_named(tmp_path):
    class Broken(Scripted):
        def submit(self, function, /, task, **kwargs):
            raise BrokenProcessPool("a child process terminated abruptly")

    with pytest.raises(ValueError, match="engine: the executor takes no more tasks: a child process"):
        run(tmp_path, Broken())


def test_a_worker_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"engine: a worker runs another simgap \(source 0000\)"):
        run(tmp_path, Scripted(source="0000"))


SAYS = r"cells of '.*' were measured by machines of other arithmetic \(canary {}\) than {}"


def test_workers_of_other_arithmetic_than_the_first_are_refused_unless_they_are_allowed(tmp_path):
    run(tmp_path, Scripted(arithmetic="aaaa"))
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(ValueError, match="out: " + SAYS.format("aaaa", "bbbb") + "; go on with that, or add --any-version"):
        run(tmp_path, Scripted(arithmetic="bbbb"), trials=3)
    assert {record["canary"] for record in Records(tmp_path / "records.jsonl") if "cell" in record} == {"aaaa"}
    assert (tmp_path / "records.jsonl").read_bytes().startswith(before)
    mixed = run(tmp_path, Scripted(arithmetic="bbbb"), trials=3, any_version=True)
    assert mixed.computed == 6
    says = SAYS.format("aaaa", "bbbb") + ": last bits may differ"
    assert [re.match(says, note) is not None for note in mixed.notes] == [True]
    assert len(re.findall(says, (tmp_path / "sweep.log").read_text())) == 1, "once for all of its cells"
    assert run(tmp_path, Scripted(arithmetic="bbbb"), trials=4).computed == 6, "both have measured by now"


def test_workers_of_two_kinds_are_refused(tmp_path):
    class Changing(Scripted):
        def submit(self, function, /, task, **kwargs):
            self.canary = "bbbb" if self.tasks else "aaaa"
            return super().submit(function, task)

    # Whichever is taken in first.
    with pytest.raises(ValueError, match="out: " + SAYS.format("(aaaa|bbbb)", "(aaaa|bbbb)")):
        run(tmp_path, Changing())
    assert len({record["canary"] for record in Records(tmp_path / "records.jsonl") if "cell" in record}) == 1


@pytest.mark.parametrize("engine", [None, "inprocess", "local"])
def test_this_machine_is_refused_before_anything_is_done_where_others_measured(tmp_path, engine):
    run(tmp_path, Scripted(arithmetic="aaaa"))
    before = (tmp_path / "records.jsonl").read_bytes()
    job = Job(CELLS, sg.RunSpec(tokens=8, trials=3), select(), tmp_path)
    for look in (lambda: run(tmp_path, engine, trials=3, workers=None), lambda: forecast(job, engine, None)):
        with pytest.raises(ValueError, match="out: " + SAYS.format("aaaa", canary())):
            look()
    assert (tmp_path / "records.jsonl").read_bytes() == before
    assert run(tmp_path, engine, workers=None).computed == 0, "where nothing is left to do, nothing is compared"


class Slow(Scripted):
    """Answers a little later, and notes how much memory is out at once."""

    def __init__(self) -> None:
        super().__init__()
        self.out = self.peak = 0
        self.lock = threading.Lock()

    def submit(self, function, /, task, **kwargs):
        size = max(cell.run.memory for cell in task.cells)
        with self.lock:
            self.out += size
            self.peak = max(self.peak, self.out)
        done, later = super().submit(function, task), Future()

        def finish() -> None:
            with self.lock:
                self.out -= size
            later.set_result(done.result())

        threading.Timer(0.02, finish).start()
        return later


def test_cells_that_run_together_keep_to_the_budget_together(tmp_path):
    cells = grid(SPEC, d_model=[64, 96, 128, 160], d_ff=[64, 256])
    wanted = select(None)
    plan = plan_cells(cells, sg.RunSpec(tokens=8, trials=2), wanted)
    budget = int(plan.least.max() * 1.2)
    executor = Slow()
    found = run(tmp_path, executor, cells=cells, memory=budget)
    assert found.done == 8
    assert 0 < executor.peak <= budget
    alone = [task for task in executor.tasks if task.cells[0].run.memory > budget // 2]
    assert alone
    assert len(alone) < len(executor.tasks), "some fit side by side, some do not"


def _plan(seconds, program, least=None, liked=None) -> Plan:
    n = len(seconds)
    least = np.full(n, 10) if least is None else np.array(least)
    return Plan(np.array(seconds, float), least, 2 * least if liked is None else np.array(liked), np.array(program), ())


def test_units_are_longest_first_and_large_cells_alone():
    plan = _plan([0.001, 5.0, 0.002, 0.001, 0.4, 0.4, 0.4], [0, 1, 0, 0, 2, 2, 2])
    units = list(plan.units(range(7), 1000, 2))
    assert [unit.cells for unit in units] == [(1,), (4, 5), (6,), (2, 0, 3)]


def test_a_unit_is_given_what_it_likes_its_share_or_what_it_needs():
    plan = _plan([3.0, 2.0, 1.5], [0, 1, 2], least=[10, 300, 900], liked=[40, 700, 2000])
    assert [unit.memory for unit in plan.units(range(3), 1000, 2)] == [40, 500, 900]
    assert [unit.memory for unit in plan.units(range(3), 1000, 1)] == [40, 700, 1000]
    assert [unit.memory for unit in plan.units(range(3), 800, 1)] == [40, 700, 900], "more than there is: the runner refuses it"


def test_every_cell_is_in_one_unit_whatever_the_order_it_was_asked_in():
    plan = _plan(np.linspace(0.001, 0.3, 50), np.arange(50) % 7)
    forward = list(plan.units(range(50), 1000, 2))
    backward = list(plan.units(range(49, -1, -1), 1000, 2))
    assert forward == backward
    assert sorted(at for unit in forward for at in unit.cells) == list(range(50))
    assert all(len({plan.batch[at] for at in unit.cells}) == 1 for unit in forward)


def test_shares_of_a_machine_elsewhere_are_even(tmp_path):
    """Where workers share a machine that is not this one, a cell larger than a worker's share is set aside by name."""
    cells = grid(SPEC, d_model=[4, 64], d_ff=[8, 256])
    settings, wanted = sg.RunSpec(tokens=8, trials=2), select(None)
    plan = plan_cells(cells, settings, wanted)
    budget = 2 * int(plan.least.max() - 1)
    with open_store(tmp_path, cells, settings, wanted) as store:
        store.begin(2, "", "test", 2)
        engine = Engine(Scripted(), workers=2, taken=4, threads=1, sharing=2)
        runner = Runner(store, plan, engine, budget, logging.getLogger("test"), lambda *told: None)
        runner.run(np.arange(len(cells)))
        assert runner.computed == 3
        assert [cell.name for cell in runner.set_aside] == ["d_model = 64, d_ff = 256"]
        assert runner.set_aside[0].why.startswith("memory: needs ")
        assert all(cell.run.memory <= budget // 2 for task in engine.executor.tasks for cell in task.cells)
        assert all(task.threads == 1 for task in engine.executor.tasks)


def test_progress_is_told_of_every_cell(tmp_path, capsys):
    run(tmp_path, Scripted(), progress=True)
    line = capsys.readouterr().err
    assert "6/6 cells" in line
    assert "worst |z| 0.5" in line
    run(tmp_path / "quiet", Scripted(), progress=False)
    assert capsys.readouterr().err == ""
