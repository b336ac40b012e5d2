"""Table 2's comparison carried on: the gap from 65 thousand to over a billion parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.cells import Bench, Record
from experiments.persistence.beside import gap_and_ratio, state
from experiments.persistence.published import MARKS, expert, reported, table
from simgap import LayerSpec
from simgap.api.reported import Reported
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table
from simgap.stats import fisher, holm

WIDTHS = {"smoke": (32, 64, 128), "full": (32, 64, 128, 256, 512, 1024, 2048, 4096)}
# Parameters, and trials up to so many: fixed beforehand, fewer where one takes longer.
TRIALS_UP_TO = ((1e7, 10), (1e8, 5), (math.inf, 3))
WEIGHT, MEAN, TOKEN, GAP = "weight_mso up", "activation_mso mean output", "activation_mso token output", "gap"
QUANTITIES = {WEIGHT: "weight MSO", MEAN: "activation MSO (mean)", TOKEN: "activation MSO (token)", GAP: "gap"}
# The power of the parameter count P = 64 d^2 that 1/(d d_ff) and 1/d are; the gap is no power.
EXPONENTS = {WEIGHT: -1.0, MEAN: -0.5, TOKEN: -0.5}


@dataclass(frozen=True)
class Beside:
    """One quantity of one layer beside its law. sd: how far the law lets a mean over so many trials stray; z is in units of it."""

    spec: LayerSpec
    quantity: str
    measured: float
    sem: float | None
    trials: int
    law: float
    sd: float
    z: float
    p: float

    @property
    def parameters(self) -> int:
        return self.spec.parameters


def layer(d_model: int) -> LayerSpec:
    """Table 2's expert at any width: d_ff = 4d, 8 experts, top-2."""
    return expert(d_model, 4 * d_model)


def trials_for(parameters: int) -> int:
    return next(trials for most, trials in TRIALS_UP_TO if parameters <= most)


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every doubling of the width; the widest does not fit the memory budget and is streamed."""
    records = []
    for spec in map(layer, WIDTHS[preset]):
        records += bench.sweep([({"d_model": spec.d_model}, spec)], list(QUANTITIES), trials_for(spec.parameters))
    return records


def points(records: Sequence[Record]) -> list[Beside]:
    """Every quantity of every record beside its prediction."""
    return [_beside(record, quantity) for record in records for quantity in QUANTITIES]


def _beside(record: Record, quantity: str) -> Beside:
    spec, row = layer(record["spec"]["d_model"]), record["quantities"][quantity]
    if any(row[name] is None for name in ("mean", "predicted_mean", "predicted_sd", "z", "p")):
        raise ValueError(f"{quantity} at d_model = {spec.d_model}: {row['why']}")
    law = {"law": row["predicted_mean"], "sd": row["predicted_sd"], "z": row["z"], "p": row["p"]}
    return Beside(spec, quantity, measured=row["mean"], sem=row["sem"], trials=row["n"], **law)


def joint(points: Sequence[Beside]) -> dict[str, tuple[float, float]]:
    """Joint p of each quantity over all widths (Fisher: their draws are independent), and the same after Holm's correction.

    The quantities share their layers' draws, which Holm's correction allows.
    """
    alone = [fisher([point.p for point in points if point.quantity == quantity]) for quantity in QUANTITIES]
    return dict(zip(QUANTITIES, zip(alone, holm(alone), strict=True), strict=True))


def exponent(points: Sequence[Beside]) -> tuple[float, float]:
    """The power of the parameter count that one quantity's points follow, and its standard error.

    From the slope of measured / law against ln P, to first order about the law's own power and weighted by the law's spread.
    """
    x = np.log([point.parameters for point in points])
    weight = np.array([(point.law / point.sd) ** 2 for point in points])
    x = x - np.average(x, weights=weight)
    total = float((weight * x * x).sum())
    slope = float((weight * x * [point.measured / point.law for point in points]).sum()) / total
    return EXPONENTS[points[0].quantity] + slope, total**-0.5


def render(records: Sequence[Record], out: Path) -> list[Path]:
    all_points = points(records)
    printed = _printed()
    title = "Overlap beyond Table 2: d_ff = 4d, 8 experts, top-2"
    page = Table(title, ["parameters", "d", "quantity", "published", "law", "ours", "sem", "trials", "z", "p"])
    for point in all_points:
        value = printed.get((point.parameters, point.quantity))
        row = [point.parameters, point.spec.d_model, QUANTITIES[point.quantity], value and value.value]
        page.rows.append([*row, point.law, point.measured, point.sem, point.trials, point.z, point.p])
    page.notes = _notes(records, all_points)
    page.sections = [_all_widths(all_points), _cost(records)]
    return page.write(out / "scale") + draw(_panels(all_points, printed), title, out / "scale")


def _printed() -> dict[tuple[int, str], Reported]:
    """Table 2's values by parameter count and quantity; it has no overlaps on a token."""
    values: dict[tuple[int, str], Reported] = {}
    for row in table(2):
        parameters = expert(int(row["d_model"]), int(row["d_ff"]), int(row["n_experts"])).parameters
        weight, activation = reported(row)
        values |= {(parameters, WEIGHT): weight, (parameters, MEAN): activation, (parameters, GAP): Reported.parse(row["gap"])}
    return values


