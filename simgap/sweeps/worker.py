"""What runs where the work is done: a few cells measured, predicted, calibrated, and made into the lines of their records."""

import os
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from simgap.records import line_of, source_digest
from simgap.specs import LayerSpec, RunSpec
from simgap.sweeps.quantities import Quantities


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
    """Cells of one program, measured together; threads is how many the worker may use, None for as many as it has."""

    cells: tuple[Cell, ...]
    wanted: Quantities
    threads: int | None = None


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
    """The outcomes of a task, and which code gave them."""

    outcomes: tuple[Outcome, ...]
    source: str
    seconds: float


def ready() -> str:
    """Load what a task needs, so that the first one finds it loaded; which code this worker runs."""
    import simgap.gap.together  # noqa: F401

    return source_digest()


def compute(task: Task) -> Report:
    """Measure the cells of a task. One that fails is reported with its reason, and does not stop the others."""
    import torch

    threads = torch.get_num_threads()
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    start = time.perf_counter()
    try:
        try:
            outcomes = _together(task.cells, task.wanted)
        except Exception as error:
            # Which of them it was is found out one by one.
            outcomes = [_failed(task.cells[0], error)] if len(task.cells) == 1 else [_alone(cell, task.wanted) for cell in task.cells]
    finally:
        if task.threads is not None:
            torch.set_num_threads(threads)
    return Report(tuple(outcomes), source_digest(), time.perf_counter() - start)


def _alone(cell: Cell, wanted: Quantities) -> Outcome:
    try:
        return _together([cell], wanted)[0]
    except Exception as error:
        return _failed(cell, error)


def _failed(cell: Cell, error: Exception) -> Outcome:
    text = " ".join(str(error).split())
    why = text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
    return Outcome(cell.number, why=why, details="".join(traceback.format_exception(error)))


def _together(cells: Sequence[Cell], wanted: Quantities) -> list[Outcome]:
    from simgap.gap.together import Request, Tallies, measure_together

    device = cells[0].run.device
    start, held = time.perf_counter(), reset_peak(device)
    found = measure_together([Request(cell.spec, cell.run, cell.recorded) for cell in cells], **wanted.looked_at)
    whole = [t if c.earlier is None else Tallies.from_plain(c.earlier).followed_by(t) for c, t in zip(cells, found, strict=True)]
    rows = [_rows(cell, tallies, wanted) for cell, tallies in zip(cells, whole, strict=True)]
    common: dict[str, Any] = {"device": device_name(device), "host": socket.gethostname(), "together": len(cells)}
    common |= {"seconds": (time.perf_counter() - start) / len(cells), "peak_memory": peak_since(held, device)}
    outcomes = []
    for cell, tallies, (quantities, routing, worst) in zip(cells, whole, rows, strict=True):
        record = {"cell": cell.key, "trials": cell.run.trials, "seed": cell.run.seed, **routing, **common}
        outcomes.append(Outcome(cell.number, line_of(record | {"quantities": quantities, "tallies": tallies.to_plain()}), worst))
    return outcomes


def _rows(cell: Cell, tallies: Any, wanted: Quantities) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Every quantity that was asked for, as the frame shows it, what the router did, and the largest |z| against an exact law."""
    from simgap.gap import calibrate, predict
    from simgap.gap.together import gathered

    measured = gathered(cell.spec, cell.run, tallies, **wanted.looked_at)
    predicted = predict(cell.spec, tokens=cell.run.tokens, trials=cell.run.trials, **wanted.looked_at)
    calibrated = calibrate(measured, predicted)
    routing = {"idle_experts": measured.routing["idle_experts"], "dropped_tokens": measured.routing["dropped_tokens"]}
    sides = [("", measured, predicted, calibrated)]
    if measured.shared is not None and predicted.shared is not None and calibrated.shared is not None:
        sides.append(("shared ", measured.shared, predicted.shared, calibrated.shared))
    rows, worst = {}, 0.0
    for prefix, ours, theirs, both in sides:
        nulls, judged = dict(theirs.items()), dict(both.items())
        for path, value in ours.items():
            if path in wanted.paths:
                rows[prefix + " ".join(path)] = _row(value, nulls[path], judged[path])
                # Only where the law is exact and knows its spread does a large z say that something is wrong.
                if nulls[path].kind == "exact" and judged[path].z_unit == "null sd":
                    worst = max(worst, abs(judged[path].z or 0.0))
    return rows, routing, worst


def _row(measured: Any, predicted: Any, calibrated: Any) -> dict[str, Any]:
    row = {"mean": measured.mean, "sem": measured.sem, "n": measured.trials, "pairs": measured.pairs, "dropped": measured.dropped}
    row |= {f"predicted_{name}": getattr(predicted, name) for name in ("mean", "sd", "kind", "sd_kind")}
    row |= {"law": predicted.law}
    row |= {name: getattr(calibrated, name) for name in ("excess", "scaled_excess", "z", "z_unit", "p", "effective_dimension")}
    return row | {"why": measured.why or predicted.why or calibrated.why}


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


def device_name(device: str) -> str:
    """The card's name, or "cpu"."""
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name(device)


def start_local(threads: int, device: int | None) -> None:
    """Make a fresh process a worker: it leaves Ctrl-C to the coordinator, ends when that ends, and keeps to its threads and its card."""
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
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


def with_memory(cell: Cell, size: int) -> Cell:
    """The cell with another memory budget, which changes no result."""
    return replace(cell, run=replace(cell.run, memory=size))
