"""A gap as a table: measured, null, excess and z side by side. What prints it, in a terminal, a notebook and a frame."""

from typing import TYPE_CHECKING, Any, NamedTuple

from simgap.api.calibration import Comparison, calibrate, nulls_of, row, sentence
from simgap.notebook import table
from simgap.null_names import TABLE
from simgap.nulls import Prediction
from simgap.quantities import Quantity
from simgap.results import Gap
from simgap.stats import Estimate, p_text

if TYPE_CHECKING:
    from pandas import DataFrame

HEADER = ("quantity", "measured", "null", "kind", "excess", "z", "p")


class Shown(NamedTuple):
    """The cells of a table, its header first, the lines below it, and what else is shown below them."""

    rows: list[tuple[str, ...]]
    notes: list[str]
    below: Any = None

    def __str__(self) -> str:
        return "\n".join(aligned(self.rows) + self.notes + ([] if self.below is None else ["", str(self.below)]))

    def html(self) -> str:
        return table(self.rows, self.notes) + ("" if self.below is None else self.below._repr_html_())


def shown(gap: Gap) -> Shown:
    """The table of a gap: measured values beside their nulls, as `predict` gives them; predictions with their laws; or calibrations."""
    kind = type(next(iter(gap.values.values()), None))
    if kind is Prediction:
        return prediction_table(gap)
    if kind is Comparison:
        rows = [(_name(q), number(c.mean), number(c.null), number(c.excess), _z(c), _p(c.p)) for q, c in gap.values.items()]
        missing: dict[str, list[str]] = {}
        notes = []
        for quantity, c in gap.values.items():
            if c.mean is not None and c.null is None:
                missing.setdefault(c.why, []).append(_name(quantity))
            if c.dropped:
                notes.append(f"{_name(quantity)}: {c.dropped} pairs left out ({c.dropped_at})")
        notes += _supposed(gap) + _reasons(missing) + _routing(gap)
        return Shown([("quantity", "value", "null", "excess", "z", "p"), *rows], notes, gap.explanation)
    nulls = nulls_of(gap)
    return gap_table(gap, nulls, calibrate(gap, nulls))


def frame_of(gap: Gap) -> "DataFrame":
    """A row to a quantity: measured values with their nulls, in the columns of a sweep's frame; of predictions and calibrations all that
    they say."""
    import pandas as pd

    if isinstance(next(iter(gap.values.values()), None), Estimate):
        nulls = nulls_of(gap)
        judged = calibrate(gap, nulls)
        rows = {quantity: row(value, nulls[quantity], judged[quantity]) for quantity, value in gap.values.items()}
    else:
        rows = {quantity: {"mean": value.mean, **value.as_dict()} for quantity, value in gap.values.items()}
    return pd.DataFrame([{"quantity": str(quantity), **plain} for quantity, plain in rows.items()])


def gap_table(measured: Gap[Estimate], predicted: Gap[Prediction], calibration: Gap[Comparison]) -> Shown:
    """One line per quantity of a measured gap beside its null, then routing, whatever was left out, and the one thing to take away."""
    rows: list[tuple[str, ...]] = [HEADER]
    notes: list[str] = []
    missing: dict[str, list[str]] = {}
    for quantity, value in measured.values.items():
        if value.mean is None:
            continue
        name, null, q = _name(quantity), predicted[quantity], calibration[quantity]
        rows.append((name, _with_error(value), number(null.mean), null.kind or "-", number(q.excess), _z(q), _p(q.p)))
        if null.mean is None:
            missing.setdefault(null.why, []).append(name)
        if value.dropped:
            notes.append(f"{name}: {value.dropped} pairs left out ({value.dropped_at})")
    notes += _named(measured) + _routing(measured)
    said = [sentence(measured, calibration)] if "output" in measured.activation_mso.get("mean", {}) else []
    return Shown(rows, [*notes, *_reasons(missing), *said], measured.explanation)


def prediction_table(predicted: Gap[Prediction], hypotheses: bool = False) -> Shown:
    """One line per predicted quantity with its law, then what each law rests on where `hypotheses`, then the quantities that have none,
    with the reason."""
    rows: list[tuple[str, ...]] = [("quantity", "null", "sd", "kind", "error", "law")]
    missing: dict[str, list[str]] = {}
    laws: dict[str, dict[str, None]] = {}
    for quantity, value in predicted.values.items():
        if value.mean is None:
            missing.setdefault(value.why, []).append(_name(quantity))
            continue
        rows.append((_name(quantity), number(value.mean), number(value.sd), value.kind or "-", value.order or "-", value.law or "-"))
        laws.setdefault(value.law or "-", {}).update(dict.fromkeys(value.hypotheses))
    stated = [f"{law} holds where: {'; '.join(of_law)}" for law, of_law in laws.items() if hypotheses]
    return Shown(rows, [*stated, *_named(predicted), *_reasons(missing)])


def _named(gap: Gap) -> list[str]:
    """The null, where it was chosen by name."""
    return [] if gap.null == "law" else [f"null {gap.null}: {TABLE[gap.null].chance}"]


def _routing(gap: Gap) -> list[str]:
    if not gap.routing:
        return []
    load, idle, dropped, tokens = (gap.routing[name] for name in ("load", "idle_experts", "dropped_tokens", "tokens"))
    loads = f"load per expert {min(load):.3f} to {max(load):.3f} (balanced {1 / len(load):.3f})"
    return [f"{loads}, idle experts {idle}, dropped tokens {dropped} of {tokens}"]


def _supposed(gap: Gap[Comparison]) -> list[str]:
    """What the nulls are of."""
    names: dict[str, list[str]] = {}
    for quantity, c in gap.values.items():
        if c.null is not None:
            names.setdefault(c.supposes.rstrip(","), []).append(_name(quantity))
    return [f"null of {', '.join(of)}: {supposes}" for supposes, of in names.items()]


def _reasons(missing: dict[str, list[str]]) -> list[str]:
    return [f"no null for {', '.join(names)}: {why}" for why, names in missing.items()]


def _name(quantity: Quantity) -> str:
    """A quantity as a table has room for it: "mean output" is taken for an activation's."""
    return str(quantity).replace("activation_mso ", "activation ").replace("weight_mso ", "weight ")


def _with_error(value: Estimate) -> str:
    return number(value.mean) + ("" if value.sem is None else f" ± {value.sem:.1g}")


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _p(value: float | None) -> str:
    return "-" if value is None else p_text(value).removeprefix("p ")


def _z(value: Comparison) -> str:
    """Of sd of the null, where nothing else is said."""
    return "-" if value.z is None else f"{value.z:+.1f}{' sem' if value.z_unit == 'sem' else ''}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
