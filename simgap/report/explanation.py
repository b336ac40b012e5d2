"""An explanation of an overlap as a table and as a waterfall."""

from pathlib import Path
from typing import Any

from simgap.api.explanation import OWN, TOKEN, Explanation, Rung
from simgap.report.figure import saved
from simgap.report.gap import Shown, number

# Shade and hatching tell the readings apart, without colour.
BARS: dict[str, dict[str, Any]] = {
    "raw": {"facecolor": "#6b6b6b", "edgecolor": "#000000"},
    "whitened": {"facecolor": "#ffffff", "edgecolor": "#000000", "hatch": "////"},
}
MARKS: dict[str, dict[str, Any]] = {
    "raw": {"marker": "D", "color": "#000000"},
    "whitened": {"marker": "D", "color": "#000000", "mfc": "#ffffff"},
}


def shown(explanation: Explanation) -> Shown:
    """A line to a rung, with the other reading's columns beside it where there is one; below it the paragraph and notes."""
    raw = [rung for rung in explanation.rows if rung.reading == "raw"]
    white = {rung.name: rung for rung in explanation.rows if rung.reading == "whitened"}
    header: tuple[str, ...] = ("rung", "overlap", "factor", *(("whitened", "factor") if white else ()), "law", "assumes")
    rows = [header]
    for rung in raw:
        other = white.get(rung.name)
        beside = (_value(other), _factor(other)) if white else ()
        rows.append((rung.name, _value(rung), _factor(rung), *beside, rung.law, rung.assumes))
    return Shown(rows, [explanation.paragraph, *explanation.notes])


def _value(rung: Rung | None) -> str:
    if rung is None:
        return "-"
    return number(rung.value) + (f" ± {rung.error:.1g}" if rung.error else "")


def _factor(rung: Rung | None) -> str:
    if rung is None or rung.factor is None:
        return "-"
    over = "own/L2 " if rung.name == OWN else "x "
    return f"{over}{rung.factor:.3g}" + (f" ± {rung.factor_error:.1g}" if rung.factor_error else "")


def waterfall(explanation: Explanation, stem: Path) -> list[Path]:
    """A bar from each rung to the next on a logarithmic axis, with its factor and the error of the value that it reaches, into STEM.png and
    STEM.pdf. matplotlib's defaults hold; the user's stay as they are."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(rung.name for rung in explanation.rows))
    readings = list(dict.fromkeys(rung.reading for rung in explanation.rows))
    values = [rung.value for rung in explanation.rows if rung.value > 0]
    # The lowest rung stands on the floor.
    floor = min(values) / 1.6
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axis = figure.subplots()
        wide = 0.7 / len(readings)
        for number_of, reading in enumerate(readings):
            shift = (number_of - (len(readings) - 1) / 2) * wide
            _draw_ladder(axis, explanation, reading, names, shift, wide, floor)
        axis.set_yscale("log")
        axis.set_ylim(floor, max(values) * 2.2)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_xticks(range(len(names)), [f"{name}\n(beside them)" if name == OWN else name for name in names], fontsize=9)
        axis.set_ylabel("overlap, log scale; bars: one standard error over experts")
        axis.yaxis.label.set_fontsize(8)
        axis.set_title(
            f"Why the overlap is {explanation[TOKEN].value:.3g}: {explanation.experts} experts in {explanation.width} dimensions",
            fontsize=10,
        )
        axis.grid(axis="y", alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        if len(readings) > 1:
            axis.legend(loc="upper left", fontsize=8, frameon=False)
        return saved(figure, stem)


def _draw_ladder(axis: Any, explanation: Explanation, reading: str, names: list[str], shift: float, wide: float, floor: float) -> None:
    below, last = floor, None
    for rung in explanation.ladder(reading):
        at, value = names.index(rung.name) + shift, max(rung.value, floor)
        axis.bar(at, abs(value - below), wide, min(below, value), label=reading if last is None else None, linewidth=0.9, **BARS[reading])
        if last is not None:
            axis.plot([last + wide / 2, at - wide / 2], [below, below], color="#000000", linewidth=0.7, linestyle=":")
        _errors(axis, at, rung, floor, {"fmt": "none", "ecolor": "#000000"})
        if rung.factor is not None:
            top = max(value + (rung.error or 0), below)
            axis.annotate(f"x {rung.factor:.3g}", (at, top), (0, 4), textcoords="offset points", ha="center", fontsize=8)
        below, last = value, at
    for rung in explanation.rows:
        if rung.reading == reading and rung.name == OWN and rung.value > 0:
            at = names.index(OWN) + shift
            _errors(axis, at, rung, floor, {**MARKS[reading], "ecolor": "#000000"})
            label = f"{rung.factor:.3g} times\nshared space" if rung.factor is not None else ""
            axis.annotate(label, (at, rung.value + (rung.error or 0)), (0, 5), textcoords="offset points", ha="center", fontsize=8)


def _errors(axis: Any, at: float, rung: Rung, floor: float, style: dict[str, Any]) -> None:
    error = rung.error or 0.0
    axis.errorbar([at], [rung.value], [[min(error, max(rung.value - floor, 0.0))], [error]], capsize=3, linewidth=1, markersize=6, **style)
