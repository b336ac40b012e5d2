"""What the three tables share: rows of published, law and ours side by side, and the verdict on the printed width."""

from collections.abc import Callable, Sequence

from experiments.cells import Record, estimate
from experiments.persistence.published import reported
from experiments.persistence.readings import Verdict, fit, law_nulls
from simgap import LayerSpec
from simgap.gap.reported import FIVE_SIGMA, Null, Reported, joint_p
from simgap.report.table import Table
from simgap.stats import Estimate, difference, ratio_of_means

QUANTITIES = {"weight_mso up": "weight", "activation_mso mean output": "activation"}
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


def rows_beside(labels: Sequence[object], spec: LayerSpec, values: Sequence[Reported], record: Record) -> list[list[object]]:
    """Rows for weight and activation overlap, their gap and their ratio: published, law at the printed configuration, ours, and the z's.

    z of ours: from the law, in the law's standard deviations at our trials. z published: the printed value from the same law, at the
    spread of one trial (the most that any number of trials leaves) and of ten.
    """
    rows: list[list[object]] = []
    nulls: dict[int, list[Null]] = {t: [law_nulls([spec], t, side)[0] for side in QUANTITIES.values()] for t in (1, 10)}
    for at, (name, side) in enumerate(QUANTITIES.items()):
        ours = estimate(record, name)
        mean = nulls[1][at][0]
        trials = record["run"]["trials"]
        z = None if ours.mean is None else (ours.mean - mean) / law_nulls([spec], trials, side)[0][1]
        zs = [values[at].z(nulls[t][at]) for t in (1, 10)]
        rows.append([*labels, f"{side} MSO", values[at].value, mean, ours.mean, ours.sem, trials, z, *zs])
    gap, ratio = gap_and_ratio(record)
    published_gap = values[1].value - values[0].value
    law_gap = nulls[1][1][0] - nulls[1][0][0]
    rows.append([*labels, "gap", published_gap, law_gap, gap.mean, gap.sem, gap.trials, None, None, None])
    published_ratio = values[1].value / values[0].value if values[0].value > 0 else None
    rows.append([*labels, "ratio", published_ratio, float(spec.d_ff), ratio.mean, ratio.sem, ratio.trials, None, None, None])
    return rows


def width_verdict(
    rows: Sequence[dict[str, str]], spec_of: Callable[[dict[str, str], int], LayerSpec], trials: int, mark: str
) -> tuple[str, dict[int, float]]:
    """One sentence on the printed width, and the widths that fit with their joint p."""
    printed = [int(row["d_model"]) for row in rows]
    specs = [spec_of(row, d) for row, d in zip(rows, printed, strict=True)]
    values = [value for row in rows for value in reported(row)]
    sides = (law_nulls(specs, trials, "weight"), law_nulls(specs, trials, "activation"))
    p = joint_p(values, [null for pair in zip(*sides, strict=True) for null in pair])
    found = fit(rows, spec_of, trials)
    width = ", ".join(str(d) for d in dict.fromkeys(printed))
    state = "excluded at 5 sigma" if p < FIVE_SIGMA else ("unlikely" if p < 0.05 else "consistent")
    spread = f"the spread of {trials} trial{'s' if trials > 1 else ''} {mark}"
    if not found:
        return f"Printed width d = {width}: {state} (joint p {p:.2g}, {spread}). No width from 8 to 256 fits.", found
    best = max(found, key=lambda d: found[d])
    powers = [d for d in found if d & (d - 1) == 0]
    named = f"; of the powers of two, {' and '.join(f'{d} (p {found[d]:.2g})' for d in powers)}" if powers else ""
    text = f"Printed width d = {width}: {state} (joint p {p:.2g}, {spread}). "
    return text + f"Widths that fit at p >= 0.05: {min(found)} to {max(found)}, best {best}{named}.", found


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
        return text + f"At the printed width only this would look the same: {pairs}."
    return text + "No other reading tried fits both sides at the printed width."
