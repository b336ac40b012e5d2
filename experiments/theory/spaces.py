"""Spaces that are not round: independent experts overlap by what the sizes of directions say, and 1/d fails by any factor (law T5)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Bench, Record, estimate
from experiments.theory.points import Point, lines_of, over_law, simulated, write
from simgap import LayerSpec
from simgap.report.figure import Panel, Series
from simgap.spaces import direction_scales
from simgap.specs import SpaceSpec
from simgap.theory.anisotropic import null_anisotropic_mso

D, F, TOKENS = 64, 64, 16
COUNTS = (1, 4, 16)
SCALES = {"smoke": (1.0, 10.0, 100.0), "full": (1.0, 2.0, 4.0, 10.0, 20.0, 40.0, 100.0)}
EXPONENTS = {"smoke": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)}
# Experts of a layer and top-k: the law knows neither.
SHAPES = {"coordinates": (8, 2), "rotated": (16, 4)}
TRIALS = {"smoke": 40, "full": 120}
ROUND = "a round space: 1/d"


def compute(preset: str, bench: Bench) -> list[Record]:
    """Layers with outlier coordinates, and with a power law of coordinates or of rotated directions."""
    layers = []
    for count in COUNTS:
        for scale in SCALES[preset]:
            layers.append(_layer(_outliers(count), scale, SpaceSpec(outliers=count, scale=scale), "coordinates"))
    for basis in SHAPES:
        for alpha in EXPONENTS[preset]:
            # Without a power there is nothing to rotate.
            space = SpaceSpec(kind="powerlaw", alpha=alpha, rotated=basis == "rotated")
            layers.append(_layer(f"power law, {basis}", alpha, space, basis))
    return replace(bench, tokens=TOKENS).sweep(layers, ["activation_mso token output", "activation_mso mean output"], TRIALS[preset])


def _outliers(count: int) -> str:
    return f"{count} outlier{'s' if count > 1 else ''}"


def _layer(line: str, x: float, space: SpaceSpec, shape: str) -> tuple[dict[str, Any], LayerSpec]:
    experts, k = SHAPES[shape]
    return {"line": line, "x": x}, LayerSpec(d_model=D, d_ff=F, n_experts=experts, top_k=k, space=space)


def points(records: Sequence[Record]) -> list[Point]:
    """Outputs on a token, and mean outputs of the same layers, which follow one law."""
    all_points = []
    for record in records:
        space = SpaceSpec(**record["spec"]["space"]) if isinstance(record["spec"]["space"], dict) else SpaceSpec(record["spec"]["space"])
        law = float(null_anisotropic_mso(direction_scales(space, D) ** 2))
        label, x = record["labels"]["line"], record["labels"]["x"]
        all_points.append(Point(label, x, law, estimate(record, "activation_mso token output")))
        all_points.append(Point(f"{label}, means", x, law, estimate(record, "activation_mso mean output")))
    return sorted(all_points, key=lambda point: (point.line, point.x))


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    lines = lines_of(all_points)
    outliers = Panel("outlier coordinates", "size of an outlier", "mean cos^2 on a token", x_ticks=[1, 10, 100], log_y=True)
    powers = Panel("a power law of directions", "exponent", "mean cos^2 on a token", x_scale="linear", log_y=True)
    for panel, names in ((outliers, [_outliers(count) for count in COUNTS]), (powers, [f"power law, {basis}" for basis in SHAPES])):
        for name in names:
            panel.ours.append(simulated(lines[name], name))
            panel.laws.append(_law(panel, name, lines[name]))
        ends = [lines[names[0]][0].x, lines[names[0]][-1].x]
        panel.laws.append(Series(ROUND, ends, [1 / D, 1 / D]))
    ratio = Panel("measured over law", "the law, times d", "measured / law", x_ticks=[1, 10, 50], y_limits=(0.8, 1.2))
    ratio.laws.append(Series("the law", [1.0, float(D)], [1.0, 1.0]))
    for label in ("outlier", "power law"):
        mine = [replace(point, x=point.law * D) for point in all_points if label in point.line and "means" not in point.line]
        ratio.ours.append(over_law(sorted(mine, key=lambda point: point.x), label))
    notes = [
        f"Independent untrained SiLU experts, d = {D}, {TOKENS} tokens: 8 experts, top-2, and where directions are rotated 16, top-4. Held "
        "against 1/d they would be 'alike' by the factor on the last axis. One standard error over trials."
    ]
    return write(all_points, [outliers, powers, ratio], "Independent experts in spaces that are not round", notes, out / "spaces")


def _law(panel: Panel, name: str, mine: Sequence[Point]) -> Series:
    """The law between the points, in a hundred steps."""
    ends = mine[0].x, mine[-1].x
    xs = np.geomspace(*ends, 60) if panel.x_scale == "log" else np.linspace(*ends, 60)
    if name.startswith("power law"):
        spectra = [direction_scales(SpaceSpec(kind="powerlaw", alpha=float(x)), D) ** 2 for x in xs]
    else:
        spectra = [direction_scales(SpaceSpec(outliers=int(name.split()[0]), scale=float(x)), D) ** 2 for x in xs]
    return Series(name, xs.tolist(), [float(null_anisotropic_mso(spectrum)) for spectrum in spectra])
