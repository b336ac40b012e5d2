"""How often p of the gap and of the ratio is small where nothing is to be found: untrained layers of few experts and few trials (law N3).

`data/gap_and_ratio.jsonl` is what the full preset recorded.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.cells import Bench, Cell, Record
from simgap import LayerSpec, RunSpec, measure, predict
from simgap.api.calibration import Asked, compare_all
from simgap.report.table import Table
from simgap.stats import Estimate, difference, normal_p, ratio_of_means

KEPT = Path(__file__).parent / "data" / "gap_and_ratio.jsonl"
EXPERTS, TRIALS = (2, 4, 8), (1, 2, 3, 10)
LEVELS = (0.05, 0.001)
QUANTITIES = ("gap", "ratio")
# Repetitions of a run of so many trials.
REPETITIONS = {"smoke": 200, "full": 1000}
TOKENS = 2
SIGMA = 5.0
# What a p from z, which knows no skew, makes of the same runs.
NORMAL = "normal "


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every number of experts and of trials, all experts on every token."""
    cells = []
    for experts in EXPERTS:
        spec = LayerSpec(d_model=16, d_ff=64, n_experts=experts, top_k=experts, router="soft")  # type: ignore[arg-type]
        for trials in TRIALS:
            labels = {"experts": experts, "trials": trials, "repetitions": REPETITIONS[preset]}
            cells.append(Cell(labels, spec, trials * REPETITIONS[preset], rejections))
    return replace(bench, tokens=TOKENS).run(cells)


def rejections(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Of each quantity, how many runs have a p below each of the levels; and those of the normal p."""
    trials = cell.labels["trials"]
    measured = measure(cell.spec, **run.to_dict(), quantities=["activation_mso mean output", "weight_mso up"])
    output, up = (
        [
            Estimate.of(values, counts)
            for values, counts in zip(side.values.reshape(-1, trials), side.per_trial.reshape(-1, trials), strict=True)
        ]
        for side in (measured.activation_mso["mean"]["output"], measured.weight_mso["up"])
    )
    null = predict(cell.spec, tokens=run.tokens, trials=trials)
    counts: dict[str, list[float]] = {}
    for name, law, combined in (("gap", null.gap, difference), ("ratio", null.ratio, ratio_of_means)):
        asked = [Asked(combined(a, w), law, False, cell.spec.n_experts) for a, w in zip(output, up, strict=True)]
        judged = compare_all(asked)
        for label, p in ((name, [one.p for one in judged]), (NORMAL + name, normal_p(np.array([one.z for one in judged])))):
            counts[label] = [int((np.array(p) < level).sum()) for level in LEVELS]
    return counts


def verdict(count: float, repetitions: int, level: float) -> str:
    """Whether so many p below a level are what binomial chance gives, within 5 sigma; fewer are conservative."""
    z = (count - level * repetitions) / (repetitions * level * (1 - level)) ** 0.5
    return "as stated" if abs(z) <= SIGMA else ("too often" if z > 0 else "conservative")


def render(records: Sequence[Record], out: Path) -> list[Path]:
    columns = ["quantity", "experts", "trials", "repetitions"]
    for level in LEVELS:
        columns += [f"p < {level}", "verdict", f"normal p < {level}"]
    page = Table("How often p is small where nothing is to be found", columns)
    for quantity in QUANTITIES:
        for record in records:
            labels, values = record["labels"], record["values"]
            n = labels["repetitions"]
            row: list[object] = [quantity, labels["experts"], labels["trials"], n]
            for level, count, normal in zip(LEVELS, values[quantity], values[NORMAL + quantity], strict=True):
                row += [count / n, verdict(count, n, level), normal / n]
            page.rows.append(row)
    page.notes = [
        "Untrained layers, d = 16, d_ff = 64, every expert on every token. Of a p that is right, a share of 0.05 lies below 0.05 and one "
        f"of 0.001 below 0.001; verdicts are binomial, at {SIGMA:g} sigma. Beside them p from z, as if the law were normal."
    ]
    return page.write(out / "gap_and_ratio")
