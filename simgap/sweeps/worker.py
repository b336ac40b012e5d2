"""What runs where the work is done: a few cells measured, predicted, calibrated, and made into the lines of their records."""

import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simgap.quantities import ROUTED, Quantity
from simgap.records import line_of, source_digest
from simgap.selection import Selection, ranges
from simgap.specs import LayerSpec, RunSpec
from simgap.stats import normal_score
from simgap.sums import Sums

# How a refusal begins that another machine might not have.
OF_MACHINE = ("inputs.path:", "device:")
# Fields of its run that a record holds: it is one of no other sweep.
OF_RUN = ("trials", "seed", "tokens", "dtype")


@dataclass(frozen=True)
class Cell:
    """One cell of a task: its number and key in the sweep, what to measure, and the sums of the trials that are already recorded."""

    number: int
    key: str
    spec: LayerSpec
    run: RunSpec
    earlier: dict[str, Any] | None = None
    recorded: int = 0


@dataclass(frozen=True)
class Task:
    """Cells of one batch key, measured together; threads is how many the worker may use, None for as many as it has; prepare changes the
    weights of a lone cell."""

    cells: tuple[Cell, ...]
    selection: Selection
    threads: int | None = None
    prepare: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one cell: the line of its record and its largest |z| against an exact law, or why there is none."""

    number: int
    line: bytes = b""
    worst_z: float = 0.0
    why: str = ""
    details: str = ""


@dataclass(frozen=True)
class Report:
    """The outcomes of a task, and which code and which machine's arithmetic gave them."""

    outcomes: tuple[Outcome, ...]
    source: str
    canary: str
    seconds: float


def ready() -> str:
    """Load and compile what a task needs, so that no cell's seconds count it; which code this worker runs."""
    from simgap.api.batch import Request, measure_batch
    from simgap.moe.canary import canary
    from simgap.selection import select

    canary()
    measure_batch([Request(LayerSpec(d_model=2, d_ff=2, n_experts=2), RunSpec(tokens=2, trials=1))], select())
    return source_digest()


def compute(task: Task) -> Report:
    """Measure the cells of a task. One that fails is reported with its reason, and does not stop the others."""
    import torch

    from simgap.moe.canary import canary

    start, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(task.threads or threads)
    try:
        outcomes = _outcomes(task.cells, task.selection, task.prepare)
    finally:
        torch.set_num_threads(threads)
    return Report(tuple(outcomes), source_digest(), canary(), time.perf_counter() - start)


def _outcomes(cells: Sequence[Cell], selection: Selection, prepare: Callable[[Any], Any] | None) -> list[Outcome]:
    try:
        return _batch(cells, selection, prepare)
    except Exception as error:
        if len(cells) == 1:
            return [_failed(cells[0], error)]
        # Which of them it was is found out one by one.
        return [outcome for cell in cells for outcome in _outcomes([cell], selection, prepare)]


def _failed(cell: Cell, error: Exception) -> Outcome:
    text = " ".join(str(error).split())
    why = text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
    if why.startswith(OF_MACHINE) or not isinstance(error, ValueError):
        why += f" (on {socket.gethostname()})"
    return Outcome(cell.number, why=why, details="".join(traceback.format_exception(error)))


def _batch(cells: Sequence[Cell], selection: Selection, prepare: Callable[[Any], Any] | None) -> list[Outcome]:
    import torch

    from simgap.api.batch import Request, check_sums, estimates, measure_batch
    from simgap.api.plan import check_device
    from simgap.moe.canary import canary

    device = cells[0].run.device
    check_device(device)
    check_files(cells)
    start, held = time.perf_counter(), reset_peak(device)
    new = measure_batch([Request(cell.spec, cell.run, cell.recorded) for cell in cells], selection, prepare)
    known = ranges()
    sums = [one if c.earlier is None else Sums.from_plain(c.earlier, known).followed_by(one) for c, one in zip(cells, new, strict=True)]
    for cell, one in zip(cells, sums, strict=True):
        check_sums(cell.spec, cell.run, one)
    check_files(cells)
    rows = _rows(cells, estimates(sums), _nulls(cells, selection))
    named = device if device == "cpu" else torch.cuda.get_device_name(device)
    common: dict[str, Any] = {"canary": canary(), "device": named, "host": socket.gethostname(), "batch": len(cells)}
    common |= {"seconds": (time.perf_counter() - start) / len(cells), "peak_memory": peak_since(held, device)}
    outcomes = []
    for cell, one, (quantities, worst) in zip(cells, sums, rows, strict=True):
        record = {"cell": cell.key} | {name: getattr(cell.run, name) for name in OF_RUN}
        record |= {"idle_experts": int((one.taken == 0).sum()), "dropped_tokens": int(one.dropped.sum()), **common}
        outcomes.append(Outcome(cell.number, line_of(record | {"quantities": quantities, "sums": one.to_plain()}), worst))
    return outcomes


