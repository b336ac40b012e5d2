"""Null laws across five decades: untrained experts overlap by one over a dimension, whatever is compared (laws N1, N2, N4, N5, N6)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.cells import Bench, Cell, Record, estimate
from experiments.theory.points import Point, lines_of, over_law, own_seed, simulated, write
from simgap import LayerSpec, RunSpec
from simgap.moe import draw_weights, draws_of
from simgap.moe.experts import ACTIVATION_FUNCTIONS
from simgap.overlaps import between, pair_cos2
from simgap.report.figure import Panel, Series
from simgap.seeding import stream
from simgap.specs import Activation
from simgap.theory.jacobian_null import null_jacobian_alignment
from simgap.theory.layernorm_null import null_layernorm_mso
from simgap.theory.output_null import null_output_mso
from simgap.theory.subspace_null import null_subspace_overlap
from simgap.theory.weight_null import null_weight_mso
from simgap.threads import pool

# (d_model, d_ff): between them the three nulls of one layer see widths from 2 to 262,144.
SHAPES = {
    "smoke": ((2, 3), (8, 512), (64, 64), (512, 8)),
    "full": ((2, 3), (4, 8), (8, 32), (16, 128), (32, 512), (64, 4096), (8, 8192), (32, 2048), (512, 128), (2048, 32), (8192, 8)),
}
SUBSPACES = {"smoke": (8, 64, 512), "full": (8, 32, 128, 512, 2048, 8192)}
RANK, SUBSPACES_EACH = 4, 5
# d_model and trials: the excess over 1/d^2 is largest where a trial is cheap.
JACOBIANS = {"smoke": ((4, 40), (16, 20)), "full": ((2, 1000), (4, 1000), (8, 500), (16, 300), (64, 60), (128, 30))}
JACOBIAN_WIDTH = 256
JACOBIAN_ACTIVATIONS: tuple[Activation, ...] = ("relu", "silu", "tanh")
TRIALS = {"smoke": 40, "full": 100}
TOKENS = 16
OF_LAYERS = ("weight_mso up", "activation_mso mean output", "activation_mso token normed")
STEP = 1e-5  # of the central difference that stands for a slope, in float64
NAMES = {
    "weight": "W_up: 1/(d f)",
    "output": "outputs: 1/d",
    "normed": "after LayerNorm: 1/(f - 1)",
    "subspace": f"subspaces of rank {RANK}: r/d",
    "relu": "ReLU Jacobians: 1/d^2",
}


def compute(preset: str, bench: Bench) -> list[Record]:
    """Layers with a LayerNorm, for three nulls at once; subspaces; Jacobians."""
    layers = [({"kind": "layer"}, LayerSpec(d_model=d, d_ff=f, norm="layernorm")) for d, f in SHAPES[preset]]
    cells = []
    for d in SUBSPACES[preset]:
        cells.append(Cell({"kind": "subspace", "rank": RANK}, LayerSpec(d_model=d, d_ff=RANK), TRIALS[preset], subspaces))
    for name in JACOBIAN_ACTIVATIONS:
        for d, trials in JACOBIANS[preset]:
            spec = LayerSpec(d_model=d, d_ff=JACOBIAN_WIDTH, activation=name)
            cells.append(Cell({"kind": name}, spec, trials, jacobians))
    bench = replace(bench, tokens=TOKENS)
    return bench.sweep(layers, OF_LAYERS, TRIALS[preset]) + bench.run(cells)


def subspaces(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the mean of ||U_1' U_2||^2 / r over pairs of a few subspaces, each the span of Gaussian vectors."""
    d, r, seed = cell.spec.d_model, cell.labels["rank"], own_seed(cell, run)

    def one(trial: int) -> float:
        bases = np.linalg.qr(stream(seed, "inputs", trial=trial).standard_normal((SUBSPACES_EACH, d, r)))[0]
        i, j = np.triu_indices(SUBSPACES_EACH, k=1)
        return float((np.einsum("pdr,pds->prs", bases[i], bases[j]) ** 2).sum((1, 2)).mean() / r)

    with pool() as (task_map, _):
        return {"overlap": list(task_map(one, range(run.trials)))}


