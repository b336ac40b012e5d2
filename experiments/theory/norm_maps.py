"""Norms after the activation: LayerNorm takes the common mean away again, RMSNorm turns no vector (law L1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Bench, Record
from experiments.theory.angles import NAMES, angle_cell, angle_points, line_of, width_of
from experiments.theory.points import Point, deviations, lines_of, simulated, write
from simgap.report.figure import Panel, Series
from simgap.specs import Activation, Norm
from simgap.theory.dual_map import dual_map, kappa_zero
from simgap.theory.normalisation import layernorm_map, raises_overlap_below

STD = 1.0
NORMED: tuple[Activation, ...] = ("relu", "gelu", "silu", "tanh")
NORMS: tuple[Norm, ...] = ("layernorm", "rmsnorm")
CURVE = np.linspace(-1, 1, 401)
X = "correlation rho of the pre-activations"


def compute(preset: str, bench: Bench) -> list[Record]:
    """Each activation behind either norm."""
    return bench.run([angle_cell(name, STD, preset, norm=norm) for norm in NORMS for name in NORMED])


def points(records: Sequence[Record]) -> list[Point]:
    return angle_points(records, lambda name, rho, std, labels: _map(labels["norm"])(name, rho, std))


def _map(norm: str) -> Any:
    return layernorm_map if norm == "layernorm" else dual_map


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    by_line = lines_of(all_points)
    panels = [_panel(norm, by_line) for norm in NORMS] + [_squares(by_line)]
    panels.append(deviations("distance from the law", {norm: [p for p in all_points if norm in p.line] for norm in NORMS}))
    level = raises_overlap_below(kappa_zero("relu", STD))
    raised = layernorm_map("relu", -1.0, STD) ** 2
    notes = [
        f"s = {STD:g}, norms without gain and bias, d_ff = {width_of(records)}. Under LayerNorm every curve lies between the diagonal "
        "and 0, so that it never compresses what the pre-activations had. Third panel: the overlap cos^2 of ReLU with and without it. "
        f"LayerNorm raises it where kappa(rho) < kappa0/(2 - kappa0) = {level:.4g}, at rho = -1 from 0 to {raised:.4g}."
    ]
    return write(all_points, panels, "What a norm after the activation does to the cosine", notes, out / "norm_maps", columns=4)


def _line(by_line: dict[str, list[Point]], name: str, norm: str) -> list[Point]:
    return by_line[line_of({"activation": name, "std": STD, "norm": norm, "gated": False})]


def _panel(norm: Norm, by_line: dict[str, list[Point]]) -> Panel:
    title = {"layernorm": "LayerNorm: no compression", "rmsnorm": "RMSNorm: the dual map itself"}[norm]
    panel = Panel(title, X, "cosine of the normed vectors", x_scale="linear", y_limits=(-1.05, 1.05))
    for name in NORMED:
        panel.laws.append(Series(NAMES[name], CURVE.tolist(), _map(norm)(name, CURVE, STD).tolist()))
        panel.ours.append(simulated(_line(by_line, name, norm), NAMES[name]))
    panel.laws.append(Series("no change of angle", [-1, 1], [-1, 1]))
    return panel


def _squares(by_line: dict[str, list[Point]]) -> Panel:
    """The overlap of ReLU behind either norm: the two curves cross where LayerNorm starts to lower it."""
    panel = Panel("ReLU: LayerNorm raises the overlap on the left", X, "overlap, cosine squared", x_scale="linear", y_limits=(-0.03, 1.03))
    for norm, label in (("layernorm", "ReLU, LayerNorm"), ("rmsnorm", "ReLU, RMSNorm or none")):
        panel.laws.append(Series(label, CURVE.tolist(), (_map(norm)("relu", CURVE, STD) ** 2).tolist()))
        line = _line(by_line, "relu", norm)
        panel.ours.append(Series(label, [p.x for p in line], [p.mean**2 for p in line], [2 * abs(p.mean) * p.sem for p in line]))
    level = raises_overlap_below(kappa_zero("relu", STD))
    rho = float(np.interp(level, dual_map("relu", CURVE, STD), CURVE))
    panel.marks.append(Series("kappa = kappa0 / (2 - kappa0)", [rho], [level**2]))
    return panel
