"""Pairs of tokens at a chosen angle, read by the package's own experts: the simulation behind the figures of angular maps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from experiments.cells import Cell, Record, estimate
from experiments.theory.points import Point, own_seed
from simgap import LayerSpec, RunSpec
from simgap.moe import draw_weights, draws_of
from simgap.moe.experts import run_experts
from simgap.overlaps import gram
from simgap.specs import Activation, Norm
from simgap.threads import pool

# d_ff and trials. A mean of cosines of f-dimensional vectors is off its wide limit by O(1/f), and its standard error is
# O(1/sqrt(f trials)): the first is about a tenth of the second.
PRESETS = {"smoke": (2048, 24), "full": (8192, 32)}
RHOS = (-0.95, -0.75, -0.5, -0.25, 0.0, 0.2, 0.4, 0.6, 0.75, 0.9, 0.98)
RECTIFYING: tuple[Activation, ...] = ("relu", "gelu", "gelu_tanh", "silu")
ODD: tuple[Activation, ...] = ("identity", "tanh", "erf")
NAMES = {"relu": "ReLU", "gelu": "GELU", "gelu_tanh": "GELU, tanh form", "silu": "SiLU"} | {name: name for name in ODD}


def angle_cell(activation: Activation, std: float, preset: str, norm: Norm = "none", gated: bool = False) -> Cell:
    """Cosines of two tokens' vectors behind an expert, at each of RHOS; each has an expert of its own, so that points are independent."""
    width, trials = PRESETS[preset]
    spec = LayerSpec(d_model=2, d_ff=width, n_experts=len(RHOS), activation=activation, norm=norm, gated=gated)
    return Cell({"activation": activation, "std": std, "norm": norm, "gated": gated}, spec, trials, cosines)


def cosines(cell: Cell, run: RunSpec) -> dict[str, list[float]]:
    """Per trial, the cosine of the two tokens' hidden (or normed) vectors, from normal pre-activations of the cell's std, exactly."""
    spec, site, seed = cell.spec, "hidden" if cell.spec.norm == "none" else "normed", own_seed(cell, run)
    # Tokens of the plane, the first at angle 0. Kaiming entries have variance 2 / d_model = 1.
    tokens = np.array([(1.0, 0.0), *((rho, math.sqrt(1 - rho * rho)) for rho in RHOS)]) * cell.labels["std"]
    x = torch.from_numpy(tokens.astype(run.dtype))[None]
    read = torch.tensor([[[0, 1 + e] for e in range(spec.n_experts)]])

    def one(trial: int) -> np.ndarray:
        draws = draws_of(spec, seed, [trial])
        weights = draw_weights(draws, run.dtype)
        table = gram(run_experts(draws, weights, slice(0, spec.n_experts), x, read, (site,))[site][0]).numpy()
        return table[:, 0, 1] / np.sqrt(table[:, 0, 0] * table[:, 1, 1])

    with pool() as (task_map, _):
        values = np.array(list(task_map(one, range(run.trials))))
    return {f"cosine {rho:g}": values[:, e].tolist() for e, rho in enumerate(RHOS)}


def angle_points(records: Sequence[Record], law: Callable[..., Any]) -> list[Point]:
    """The simulated cosines beside law(activation, rho, std, labels), a line to each record."""
    points = []
    for record in records:
        labels = record["labels"]
        for rho in RHOS:
            value = float(law(labels["activation"], rho, labels["std"], labels))
            points.append(Point(line_of(labels), rho, value, estimate(record, f"cosine {rho:g}")))
    return points


def width_of(records: Sequence[Record]) -> int:
    return int(records[0]["spec"]["d_ff"])


def line_of(labels: dict[str, Any]) -> str:
    norm = "" if labels["norm"] == "none" else f" {labels['norm']}"
    return f"{'gated ' if labels['gated'] else ''}{labels['activation']}{norm} s={labels['std']:.4g}"
