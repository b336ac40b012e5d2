"""Weights say nothing of outputs: pairs of experts at every (weight overlap, output overlap), beside untrained ones (laws F3, N1, N2)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.cells import Bench, Cell, Record, estimate
from experiments.theory.points import Point, own_seed, write
from simgap import LayerSpec, RunSpec, Weights
from simgap.moe import draws_of, open_inputs
from simgap.moe.experts import run_experts
from simgap.overlaps import between, pair_cos2, token_cos2
from simgap.report.figure import Panel, Series
from simgap.stats import Estimate
from simgap.theory.independence import pair_with_overlaps
from simgap.theory.output_null import null_output_mso
from simgap.theory.weight_null import null_weight_mso

# Overlaps asked for: every pair of one row. 0 is Frobenius orthogonality, or orthogonal outputs.
LINEAR = (0.0, 0.25, 0.5, 0.75, 1.0)
DECADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PAIR = LayerSpec(d_model=16, d_ff=64, n_experts=2, top_k=2, activation="silu")
PAIR_TRIALS = 4
UNTRAINED = ((8, 32), (32, 128), (128, 512))
TRIALS = {"smoke": 40, "full": 200}
TOKENS = 64
SIDES = ("weight_mso up", "activation_mso token output")


def compute(preset: str, bench: Bench) -> list[Record]:
    """Pairs built for each weight overlap and all output overlaps, and untrained layers."""
    cells = [Cell({"kind": kind, "weight": a}, PAIR, PAIR_TRIALS, built) for kind, row in _rows() for a in row]
    layers = [({"kind": "untrained"}, LayerSpec(d_model=d, d_ff=f)) for d, f in UNTRAINED]
    bench = replace(bench, tokens=TOKENS)
    return bench.run(cells) + bench.sweep(layers, SIDES, TRIALS[preset])


def _rows() -> list[tuple[str, tuple[float, ...]]]:
    return [("linear", LINEAR), ("decades", DECADES)]


def built(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Weight and output overlap of each built pair, by the package's experts and metrics, on a fresh batch of tokens in each trial."""
    spec, a = cell.spec, cell.labels["weight"]
    draws = draws_of(spec, own_seed(cell, run), range(run.trials))
    x = open_inputs(draws)(draws, run.tokens, "float64")
    everyone = torch.arange(run.tokens).expand(run.trials, spec.n_experts, -1)
    index = torch.arange(run.trials * spec.n_experts * run.tokens).view(run.trials, spec.n_experts, run.tokens).mT
    values: dict[str, list[float]] = {}
    for b in dict(_rows())[cell.labels["kind"]]:
        up1, up2, down1, down2 = (torch.from_numpy(w) for w in pair_with_overlaps(a, b, spec.d_model, spec.d_ff))
        up, down = (torch.stack(pair).expand(run.trials, *[-1] * 3) for pair in ((up1, up2), (down1, down2)))
        weights = Weights(up, None, down, None, None, None, tuple(range(run.trials)))
        outputs = run_experts(draws, weights, slice(0, spec.n_experts), x, everyone, ("output",))["output"]
        cos2 = [token_cos2(outputs.flatten(0, 2), rows)[0].mean() for rows in index]
        values[f"weight {b:g}"] = between(pair_cos2(up.flatten(2)), spec.n_experts)[:, 0].tolist()
        values[f"output {b:g}"] = [float(v) for v in cos2]
    return values


def points(records: Sequence[Record]) -> list[Point]:
    all_points = []
    for record in records:
        kind, d, f = record["labels"]["kind"], record["spec"]["d_model"], record["spec"]["d_ff"]
        if kind == "untrained":
            all_points.append(Point("untrained: weight", d * f, null_weight_mso(d, f), estimate(record, "weight_mso up")))
            all_points.append(Point("untrained: output", d, null_output_mso(d), estimate(record, "activation_mso token output")))
            continue
        a = record["labels"]["weight"]
        for b in dict(_rows())[kind]:
            all_points.append(Point(f"built: output overlap, weight overlap {a:g}", b, b, estimate(record, f"output {b:g}")))
            all_points.append(Point(f"built: weight overlap, output overlap {b:g}", a, a, estimate(record, f"weight {b:g}")))
    return all_points


def render(records: Sequence[Record], out: Path) -> list[Path]:
    panels = [
        _square(records, "linear", Panel("any overlap with any other", X, Y, x_scale="linear", y_limits=(-0.07, 1.07))),
        _square(records, "decades", Panel("and untrained experts", X, Y, x_ticks=[10.0**-k for k in range(6)], log_y=True)),
    ]
    _untrained(records, panels[1])
    notes = [
        f"Diamonds: pairs of SiLU experts built to have that overlap of W_up and that overlap of outputs, d = {PAIR.d_model}, "
        f"d_ff = {PAIR.d_ff}; dots: both as measured on {TOKENS} Gaussian tokens, {PAIR_TRIALS} batches. Left column of the left panel: "
        "Frobenius-orthogonal weights. Clouds: untrained layers of 8 experts, one dot to a layer, tokens' outputs; squares: their mean and "
        "standard error, rings: the law's 1/(d d_ff) and 1/d."
    ]
    return write(points(records), panels, "Weight overlap does not bound output overlap, nor the other way", notes, out / "independence")


X, Y = "weight overlap (W_up)", "output overlap"


def _square(records: Sequence[Record], kind: str, panel: Panel) -> Panel:
    """What was asked for, and what was measured."""
    row = dict(_rows())[kind]
    mine = [r for r in records if r["labels"]["kind"] == kind]
    asked = [(r["labels"]["weight"], b) for r in mine for b in row]
    measured = [[estimate(r, f"{side} {b:g}") for r in mine for b in row] for side in ("weight", "output")]
    panel.published.append(Series("built for", [a for a, _ in asked], [b for _, b in asked]))
    panel.ours.append(Series("measured", _means(measured[0]), _means(measured[1]), [v.sem or 0.0 for v in measured[1]]))
    return panel


def _untrained(records: Sequence[Record], panel: Panel) -> None:
    mine = [r for r in records if r["labels"]["kind"] == "untrained"]
    panel.cloud.append(Series("untrained layers", *([v for r in mine for v in r["values"][side]] for side in SIDES)))
    weight, output = ([estimate(r, side) for r in mine] for side in SIDES)
    means = Series("untrained, mean", _means(weight), _means(output), [v.sem or 0.0 for v in output])
    panel.ours.append(means)
    shapes = [(r["spec"]["d_model"], r["spec"]["d_ff"]) for r in mine]
    law = Series("1/(d d_ff), 1/d", [null_weight_mso(d, f) for d, f in shapes], [null_output_mso(d) for d, _ in shapes])
    panel.marks.append(law)


def _means(values: Sequence[Estimate]) -> list[float]:
    return [v.mean or 0.0 for v in values]
