"""The cells of a sweep: layers of one base that differ in some fields."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import Any, overload

import numpy as np
from jaxtyping import Int, UInt64

from simgap.checks import absolute, printable
from simgap.notebook import table
from simgap.specs import LayerSpec
from simgap.sweeps.fields import TYPES, build, flat
from simgap.sweeps.progress import counted

# More cells than any sweep has finished; a design of more is taken for a slip before it fills the memory.
MOST_CELLS = 10_000_000
PATH = "inputs.path"
# Cells that a notebook shows.
MOST_SHOWN = 20


@dataclass(frozen=True)
class LeftOut:
    """A cell of a design that is not run: what it varies, and why not."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


@dataclass(frozen=True, eq=False)
class Cells(Sequence[LayerSpec]):
    """Distinct layers, in order. cells[i] is a LayerSpec, cells[a:b] are Cells, and cells + more adds those that are not there yet.

    base: the layer around which they are. names: the fields that vary. layers: the cells. keys (n,): their LayerSpec.key(), as integers.
    left_out: cells of the design that cannot be built or are too large, with the reason.
    """

    base: LayerSpec
    names: tuple[str, ...]
    layers: tuple[LayerSpec, ...]
    keys: UInt64[np.ndarray, " n"]
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, specs: Iterable[LayerSpec], progress: bool | None = None) -> "Cells":
        """The given layers as cells. Raises ValueError for anything that is not a LayerSpec, and for none."""
        if not isinstance(specs, Iterable):
            raise ValueError(f"cells: expected layers, such as those of sg.grid, got {type(specs).__name__}")
        layers = list(islice(specs, MOST_CELLS + 1))
        if len(layers) > MOST_CELLS:
            raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, got more")
        for spec in layers:
            if not isinstance(spec, LayerSpec):
                raise ValueError(f"cells: expected LayerSpecs, got {type(spec).__name__}")
        if not layers:
            raise ValueError("cells: expected at least one layer, got none")
        start = flat(layers[0])
        names = tuple(name for name, value in start.items() if any(attrgetter(name)(spec) != value for spec in layers))
        rows = (tuple(flat(spec)[name] for name in names) for spec in layers)
        return cells_of(layers[0], names, counted(rows, "reading cells", len(layers), progress))

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, at: int) -> LayerSpec: ...
    @overload
    def __getitem__(self, at: slice) -> "Cells": ...
    def __getitem__(self, at: int | slice) -> "LayerSpec | Cells":
        return replace(self, layers=self.layers[at], keys=self.keys[at]) if isinstance(at, slice) else self.layers[at]

    def __iter__(self) -> Iterator[LayerSpec]:
        return iter(self.layers)

    def __add__(self, other: "Cells") -> "Cells":
        return united([self, other]) if isinstance(other, Cells) else NotImplemented

    def take(self, numbers: Sequence[int] | Int[np.ndarray, " m"]) -> "Cells":
        """The cells of these numbers, in their order."""
        return replace(self, layers=tuple(self.layers[at] for at in numbers), keys=self.keys[np.asarray(numbers, np.int64)])

    def values(self, at: int) -> dict[str, Any]:
        """The values of the fields that vary, of one cell."""
        return {name: attrgetter(name)(self.layers[at]) for name in self.names}

    def name(self, at: int) -> str:
        """One cell in words: what it varies, or its key where nothing does."""
        return named(self.values(at)) or f"cell {self.key(at)}"

    def key(self, at: int) -> str:
        return f"{int(self.keys[at]):016x}"

    def at_most(self, parameters: float, progress: bool | None = None) -> "Cells":
        """The cells of at most so many parameters; the others are left out by name."""
        if isinstance(parameters, bool) or not isinstance(parameters, int | float) or not parameters > 0:
            raise ValueError(f"max_parameters: expected a number above 0, got {parameters!r}")
        fits = np.array([spec.parameters <= parameters for spec in counted(self, "sizes of cells", len(self), progress)], bool)
        too_large = [(at, self[at].parameters) for at in np.flatnonzero(~fits).tolist()]
        out = [LeftOut(self.name(at), f"{count:.4g} parameters, more than {parameters:.4g}") for at, count in too_large]
        return replace(self.take(np.flatnonzero(fits)), left_out=(*self.left_out, *out))

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as a manifest holds them: of every field that varies its values, and which of them each cell has; about 16 bytes a
        cell, and 3 for every such field."""
        columns, codes = {}, []
        for name in self.names:
            # A layer holds one type to a field, so that equal values are one value.
            numbers: dict[Any, int] = {}
            codes.append([numbers.setdefault(attrgetter(name)(layer), len(numbers)) for layer in self.layers])
            columns[name] = list(numbers)
        return {
            "base": flat(self.base),
            "columns": columns,
            "codes": codes,
            "keys": self.keys.astype(">u8").tobytes().hex(),
            "left_out": [[cell.name, cell.why] for cell in self.left_out],
        }

    @classmethod
    def from_plain(cls, plain: object) -> "Cells":
        """What `to_plain` gave. Raises ValueError for anything else: a manifest may come from anywhere.

        The keys are taken as they stand, so that results can be read where a file of inputs is gone and by a simgap whose layers have
        more fields; see `check_keys`.
        """
        try:
            if not isinstance(plain, Mapping):
                raise ValueError(f"expected a table, got {type(plain).__name__}")
            return _from_plain(plain)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"cells: not a table of cells: {error if isinstance(error, ValueError) else repr(error)}") from None

    def check_keys(self) -> None:
        """Raises ValueError for a cell whose key is not its layer's: a file of inputs that changed, or another simgap's cells."""
        for at, spec in enumerate(self):
            if int(spec.key(), 16) != self.keys[at]:
                other = "another simgap wrote it, or it was changed"
                why = f"the file {spec.inputs.path!r} changed" if spec.inputs.kind == "file" else other
                raise ValueError(f"cells: {self.name(at)} is not what its key {self.key(at)} says: {why}")

    def __repr__(self) -> str:
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"Cells({len(self)} of {', '.join(self.names) or 'nothing'}{left})"

    def _repr_html_(self) -> str:
        """What the first cells vary."""
        rows = [self.values(at).values() for at in range(min(len(self), MOST_SHOWN))]
        return table([self.names, *map(list, rows)], [f"{self!r}{', of which the first are shown' if len(self) > MOST_SHOWN else ''}"])


def cells_of(base: LayerSpec, names: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> Cells:
    """Cells of `base` with the named fields set to each row's values; those that cannot be built are left out with the reason.

    A cell that came before is not taken twice. A file of inputs is the one that its path leads to now, wherever this process goes later
    and wherever a worker is.
    """
    start = _rooted(flat(base))
    layers: dict[int, LayerSpec] = {}
    left_out = []
    for row in rows:
        values = _rooted(start | dict(zip(names, row, strict=True)))
        try:
            layer = build(values)
            layers.setdefault(int(layer.key(), 16), layer)
        except ValueError as error:
            left_out.append(LeftOut(named({name: values[name] for name in names}), str(error)))
        if len(layers) > MOST_CELLS:
            raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, this design has more")
    return _keyed(build(start), names, layers, left_out)


def _keyed(base: LayerSpec, names: tuple[str, ...], layers: Mapping[int, LayerSpec], left_out: Iterable[LeftOut]) -> Cells:
    """Cells by their keys."""
    return Cells(base, names, tuple(layers.values()), np.fromiter(layers, np.uint64, len(layers)), tuple(left_out))


def _rooted(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a layer's fields, the path of its inputs as one from the root."""
    path = values[PATH]
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    return values | {PATH: absolute(PATH, name)} if name and isinstance(name, str) else values


