"""Compression has a threshold: the correlation rho* below which an activation shrinks angles and above which it widens them (law A3)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.cells import Bench, Cell, Record, estimate
from experiments.theory.angles import NAMES
from experiments.theory.points import Point, lines_of, own_seed, simulated, write
from simgap import LayerSpec, RunSpec
from simgap.moe.experts import ACTIVATION_FUNCTIONS
from simgap.report.figure import Panel, Series
from simgap.seeding import stream
from simgap.specs import Activation
from simgap.theory.compression import compression_threshold
from simgap.theory.dual_map import dual_map
from simgap.threads import pool

CROSSING: tuple[Activation, ...] = ("silu", "gelu", "gelu_tanh")
SHOWN: tuple[Activation, ...] = ("relu", "silu", "gelu")
STDS = {"smoke": (0.3, 2.0), "full": (0.1, 0.3, 0.6, 1.0, math.sqrt(2), 2.0, 3.0, 5.0)}
# d_ff and trials: a crossing is off by O(1/f), its standard error O(1/sqrt(f trials)).
PRESETS = {"smoke": (4096, 24), "full": (16384, 24)}
# Where a crossing is looked for. Beyond, the two curves meet at 1 and only noise decides; rho* of the widest normal here is 0.984.
BRACKET = (0.2, 0.998)
TOLERANCE = 1e-7
SHOWN_STD = 1.0


def compute(preset: str, bench: Bench) -> list[Record]:
    """The crossing of every activation that has one, at a few scales."""
    width, trials = PRESETS[preset]
    specs = [LayerSpec(d_model=2, d_ff=width, n_experts=2, activation=name) for name in CROSSING]
    return bench.run([Cell({"activation": s.activation, "std": std}, s, trials, crossings) for s in specs for std in STDS[preset]])


def crossings(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the rho at which two activated vectors have the cosine of their pre-activations, found on one and the same draw."""
    from scipy.optimize import brentq

    act, std, seed = ACTIVATION_FUNCTIONS[cell.spec.activation], cell.labels["std"], own_seed(cell, run)

    def one(trial: int) -> float:
        u, w = _mirrored(*stream(seed, "inputs", trial=trial).standard_normal((2, cell.spec.d_ff // 8)))
        hidden = act(torch.from_numpy(std * u)).numpy()

        def shrinkage(rho: float) -> float:
            v = act(torch.from_numpy(std * (rho * u + math.sqrt(1 - rho * rho) * w))).numpy()
            # Divided by 1 - rho, as both cosines are 1 at rho = 1.
            return (hidden @ v / math.sqrt((hidden @ hidden) * (v @ v)) - rho) / (1 - rho)

        return float(brentq(shrinkage, *BRACKET, xtol=TOLERANCE))

    with pool() as (task_map, _):
        return {"crossing": list(task_map(one, range(run.trials)))}


def _mirrored(u: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight mirror images of each point (u, w) of the plane: their second moments are isotropic in every draw, and the correlation of
    the pre-activations is rho exactly, so that an activation's linear part, which has no say in the crossing, brings no noise into it."""
    return np.concatenate([u, u, -u, -u, w, w, -w, -w]), np.concatenate([w, -w, w, -w, u, -u, u, -u])


def points(records: Sequence[Record]) -> list[Point]:
    all_points = []
    for name in CROSSING:
        mine = [record for record in records if record["labels"]["activation"] == name]
        stds = [record["labels"]["std"] for record in mine]
        for record, std, law in zip(mine, stds, compression_threshold(name, np.array(stds)), strict=True):
            all_points.append(Point(name, std, float(law), estimate(record, "crossing")))
    return all_points


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    width = records[0]["spec"]["d_ff"]
    at_one = ", ".join(f"{NAMES[name]} {compression_threshold(name, 1.0):.5f}" for name in CROSSING)
    notes = [
        "Points: the rho at which the cosine of the activated vectors is that of the pre-activations; one standard error. "
        f"Each trial has d_ff = {width} pre-activations, an eighth of them drawn and the others their mirror images. As s falls, all three "
        "become quadratic about their linear part and rho* tends to 1/2, 60 degrees; as s grows, they become ReLU, which widens no angle, "
        f"and rho* tends to 1. At s = 1: {at_one}."
    ]
    threshold = _correlation(all_points)
    return write(all_points, [_change(), threshold, _angle(threshold)], "Where compression ends", notes, out / "threshold")


def _change() -> Panel:
    rhos = np.linspace(0, 1, 401)
    title = f"change of the cosine, s = {SHOWN_STD:g}"
    panel = Panel(title, "correlation rho of the pre-activations", "kappa(rho) - rho", x_scale="linear", y_limits=(-0.03, 0.33))
    for name in SHOWN:
        panel.laws.append(Series(NAMES[name], rhos.tolist(), (dual_map(name, rhos, SHOWN_STD) - rhos).tolist()))
    panel.laws.append(Series("no change", [0, 1], [0, 0]))
    fixed = [root for root in (compression_threshold(name, SHOWN_STD) for name in SHOWN) if root is not None]
    panel.marks.append(Series("threshold rho*", fixed, [0.0] * len(fixed)))
    return panel


def _correlation(points: Sequence[Point]) -> Panel:
    stds = np.geomspace(0.05, 10, 33)
    panel = Panel("threshold", "s, std of the pre-activations", "rho*", x_ticks=(0.05, 0.1, 0.3, 1, 3, 10), y_limits=(0.45, 1.02))
    for name, line in lines_of(points).items():
        panel.laws.append(Series(NAMES[name], stds.tolist(), compression_threshold(name, stds).tolist()))
        panel.ours.append(simulated(line, NAMES[name]))
    return panel


def _angle(panel: Panel) -> Panel:
    """The same as an angle; the error of an arc cosine to first order."""
    laws = [replace(law, y=np.degrees(np.arccos(law.y)).tolist()) for law in panel.laws]
    ours = []
    for series in panel.ours:
        error = [math.degrees(e / math.sqrt(1 - y * y)) for e, y in zip(series.error or [], series.y, strict=True)]
        ours.append(replace(series, y=[math.degrees(math.acos(y)) for y in series.y], error=error))
    title = "threshold as an angle: larger angles shrink"
    return replace(panel, title=title, y_label="arccos rho*, degrees", y_limits=(0, 65), laws=laws, ours=ours)