def check_files(cells: Sequence[Cell]) -> None:
    """ValueError for a cell whose file of inputs is not the one that its key was made of: it changed since, or this machine has another."""
    for cell in cells:
        if cell.spec.inputs.kind == "file" and cell.spec.key() != cell.key:
            raise ValueError(f"inputs.path: {cell.spec.inputs.path!r} is not the file that the sweep was designed with")


def _nulls(cells: Sequence[Cell], selection: Selection) -> list[Mapping[Quantity, Any]]:
    """The predictions for each cell. What is predicted alike is predicted once."""
    from simgap.api.predicted import predicted, predicted_alike

    keys = [(predicted_alike(cell.spec, selection), cell.run.tokens, cell.run.trials) for cell in cells]
    known = {key: predicted(cell.spec, cell.run, selection).values for key, cell in dict(zip(keys, cells, strict=True)).items()}
    return [known[key] for key in keys]


def _rows(
    cells: Sequence[Cell], measured: Sequence[Mapping[Quantity, Any]], nulls: Sequence[Mapping[Quantity, Any]]
) -> list[tuple[dict[str, dict[str, Any]], float]]:
    """Of each cell, every quantity that was asked for, as the frame shows it, and the largest |z| against an exact law."""
    from simgap.api.batch import estimate_of
    from simgap.api.calibration import Asked, compare_all, is_overlap, row

    # Cells of one batch have the same sides and experts. Pairs with a shared expert are not all pairs of anything.
    names = [
        (str(quantity), quantity, is_overlap(quantity), cells[0].spec.n_experts if quantity.side == ROUTED else 0) for quantity in nulls[0]
    ]
    asked = [
        Asked(estimate_of(cell.spec, known, quantity), null[quantity], overlap, experts)
        for cell, known, null in zip(cells, measured, nulls, strict=True)
        for _, quantity, overlap, experts in names
    ]
    judged = compare_all(asked)
    rows = []
    for start in range(0, len(asked), len(names)):
        of_cell = list(zip(asked[start : start + len(names)], judged[start : start + len(names)], strict=True))
        # Only where the law is exact and knows its spread does a large z say that something is wrong. A mean over few pairs is skewed, and
        # z alone would alarm: its p is not fooled.
        alarming = (c.p for one, c in of_cell if one.null.kind == "exact" and c.z_unit == "null sd" and c.p is not None)
        worst = abs(normal_score(min(alarming, default=1.0), 1.0))
        rows.append(({name: row(one.measured, one.null, c) for (name, *_), (one, c) in zip(names, of_cell, strict=True)}, worst))
    return rows


def reset_peak(device: str) -> int | None:
    """Start counting the largest memory held on a device anew: a card's by torch, this process's where Linux lets it. What is held now."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak_since(held: int | None, device: str) -> int | None:
    """Bytes by which what is held grew at most since `reset_peak`; None where that is not known."""
    if device != "cpu":
        import torch

        peak: int | None = torch.cuda.max_memory_allocated(device)
    else:
        peak = _status("VmHWM")
    return None if held is None or peak is None else max(0, peak - held)


def _status(name: str) -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None


def start_local(threads: int, device: int | None) -> None:
    """Make a fresh process a worker: it leaves Ctrl-C and the like to the coordinator, which ends it by SIGTERM, ends when that ends, and
    keeps to its threads and its card."""
    import signal

    import torch

    from simgap.sweeps.stopping import LEFT_TO_COORDINATOR

    for number in LEFT_TO_COORDINATOR:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_COORDINATOR)
    _end_with_parent()
    torch.set_num_threads(threads)
    if device is not None:
        torch.cuda.set_device(device)


def _end_with_parent() -> None:
    """A coordinator that was killed cannot stop its workers, and a pool's workers wait for it for ever."""
    import multiprocessing
    import threading
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
