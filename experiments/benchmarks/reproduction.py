"""The main job against its floor, and against NumPy loops: the three persistence tables at 10 trials, timed in one run."""

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.numpy_loops import relu_layer
from experiments.benchmarks.rates import Rates, measure_rates
from experiments.cells import Bench, Record
from experiments.persistence.published import D_FF_TABLE1, LAMBDAS, TRIALS, expert, table
from experiments.persistence.table1 import RATE, STEPS, WIDTH
from simgap import LayerSpec, measure
from simgap.records import Records
from simgap.report.table import Table
from simgap.training import RegulariseGram

Work = dict[str, float]
DEVICES = ("cpu",)
REPEATS = {"smoke": 3, "full": 9}


def configurations() -> list[tuple[str, LayerSpec, float]]:
    """The 14 published configurations: (table, layer, lambda)."""
    first = [("table1", expert(WIDTH, D_FF_TABLE1), strength) for strength in LAMBDAS]
    second = [("table2", expert(int(r["d_model"]), int(r["d_ff"]), int(r["n_experts"])), 0.0) for r in table(2)]
    third = [("table3", expert(WIDTH, int(r["d_ff"]), int(r["n_experts"]), int(r["top_k"])), 0.0) for r in table(3)]
    return first + second + third


def work(spec: LayerSpec, strength: float, tokens: int) -> Work:
    """What one trial cannot do without: normal numbers drawn, float32 FLOPs in products, bytes moved, matrices decomposed.

    Draws: both weight matrices, tokens, router. Products: the router, W_up on routed tokens only, W_down on mean hidden vectors only (it
    is linear), and where regularised W'W, W V, and that times V'. Bytes: every array written once and read once, the hidden
    vectors of routed tokens and the gathered tokens among them. Decompositions: one W'W of width d for each regularised expert.
    """
    d, f, experts, k = spec.d_model, spec.d_ff, spec.n_experts, spec.top_k
    weights = 2 * experts * d * f
    products = 2.0 * (tokens * experts * d + tokens * k * d * f + experts * d * f)
    floats = weights + tokens * d + tokens * k * (d + f) + tokens * experts
    if strength:
        products += experts * 6.0 * f * d * d
        floats += experts * (2 * f * d + 2 * 2 * d * d)
    draws = weights + tokens * d + experts * d
    return {"draws": draws, "gemm": products, "copy": 2.0 * 4 * floats, "eigen": experts * (d / 128) ** 3 if strength else 0.0}


def floor(rates: Rates, tokens: int) -> dict[str, float]:
    """Seconds of each kind of work over the 14 configurations, at the measured rates."""
    total = dict.fromkeys(("draws", "gemm", "copy", "eigen"), 0.0)
    for _, spec, strength in configurations():
        for kind, amount in work(spec, strength, tokens).items():
            total[kind] += TRIALS * amount / rates[kind]
    return total


def ours(tokens: int) -> None:
    for at, (_, spec, strength) in enumerate(configurations()):
        prepare = RegulariseGram(strength, STEPS, RATE) if strength else None
        measure(spec, tokens=tokens, trials=TRIALS, seed=at, sites=("output",), readings=("mean",), weights=("up",), prepare=prepare)


def numpy_loops(tokens: int) -> None:
    generator = np.random.default_rng(0)
    for (_, spec, strength), _ in itertools.product(configurations(), range(TRIALS)):
        relu_layer(spec, tokens, generator, strength, STEPS, RATE)


def compute(preset: str, bench: Bench) -> list[Record]:
    """Rates, then ours `repeats` times with the rates measured anew before each, then NumPy once or thrice."""
    if bench.device != "cpu":
        raise ValueError(f"device: this benchmark compares with NumPy on the CPU, got {bench.device!r}")
    ours(bench.tokens)  # compiles
    runs = []
    for _ in range(REPEATS[preset]):
        rates = measure_rates()
        start = time.perf_counter()
        ours(bench.tokens)
        seconds = time.perf_counter() - start
        parts = floor(rates, bench.tokens)
        runs.append({"seconds": seconds, "floor": sum(parts.values()), "parts": parts, "rates": rates})
    loops = []
    for _ in range(1 if preset == "smoke" else 3):
        start = time.perf_counter()
        numpy_loops(bench.tokens)
        loops.append(time.perf_counter() - start)
    record = {"key": "reproduction", "artefact": bench.artefact, "labels": {}, "runs": runs, "numpy_seconds": loops}
    record["provenance"] = bench.origin
    Records(bench.out / f"{bench.artefact}.jsonl").append(record)
    return [record]


def render(records: Sequence[Record], out: Path) -> list[Path]:
    record = records[-1]
    runs = record["runs"]
    ratios = sorted(run["seconds"] / run["floor"] for run in runs)
    middle = sorted(runs, key=lambda run: run["seconds"] / run["floor"])[len(runs) // 2]
    loops = statistics.median(record["numpy_seconds"])
    page = Table("The three persistence tables at 10 trials, against a floor from rates of the same run", ["part", "rate", "seconds"])
    units = {"draws": "normal numbers/s", "gemm": "FLOP/s", "copy": "bytes/s", "eigen": "128 x 128 matrices/s"}
    page.rows = [[f"floor: {kind}", f"{middle['rates'][kind]:.3g} {units[kind]}", middle["parts"][kind]] for kind in units]
    page.rows += [["floor", "", middle["floor"]], ["ours", "", middle["seconds"]], ["NumPy loops", "", loops]]
    page.notes = [
        f"Ours over the floor: {statistics.median(ratios):.2f} (median of {len(ratios)} runs, each with its own rates; from "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}). NumPy loops over ours: {loops / statistics.median(r['seconds'] for r in runs):.1f}. "
        f"{int(middle['rates']['threads'])} threads.",
        "The floor counts work that cannot be left out (the docstring of `work` says which), at rates measured seconds before: products at "
        "torch.mm's, draws at twice torch.randn's single-thread rate, bytes at a copy's, decompositions at LAPACK's.",
    ]
    return page.write(out / "reproduction")