def jacobians(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the mean cos^2 over pairs of experts' Jacobians W_down diag(act'(W_up x)) W_up at one token with ||x||^2 = d."""
    spec, seed = cell.spec, own_seed(cell, run)
    act = ACTIVATION_FUNCTIONS[spec.activation]

    def one(trial: int) -> float:
        weights = draw_weights(draws_of(spec, seed, [trial]), "float64")
        x = torch.from_numpy(stream(seed, "inputs", trial=trial).standard_normal(spec.d_model))
        pre = weights.up[0] @ (x * spec.d_model**0.5 / x.norm())
        slope = (act(pre + STEP) - act(pre - STEP)) / (2 * STEP)
        jacobian = weights.down[0] @ (slope[..., None] * weights.up[0])
        return float(between(pair_cos2(jacobian.flatten(1)[None]), spec.n_experts).mean())

    with pool() as (task_map, _):
        return {"overlap": list(task_map(one, range(run.trials)))}


def points(records: Sequence[Record]) -> list[Point]:
    """Each null at the dimension that its law is one over; Jacobians of SiLU and tanh, whose law is not, last and at d."""
    lines: dict[str, list[Point]] = {name: [] for name in (*NAMES, "silu", "tanh")}
    for record in records:
        d, f, kind = record["spec"]["d_model"], record["spec"]["d_ff"], record["labels"]["kind"]
        if kind == "layer":
            _add(lines, "weight", null_weight_mso(d, f), record, "weight_mso up")
            _add(lines, "output", null_output_mso(d), record, "activation_mso mean output")
            _add(lines, "normed", null_layernorm_mso(f), record, "activation_mso token normed")
        elif kind == "subspace":
            _add(lines, kind, null_subspace_overlap(d, record["labels"]["rank"]), record, "overlap")
        else:
            law = null_jacobian_alignment(d, f, kind, std=2**0.5)
            _add(lines, kind, law, record, "overlap", None if kind == "relu" else d)
    return [point for line in lines.values() for point in sorted(line, key=lambda p: p.x)]


def _add(lines: dict[str, list[Point]], name: str, law: Any, record: Record, quantity: str, x: float | None = None) -> None:
    lines[name].append(Point(name, float(1 / law) if x is None else x, float(law), estimate(record, quantity)))


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    by_line = lines_of(all_points)
    ends = [min(p.x for p in all_points), max(p.x for p in all_points)]
    ticks = [10.0**k for k in range(6)]
    overlap = Panel("mean squared overlap", "dimension", "mean cos^2", x_ticks=ticks, log_y=True)
    overlap.laws.append(Series("1 / dimension", ends, [1 / x for x in ends]))
    ratio = Panel("measured over law", "dimension", "measured / law", x_ticks=ticks, y_limits=(0.8, 1.2))
    ratio.laws.append(Series("the law", ends, [1.0, 1.0]))
    for name, label in NAMES.items():
        overlap.ours.append(simulated(by_line[name], label))
        ratio.ours.append(over_law(by_line[name], label))
    notes = [
        f"Layers of 8 SiLU experts with LayerNorm, {TOKENS} tokens; outputs are means over routed tokens, normed vectors a token's. "
        f"Subspaces are spans of {RANK} Gaussian vectors. Jacobians at one token, d_ff = {JACOBIAN_WIDTH}, s = sqrt 2: exactly 1/d^2 for "
        "ReLU, more where the slope knows the size of a reading, a little for SiLU and much for tanh (third panel, law to first order in "
        "1/d_ff). One standard error over trials."
    ]
    return write(all_points, [overlap, ratio, _jacobian_panel(records)], "What overlap means nothing", notes, out / "null_laws")


def _jacobian_panel(records: Sequence[Record]) -> Panel:
    kinds = [r for r in records if r["labels"]["kind"] in JACOBIAN_ACTIVATIONS]
    widths = sorted({r["spec"]["d_model"] for r in kinds})
    curve = sorted({round(d) for d in np.geomspace(widths[0], widths[-1], 24)})
    panel = Panel("Jacobians at one token", "d_model", "d^2 mean cos^2", x_ticks=widths, y_limits=(0.85, 1.45))
    for name, label in zip(JACOBIAN_ACTIVATIONS, ("ReLU", "SiLU", "tanh"), strict=True):
        mine = [r for r in kinds if r["labels"]["kind"] == name]
        values = [estimate(r, "overlap") for r in mine]
        at = [r["spec"]["d_model"] for r in mine]
        means = [d * d * (v.mean or 0.0) for d, v in zip(at, values, strict=True)]
        panel.ours.append(Series(label, at, means, [d * d * (v.sem or 0.0) for d, v in zip(at, values, strict=True)]))
        panel.laws.append(Series(label, curve, [d * d * null_jacobian_alignment(d, JACOBIAN_WIDTH, name, std=2**0.5) for d in curve]))
    return panel
