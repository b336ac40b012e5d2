"""A layer's fields by dotted name, and drafts: the values of a cell before it is known whether a layer can be built of them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

from simgap.checks import nearest
from simgap.specs import NESTED, LayerSpec

OUTER: dict[str, Any] = {f.name: f.type for f in fields(LayerSpec) if f.name not in NESTED}
# The kind comes first.
INNER: dict[str, dict[str, Any]] = {outer: {f"{outer}.{f.name}": f.type for f in fields(kind)} for outer, kind in NESTED.items()}
# Every field of a layer, such as "d_model" or "router.temperature", with its type.
TYPES = {**OUTER, **{name: kind for inner in INNER.values() for name, kind in inner.items()}}
NAMES = tuple(TYPES)


def field_name(name: str) -> str:
    """The dotted name that a user's means: "router" is "router.kind". Raises ValueError for a field that no layer has."""
    full = f"{name}.kind" if name in NESTED else name
    if full not in TYPES:
        raise ValueError(f"a layer has no field {name!r}{nearest(str(name), [*NAMES, *NESTED])}")
    return full


_READ = attrgetter(*NAMES)


def flat(spec: LayerSpec) -> dict[str, Any]:
    """The values of a layer's fields by dotted name, in the order of NAMES."""
    return dict(zip(NAMES, _READ(spec), strict=True))


def build(values: Mapping[str, Any]) -> LayerSpec:
    """The layer with the given value of every field. Raises ValueError as LayerSpec does."""
    nested = {outer: _nested(outer, [values[name] for name in names]) for outer, names in INNER.items()}
    return LayerSpec(**{name: values[name] for name in OUTER}, **nested)


def _nested(outer: str, values: Sequence[Any]) -> Any:
    try:
        return _shared(outer, *values)
    except TypeError:  # a value that cannot be hashed is none that a spec takes, and the spec says so
        return NESTED[outer](*values)


# Typed, since True equals 1 and is no temperature.
@lru_cache(1024, typed=True)
def _shared(outer: str, *values: Any) -> Any:
    """Layers of equal routers share one: a hundred thousand cells hold a handful."""
    return NESTED[outer](*values)


class Draft:
    """What `where` and dependent fields see of a cell: s.d_model, s.router.temperature, read only; s.router equals its kind's name."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self._prefix = values, prefix

    def __getattr__(self, name: str) -> Any:
        full = self._prefix + name
        if not self._prefix and name in NESTED:
            return Draft(self._values, f"{name}.")
        if full not in self._values and full in TYPES:
            raise AttributeError(f"{full} follows from others itself and comes later; put it before")
        if full not in self._values:
            raise AttributeError(f"a layer has no field {full!r}{nearest(full, [*NAMES, *NESTED])}")
        return self._values[full]

    def __eq__(self, other: object) -> bool:
        # Without this s.router == "soft" would be false of every cell, and say nothing.
        return self._values[f"{self._prefix}kind"] == other if self._prefix and isinstance(other, str) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
