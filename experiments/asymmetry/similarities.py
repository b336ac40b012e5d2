"""Which similarity of two experts says what it costs to put one in the place of the other? Rank correlations over pairs of experts."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from experiments.asymmetry.pairs import LIKENESS, OF_PAIR, Related, beyond_experts, of_pairs
from experiments.cells import Bench, Cell, Record, estimate
from experiments.theory.points import own_seed
from simgap import LayerSpec, RunSpec
from simgap.moe import draws_of, open_inputs, simulate
from simgap.report.figure import STYLES, saved
from simgap.report.table import Table
from simgap.stats import Estimate, pearson

LAYER = LayerSpec(d_model=48, d_ff=96, n_experts=12, top_k=3, activation="silu", gated=True)
TRIALS = {"smoke": 2, "full": 20}
TOKENS = {"smoke": 256, "full": 1024}
UNTRAINED, UPCYCLED = "untrained", "upcycled alike"
RELATED, REORDERED, APART = "related by shares", "related, units reordered", "related, reading and writing apart"
DESIGNS = {
    UNTRAINED: (LAYER, None),
    UPCYCLED: (replace(LAYER, init="upcycled", init_correlation=0.5), None),
    RELATED: (LAYER, Related()),
    REORDERED: (LAYER, Related(reordered=True)),
    APART: (LAYER, Related(apart=True)),
}
# Pairs of two experts drop out one expert at a time: a correlation needs as many experts as that.
LEAST_PAIRS = 4
# What the mean of a similarity over pairs is recorded as, before its name.
MEAN = "mean of "
# Of the variance of the error over pairs: what is a sum of two parts, one of each expert.
OWN = "share of experts' own"


def compute(preset: str, bench: Bench) -> list[Record]:
    """Layers of each design, each with all similarities of all pairs."""
    cells = [Cell({"design": name}, spec, TRIALS[preset], correlations) for name, (spec, _) in DESIGNS.items()]
    return replace(bench, tokens=TOKENS[preset]).run(cells)


def correlations(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Of each layer: the mean of every similarity over pairs, "mean of NAME"; the rank correlation of each two, "NAME ~ NAME", and its
    jackknife error, "error NAME ~ NAME"."""
    values: dict[str, list[float]] = {}
    seed, (_, prepare) = own_seed(cell, run), DESIGNS[cell.labels["design"]]
    for trial in range(run.trials):
        draws = draws_of(cell.spec, seed, [trial])
        found = of_pairs(simulate(draws, run, open_inputs(draws), prepare))
        own = 1 - np.var(beyond_experts(found[LIKENESS], cell.spec.n_experts)) / np.var(found[LIKENESS])
        values.setdefault(OWN, []).append(float(own))
        for name, each in found.items():
            values.setdefault(f"{MEAN}{name}", []).append(float(np.nanmean(each)))
        for one, other in combinations(found, 2):
            # The part of a pair is held against that of a similarity.
            first = beyond_experts(found[one], cell.spec.n_experts) if other == OF_PAIR else found[one]
            rank, error = spearman(first, found[other], cell.spec.n_experts)
            values.setdefault(f"{one} ~ {other}", []).append(rank)
            values.setdefault(f"error {one} ~ {other}", []).append(error)
    return values


def spearman(one: Float[np.ndarray, " P"], other: Float[np.ndarray, " P"], experts: int) -> tuple[float, float]:
    """Rank correlation over the pairs that have both values, and its standard error: the jackknife over experts, each of whose pairs
    share it. Where nothing is related the error is too large, by up to the square root of 2 (E - 1)/(E - 2) (law T3)."""
    at = np.array(np.triu_indices(experts, 1))
    there = ~(np.isnan(one) | np.isnan(other))

    def of(kept: np.ndarray) -> float:
        if kept.sum() < LEAST_PAIRS:
            raise ValueError(f"spearman: expected at least {LEAST_PAIRS} pairs with both values, got {kept.sum()}")
        return pearson(rankdata(one[kept]), rankdata(other[kept]))

    without = np.array([of(there & (at != e).all(0)) for e in range(experts)])
    return of(there), float(np.sqrt((experts - 1) / experts * ((without - without.mean()) ** 2).sum()))


def names(record: Record) -> list[str]:
    """The similarities, without what they are to predict."""
    every = [name.removeprefix(MEAN) for name in record["values"] if name.startswith(MEAN)]
    return [name for name in every if name not in (LIKENESS, OF_PAIR)]


def predicts(record: Record, name: str, outcome: str = LIKENESS) -> Estimate:
    return estimate(record, f"{name} ~ {outcome}")


