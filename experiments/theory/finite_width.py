"""Hidden overlap at finite width: kappa0^2 and the 1/f that it is approached with, from 16 to 8,192 hidden units (law A5)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.cells import Bench, Record, estimate
from experiments.theory.angles import NAMES
from experiments.theory.points import Point, lines_of, simulated, write
from simgap import LayerSpec
from simgap.report.figure import Panel, Series
from simgap.specs import Activation
from simgap.theory.dual_map import kappa_zero
from simgap.theory.finite_width import exact_token_mso, finite_width_constant, hidden_token_mso

ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu", "silu")
STD = math.sqrt(2)  # Kaiming fan-in, and tokens on the sphere of radius sqrt(d)
D_MODEL, EXPERTS, TOKENS = 8, 4, 32
QUANTITY = "activation_mso token hidden"
WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
# d_ff, and at most how many trials, fewer where wide: f times the standard error is what tells the constant.
SETTINGS = {"smoke": (WIDTHS[:7:2], 100), "full": (WIDTHS, 2000)}
TRIALS_TIMES_WIDTH = 400_000
CURVE = np.geomspace(WIDTHS[0], WIDTHS[-1], 65)
SCALED_UP_TO = 1024  # beyond, f times the standard error is larger than the constant


def compute(preset: str, bench: Bench) -> list[Record]:
    """Co-activated experts' hidden vectors on a token, at every width."""
    widths, most = SETTINGS[preset]
    records = []
    for f in widths:
        layers = [({"activation": name}, _spec(name, f)) for name in ACTIVATIONS]
        trials = min(most, max(100, TRIALS_TIMES_WIDTH // f))
        records += replace(bench, tokens=TOKENS).sweep(layers, [QUANTITY], trials)
    return sorted(records, key=lambda record: ACTIVATIONS.index(record["labels"]["activation"]))


def _spec(name: Activation, f: int) -> LayerSpec:
    return LayerSpec(d_model=D_MODEL, d_ff=f, n_experts=EXPERTS, activation=name, inputs="sphere")  # type: ignore[arg-type]


def points(records: Sequence[Record]) -> list[Point]:
    """Beside the law at every width, of which kappa0^2 + C/f is the first order."""
    all_points = []
    for record in records:
        name, f = record["labels"]["activation"], record["spec"]["d_ff"]
        all_points.append(Point(name, f, exact_token_mso(name, f, STD), estimate(record, QUANTITY)))
    return all_points


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    constants = ", ".join(f"{NAMES[n]} {_limit(n):.5f} and {finite_width_constant(n, STD):.4f}" for n in ACTIVATIONS)
    notes = [
        f"Independent experts' hidden vectors on a token, s = sqrt 2, d = {D_MODEL}, tokens on a sphere, one standard error over trials. "
        "Left: kappa0^2 + C/f. Right: what is left above kappa0^2, times f, by the law at every width; dash-dotted: C. "
        f"kappa0^2 and C: {constants}. Points beyond f = {SCALED_UP_TO} are left out on the right: their error, f times as large, hides "
        "the constant."
    ]
    return write(
        all_points, [_overlap(all_points), _constant(all_points)], "Hidden overlap of independent experts", notes, out / "finite_width"
    )


def _limit(name: Activation) -> float:
    return float(kappa_zero(name, STD)) ** 2


def _overlap(points: Sequence[Point]) -> Panel:
    panel = Panel("hidden overlap on a token", "d_ff", "mean cos^2", x_ticks=WIDTHS[::3], log_y=True)
    for name, line in _by_activation(points).items():
        panel.laws.append(Series(NAMES[name], CURVE.tolist(), hidden_token_mso(name, CURVE, STD).tolist()))
        panel.ours.append(simulated(line, NAMES[name]))
    panel.laws.append(_levels("limits kappa0^2", (WIDTHS[0], WIDTHS[-1]), [_limit(name) for name in ACTIVATIONS]))
    return panel


def _constant(points: Sequence[Point]) -> Panel:
    ends = (WIDTHS[0], SCALED_UP_TO)
    panel = Panel("approach to the limit", "d_ff", "f (mean cos^2 - kappa0^2)", x_ticks=WIDTHS[:7:2], y_limits=(0.4, 1.1))
    for name, line in _by_activation(points).items():
        near = [p for p in line if p.x <= SCALED_UP_TO]
        panel.laws.append(Series(NAMES[name], [p.x for p in near], [p.x * (p.law - _limit(name)) for p in near]))
        scaled = [p.x * (p.mean - _limit(name)) for p in near]
        panel.ours.append(Series(NAMES[name], [p.x for p in near], scaled, [p.x * p.sem for p in near]))
    panel.laws.append(_levels("C", ends, [float(finite_width_constant(name, STD)) for name in ACTIVATIONS]))
    return panel


def _levels(label: str, ends: tuple[float, float], levels: Sequence[float]) -> Series:
    """Horizontal lines as one series: a NaN lifts the pen."""
    return Series(label, [*ends, math.nan] * len(levels), [y for level in levels for y in (level, level, math.nan)])


def _by_activation(points: Sequence[Point]) -> dict[Activation, list[Point]]:
    lines = lines_of(points)
    return {name: lines[name] for name in ACTIVATIONS}
