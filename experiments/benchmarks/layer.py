"""The simulated layer against its floor: the work that a measurement cannot do without, at rates of the same run."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.benchmarks.rates import measure_rates, quartiles
from experiments.cells import Bench, Record
from simgap import LayerSpec, measure
from simgap.records import Records
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table

Work = dict[str, float]
DEVICES = ("cpu",)
READINGS, WEIGHTS = ("token", "mean"), ("up", "down")
REQUESTS = {"outputs": ("output",), "three sites": ("pre", "hidden", "output")}
# Width and trials; the smallest layers are measured many at a time.
SIZES = {"smoke": ((256, 4),), "full": ((256, 16), (512, 4), (1024, 2), (2048, 1))}
ROUNDS = {"smoke": 3, "full": 5}
BAR = 1.4
KINDS = {"draws": "normal numbers", "gemm": "products", "copy": "bytes"}


def layer(d_model: int) -> LayerSpec:
    return LayerSpec(d_model=d_model, d_ff=4 * d_model, n_experts=8, top_k=2)


def work(spec: LayerSpec, sites: Sequence[str], tokens: int) -> Work:
    """What one trial cannot do without: normal numbers drawn, float32 FLOPs in products, bytes moved.

    Draws: both weight matrices, tokens, router. Products: the router, and W_up and W_down on routed tokens only. The Gram tables and the
    overlaps are counted as reading alone. Bytes, each time an array is written and each time it is read: weights drawn, read by the
    product, read by the Gram table; tokens drawn, read by the router, gathered (read and written), read by the product; logits written and
    read; pre-activations written and read by the activation, hidden vectors written and read by W_down, outputs written; and at every site
    asked for a vector is read once by the overlap on a token and once by the means.
    """
    d, f, experts = spec.d_model, spec.d_ff, spec.n_experts
    routed = tokens * spec.top_k
    weights = 2 * experts * d * f
    width = {"pre": f, "hidden": f, "output": d}
    floats = 3 * weights + 2 * tokens * d + 3 * routed * d + 2 * tokens * experts
    floats += routed * (4 * f + d + len(READINGS) * sum(width[site] for site in sites))
    products = 2.0 * (tokens * experts * d + 2 * routed * d * f)
    return {"draws": float(weights + tokens * d + experts * d), "gemm": products, "copy": 4.0 * floats}


def compute(preset: str, bench: Bench) -> list[Record]:
    """Round by round every size: its rates, then both requests. One record to a size and a request."""
    chosen = {"tokens": bench.tokens, "readings": READINGS, "weights": WEIGHTS}
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {(d, name): [] for d, _ in SIZES[preset] for name in REQUESTS}
    for d, _ in SIZES[preset]:
        measure(layer(d), trials=1, sites=REQUESTS["three sites"], **chosen)  # type: ignore[arg-type]
    with tqdm(total=ROUNDS[preset] * len(runs), desc=bench.artefact, unit="run", disable=bench.quiet or None) as bar:
        for turn in range(ROUNDS[preset]):
            for d, trials in SIZES[preset]:
                rates = measure_rates()
                # In turn, since the first of a size also asks the system for its memory.
                for name in list(REQUESTS)[:: 1 if turn % 2 else -1]:
                    start = time.perf_counter()
                    measure(layer(d), trials=trials, seed=turn, sites=REQUESTS[name], **chosen)  # type: ignore[arg-type]
                    seconds = time.perf_counter() - start
                    parts = {kind: trials * amount / rates[kind] for kind, amount in work(layer(d), REQUESTS[name], bench.tokens).items()}
                    runs[d, name].append({"seconds": seconds, "floor": sum(parts.values()), "parts": parts, "rates": rates})
                    bar.update()
    records = []
    for d, trials in SIZES[preset]:
        for name in REQUESTS:
            labels = {"d_model": d, "parameters": layer(d).parameters, "request": name, "trials": trials}
            record: Record = {"key": f"{d} {name}", "artefact": bench.artefact, "labels": labels, "spec": layer(d).to_dict()}
            records.append(record | {"tokens": bench.tokens, "runs": runs[d, name], "provenance": bench.origin})
            Records(bench.out / f"{bench.artefact}.jsonl").append(records[-1])
    return records


def over_floor(record: Record, kinds: Sequence[str] = tuple(KINDS)) -> tuple[float, float, float]:
    """Quartiles over rounds of measured seconds over the floor of that round, of all kinds of work or of some."""
    return quartiles([run["seconds"] / sum(run["parts"][kind] for kind in kinds) for run in record["runs"]])


def render(records: Sequence[Record], out: Path) -> list[Path]:
    columns = ["d_model", "parameters", "request", "trials", "seconds", *(f"floor: {name}, s" for name in KINDS.values())]
    page = Table("The simulated layer against its floor", [*columns, "over the floor", "quartiles", "over draws and products alone"])
    for record in records:
        runs = record["runs"]
        parts = [statistics.median(run["parts"][kind] for run in runs) for kind in KINDS]
        low, middle, high = over_floor(record)
        row = [record["labels"][name] for name in columns[:4]]
        row += [statistics.median(run["seconds"] for run in runs), *parts, middle, f"{low:.2f} to {high:.2f}"]
        page.rows.append([*row, over_floor(record, ("draws", "gemm"))[1]])
    page.notes = _notes(records)
    panel = Panel(
        "measure over its floor", "d_model", "seconds over the floor's", x_ticks=sorted({r["labels"]["d_model"] for r in records})
    )
    for name in REQUESTS:
        line = [(r["labels"]["d_model"], over_floor(r)) for r in records if r["labels"]["request"] == name]
        series = Series(name, [d for d, _ in line], [q[1] for _, q in line], [(q[2] - q[0]) / 2 for _, q in line])
        panel.ours.append(series)
    ends = (panel.x_ticks[0], panel.x_ticks[-1])
    panel.laws = [Series("the floor", ends, (1, 1)), Series(f"target {BAR}", ends, (BAR, BAR))]
    return page.write(out / "layer") + draw([panel], "The simulated layer", out / "layer")


def _notes(records: Sequence[Record]) -> list[str]:
    rates = {kind: statistics.median(run["rates"][kind] for record in records for run in record["runs"]) for kind in KINDS}
    met, rounds = sum(over_floor(record)[1] <= BAR for record in records), len(records[0]["runs"])
    return [
        f"Target: at most {BAR} times the floor; met in {met} of {len(records)} rows. Medians of {rounds} rounds, rates measured in each.",
        f"Layers of 8 experts, top-2, d_ff = 4 d_model, {records[0]['tokens']} tokens; token and mean overlaps of outputs, or of "
        "pre-activations, hidden vectors and outputs; weight overlaps of W_up and W_down. The floor counts work that cannot be left out "
        "(the docstring of `work` says which), one kind after another: draws at twice torch.randn's single-thread rate "
        f"({rates['draws']:.3g}/s), products at torch.mm's ({rates['gemm']:.3g} FLOP/s), bytes at a copy's ({rates['copy']:.3g}/s). Its "
        "bytes include those that products read, which could hide behind arithmetic: the last column leaves bytes out. Rates are those of "
        "torch's own routines, not of the hardware, so that a ratio may be below 1.",
    ]
