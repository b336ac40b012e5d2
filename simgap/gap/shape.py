"""The one shape that measured, predicted and calibrated gaps share, so that a table is three of them side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from simgap.specs import LayerSpec, RunSpec, nearest

WEIGHT_KINDS = ("up", "gate", "down", "all")
READINGS = ("mean", "token", "all")
SITES = ("pre", "hidden", "normed", "output")


@runtime_checkable
class Value(Protocol):
    """An Estimate, a Prediction or a Calibrated: a mean that may be None, with `why`."""

    @property
    def mean(self) -> float | None: ...
    def as_dict(self) -> dict[str, Any]: ...


V = TypeVar("V", bound=Value)
W = TypeVar("W", bound=Value)


@dataclass(frozen=True)
class Gap(Generic[V]):
    """Overlaps of one layer: weight_mso[kind], activation_mso[reading][site], their gap and ratio.

    kind: up, gate, down, all (flattened together). reading: "mean" (experts' mean vectors over their routed tokens), "token" (co-activated
    experts on a token), "all" (every pair of routed experts on every token). site: pre, hidden, normed, output. gap is activation
    "mean"/"output" minus weight "up"; ratio is the ratio of those means. shared holds the pairs of a routed with a shared expert in the
    same shape, None without shared experts. routing: load (share of each expert), idle experts and dropped tokens, when measured.
    """

    spec: LayerSpec
    run: RunSpec
    weight_mso: dict[str, V]
    activation_mso: dict[str, dict[str, V]]
    gap: V
    ratio: V
    shared: "Gap[V] | None" = None
    routing: dict[str, Any] = field(default_factory=dict)

    def items(self) -> Iterator[tuple[tuple[str, ...], V]]:
        """Every quantity with its path, such as ("activation_mso", "mean", "output"); shared pairs not included."""
        yield from ((("weight_mso", kind), value) for kind, value in self.weight_mso.items())
        for reading, sites in self.activation_mso.items():
            yield from ((("activation_mso", reading, site), value) for site, value in sites.items())
        yield ("gap",), self.gap
        yield ("ratio",), self.ratio

    def combine(self, other: "Gap[W]", function: "Callable[[tuple[str, ...], V, W], Any]") -> "Gap[Any]":
        """A gap of function(path, mine, other's), over the quantities of this one."""
        theirs = dict(other.items())
        missing = [" ".join(path) for path, _ in self.items() if path not in theirs]
        if missing:
            raise ValueError(f"the two gaps hold different quantities: one lacks {', '.join(missing[:3])}")
        values = {path: function(path, value, theirs[path]) for path, value in self.items()}
        return Gap(
            spec=self.spec,
            run=self.run,
            weight_mso={kind: values["weight_mso", kind] for kind in self.weight_mso},
            activation_mso={r: {site: values["activation_mso", r, site] for site in sites} for r, sites in self.activation_mso.items()},
            gap=values["gap",],
            ratio=values["ratio",],
            shared=None if self.shared is None or other.shared is None else self.shared.combine(other.shared, function),
            routing=self.routing,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where a quantity does not exist, never NaN."""
        plain: dict[str, Any] = {
            "weight_mso": {kind: value.as_dict() for kind, value in self.weight_mso.items()},
            "activation_mso": {r: {site: v.as_dict() for site, v in sites.items()} for r, sites in self.activation_mso.items()},
            "gap": self.gap.as_dict(),
            "ratio": self.ratio.as_dict(),
        }
        if self.shared is not None:
            plain["shared"] = self.shared.as_dict()
        if self.routing:
            plain["routing"] = self.routing
        return plain


def chosen_names(argument: str, names: Sequence[str] | str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names asked for, in the known order; ValueError for one that does not exist."""
    if not isinstance(names, str | Sequence):
        raise ValueError(f"{argument}: expected some of {', '.join(known)}, got {names!r}")
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument}: expected some of {', '.join(known)}, got {name!r}{nearest(str(name), known)}")
    return tuple(name for name in known if name in names)
