"""Time along one axis at a time, with the slope of its logarithm: what doubling tokens, widths, experts, trials or parameters costs."""

import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmarks.layer import layer
from experiments.benchmarks.rates import Times, interleaved, log_slope, quartiles
from experiments.cells import Bench, Record
from simgap import measure
from simgap.checks import format_bytes
from simgap.overlaps import gram, token_overlap
from simgap.records import Records
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table
from simgap.threads import pool

DEVICES = ("cpu",)
Line = dict[int, Callable[[], object]]
# Numbers that the kernels' axes go up to; smaller ones would time the threads' start.
NUMBERS = {"smoke": 1 << 22, "full": 1 << 27}
ROUNDS = {"smoke": 3, "full": 5}
# d_model of layers from 1e7 to 1e9 parameters, 64 d_model^2, and of the one whose memory is looked at.
D_MODELS = {"smoke": (40, 72, 128), "full": (400, 704, 1248, 2224, 3952)}
LARGEST = {"smoke": 64, "full": 4096}
TRIALS_D_MODEL = {"smoke": 64, "full": 256}
TRIALS = (2, 4, 8, 16, 32)
REPEATS = 3  # of a layer of each size, and of each number of threads
THREADS = (1, 2)
SLOPE, SLACK = 1.0, 0.1
MOST_SECONDS, MOST_BYTES = 120.0, 2 << 30
# What a figure counts in.
UNITS = {"size of a vector": (1 << 20, "2^20 numbers to a vector"), "parameters": (10**6, "million parameters")}
CHOSEN: dict[str, Any] = {"sites": ("output",), "readings": ("token", "mean"), "weights": ("up", "down")}
# The high-water mark of this process alone: what getrusage calls the child's own includes the parent that it was forked from.
CHILD = """
import json, resource, sys, time
from experiments.benchmarks.scaling import measured
start = time.perf_counter()
measured(int(sys.argv[1]), int(sys.argv[2]))
seconds = time.perf_counter() - start
try:
    with open("/proc/self/status") as file:
        peak = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
except (OSError, StopIteration):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "bytes": peak}))
"""


def measured(d_model: int, tokens: int, trials: int = 1) -> None:
    measure(layer(d_model), tokens=tokens, trials=trials, **CHOSEN)


def compute(preset: str, bench: Bench) -> list[Record]:
    """One record to an axis; then the threads', and the peak memory of one large layer in a process of its own."""
    records: list[Record] = []
    file = Records(bench.out / f"{bench.artefact}.jsonl")

    def add(labels: dict[str, Any], **values: Any) -> None:
        record = {"key": str(labels), "artefact": bench.artefact, "labels": labels} | values
        records.append(record | {"threads": torch.get_num_threads(), "tokens": bench.tokens, "provenance": bench.origin})
        file.append(records[-1])
        bar.update()

    with tqdm(total=9, desc=bench.artefact, unit="axis", disable=bench.quiet or None) as bar:
        flat = torch.randn(NUMBERS[preset], generator=torch.Generator().manual_seed(0))
        for what, axis, line in _kernel_lines(flat):
            times = interleaved({str(x): call for x, call in line.items()}, ROUNDS[preset])
            add({"what": what, "axis": axis}, seconds=times)
        threads = interleaved(
            {str(count): _with_threads(count, lambda: _overlap(flat.view(-1, 2, 1024))) for count in THREADS}, ROUNDS[preset]
        )
        del flat
        trials = {str(n): lambda n=n: measured(TRIALS_D_MODEL[preset], bench.tokens, n) for n in TRIALS}
        add({"what": "measure", "axis": "trials"}, seconds=interleaved(trials, ROUNDS[preset]))
        add({"what": "measure", "axis": "parameters"}, seconds=_by_parameters(preset, bench.tokens))
        middle = D_MODELS[preset][len(D_MODELS[preset]) // 2]
        whole = {str(count): _with_threads(count, lambda: measured(middle, bench.tokens)) for count in THREADS}
        both = {
            "token overlap, k = 2, width 1024": threads,
            f"measure, {layer(middle).parameters:.3g} parameters": interleaved(whole, REPEATS),
        }
        add({"what": "threads", "axis": "threads"}, seconds=both)
        add({"what": "memory", "axis": ""}, **_in_a_child(LARGEST[preset], bench.tokens))
    return records


def _kernel_lines(flat: Tensor) -> list[tuple[str, str, Line]]:
    """For every axis of the kernels, a call at each of its points; the others are held where the largest point is all of `flat`."""
    numbers = flat.numel()

    def overlap(n: int, k: int, d: int) -> Callable[[], object]:
        return lambda: _overlap(flat[: n * k * d].view(n, k, d))

    def table(experts: int, size: int) -> Callable[[], object]:
        return lambda: _gram(flat[: experts * size].view(1, experts, size))

    n, d, k = numbers >> 11, 1024, 2
    tokens = {n >> s: overlap(n >> s, k, d) for s in range(4, -1, -1)}
    widths = {width: overlap(numbers >> 13, k, width) for width in (256, 512, 1024, 2048, 4096)}
    ks = {many: overlap(numbers >> 14, many, d) for many in (2, 4, 8, 16)}
    experts = {many: table(many, numbers >> 6) for many in (4, 8, 16, 32, 64)}
    sizes = {(numbers >> 3) >> s: table(8, (numbers >> 3) >> s) for s in range(4, -1, -1)}
    lines = [("token overlap", axis, line) for axis, line in (("tokens", tokens), ("width", widths), ("k", ks))]
    return lines + [("Gram table", axis, line) for axis, line in (("experts", experts), ("size of a vector", sizes))]


def _overlap(h: Tensor) -> None:
    with pool() as (task_map, _):
        token_overlap(h, task_map)


def _gram(vectors: Tensor) -> None:
    with pool() as (task_map, _):
        gram(vectors, task_map)


def _with_threads(count: int, call: Callable[[], object]) -> Callable[[], None]:
    def limited() -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(count)
            call()
        finally:
            torch.set_num_threads(before)

    return limited


def _by_parameters(preset: str, tokens: int) -> Times:
    """One trial at every size, in a process that has measured before."""
    measured(D_MODELS[preset][0], tokens)
    times: Times = {}
    for _, d_model in itertools.product(range(REPEATS), D_MODELS[preset]):
        start = time.perf_counter()
        measured(d_model, tokens)
        times.setdefault(str(layer(d_model).parameters), []).append(time.perf_counter() - start)
    return times


def _in_a_child(d_model: int, tokens: int) -> dict[str, Any]:
    """Seconds of one measurement and peak resident bytes of the process that does nothing else."""
    root = Path(__file__).parent.parent.parent
    argv = [sys.executable, "-c", CHILD, str(d_model), str(tokens)]
    run = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root)
    return {"parameters": layer(d_model).parameters, **json.loads(run.stdout.splitlines()[-1])}