def _notes(records: Sequence[Record], points: Sequence[Beside]) -> list[str]:
    first, last = points[0].spec, points[-1].spec
    said = "; ".join(
        f"{QUANTITIES[p.quantity]} {p.measured:.4g} ± {p.sem or 0.0:.2g}, law {p.law:.4g}, z {p.z:+.1f}" for p in points if p.spec == last
    )
    worst = max(points, key=lambda point: abs(point.z))
    printed = [parameters for parameters, _ in _printed()]
    ours, theirs = math.log10(last.parameters / first.parameters), math.log10(max(printed) / min(printed))
    ratios = [gap_and_ratio(record)[1] for record in records]
    low, high = (f"{ratio.mean or 0.0:.4g} ± {ratio.sem or 0.0:.2g}" for ratio in (ratios[0], ratios[-1]))
    within = sum(50 <= (ratio.mean or 0.0) <= 90 for ratio in ratios)
    rules = ", ".join(f"{trials} {'beyond' if most == math.inf else f'up to {most:g}'}" for most, trials in TRIALS_UP_TO)
    return [
        f"The widest, {last.parameters:.4g} parameters: {said}. Over all rows the largest |z| is {abs(worst.z):.1f} "
        f"({QUANTITIES[worst.quantity]}, d = {worst.spec.d_model}). The rows span {ours:.1f} orders of magnitude, the printed ones "
        f"{theirs:.1f}.",
        f"The ratio of activation to weight overlap is d_ff by law (N3), {first.d_ff} to {last.d_ff} here; ours goes from {low} to {high}. "
        f"The text's 50 to 90 at all scales [stated] holds for {within} of the {len(ratios)} widths.",
        f"Trials by parameters, fixed beforehand: {rules}. sem is over trials, and rough where they are three; z and p are in the law's "
        "own spread, p by the law of the mean where that is known (N1B), for the gap as if normal, which is too small where trials are "
        "few. Figure: bars are sem, dashed lines one sd of the law at our trials, less than that of one printed trial.",
        "Parameters count W_up and W_down of all experts. At the widths of Table 2 the layers are those of its artefact, so that ours "
        "there and here are no two samples.",
        f"{MARKS} Overlap on a token is none of Table 2's quantities.",
    ]


