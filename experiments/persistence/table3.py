"""Table 3 of the persistence paper: activation overlap and gap across five architectures."""

from collections.abc import Sequence
from pathlib import Path

from experiments.cells import Bench, Record, estimate
from experiments.persistence.beside import COLUMNS, QUANTITIES, fair_wording, readings_table, rows_beside, width_verdict
from experiments.persistence.published import MARKS, TRIALS, expert, reported, table
from experiments.persistence.readings import judge, law_nulls, reading_cell
from simgap import LayerSpec
from simgap.report.figure import Panel, Series, draw
from simgap.report.table import Table

WIDTH = 128  # [stated]
FITTING_WIDTH = 64
LAW_TRIALS = 200
PRESETS = {"smoke": ([TRIALS], 20), "full": ([TRIALS, LAW_TRIALS], LAW_TRIALS)}  # trials of the table, trials of the other readings


def compute(preset: str, bench: Bench) -> list[Record]:
    """Every architecture at the printed width and at one that fits, and the other readings at the printed width."""
    table_trials, reading_trials = PRESETS[preset]
    rows = table(3)
    records = []
    for width, trials in (*((WIDTH, trials) for trials in table_trials), (FITTING_WIDTH, TRIALS)):
        labels = [{"architecture": row["architecture"], "d_model": width, "trials": trials} for row in rows]
        records += bench.sweep([(own, _spec(row, width)) for own, row in zip(labels, rows, strict=True)], list(QUANTITIES), trials)
    return records + bench.run([reading_cell(_spec(row, WIDTH), reading_trials, architecture=row["architecture"]) for row in rows])


def _spec(row: dict[str, str], width: int) -> LayerSpec:
    return expert(width, int(row["d_ff"]), int(row["n_experts"]), int(row["top_k"]))


def _at(records: Sequence[Record], width: int, trials: int) -> list[Record]:
    return [r for r in records if r["labels"].get("d_model") == width and r["labels"].get("trials") == trials]


def render(records: Sequence[Record], out: Path) -> list[Path]:
    rows = table(3)
    most = max(r["labels"].get("trials", 0) for r in records)
    page = Table(f"Table 3 beside the law and ours: d = {WIDTH}", ["architecture", "E", "k", "d_ff", *COLUMNS])
    for trials in dict.fromkeys((TRIALS, most)):
        for row, record in zip(rows, _at(records, WIDTH, trials), strict=True):
            labels = [row["architecture"], int(row["n_experts"]), int(row["top_k"]), int(row["d_ff"])]
            page.rows += rows_beside(labels, row, _spec(row, WIDTH), record)
    # The number of trials is not given: one trial's spread excludes the least.
    sentence, fits = width_verdict(rows, _spec, 1, "[unknown]")
    verdicts = judge(rows, [r for r in records if "readings" in r["labels"]], 1)
    page.notes = [sentence, fair_wording(verdicts, [d for d in fits if d & (d - 1) == 0]), _implied_note(rows), MARKS]
    page.sections = [readings_table(verdicts, 1, "[unknown]")]
    return page.write(out / "table3") + draw(_panels(records), "Overlap across architectures (Table 3)", out / "table3")


def _implied_note(rows: Sequence[dict[str, str]]) -> str:
    """Which rows' implied weight overlaps can tell the widths apart at all."""
    telling = []
    for row in rows:
        weight, _ = reported(row)
        ps = [weight.p(law_nulls([_spec(row, width)], 1, "weight")[0]) for width in (WIDTH, FITTING_WIDTH)]
        if max(ps) >= 0.05 > min(ps):
            telling.append(f"{row['architecture']} (p {ps[0]:.2g} at d = {WIDTH}, {ps[1]:.2g} at d = {FITTING_WIDTH})")
    return (
        "Weight overlaps are not printed in this table; activation minus gap implies them up to both roundings. Only these rows tell the "
        f"widths apart by them: {', '.join(telling) or 'none'}."
    )


def _panels(records: Sequence[Record]) -> list[Panel]:
    rows = table(3)
    at = list(range(len(rows)))
    ticks = [row["architecture"].replace("-", "\n") for row in rows]
    activation = Panel("Activation MSO", "architecture", "mean squared overlap", ticks=ticks)
    weight = Panel("Weight MSO (published: activation minus gap)", "architecture", "mean squared overlap", ticks=ticks)
    for panel, name, side in ((activation, "activation_mso mean output", "activation"), (weight, "weight_mso up", "weight")):
        for width in (WIDTH, FITTING_WIDTH):
            values = [estimate(r, name) for r in _at(records, width, TRIALS)]
            label = f"ours, d = {width}, {TRIALS} trials"
            panel.ours.append(Series(label, at, [v.mean or 0.0 for v in values], [v.sem or 0.0 for v in values]))
            law = [law_nulls([_spec(row, width)], 1, side)[0][0] for row in rows]
            panel.laws.append(Series(f"law at d = {width}", at, law))
    activation.published.append(Series("published, d = 128 printed", at, [reported(row)[1].value for row in rows]))
    implied = [reported(row)[0] for row in rows]
    weight.published.append(Series("published, with its rounding", at, [v.value for v in implied], [v.half_unit for v in implied]))
    return [activation, weight]