def fitted(record: Record) -> tuple[float, float]:
    """Slope of log seconds on log x over the medians, and its standard error."""
    times = record["seconds"]
    return log_slope([float(x) for x in times], [statistics.median(t) for t in times.values()])


def render(records: Sequence[Record], out: Path) -> list[Path]:
    lines = [r for r in records if r["labels"]["what"] not in ("threads", "memory")]
    page = Table("Time along one axis", ["what", "axis", "from", "to", "s at the least", "s at the most", "slope", "standard error"])
    for record in lines:
        x, medians = list(record["seconds"]), [statistics.median(t) for t in record["seconds"].values()]
        page.rows.append([record["labels"]["what"], record["labels"]["axis"], x[0], x[-1], medians[0], medians[-1], *fitted(record)])
    (memory,) = (r for r in records if r["labels"]["what"] == "memory")
    (threads,) = (r for r in records if r["labels"]["what"] == "threads")
    page.notes = [_targets(lines, memory), *_notes(memory["tokens"], memory["threads"])]
    speed = Table("Two threads", ["what", "s on one", "s on two", "times as fast", "quartiles"])
    for what, times in threads["seconds"].items():
        low, ratio, high = quartiles([one / two for one, two in zip(*times.values(), strict=True)])
        speed.rows.append([what, *(statistics.median(t) for t in times.values()), ratio, f"{low:.2f} to {high:.2f}"])
    page.sections = [speed]
    return page.write(out / "scaling") + draw([_panel(r) for r in lines], "Seconds along one axis", out / "scaling", columns=4)


def _targets(lines: Sequence[Record], memory: Record) -> str:
    (record,) = (r for r in lines if r["labels"]["axis"] == "parameters")
    slope, error = fitted(record)
    right = "met" if abs(slope - SLOPE) <= SLACK else "missed"
    small = "met" if memory["bytes"] < MOST_BYTES and memory["seconds"] < MOST_SECONDS else "missed"
    return (
        f"Slope in parameters {slope:.3f} ± {error:.3f}, target {SLOPE:g} ± {SLACK:g}: {right}. A layer of {memory['parameters']:.3g} "
        f"parameters in a process of its own: {memory['seconds']:.1f} s, peak resident memory {format_bytes(memory['bytes'])} with the "
        f"interpreter and its libraries, target under {MOST_SECONDS:g} s and {format_bytes(MOST_BYTES)}: {small}."
    )


def _notes(tokens: int, threads: int) -> list[str]:
    return [
        "Slope: least squares of log seconds on log x over medians, one point to a size; its error is that of a straight line through "
        "them. 1 is proportional. A token's k vectors have k (k + 1) / 2 products and k reads, and a Gram table as many of its experts: "
        "slopes in k and in experts lie between 1, where memory decides, and 2, where arithmetic does. A slope below 1 has a fixed cost in "
        "it: threads that start, and tasks too few for all of them.",
        f"{threads} threads, float32, {tokens} tokens to a layer; layers of 8 experts, top-2, d_ff = 4 d_model, default memory budget; "
        "token and mean overlaps of outputs, weight overlaps of W_up and W_down. Layers whose weights do not fit the budget are drawn "
        "block by block.",
    ]


def _panel(record: Record) -> Panel:
    axis, times = record["labels"]["axis"], record["seconds"]
    unit, name = UNITS.get(axis, (1, axis))
    x = [float(at) / unit for at in times]
    quarters = [quartiles(t) for t in times.values()]
    slope, error = fitted(record)
    panel = Panel(f"{record['labels']['what']}: {axis}", name, "seconds", x_ticks=[float(f"{at:.5g}") for at in x], log_y=True)
    panel.ours = [Series("median, half the quartiles' distance", x, [q[1] for q in quarters], [(q[2] - q[0]) / 2 for q in quarters])]
    across, up = (statistics.fmean(map(math.log2, values)) for values in (x, [q[1] for q in quarters]))
    ends = [x[0], x[-1]]
    panel.laws = [Series(f"slope {slope:.2f} ± {error:.2f}", ends, [2 ** (up + slope * (math.log2(at) - across)) for at in ends])]
    return panel
