"""Dual maps: what each activation does to the angle of two tokens (laws A1, A2, A4, A7), plain and gated, at two scales."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Bench, Record
from experiments.theory.angles import NAMES, ODD, RECTIFYING, angle_cell, angle_points, line_of, width_of
from experiments.theory.points import Point, deviations, lines_of, simulated, write
from simgap.report.figure import Panel, Series
from simgap.specs import Activation
from simgap.theory.compression import compression_threshold
from simgap.theory.dual_map import dual_map

STDS = {"smoke": (1.0,), "full": (1.0, math.sqrt(2))}  # the second is Kaiming's at ||x||^2 = d
GATED: tuple[Activation, ...] = ("relu", "gelu", "silu", "identity")
CURVE = np.linspace(-1, 1, 401)
X = "correlation rho of the pre-activations"
AXES: dict[str, Any] = {"x_scale": "linear", "y_limits": (-1.05, 1.05)}


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every activation at both scales, and the gated units."""
    cells = [angle_cell(name, std, preset) for std in STDS[preset] for name in RECTIFYING + ODD]
    return bench.run(cells + [angle_cell(name, std, preset, gated=True) for std in STDS[preset] for name in GATED])


def points(records: Sequence[Record]) -> list[Point]:
    return angle_points(records, lambda name, rho, std, labels: dual_map(name, rho, std, gated=labels["gated"]))


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    by_line = lines_of(all_points)
    panels = []
    for std in sorted({record["labels"]["std"] for record in records}):
        here = [p for p in all_points if p.line.endswith(f" s={std:.4g}")]
        parts = [[p for p in here if p.line.startswith("gated") == gated] for gated in (False, True)]
        panels += [_rectifying(std, by_line), _odd(std, by_line), _gated(std, by_line)]
        panels.append(
            deviations(f"distance from the law, s = {std:.4g}", dict(zip(("seven activations", "gated units"), parts, strict=True)))
        )
    notes = [
        f"Lines: the law. Points: the mean cosine of two tokens' hidden vectors in the package's own experts, d_ff = {width_of(records)} "
        "(its O(1/d_ff) bias is about a tenth of the standard error), one standard error. Rings: fixed points rho*, where the angle stays; "
        "below rho* the activation shrinks the angle, above it widens it. Gated units have rho kappa(rho), and no fixed point inside."
    ]
    return write(all_points, panels, "Dual maps: the cosine behind an activation", notes, out / "dual_maps", columns=4)


def _lines(
    panel: Panel, names: Sequence[Activation], std: float, by_line: dict[str, list[Point]], gated: bool = False, less: bool = False
) -> Panel:
    """The law's curve of each activation and its points; less: rho taken away from both."""
    for name in names:
        law = dual_map(name, CURVE, std, gated=gated) - (CURVE if less else 0)
        panel.laws.append(Series(NAMES[name], CURVE.tolist(), law.tolist()))
        line = by_line[line_of({"activation": name, "std": std, "norm": "none", "gated": gated})]
        series = simulated(line, NAMES[name])
        panel.ours.append(replace(series, y=[y - x for x, y in zip(series.x, series.y, strict=True)]) if less else series)
    return panel


def _rectifying(std: float, by_line: dict[str, list[Point]]) -> Panel:
    panel = _lines(Panel(f"rectifying, s = {std:.4g}", X, "cosine kappa(rho)", **AXES), RECTIFYING, std, by_line)
    panel.laws.append(Series("no change of angle", [-1, 1], [-1, 1]))
    fixed = [root for root in (compression_threshold(name, std) for name in RECTIFYING) if root is not None]
    panel.marks.append(Series("fixed point rho*", fixed, fixed))
    return panel


def _odd(std: float, by_line: dict[str, list[Point]]) -> Panel:
    limits: dict[str, Any] = {"x_scale": "linear", "y_limits": (-0.08, 0.08)}
    return _lines(Panel(f"odd: no compression, s = {std:.4g}", X, "change kappa(rho) - rho", **limits), ODD, std, by_line, less=True)


def _gated(std: float, by_line: dict[str, list[Point]]) -> Panel:
    panel = _lines(Panel(f"gated, act(g) u, s = {std:.4g}", X, "cosine rho kappa(rho)", **AXES), GATED, std, by_line, gated=True)
    panel.laws.append(Series("no change of angle", [-1, 1], [-1, 1]))
    return panel
