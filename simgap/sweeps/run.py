"""`sweep`: cells, a folder and an engine make a Run."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simgap.checks import printable
from simgap.notebook import text
from simgap.records import command_line
from simgap.selection import Selection, select
from simgap.specs import LayerSpec, RunSpec
from simgap.sweeps.cells import Cells, LeftOut
from simgap.sweeps.engines import Engine, check_engine, check_here, cores, open_engine
from simgap.sweeps.frame import frame
from simgap.sweeps.gaps import gaps
from simgap.sweeps.plan import Plan, plan_cells
from simgap.sweeps.prepared import name_of
from simgap.sweeps.progress import Forgiving, hidden
from simgap.sweeps.runner import Runner
from simgap.sweeps.store import LOG, Store, folder_of, holds_results, open_store, read_store

if TYPE_CHECKING:
    from pandas import DataFrame

    from simgap.results import Gap
    from simgap.stats import Estimate

# Seconds of work on one core from which worker processes, which take some three seconds to start, are worth it.
WORTH_PROCESSES = 20.0


@dataclass(frozen=True)
class Run:
    """A sweep as it stands in its folder: cells in all, done with all their trials, and computed by this call.

    set_aside: cells that failed or killed three workers, with the reason; the next call tries them again. left_out: cells of the design
    that cannot be built or were too large. notes: what was found in the folder that a user should know, such as a torn line.
    """

    path: Path
    cells: int
    done: int
    computed: int
    seconds: float
    set_aside: tuple[LeftOut, ...] = field(default=(), repr=False)
    left_out: tuple[LeftOut, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    _repr_html_ = text

    def frame(self, spec: str = "all") -> "DataFrame":
        """One row to a cell and quantity; see `simgap.collect`, which writes it to a file too. spec="varying" leaves out the fields of the
        layer that all cells have in common. Raises ValueError for another word."""
        return frame(read_store(self.path), spec)

    def measured(self) -> "list[Gap[Estimate]]":
        """What `measure` gives of each cell that is recorded, its values trial by trial, in the order of the cells."""
        return list(gaps(read_store(self.path)))

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {self.cells:,} cells done, {self.computed:,} of them now, in {self.path}"]
        parts += [f"{len(self.set_aside)} set aside"] * bool(self.set_aside) + [f"{len(self.left_out)} left out"] * bool(self.left_out)
        return printable("; ".join(parts))


def sweep(
    cells: Sequence[LayerSpec],
    *,
    quantities: Sequence[str] | str | None = None,
    metrics: Sequence[str] | str | None = None,
    null: str = "law",
    trials: int = 10,
    tokens: int = 1024,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    prepare: Callable[[Any], Any] | None = None,
    out: str | os.PathLike[str] = "runs/sweep",
    engine: str | Executor | None = None,
    workers: int | None = None,
    memory: int | str = "2GiB",
    scheduler: str | None = None,
    progress: bool | None = None,
    any_version: bool = False,
) -> Run:
    """Measure, predict and calibrate every cell, each recorded in `out` as soon as it is done: a Run.

    The same call on the same folder goes on where the last one stopped, however it ended; more trials are added to those recorded. The
    same bits come out whatever the engine, the workers, the order, the memory and the interruptions, for one CPU model and one set of
    library versions. Each cell has a seed of its own, made of `seed` and the layer (column "seed" of the frame), so that cells are
    independent; measure(spec, seed=that seed) with the same tokens and trials repeats it.

    quantities: their texts ("weight_mso up", "activation_mso mean", "gap"); or metrics: all that these metrics give. null: "law",
    "simulated" or "isotropic", as of `predict`; a sweep goes on with the null that it was begun with. prepare: as of `measure`, the same
    for all cells: a function of a module, or a frozen dataclass such as `simgap.training.RegulariseGram`. Seeds and predictions stay those
    of the layers as drawn. The folder knows it by its name: a function that changed asks for another folder. engine: "inprocess", "local"
    (as many processes as `workers`, by default one to a core, or to a card), "dask" (the cluster at `scheduler`), or an Executor: a pool of
    processes with mp_context=multiprocessing.get_context("spawn"), since torch's threads do not survive a fork, or that of a Dask client,
    client.get_executor(). None is local processes where the cells are worth starting them, on a CPU, and this process otherwise, or where
    `prepare` is a function of a script or a notebook, which other processes may not load. memory: the budget of all cells that run at the
    same time on a machine. progress: a line of progress; by default on a terminal (a notebook is none). any_version: go on with a folder
    that another version of simgap or of its libraries began, or a machine of other arithmetic measured.

    A relative `out` is one of what is the current folder now, "~" is home; a file of inputs lies at the same path on every machine.

    Raises ValueError naming the argument, and leaves nothing behind: a cell that the budget cannot hold (before anything runs), a folder
    that holds another sweep or is in use, an engine that cannot be had; OSError where `out` cannot be written or is removed meanwhile. What
    was recorded before is safe.
    """
    folder, start = folder_of(out), time.perf_counter()
    design = cells if isinstance(cells, Cells) else Cells.of(cells, progress)
    selection, prepared = select(quantities, metrics=metrics, null=null), name_of(prepare)
    run = RunSpec(tokens=tokens, trials=trials, seed=seed, device=device, dtype=dtype, memory=memory)  # type: ignore[arg-type]
    if not len(design):
        first = f"; the first: {design.left_out[0]}" if design.left_out else ""
        raise ValueError(f"cells: none can be built, {len(design.left_out)} left out{first}")
    check_engine(engine, workers, scheduler)
    check_here(engine, run.device)
    # Refused before there is a folder, unless it is there.
    plan = None if holds_results(folder) else _plan(design, run, selection, range(len(design)), progress, bool(prepared))
    with open_store(folder, design, run, selection, any_version, prepared) as store, _logged(folder) as log:
        numbers = np.flatnonzero(store.trials < trials)
        aside: tuple[LeftOut, ...] = ()
        computed = 0
        if len(numbers):
            plan = plan or _plan(store.cells, run, selection, numbers.tolist(), progress, bool(prepared))
            alone = prepared.endswith(" of __main__") and workers is None
            chosen = engine or ("inprocess" if alone else _worth_an_engine(float(plan.seconds[numbers].sum()), run.device, workers))
            admitted_here(store, engine)
            with open_engine(chosen, workers, run.device, scheduler) as opened:
                # Nothing is written before there is an engine to do it.
                store.begin(trials, command_line(), _name(chosen), opened.workers)
                _begun(store, design, log)
                log.info("%s: %d of %d cells to do, %d workers", _name(chosen), len(numbers), len(store.cells), opened.workers)
                aside, computed = _run(store, plan, opened, numbers, log, progress, prepare)
        else:
            _begun(store, design, log)
        seconds = time.perf_counter() - start
        result = Run(folder, len(store.cells), store.done(trials), computed, seconds, aside, design.left_out, tuple(store.notes))
        log.info("%s", result)
        return result


def _name(engine: str | Executor) -> str:
    return engine if isinstance(engine, str) else type(engine).__name__


def _begun(store: Store, cells: Cells, log: logging.Logger) -> None:
    """Log what a user should know of a session before anything else."""
    for cell in cells.left_out:
        log.warning("left out: %s", cell)
    for note in store.notes:
        log.warning(note)


def admitted_here(store: Store, engine: str | Executor | None) -> None:
    """`Store.admit` for this machine, where the engine is one of its own."""
    from simgap.moe.canary import canary

    if engine in (None, "inprocess", "local"):
        store.admit(canary())


def _plan(cells: Cells, run: RunSpec, selection: Selection, numbers: Sequence[int], progress: bool | None, prepared: bool) -> Plan:
    """The plan of the given cells. Raises ValueError that names the first that the memory cannot hold."""
    plan = plan_cells(cells, run, selection, numbers, progress, prepared)
    if plan.too_large:
        first, count = plan.too_large[0], len(plan.too_large)
        raise ValueError(f"{first.why}: cell {first.name}{f' (and {count - 1} more)' if count > 1 else ''}")
    return plan


def _worth_an_engine(seconds: float, device: str, workers: int | None) -> str:
    """Local processes where several are asked for, or worth starting for so many seconds of work on one core; or else this process."""
    pays = device == "cpu" and cores() > 1 and seconds > WORTH_PROCESSES
    return "local" if (workers or 1) > 1 or (workers is None and pays) else "inprocess"


def _run(
    store: Store,
    plan: Plan,
    engine: Engine,
    numbers: np.ndarray,
    log: logging.Logger,
    progress: bool | None,
    prepare: Callable[[Any], Any] | None,
) -> tuple[tuple[LeftOut, ...], int]:
    """Do the given cells; those that were set aside, and how many were recorded."""
    import torch

    trials = store.run.trials
    with _progress(len(store.cells), len(store.cells) - len(numbers), float(plan.seconds[numbers].sum()), progress) as tell:
        runner, threads = Runner(store, plan, engine, store.run.memory_bytes, log, tell, prepare), torch.get_num_threads()
        try:
            runner.run(numbers)
        except BaseException as error:
            log.warning("stopped with %d of %d cells done: %s", store.done(trials), len(store.cells), type(error).__name__)
            raise
        finally:
            # Tasks in threads of this process change it for threads to come.
            torch.set_num_threads(threads)
    return tuple(runner.set_aside), runner.computed


@contextmanager
def _logged(folder: Path) -> Iterator[logging.Logger]:
    """A logger whose lines go to the folder's log, and nowhere else unless the user's logging is set up to take them."""
    # One to a folder, since two sweeps may run in threads of one process.
    log = logging.getLogger("simgap.sweeps").getChild(printable(str(folder.resolve())).replace(".", "_"))
    handler = _Quiet(folder / LOG, encoding="utf-8", delay=True)
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield log
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


class _Printable(logging.Formatter):
    """Lines whose escape codes are seen and not obeyed: a name, or a worker's traceback, may hold any."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


class _Quiet(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written (a full disk) is no reason to stop or to print a traceback: the records say so themselves."""


@contextmanager
def _progress(total: int, done: int, seconds: float, show: bool | None) -> Iterator[Callable[..., None]]:
    """One line: cells done, their rate, the time left by what the cells cost, and the worst |z| so far."""
    from tqdm import tqdm

    start, spent, worst = time.perf_counter(), 0.0, (0.0, "")
    form = "{desc}{n_fmt}/{total_fmt} cells|{bar}| {rate_fmt}{postfix}"
    bar = tqdm(total=total, initial=done, disable=hidden(show), unit="cell", bar_format=form, file=Forgiving(sys.stderr))

    def tell(cells: int, cost: float, worst_z: float, name: str) -> None:
        nonlocal spent, worst
        spent, worst = spent + cost, max(worst, (worst_z, name))
        left = (time.perf_counter() - start) * max(0.0, seconds - spent) / spent if spent else 0.0
        bar.set_postfix_str(f"{tqdm.format_interval(left)} left, worst |z| {worst[0]:.1f} ({worst[1]})", refresh=False)
        bar.update(cells)

    try:
        yield tell
    finally:
        bar.close()
