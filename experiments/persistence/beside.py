"""What the three tables share: rows of published, law and ours side by side, and the verdict on the printed width."""

import math
from collections.abc import Callable, Sequence

from experiments.cells import Record, estimate
from experiments.persistence.published import reported
from experiments.persistence.readings import Verdict, fit, law_nulls
from simgap import LayerSpec
from simgap.api.reported import FITS, FIVE_SIGMA, Null, Reported, joint_p
from simgap.report.table import Table
from simgap.stats import Estimate, difference, ratio_of_means

QUANTITIES = {"weight_mso up": "weight", "activation_mso mean output": "activation"}
SpecOf = Callable[[dict[str, str], int], LayerSpec]
COLUMNS = (
    "quantity",
    "published",
    "law",
    "ours",
    "sem",
    "trials",
    "z of ours",
    "z published, 1 trial",
    "z published, 10 trials",
)


def gap_and_ratio(record: Record) -> tuple[Estimate, Estimate]:
    weight, activation = (estimate(record, name) for name in QUANTITIES)
    return difference(activation, weight), ratio_of_means(activation, weight)


def rows_beside(labels: Sequence[object], row: dict[str, str], spec: LayerSpec, record: Record) -> list[list[object]]:
    """Rows for weight and activation overlap, their gap and their ratio: published, law at the printed configuration, ours, and the z's.

    z of ours: from the law, in the law's standard deviations at our trials. z published: the printed value from the same law, at the
    spread of one trial (the most that any number of trials leaves) and of ten, the nearest end of its rounding interval counting. What the
    paper does not print is marked [derived].
    """
    weight, activation = reported(row)
    gap, ratio = gap_and_ratio(record)
    ours = dict(zip(("weight", "activation"), (estimate(record, name) for name in QUANTITIES), strict=True)) | {"gap": gap}
    published = {"weight": weight, "activation": activation, "gap": Reported.parse(row["gap"])}
    trials = record["run"]["trials"]
    rows: list[list[object]] = []
    for side, value in published.items():
        null = {t: law_null(spec, t, side) for t in (1, 10, trials)}
        mine = ours[side]
        z = None if mine.mean is None else (mine.mean - null[trials][0]) / null[trials][1]
        zs = [(value.nearest(null[t][0]) - null[t][0]) / null[t][1] for t in (1, 10)]
        mark = " [derived]" if side == "weight" and "weight_mso" not in row else ""
        name = f"{side} MSO{mark}" if side != "gap" else "gap"
        rows.append([*labels, name, value.value, null[1][0], mine.mean, mine.sem, trials, z, *zs])
    implied = activation.value / weight.value if weight.value > 0 else None
    rows.append([*labels, "ratio [derived]", implied, float(spec.d_ff), ratio.mean, ratio.sem, ratio.trials, None, None, None])
    return rows


def law_null(spec: LayerSpec, trials: int, side: str) -> Null:
    """The law's mean and spread for one side, or for the gap, whose two sides are uncorrelated (N3)."""
    if side != "gap":
        return law_nulls([spec], trials, side)[0]
    (a, sd_a), (w, sd_w) = (law_nulls([spec], trials, s)[0] for s in ("activation", "weight"))
    return a - w, math.hypot(sd_a, sd_w)


def printed_p(rows: Sequence[dict[str, str]], spec_of: SpecOf, trials: int) -> float:
    """Joint p of all of a table's weight and activation values at their printed widths, at the spread of so many trials."""
    specs = [spec_of(row, int(row["d_model"])) for row in rows]
    sides = (law_nulls(specs, trials, "weight"), law_nulls(specs, trials, "activation"))
    return joint_p([value for row in rows for value in reported(row)], [null for pair in zip(*sides, strict=True) for null in pair])


def state(p: float) -> str:
    return "excluded at 5 sigma" if p < FIVE_SIGMA else ("unlikely" if p < FITS else "consistent")


def width_verdict(rows: Sequence[dict[str, str]], spec_of: SpecOf, trials: int, mark: str) -> tuple[str, dict[int, float]]:
    """One sentence on the printed width, graded at several numbers of trials, and the widths that fit at `trials`, with their joint p."""
    width = ", ".join(dict.fromkeys(row["d_model"] for row in rows))
    grades = {t: printed_p(rows, spec_of, t) for t in sorted({1, 2, 5, 10})}
    graded = "; ".join(f"{state(p)} at {t} (joint p {p:.2g})" for t, p in grades.items())
    text = f"Printed width d = {width}, by the number of trials that each value is a mean of: {graded}. "
    widest = 4 * max(int(row["d_model"]) for row in rows)
    fits = fit(rows, spec_of, trials, range(8, widest + 1))
    spread = f"at {trials} trial{'s' if trials > 1 else ''} {mark}"
    if not fits:
        return text + f"No width from 8 to {widest} fits {spread}.", fits
    best = max(fits, key=lambda d: fits[d])
    powers = [d for d in fits if d & (d - 1) == 0]
    named = f"; of the powers of two, {' and '.join(f'{d} (p {fits[d]:.2g})' for d in powers)}" if powers else ""
    top = f"{max(fits)}{' or more' if max(fits) == widest else ''}"
    text += f"Widths that fit at p >= {FITS:g} {spread}: {min(fits)} to {top}, best {best}{named}."
    return text + _diluted(rows, spec_of, trials, list(fits)), fits


def _diluted(rows: Sequence[dict[str, str]], spec_of: SpecOf, trials: int, fits: Sequence[int]) -> str:
    """What fits on the activations alone, where that is less: a weight value of few digits has a p near 1 at any width, and the joint p of
    many such values and of activations that do not fit is still large."""
    values = [reported(row)[1] for row in rows]
    alone = [d for d in fits if joint_p(values, law_nulls([spec_of(row, d) for row in rows], trials, "activation")) >= FITS]
    if alone == list(fits):
        return ""
    which = f"{min(alone)} to {max(alone)} fit" if alone else "none of them fits"
    return f" On the activations alone {which}: weight values of few digits fit any width, and dilute the joint p at the ends."


def readings_table(verdicts: Sequence[Verdict], trials: int, mark: str) -> Table:
    """What the printed width gives under each reading, as a section of a table."""
    table = Table("Other readings at the printed width", ["side", "reading", "joint p", "verdict", "note"])
    table.rows = [[v.side, v.reading, v.p, v.fits, v.note] for v in verdicts]
    table.notes = [
        f"Joint p (Fisher) of the table's independent published values under each reading, simulated at the printed width, with the spread "
        f"of {trials} trial{'s' if trials > 1 else ''} {mark}. A reading explains the table only if it fits on both sides. Readings of the "
        "inputs themselves depend on the tokens' law, which is [unknown]; ours is isotropic."
    ]
    return table


def fair_wording(verdicts: Sequence[Verdict], powers: Sequence[int]) -> str:
    """The verdict that survives every reading tried: nothing is called wrong that some reading explains."""
    fits = {side: [v.reading for v in verdicts if v.side == side and v.fits == "fits"] for side in ("weight", "activation")}
    widths = " or ".join(f"d = {d}" for d in powers) or "no power of two"
    text = f"Inconsistent with the printed width under Table 2's definitions; those definitions fit {widths}. "
    if fits["weight"] and fits["activation"]:
        pairs = f"{', '.join(fits['activation'])} (activation) with {', '.join(fits['weight'])} (weight)"
        return text + f"At the printed width only this reading, of those tried, would look the same: {pairs}."
    return text + "No other reading tried fits both sides at the printed width."