def _all_widths(points: Sequence[Beside]) -> Table:
    """What all widths say together of each law, and the power of the parameter count that each overlap follows."""
    columns = ["quantity", "joint p", "after Holm", "verdict", "power by law", "ours", "sem", "z"]
    section = Table("All widths together", columns)
    for quantity, (p, corrected) in joint(points).items():
        row = [QUANTITIES[quantity], p, corrected, state(corrected)]
        if quantity in EXPONENTS:
            power, sem = exponent([point for point in points if point.quantity == quantity])
            row += [EXPONENTS[quantity], power, sem, (power - EXPONENTS[quantity]) / sem]
        section.rows.append(row + [None] * (len(columns) - len(row)))
    section.notes = [
        "Joint p over the widths (Fisher), then Holm's correction for four quantities that share their layers. Power: of the parameter "
        "count, by a fit of measured over law."
    ]
    return section


def _cost(records: Sequence[Record]) -> Table:
    section = Table("Cost", ["parameters", "d", "weights, GiB", "trials", "seconds per trial"])
    for record in records:
        spec, trials = layer(record["spec"]["d_model"]), record["run"]["trials"]
        section.rows.append([spec.parameters, spec.d_model, 4 * spec.parameters / 2**30, trials, record["seconds"] / trials])
    budget = records[-1]["run"]["memory"]
    section.notes = [
        f"Weights in float32. A layer that does not fit the budget of {budget} is streamed: drawn block by block and never held whole. The "
        "first row includes loading the kernels."
    ]
    return section


def _panels(points: Sequence[Beside], printed: dict[tuple[int, str], Reported]) -> list[Panel]:
    lines = {quantity: [point for point in points if point.quantity == quantity] for quantity in (WEIGHT, MEAN, TOKEN)}
    sizes = [point.parameters for point in lines[WEIGHT]]
    overlap = Panel("Mean squared overlap", "parameters", "mean squared overlap", log_y=True)
    for quantity, law in ((WEIGHT, "1/(d d_ff)"), (MEAN, "1/d")):
        line = lines[quantity]
        overlap.ours.append(Series(f"{QUANTITIES[quantity]}, ours", sizes, [p.measured for p in line], [p.sem or 0.0 for p in line]))
        overlap.laws.append(Series(f"law {law}", sizes, [p.law for p in line]))
        marks = [(size, printed[size, quantity].value) for size in sizes if (size, quantity) in printed]
        overlap.published.append(Series("published (Table 2)", [x for x, _ in marks], [y for _, y in marks]))
    weight = _over_law("Weight MSO over its law", [lines[WEIGHT]], printed)
    return [overlap, weight, _over_law("Activation MSO over its law", [lines[MEAN], lines[TOKEN]], printed)]


def _over_law(title: str, lines: Sequence[Sequence[Beside]], printed: dict[tuple[int, str], Reported]) -> Panel:
    """Measured over law, which decades hide, between lines that are one standard deviation of the first line's law away."""
    panel = Panel(title, "parameters", "measured / law")
    first = lines[0]
    sizes = [float(point.parameters) for point in first]
    sds = [point.sd / point.law for point in first]
    panel.laws.append(Series("the law", sizes, [1.0] * len(sizes)))
    # A NaN lifts the pen between the two lines.
    around = [1 + sd for sd in sds] + [math.nan] + [1 - sd for sd in sds]
    panel.laws.append(Series(f"law ± 1 sd of {QUANTITIES[first[0].quantity]}", [*sizes, math.nan, *sizes], around))
    for line in lines:
        scaled, errors = [point.measured / point.law for point in line], [(point.sem or 0.0) / point.law for point in line]
        panel.ours.append(Series(f"{QUANTITIES[line[0].quantity]}, ours", sizes, scaled, errors))
    marks = [(point, printed[key]) for point in first if (key := (point.parameters, point.quantity)) in printed]
    scaled, errors = [value.value / point.law for point, value in marks], [value.half_unit / point.law for point, value in marks]
    panel.published.append(Series("published (Table 2), with its rounding", [point.parameters for point, _ in marks], scaled, errors))
    reach = max(
        abs(y - 1) + error for series in panel.ours + panel.published for y, error in zip(series.y, series.error or (), strict=True)
    )
    panel.y_limits = (1 - 1.1 * reach, 1 + 1.1 * reach)
    return panel
