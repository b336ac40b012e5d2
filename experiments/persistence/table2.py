"""Table 2 of the persistence paper: the gap from 65 thousand to 4.2 million parameters."""

from collections.abc import Sequence
from pathlib import Path

from experiments.cells import Bench, Record, estimate
from experiments.persistence.beside import COLUMNS, QUANTITIES, gap_and_ratio, printed_p, rows_beside, width_verdict
from experiments.persistence.published import MARKS, TRIALS, expert, reported, table
from experiments.persistence.readings import law_nulls
from simgap import LayerSpec
from simgap.api.reported import FITS
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table

LAW_TRIALS = 200
PRESETS = {"smoke": [TRIALS], "full": [TRIALS, LAW_TRIALS]}


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every printed width, at the paper's number of trials and at enough for the law's test."""
    specs = [_spec(row, int(row["d_model"])) for row in table(2)]
    records = []
    for trials in PRESETS[preset]:
        records += bench.sweep([({"d_model": s.d_model, "trials": trials}, s) for s in specs], list(QUANTITIES), trials)
    return records


def _spec(row: dict[str, str], width: int) -> LayerSpec:
    return expert(width, int(row["d_ff"]), int(row["n_experts"]))


def _with_trials(records: Sequence[Record], trials: int) -> list[Record]:
    return [r for r in records if r["labels"]["trials"] == trials]


def render(records: Sequence[Record], out: Path) -> list[Path]:
    rows = table(2)
    most = max(r["labels"]["trials"] for r in records)
    page = Table("Table 2 beside the law and ours: d_ff = 4d, 8 experts, top-2", ["d", "d_ff", "parameters", *COLUMNS])
    for trials in dict.fromkeys((TRIALS, most)):
        for row, record in zip(rows, _with_trials(records, trials), strict=True):
            spec = _spec(row, int(row["d_model"]))
            labels = [spec.d_model, spec.d_ff, spec.d_model * spec.d_ff * spec.n_experts * 2]
            page.rows += rows_beside(labels, row, spec, record)
    page.notes = [width_verdict([row], _spec, 1, "[unknown]")[0] for row in rows]
    joint = width_verdict(rows, lambda row, _: _spec(row, int(row["d_model"])), 1, "[unknown]")[0]
    page.notes.append(f"All rows together. {joint.split('. Widths')[0].split('. No width')[0]}.")
    low = [row for row in rows if printed_p([row], _spec, 10) < FITS]
    if low:
        named = ", ".join(f"d = {row['d_model']} (joint p {printed_p([row], _spec, 10):.2g})" for row in low)
        page.notes.append(f"Were each value a mean of ten trials, as in the regularisation scan, these rows would not fit: {named}.")
    ratios = [reported(row)[1].value / reported(row)[0].value for row in rows]
    law_ratios = [float(row["d_ff"]) for row in rows]
    page.notes.append(
        f"The ratio of activation to weight overlap is not constant across scale: its law is d_ff (N3), {law_ratios[0]:.0f} to "
        f"{law_ratios[-1]:.0f} here, and the printed values themselves run from {min(ratios):.0f} to {max(ratios):.0f}. The text's 50 to "
        f"90 [stated] holds for {sum(50 <= r <= 90 for r in ratios)} of the {len(ratios)} rows. Parameters count W_up and W_down of all "
        "experts."
    )
    page.notes.append(MARKS)
    return page.write(out / "table2") + draw(_panels(records, most), "Overlap across scale (Table 2)", out / "table2")


def _panels(records: Sequence[Record], trials: int) -> list[Panel]:
    rows = table(2)
    widths = [float(row["d_model"]) for row in rows]
    overlap = Panel("Mean squared overlap", "d_model", "mean squared overlap", x_ticks=widths, log_y=True)
    records = _with_trials(records, trials)
    for name, side in QUANTITIES.items():
        values = [estimate(r, name) for r in records]
        overlap.ours.append(
            Series(f"{side}, ours, {trials} trials", widths, [v.mean or 0.0 for v in values], [v.sem or 0.0 for v in values])
        )
        laws = [law_nulls([_spec(row, int(row["d_model"]))], 1, side)[0][0] for row in rows]
        overlap.laws.append(Series(f"{side}, law {'1/(d d_ff)' if side == 'weight' else '1/d'}", widths, laws))
    published = [v for number in range(2) for v in ((d, reported(row)[number].value) for d, row in zip(widths, rows, strict=True))]
    overlap.published.append(Series("published", [x for x, _ in published], [y for _, y in published]))

    ratio = Panel("Activation over weight", "d_model", "ratio of overlaps", x_ticks=widths, log_y=True)
    ratios = [gap_and_ratio(r)[1] for r in records]
    ratio.ours.append(Series(f"ours, {trials} trials", widths, [r.mean or 0.0 for r in ratios], [r.sem or 0.0 for r in ratios]))
    ratio.laws.append(Series("law d_ff = 4d", widths, [float(row["d_ff"]) for row in rows]))
    ratio.published.append(Series("published", widths, [reported(row)[1].value / reported(row)[0].value for row in rows]))
    return [overlap, ratio]