def render(records: Sequence[Record], out: Path) -> list[Path]:
    title = "Which similarity predicts what replacing an expert by another costs"
    page, of_pair = (_predicted(records, *of) for of in ((title, LIKENESS), ("Less what is each expert's own", OF_PAIR)))
    own = ", ".join(f"{estimate(r, OWN).mean:.2f} ({r['labels']['design']})" for r in records)
    chance = (LAYER.n_experts - 1) / (LAYER.n_experts * (LAYER.n_experts - 1) / 2 - 1)
    of_pair.notes = [
        "The same, both less a_i + a_j, a part of each of the two experts that is fitted. Of the variance of the error over pairs that "
        f"part holds {own}; where pairs have no structure it would hold {chance:.2f}.",
    ]
    spec, run = LAYER, records[0]["run"]
    spread = [
        (np.std(r["values"][f"{n} ~ {LIKENESS}"], ddof=1), np.mean(r["values"][f"error {n} ~ {LIKENESS}"]))
        for r in records
        for n in names(r)
    ]
    over = np.sqrt(np.mean([error**2 for _, error in spread]) / np.mean([sd**2 for sd, _ in spread]))
    page.notes = [
        f"Spearman's correlation over the {spec.n_experts * (spec.n_experts - 1) // 2} pairs of {spec.n_experts} untrained SwiGLU experts "
        f"(d_model = {spec.d_model}, d_ff = {spec.d_ff}, top-{spec.top_k}, {run['tokens']} Gaussian tokens) with less the relative error "
        "|y' - y|^2/|y|^2 of the output where one stands in for the other, the mean of both ways; mean and standard error over "
        f"{run['trials']} layers. The jackknife over the experts of one layer gives an error of {np.mean([e for _, e in spread]):.2g} "
        f"on average, {over:.2g} times what layers in fact differ by (root mean squares).",
        "Upcycled alike: all pairs of one ancestor, correlation 0.5. Related by shares: expert e has the share c_e of its variance from "
        "one ancestor, c_e from 0 to 0.9. Units reordered: the same functions, hidden units in other orders. Apart: W_down has its shares "
        "in another order than W_up and W_gate. MSO of outputs: on tokens that both experts take; CKA, outputs, Jacobians: on the same "
        "tokens.",
    ]
    page.sections = [of_pair, _means(records), *(_among(record) for record in records)]
    return [*page.write(out / "similarities"), *_draw(records, title, out / "similarities")]


def _predicted(records: Sequence[Record], title: str, outcome: str) -> Table:
    table = Table(title, ["similarity", *(column for record in records for column in (record["labels"]["design"], "sem"))])
    for name in names(records[0]):
        estimates = [predicts(record, name, outcome) for record in records]
        table.rows.append([name, *(value for one in estimates for value in (one.mean, one.sem))])
    return table


def _means(records: Sequence[Record]) -> Table:
    section = Table("Means over pairs", ["similarity", *(record["labels"]["design"] for record in records)])
    for name in [*names(records[0]), LIKENESS]:
        section.rows.append([name, *(estimate(record, f"{MEAN}{name}").mean for record in records)])
    return section


def _among(record: Record) -> Table:
    """Rank correlations among the similarities, mean over layers."""
    every = [*names(record), LIKENESS, OF_PAIR]
    section = Table(f"Among each other: {record['labels']['design']}", ["similarity", *every[1:]])
    for i, one in enumerate(every[:-1]):
        section.rows.append([one, *(estimate(record, f"{one} ~ {other}").mean if j > i else None for j, other in enumerate(every) if j)])
    return section


def _draw(records: Sequence[Record], title: str, stem: Path) -> list[Path]:
    """A row to a similarity, a mark to a design: the whole error, and that of the pair; and how similarities rank pairs alike where reading
    and writing differ."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(18, 6.2), layout="constrained")
        whole, of_pair, right = figure.subplots(1, 3, width_ratios=(1, 0.85, 1.1))
        _dots(whole, records, LIKENESS, "what replacing one by the other costs", (-0.5, 1.05))
        _dots(of_pair, records, OF_PAIR, "less what is each expert's own", (-0.25, 1.05))
        of_pair.set_yticklabels([])
        handles, labels = whole.get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=9, loc="outside lower left", ncols=len(labels), frameon=False)
        _heat(right, records[-1])
        figure.suptitle(title, fontsize=11)
        return saved(figure, stem)


def _dots(axis: Any, records: Sequence[Record], outcome: str, title: str, limits: tuple[float, float]) -> None:
    rows = names(records[0])
    for at, (record, style) in enumerate(zip(records, STYLES, strict=False)):
        estimates = [predicts(record, name, outcome) for name in rows]
        y = [len(rows) - 1 - row + 0.3 - 0.15 * at for row in range(len(rows))]
        axis.errorbar([e.mean for e in estimates], y, xerr=[e.sem or 0.0 for e in estimates], label=record["labels"]["design"], **style)
    for row in range(len(rows) - 1):
        axis.axhline(row + 0.5, color="#cccccc", linewidth=0.6)
    axis.axvline(0, color="#333333", linewidth=1.2)
    axis.set_yticks(range(len(rows)), rows[::-1])
    axis.set_xlim(*limits)
    axis.set_xlabel("rank correlation with how well one replaces the other")
    axis.set_title(title, fontsize=10)


def _heat(axis: Any, record: Record) -> None:
    every = [*names(record), LIKENESS]
    table = np.eye(len(every))
    for (i, one), (j, other) in combinations(enumerate(every), 2):
        table[i, j] = table[j, i] = estimate(record, f"{one} ~ {other}").mean
    axis.imshow(table, cmap="RdGy_r", vmin=-1, vmax=1)
    for i, j in np.ndindex(table.shape):
        shade = "white" if abs(table[i, j]) > 0.6 else "black"
        axis.text(j, i, f"{table[i, j]:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7, color=shade)
    axis.set_xticks(range(len(every)), every, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(every)), every, fontsize=8)
    axis.set_title(f"rank correlations: {record['labels']['design']}", fontsize=10)
