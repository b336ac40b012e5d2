"""Orthogonalising weights hardly moves pre-activations: the share of their overlap that it removes, against d (law F4)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.cells import Bench, Cell, Record, estimate
from experiments.theory.points import Point, lines_of, over_law, own_seed, simulated, write
from simgap import LayerSpec, RunSpec
from simgap.moe import Draw, draw_weights, draws_of, open_inputs
from simgap.report.figure import Panel, Series
from simgap.stats import difference, ratio_of_means
from simgap.theory.futility import futility_share, trace_share
from simgap.threads import pool

# d_ff as a multiple of d_model; None for one hidden unit, where the share is largest.
SHAPES: dict[str, int | None] = {"f = 4 d": 4, "f = 1": None}
# d_model and trials: the share varies most from trial to trial where a trial is cheap.
TRIALS = {
    "smoke": ((2, 400), (8, 200), (32, 100)),
    "full": ((2, 4000), (4, 4000), (8, 2000), (16, 1000), (32, 500), (64, 400), (128, 300)),
}
TOKENS = 512


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every width at both shapes."""
    cells = []
    for line, ratio in SHAPES.items():
        for d, trials in TRIALS[preset]:
            spec = LayerSpec(d_model=d, d_ff=ratio * d if ratio else 1, n_experts=2)
            cells.append(Cell({"line": line}, spec, trials, projected))
    return replace(bench, tokens=TOKENS).run(cells)


def projected(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the mean over Gaussian tokens of (x' W_1' W_2 x)^2, before and after W_2 is projected off W_1."""
    draws = draws_of(cell.spec, own_seed(cell, run), range(run.trials))
    source = open_inputs(draws)

    def one(draw: Draw) -> tuple[float, float]:
        first, second = draw_weights([draw], "float64").up[0]
        x = source([draw], run.tokens, "float64")[0]
        h1, h2 = x @ first.mT, x @ second.mT
        share = (first * second).sum() / (first * first).sum()
        before, after = (h1 * h2).sum(1), (h1 * (h2 - share * h1)).sum(1)
        return float(before.square().mean()), float(after.square().mean())

    with pool() as (task_map, _):
        before, after = zip(*task_map(one, draws), strict=True)
    return {"before": list(before), "after": list(after)}


def points(records: Sequence[Record]) -> list[Point]:
    all_points = []
    for record in records:
        d, f = record["spec"]["d_model"], record["spec"]["d_ff"]
        before = estimate(record, "before")
        removed = ratio_of_means(difference(before, estimate(record, "after")), before)
        all_points.append(Point(record["labels"]["line"], d, futility_share(d, f), removed))
    return all_points


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    ds = np.geomspace(min(p.x for p in all_points), max(p.x for p in all_points), 61)
    ticks = sorted({p.x for p in all_points})
    share = Panel("share of E (x'Mx)^2 removed", "d_model", "share removed", x_ticks=ticks, log_y=True)
    ratio = Panel("measured over law", "d_model", "measured / law", x_ticks=ticks, y_limits=(0.7, 1.3))
    ratio.laws.append(Series("the law", [ticks[0], ticks[-1]], [1.0, 1.0]))
    for line, mine in lines_of(all_points).items():
        multiple = SHAPES[line]
        widths = multiple * ds if multiple else np.ones_like(ds)
        share.laws.append(Series(line, ds.tolist(), futility_share(ds, widths).tolist()))
        share.ours.append(simulated(mine, line))
        ratio.ours.append(over_law(mine, line))
    share.laws.append(Series("trace term alone, 1/(d + 2)", ds.tolist(), trace_share(ds).tolist()))
    notes = [
        f"M = W_1' W_2 of independent Gaussian matrices, {TOKENS} Gaussian tokens to a trial; W_2 is projected off W_1, so that their "
        "Frobenius overlap is 0 exactly. One standard error over trials, of the ratio of means."
    ]
    return write(
        all_points, [share, ratio], "What weight orthogonality removes from the overlap of pre-activations", notes, out / "futility"
    )
