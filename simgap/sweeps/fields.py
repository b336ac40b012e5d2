"""A layer's fields by dotted name, and drafts: the values of a cell before it is known whether a layer can be built of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin

from simgap.specs import InputSpec, LayerSpec, RouterSpec, nearest

NESTED: dict[str, type] = {"router": RouterSpec, "inputs": InputSpec}


def _types() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(LayerSpec):
        inner = fields(NESTED[item.name]) if item.name in NESTED else ()
        found |= {f"{item.name}.{f.name}": f.type for f in inner} or {item.name: item.type}
    return found


# Every field of a layer, such as "d_model" or "router.temperature", with its type.
TYPES = _types()
NAMES = tuple(TYPES)


def field_name(name: str) -> str:
    """The dotted name that a user's means: "router" is "router.kind". Raises ValueError for a field that no layer has."""
    full = f"{name}.kind" if name in NESTED else name
    if full not in TYPES:
        raise ValueError(f"a layer has no field {name!r}{nearest(str(name), [*NAMES, *NESTED])}")
    return full


def kinds_of(name: str) -> tuple[str, ...]:
    """The names that a field may take, where it is a choice among names."""
    return get_args(TYPES[name]) if get_origin(TYPES[name]) is Literal else ()


_READ = attrgetter(*NAMES)


def flat(spec: LayerSpec) -> dict[str, Any]:
    """The values of a layer's fields by dotted name, in the order of NAMES."""
    return dict(zip(NAMES, _READ(spec), strict=True))


def build(values: Mapping[str, Any]) -> LayerSpec:
    """The layer with the given value of every field. Raises ValueError as LayerSpec does."""
    return Builder(LayerSpec(), NAMES)([values[name] for name in NAMES])


@dataclass(frozen=True)
class Builder:
    """Makes layers of `base` with the named fields set to a row of values; what the rows have in common is looked up once."""

    base: LayerSpec
    names: tuple[str, ...]
    _plain: dict[str, Any] = field(init=False, repr=False)
    _tables: dict[str, tuple[tuple[str, Any], ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        start = flat(self.base)
        touched = {name.partition(".")[0] for name in self.names if "." in name}
        tables = {outer: tuple((f"{outer}.{f.name}", start[f"{outer}.{f.name}"]) for f in fields(NESTED[outer])) for outer in touched}
        object.__setattr__(self, "_plain", {f.name: getattr(self.base, f.name) for f in fields(LayerSpec)})
        object.__setattr__(self, "_tables", tables)

    def __call__(self, row: Sequence[Any]) -> LayerSpec:
        """Raises ValueError as LayerSpec does."""
        values = dict(zip(self.names, row, strict=True))
        nested = {outer: _nested(outer, [values.get(name, given) for name, given in table]) for outer, table in self._tables.items()}
        return LayerSpec(**{**self._plain, **{name: value for name, value in values.items() if "." not in name}, **nested})


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
