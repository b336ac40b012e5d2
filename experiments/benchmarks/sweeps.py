"""Sweeps: what a cell costs beyond its work, what the coordinator holds, what a second core and one batch of many cells bring."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tqdm import tqdm

from experiments.benchmarks.rates import Times, quartiles
from experiments.cells import Bench, Record
from simgap import LayerSpec, RunSpec, calibrate, measure, predict
from simgap.moe.canary import canary
from simgap.records import Records, line_of, record_of, source_digest
from simgap.report.table import Table
from simgap.seeding import derived
from simgap.selection import select
from simgap.sweeps import Cells, engines, grid, plan, sweep, worker
from simgap.sweeps.worker import OF_RUN, Cell, Outcome, Report, Task, peak_since, reset_peak

DEVICES = ("cpu",)
# The records of the run whose figures are told.
KEPT = Path(__file__).parent / "data" / "sweeps.jsonl"
SMALL = LayerSpec(d_model=8, d_ff=16, n_experts=4, top_k=2)
LOCAL = "local"
ROUNDS = {"smoke": 1, "full": 3}
# Widths, and hidden widths to each, of layers that are each alone; as many cells share a batch key.
SHAPES = {"smoke": 6, "full": 100}
MEMORY_CELLS = {"smoke": (100, 1000), "full": (1_000, 10_000, 100_000)}
# Cells, width, and trials of each: some tenths of a second to a cell, and far longer than workers take to start.
CORES = {"smoke": (4, 32, 1), "full": (72, 128, 20)}
TOGETHER = {"smoke": 16, "full": 512}
TOKENS_TOGETHER = 64
# Quantities that are asked for of batched cells: the gap and what it is made of, and all.
QUANTITIES = {"the gap": ("weight_mso up", "activation_mso mean output", "gap", "ratio"), "all quantities": None}
INPUTS, ACTIVATIONS = ("gaussian", "sphere", "powerlaw", "student"), ("relu", "gelu", "silu", "tanh")
# Milliseconds a cell, MiB from the fewest cells to the most, times as fast.
MOST_OVERHEAD, MOST_GROWTH, LEAST_CORES, LEAST_TOGETHER = 2.0, 50.0, 1.7, 10.0
ONE, TWO, BOTH, HERE = "one worker, one thread", "two workers", "one worker, all threads", "in this process"
BATCHED, SINGLY, LOOP = "sweep", "sweep, a cell at a time", "measure, predict, calibrate"
CHILD = """
import json, sys
from experiments.benchmarks.sweeps import held_by_coordinator
print(json.dumps(held_by_coordinator(int(sys.argv[1]), json.load(sys.stdin), sys.argv[2])))
"""


class Instant(Executor):
    """Answers each task at once with records that are those of a real cell but for whose they are; seconds: what that took."""

    def __init__(self, example: Mapping[str, Any]) -> None:
        self.example, self.seconds = example, 0.0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        start, task = time.perf_counter(), args[0]
        outcomes = [Outcome(cell.number, self.line(cell), 1.0) for cell in task.cells]
        future: Future = Future()
        future.set_result(Report(tuple(outcomes), source_digest(), canary(), 0.0))
        self.seconds += time.perf_counter() - start
        return future

    def line(self, cell: Cell) -> bytes:
        return line_of({**self.example, "cell": cell.key} | {name: getattr(cell.run, name) for name in OF_RUN})


def example() -> dict[str, Any]:
    """The record of a small cell, as a worker makes it."""
    (outcome,) = worker.compute(Task((Cell(0, SMALL.key(), SMALL, RunSpec(tokens=64, trials=2)),), select())).outcomes
    return record_of(outcome.line) or {}


def sharing(n: int) -> Cells:
    """n cells of one batch key."""
    return grid(SMALL, {"router.temperature": np.geomspace(0.1, 10, n).tolist()})


def apart(side: int) -> Cells:
    """side^2 cells, each of a batch key of its own."""
    return grid(SMALL, d_model=list(range(4, 4 + side)), d_ff=list(range(4, 4 + side)))


def mixed(n: int) -> Cells:
    """n cells of one batch key that differ in all else that they may."""
    temperatures = np.geomspace(0.1, 10, n // (len(INPUTS) * len(ACTIVATIONS))).tolist()
    return grid(SMALL, {"router.temperature": temperatures, "inputs": list(INPUTS)}, activation=list(ACTIVATIONS))


def compute_bound(cells: int, width: int) -> Cells:
    """Layers that take about as long as each other, each of a batch key of its own."""
    return grid(LayerSpec(d_model=width, d_ff=4 * width), d_ff=[4 * width + at for at in range(cells)])


def overhead(cells: Cells, like: Mapping[str, Any], out: Path) -> dict[str, float]:
    """Seconds of a sweep, and those of them that its executor took, per cell."""
    executor, start = Instant(like), time.perf_counter()
    run = sweep(cells, out=out, engine=executor, workers=1, progress=False)
    seconds = time.perf_counter() - start
    if run.computed != len(cells):
        raise ValueError(f"sweeps: {run.computed} of {len(cells)} cells were done")
    return {"seconds": seconds / len(cells), "work": executor.seconds / len(cells)}


def held_by_coordinator(n: int, like: Mapping[str, Any], scratch: str) -> dict[str, int | None]:
    """Bytes by which a process grows that sweeps n cells: at the end, and at the most; None where the system does not say."""
    import simgap.api.batch  # noqa: F401

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        before = reset_peak("cpu")
        sweep(sharing(n), out=folder, engine=Instant(like), workers=1, progress=False)
        peak, after = peak_since(before, "cpu"), reset_peak("cpu")
    return {"end": None if before is None or after is None else after - before, "peak": peak}


def in_a_child(n: int, like: Mapping[str, Any], scratch: Path) -> dict[str, int | None]:
    """The same in a process that does nothing else."""
    root, argv = Path(__file__).parent.parent.parent, [sys.executable, "-c", CHILD, str(n), str(scratch.absolute())]
    run = subprocess.run(argv, input=json.dumps(like), capture_output=True, text=True, check=True, cwd=root)
    return json.loads(run.stdout.splitlines()[-1])


def ways_to_use_cores(cells: Cells, trials: int, seed: int) -> dict[str, Callable[[Path], object]]:
    """The same cells by one worker of one thread, by two, by one of as many threads as there are cores, and without workers."""

    def run(out: Path, engine: str, workers: int | None = None) -> None:
        sweep(cells, out=out, trials=trials, seed=seed, engine=engine, workers=workers if engine == "local" else None, progress=False)

    def on_one(out: Path) -> None:
        with patch.object(engines, "cores", lambda: 1):
            run(out, LOCAL, 1)

    return {ONE: on_one, TWO: lambda out: run(out, LOCAL, 2), BOTH: lambda out: run(out, LOCAL, 1), HERE: lambda out: run(out, "inprocess")}


def ways_to_batch(cells: Cells, seed: int, quantities: Sequence[str] | None) -> dict[str, Callable[[Path], object]]:
    """The same small cells by a sweep, by one that takes them one at a time, and by a loop that records nothing."""

    def run(out: Path) -> None:
        sweep(cells, quantities=quantities, out=out, trials=1, tokens=TOKENS_TOGETHER, seed=seed, progress=False)

    def singly(out: Path) -> None:
        with patch.object(plan, "MOST_TOGETHER", 1):
            run(out)

    def loop(out: Path) -> None:
        for spec in cells:
            measured = measure(spec, tokens=TOKENS_TOGETHER, trials=1, seed=derived(seed, spec.key()), quantities=quantities)
            calibrate(measured, predict(spec, tokens=TOKENS_TOGETHER, trials=1, quantities=quantities))

    return {BATCHED: run, SINGLY: singly, LOOP: loop}


def in_turn(ways: Mapping[str, Callable[[Path], object]], rounds: int, scratch: Path, done: Callable[[], object]) -> Times:
    """Seconds of every way in every round, each in a new folder, in an order that turns."""
    times: Times = {name: [] for name in ways}
    for turn in range(rounds):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                start = time.perf_counter()
                ways[name](Path(folder, "run"))
                times[name].append(time.perf_counter() - start)
            done()
    return times


def compute(preset: str, bench: Bench) -> list[Record]:
    """One record to a question: overhead, memory, cores, batches."""
    records: list[Record] = []
    rounds, like = ROUNDS[preset], example()
    shared, side = sharing(SHAPES[preset] ** 2), apart(SHAPES[preset])
    cells, width, trials = CORES[preset]
    bench.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.out) as name, tqdm(desc=bench.artefact, unit="run", disable=bench.quiet or None) as bar:
        scratch = Path(name)

        def add(what: str, **values: Any) -> None:
            record = {"key": what, "artefact": bench.artefact, "labels": {"what": what}, "provenance": bench.origin}
            records.append(record | values)
            Records(bench.out / f"{bench.artefact}.jsonl").append(records[-1])

        cases = {}
        for case, design in (("cells of one program", shared), ("each of its own", side)):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                cases[case] = overhead(design, like, Path(folder, "run"))
            bar.update()
        add("overhead", cells=len(shared), bytes=len(line_of(like)), cases=cases)
        held = {}
        for n in MEMORY_CELLS[preset]:
            held[str(n)] = in_a_child(n, like, scratch)
            bar.update()
        add("memory", held=held)
        ways = ways_to_use_cores(compute_bound(cells, width), trials, bench.seed)
        add("cores", cells=cells, d_model=width, trials=trials, cores=engines.cores(), seconds=in_turn(ways, rounds, scratch, bar.update))
        many = mixed(TOGETHER[preset])
        seconds = {}
        for asked, quantities in QUANTITIES.items():
            # Compiles, and loads what the first of all would wait for: what many cells need too.
            batching = ways_to_batch(many, bench.seed, quantities)
            in_turn({**ways_to_batch(many[:2], bench.seed, quantities), BATCHED: batching[BATCHED]}, 1, scratch, bar.update)
            seconds[asked] = in_turn(batching, rounds, scratch, bar.update)
        add("batches", cells=len(many), seconds=seconds)
    return records


def times_as_fast(seconds: Times, slow: str, fast: str) -> tuple[float, float, float]:
    """Quartiles over rounds of the seconds of one way over those of another."""
    return quartiles([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])


def render(records: Sequence[Record], out: Path) -> list[Path]:
    by_name = {record["labels"]["what"]: record for record in records}
    page = Table("Sweeps: what they cost beyond their work", ["what", "case", "measured", "unit", "bar", "met"])
    costs, held, cores, batches = (by_name[name] for name in ("overhead", "memory", "cores", "batches"))
    for case, cost in costs["cases"].items():
        over = 1e3 * (cost["seconds"] - cost["work"])
        page.rows.append(
            [f"overhead, {costs['cells']:,} cells", case, over, "ms a cell", f"< {MOST_OVERHEAD:g}", _met(over < MOST_OVERHEAD)]
        )
    for when in ("end", "peak"):
        sizes = {n: _mebibytes(bytes_held[when]) for n, bytes_held in held["held"].items()}
        page.rows += [["coordinator's memory", f"{int(n):,} cells, {when}", size, "MiB", None, None] for n, size in sizes.items()]
        (fewest, least), *_, (most, largest) = sizes.items()
        grown = None if least is None or largest is None else largest - least
        met = None if grown is None else _met(grown < MOST_GROWTH)
        page.rows.append(["its growth", f"{int(fewest):,} to {int(most):,} cells, {when}", grown, "MiB", f"< {MOST_GROWTH:g}", met])
    page.rows += _faster(
        f"{cores['cells']} layers of width {cores['d_model']}", cores["seconds"], TWO, {ONE: LEAST_CORES, BOTH: None, HERE: None}
    )
    for asked, times in batches["seconds"].items():
        page.rows += _faster(f"{batches['cells']} small cells, {asked}", times, BATCHED, {SINGLY: LEAST_TOGETHER, LOOP: LEAST_TOGETHER})
    seconds = Table("Seconds", ["what", "way", "median", "least", "most", "ms a cell"])
    timed = {"cores": (cores["cells"], cores["seconds"])}
    timed |= {f"batches, {asked}": (batches["cells"], times) for asked, times in batches["seconds"].items()}
    for what, (count, ways) in timed.items():
        for way, times in ways.items():
            middle = statistics.median(times)
            seconds.rows.append([what, way, middle, min(times), max(times), 1e3 * middle / count])
    page.sections = [seconds]
    page.notes = _notes(costs, cores, batches)
    return page.write(out / "sweeps")


def _faster(what: str, seconds: Times, fast: str, bars: Mapping[str, float | None]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for slow, bar in bars.items():
        low, middle, high = times_as_fast(seconds, slow, fast)
        case, unit = f"{fast} over {slow}", f"times as fast ({low:.2f} to {high:.2f})"
        rows.append([what, case, middle, unit, *((None, None) if bar is None else (f">= {bar:g}", _met(middle >= bar)))])
    return rows


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def _notes(costs: Record, cores: Record, batches: Record) -> list[str]:
    rounds = len(cores["seconds"][TWO])
    return [
        f"Overhead: a sweep of which all work is done at once by an executor that hands out the record of a real cell ({costs['bytes']:,} "
        "bytes) under the name of each; its own seconds are taken off. Cells of one program are recorded up to 256 at a time, each of its "
        "own with a flush of the disk to each. Planning and the manifest are part of it, building the cells is not.",
        "Memory: resident bytes beyond those of a process that has loaded simgap and torch, in a process to each number of cells, with the "
        "same executor; at the end, and at the most. The frame is not made.",
        f"Cores: {cores['cores']} here; whole sweeps, with the start of the workers, {cores['trials']} trials to a cell. A lone worker has "
        "all cores' threads, so that what two workers gain is held against one of one thread.",
        f"Batches: layers of {batches['cells']} designs and one shape, {TOKENS_TOGETHER} tokens, one trial, that differ in router "
        f"temperature, law of the tokens, activation and seed, in this process. Medians of {rounds} rounds in one run, quartiles beside.",
    ]
