"""The one shape that measured, predicted and calibrated quantities share, so that a table is three of them side by side."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from simgap.checks import nearest
from simgap.quantities import ROUTED, SHARED, Quantity
from simgap.specs import LayerSpec, RunSpec

if TYPE_CHECKING:
    from pandas import DataFrame


@runtime_checkable
class Value(Protocol):
    """An Estimate, a Prediction or a Comparison: a mean that may be None, with `why`."""

    @property
    def mean(self) -> float | None: ...
    def as_dict(self) -> dict[str, Any]: ...


V = TypeVar("V", bound=Value)
W = TypeVar("W", bound=Value)


@dataclass(frozen=True)
class Gap(Generic[V]):
    """The quantities of one layer, each with its value: gap["activation_mso mean output"], gap["routing load_entropy"].

    weight_mso[kind]; kind: up, gate, down, all (flattened together). activation_mso[reading][site]; reading: "mean" (mean vectors of
    experts over their routed tokens), "token" (co-activated experts on a token), "all" (every pair of routed experts on every token); site:
    pre, hidden, normed, output. gap: activation "mean"/"output" minus weight "up"; ratio: of those means. shared holds the pairs of a
    routed with a shared expert in the same shape, None without shared experts. routing: load (share of each expert), idle experts and
    dropped tokens, when measured. null: the name of what the values are held against. explanation: where the
    overlap of outputs on a token comes from, an `Explanation` of the first trial, where `measure` was asked for it.
    """

    spec: LayerSpec
    run: RunSpec
    values: Mapping[Quantity, V]
    routing: dict[str, Any] = field(default_factory=dict)
    side: str = ROUTED
    null: str = "law"
    explanation: Any = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str | Quantity) -> V:
        """The value of a quantity, or of its text. Raises ValueError for one that is not here."""
        if isinstance(name, Quantity) and name in self.values:
            return self.values[name]
        here = {str(quantity): quantity for quantity in self.values}
        if (text := str(name)) not in here:
            raise ValueError(f"{text!r}: not among these quantities{nearest(text, list(here)) or f': {chr(44).join(here)}'}")
        return self.values[here[text]]

    @cached_property
    def weight_mso(self) -> dict[str, V]:
        return {q.site: value for q, value in self.values.items() if q.metric == "weight_mso" and q.side == self.side}

    @cached_property
    def activation_mso(self) -> dict[str, dict[str, V]]:
        by_reading: dict[str, dict[str, V]] = {}
        for q, value in self.values.items():
            if q.metric == "activation_mso" and q.side == self.side:
                by_reading.setdefault(q.reading, {})[q.site] = value
        return by_reading

    @property
    def gap(self) -> V:
        return self[Quantity("gap", side=self.side)]

    @property
    def ratio(self) -> V:
        return self[Quantity("ratio", side=self.side)]

    @cached_property
    def shared(self) -> "Gap[V] | None":
        values = {q: value for q, value in self.values.items() if q.side == SHARED}
        return Gap(self.spec, self.run, values, side=SHARED, null=self.null) if values and self.side == ROUTED else None

    def items(self) -> Iterator[tuple[tuple[str, ...], V]]:
        """Every quantity with its names, such as ("activation_mso", "mean", "output"); shared pairs not included."""
        return ((q.path, value) for q, value in self.values.items() if q.side == self.side)

    def combine(self, other: "Gap[W]", function: "Callable[[Quantity, V, W], Any]") -> "Gap[Any]":
        """A gap of function(quantity, mine, other's), over the quantities of this one."""
        missing = [str(quantity) for quantity in self.values if quantity not in other.values]
        if missing:
            raise ValueError(f"the two gaps hold different quantities: one lacks {', '.join(missing[:3])}")
        values = {quantity: function(quantity, value, other.values[quantity]) for quantity, value in self.values.items()}
        return replace(self, values=values)

    def __str__(self) -> str:
        """A table; of measured values beside their nulls, as the command prints it."""
        return str(_report().shown(self))

    def _repr_html_(self) -> str:
        return _report().shown(self).html()

    def to_frame(self) -> "DataFrame":
        """A row to a quantity (column "quantity"), in pandas: a measured one with its null and all that a sweep's frame says of the two."""
        return _report().frame_of(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where a quantity does not exist, never NaN."""
        plain: dict[str, Any] = {
            "weight_mso": {kind: value.as_dict() for kind, value in self.weight_mso.items()},
            "activation_mso": {r: {site: v.as_dict() for site, v in sites.items()} for r, sites in self.activation_mso.items()},
        }
        plain |= {q.metric: value.as_dict() for q, value in self.values.items() if q.metric in ("gap", "ratio") and q.side == self.side}
        plain |= {"quantities": {str(q): value.as_dict() for q, value in self.values.items()}} if self.side == ROUTED else {}
        if self.shared is not None:
            plain["shared"] = self.shared.as_dict()
        if self.routing:
            plain["routing"] = self.routing
        if self.explanation is not None:
            plain["explanation"] = self.explanation.as_dict()
        return plain


def _report() -> Any:
    """What prints a gap, which stands above it."""
    return import_module("simgap.report.gap")
