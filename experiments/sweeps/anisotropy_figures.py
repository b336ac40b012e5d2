"""The atlas of spaces that are not round as a figure: maps over the size of outliers and the exponent, and measured against both laws."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sweeps.atlas_verdicts import Judged
from simgap.report.figure import OTHER as SQUARE
from simgap.report.figure import OURS, saved

SIZE, EXPONENT = "size of 4 outliers of 64 directions", "exponent of the power law"
LEVEL = 0.001


def draw_maps(laws: dict[str, list[Judged]], arrays: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """Times 1/d, measured against T5, and how often one layer's outputs have a small p by nulls of arrays."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    outputs = [point for point in laws["T5"] if point.quantity.startswith("activation_mso")]
    spaces = [point.spec.space for point in outputs]
    ends = sorted({space.scale for space in spaces}), sorted({space.alpha for space in spaces})
    farthest = max(abs(point.z or 0.0) for point in laws["a round space"])
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(15.6, 9.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14))
        axes = figure.subplots(2, 3)
        times = _grid((p.spec.space.scale, p.spec.space.alpha, p.measured * p.spec.d_model) for p in outputs)
        _map(axes[0, 0], ends, times, np.mean, "measured overlap, times 1/d", "{:.3g}", logarithmic=True)
        worst = _grid((p.spec.space.scale, p.spec.space.alpha, abs(p.normal or 0.0)) for p in outputs)
        _map(axes[0, 1], ends, worst, np.max, f"largest |z| against T5 (against 1/d up to {farthest:,.0f})", "{:.1f}", limits=(0, 5))
        _scatter(axes[0, 2], outputs)
        for axis, (name, turned) in zip(axes[1], (("signs", False), ("signs", True), ("other tokens", None)), strict=True):
            mine = [r for r in arrays if turned is None or r["arrays"]["space"]["rotated"] == turned]
            where = {False: "coordinates", True: "turned directions", None: "coordinates and turned"}[turned]
            rows = ((r["arrays"]["space"], p) for r in mine for *_, p in _rows(r, name))
            shares = _grid((space["scale"], space["alpha"], float(p < LEVEL)) for space, p in rows)
            _map(axis, ends, shares, np.mean, f"{name}, {where}: layers with p < {LEVEL}", "{:.0%}", limits=(0, 1))
        title = "Independent experts in spaces that are not round: 1/d fails, T5 holds; below, what nulls of arrays say of single layers"
        figure.suptitle(title, fontsize=12)
        return saved(figure, stem)


def _rows(record: dict[str, Any], name: str) -> list[list[float]]:
    return [record["values"]["signs"]] if name == "signs" else record["values"][name]


Values = dict[tuple[float, float], list[float]]


def _grid(points: Iterable[tuple[float, float, float]]) -> Values:
    """The values at each size and exponent."""
    values: Values = {}
    for x, y, value in points:
        values.setdefault((x, y), []).append(value)
    return values


def _map(
    axis: Any,
    ends: tuple[list[float], list[float]],
    values: Values,
    of: Callable[[Any], Any],
    title: str,
    form: str,
    logarithmic: bool = False,
    limits: tuple[float, float] | None = None,
) -> None:
    """A square to each size and exponent, darker for more, with its number."""
    from matplotlib.colors import LogNorm, Normalize

    xs, ys = ends
    table = np.array([[float(of(values[x, y])) if (x, y) in values else np.nan for x in xs] for y in ys])
    low, high = limits or (float(np.nanmin(table)), float(np.nanmax(table)))
    norm = LogNorm(min(low, 1.0), max(high, 1.1)) if logarithmic else Normalize(low, high)
    axis.imshow(table, origin="lower", aspect="auto", cmap="Blues", norm=norm, alpha=0.9)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = norm(value) > 0.6
            axis.text(column, row, form.format(value), ha="center", va="center", fontsize=11, color="white" if dark else "#08306b")
    axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axis.tick_params(length=0)
    for edge in axis.spines.values():
        edge.set_visible(False)
    axis.set_xticks(np.arange(len(xs) - 1) + 0.5, minor=True)
    axis.set_yticks(np.arange(len(ys) - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="minor", length=0)
    axis.set_xlabel(SIZE)
    axis.set_ylabel(EXPONENT)
    axis.set_title(title, fontsize=10.5)


def _scatter(axis: Any, outputs: Sequence[Judged]) -> None:
    """Measured over law for every cell, at what T5 gives over 1/d; the dashed line is where 1/d would have it."""
    for name, style in (("activation_mso mean output", OURS), ("activation_mso token output", SQUARE)):
        mine = [p for p in outputs if p.quantity == name and p.law]
        x = np.array([(p.law or 0.0) * p.spec.d_model for p in mine])
        law = np.array([p.law or 1.0 for p in mine])
        y, error = np.array([p.measured for p in mine]) / law, np.array([p.error or 0.0 for p in mine]) / law
        own: dict[str, Any] = style | {"markersize": 3, "capsize": 0, "alpha": 0.6, "elinewidth": 0.7}
        axis.errorbar(x, y, yerr=error, label=name.removeprefix("activation_mso "), zorder=3, **own)
    across = np.geomspace(1, max((p.law or 0.0) * p.spec.d_model for p in outputs) * 1.2, 80)
    axis.plot(across, np.ones_like(across), color="#333333", label="T5")
    axis.plot(across, 1 / across, color="#777777", linestyle="--", label="a round space: 1/d")
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axis.minorticks_off()
    axis.set_ylim(0, 1.5)
    axis.set_xlabel("T5, times 1/d")
    axis.set_ylabel("measured / T5")
    axis.set_title("every cell, one error of its mean", fontsize=10.5)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.legend(fontsize=8.5, frameon=False, loc="upper right")