def united(parts: Sequence[Cells]) -> Cells:
    """The cells of all parts, around the base of the first, each once. Raises ValueError where they are too many."""
    layers: dict[int, LayerSpec] = {}
    for part in parts:
        for key, layer in zip(part.keys.tolist(), part, strict=True):
            layers.setdefault(key, layer)
    if len(layers) > MOST_CELLS:
        raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, these are {len(layers):,}")
    varied, bases = (
        [name for part in parts for name in part.names],
        [name for part in parts for name in differing(parts[0].base, part.base)],
    )
    return _keyed(
        parts[0].base, tuple(dict.fromkeys(varied + bases)), layers, dict.fromkeys(cell for part in parts for cell in part.left_out)
    )


def _from_plain(plain: Mapping[str, Any]) -> Cells:
    """Raises what malformed values raise."""
    digits = bytes.fromhex(plain["keys"])
    if len(digits) % 8:
        raise ValueError("keys: expected 16 hex digits to a cell")
    keys = np.frombuffer(digits, ">u8").astype(np.uint64)
    if len(np.unique(keys)) != len(keys):
        raise ValueError("keys: one comes twice")
    columns, codes, left_out = plain["columns"], plain["codes"], plain["left_out"]
    for name in (*plain["base"], *columns):
        if name not in TYPES:
            raise ValueError(f"a layer has no field {name!r}")
    if not all(isinstance(part, list) for part in (codes, left_out, *codes, *columns.values(), *left_out)) or len(codes) != len(columns):
        raise ValueError("codes: expected a list of numbers for every column")
    for name, column in zip(columns, codes, strict=True):
        if len(column) != len(keys) or not all(type(code) is int and 0 <= code < len(columns[name]) for code in column):
            raise ValueError(f"codes: expected the number of a value of {name} for each of {len(keys)} cells")
    start = flat(LayerSpec()) | plain["base"]
    chosen = [[columns[name][code] for code in column] for name, column in zip(columns, codes, strict=True)]
    rows = zip(*chosen, strict=True) if columns else [()] * len(keys)
    layers = tuple(build(start | dict(zip(columns, row, strict=True))) for row in rows)
    return Cells(build(start), tuple(columns), layers, keys, tuple(LeftOut(str(name), str(why)) for name, why in left_out))


def named(values: Mapping[str, Any]) -> str:
    """'d_model = 32, router.kind = soft'."""
    shown = (
        f"{name} = {value:.6g}" if TYPES.get(name) is float and isinstance(value, float) else f"{name} = {value}"
        for name, value in values.items()
    )
    return printable(", ".join(shown))


def differing(a: LayerSpec, b: LayerSpec) -> list[str]:
    """The fields in which two layers differ."""
    mine, theirs = flat(a), flat(b)
    return [name for name in mine if mine[name] != theirs[name]]
