"""The cells of a sweep: layers of one base that differ in some fields, held as columns and built when they are looked at."""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from operator import attrgetter
from typing import Any, overload

import numpy as np
from jaxtyping import Int, UInt64

from simgap.notebook import table
from simgap.specs import LayerSpec, absolute, printable
from simgap.sweeps.fields import TYPES, Builder, build, flat
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

    base: the layer whose fields the cells change. columns: the distinct values of every field that varies. codes (n, columns): which of
    them each cell has. keys (n,): the cells' LayerSpec.key(), as integers. left_out: cells of the design that cannot be built or are too
    large, with the reason.
    """

    base: LayerSpec
    columns: dict[str, tuple[Any, ...]]
    codes: Int[np.ndarray, "n columns"]
    keys: UInt64[np.ndarray, " n"]
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, specs: Iterable[LayerSpec], progress: bool | None = None) -> "Cells":
        """The given layers as cells. Raises ValueError for anything that is not a LayerSpec, and for none."""
        if not isinstance(specs, Iterable):
            raise ValueError(f"cells: expected layers, such as those of sg.grid, got {type(specs).__name__}")
        found = list(islice(specs, MOST_CELLS + 1))
        if len(found) > MOST_CELLS:
            raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, got more")
        for spec in found:
            if not isinstance(spec, LayerSpec):
                raise ValueError(f"cells: expected LayerSpecs, got {type(spec).__name__}")
        if not found:
            raise ValueError("cells: expected at least one layer, got none")
        start = flat(found[0])
        names = tuple(name for name, value in start.items() if any(attrgetter(name)(spec) != value for spec in found))
        rows = (tuple(flat(spec)[name] for name in names) for spec in found)
        return cells_of(found[0], names, counted(rows, "reading cells", len(found), progress))

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> LayerSpec: ...
    @overload
    def __getitem__(self, at: slice) -> "Cells": ...
    def __getitem__(self, at: int | slice) -> "LayerSpec | Cells":
        if isinstance(at, slice):
            return self.take(at)
        return self._build(tuple(self.values(at).values()))

    def __iter__(self) -> Iterator[LayerSpec]:
        return (self[at] for at in range(len(self)))

    def __add__(self, other: "Cells") -> "Cells":
        return united([self, other]) if isinstance(other, Cells) else NotImplemented

    def take(self, numbers: slice | Sequence[int] | Int[np.ndarray, " m"]) -> "Cells":
        """The cells of these numbers, in their order."""
        at = numbers if isinstance(numbers, slice) else np.asarray(numbers, np.int64)
        return replace(self, codes=self.codes[at], keys=self.keys[at])

    def values(self, at: int) -> dict[str, Any]:
        """The values of the fields that vary, of one cell."""
        codes = self.codes[at].tolist()
        return {name: column[code] for (name, column), code in zip(self.columns.items(), codes, strict=True)}

    def name(self, at: int) -> str:
        """One cell in words: what it varies, or its key where nothing does."""
        return named(self.values(at)) or f"cell {self.key(at)}"

    def key(self, at: int) -> str:
        return f"{int(self.keys[at]):016x}"

    def at_most(self, parameters: float, progress: bool | None = None) -> "Cells":
        """The cells of at most so many parameters; the others are left out by name."""
        if isinstance(parameters, bool) or not isinstance(parameters, int | float) or not parameters > 0:
            raise ValueError(f"max_parameters: expected a number above 0, got {parameters!r}")
        keep, out = [], []
        for at, spec in enumerate(counted(self, "sizes of cells", len(self), progress)):
            if spec.parameters <= parameters:
                keep.append(at)
            else:
                out.append(LeftOut(self.name(at), f"{spec.parameters:.4g} parameters, more than {parameters:.4g}"))
        return replace(self.take(keep), left_out=(*self.left_out, *out))

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as a manifest holds them; about 16 bytes a cell, and 3 for every field that varies."""
        return {
            "base": flat(self.base),
            "columns": {name: list(values) for name, values in self.columns.items()},
            "codes": self.codes.T.tolist(),
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
            found = _from_plain(plain)
            for _ in found:
                pass
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"cells: not a table of cells: {error if isinstance(error, ValueError) else repr(error)}") from None
        return found

    def check_keys(self) -> None:
        """Raises ValueError for a cell whose key is not its layer's: a file of inputs that changed, or another simgap's cells."""
        for at, spec in enumerate(self):
            if int(spec.key(), 16) != self.keys[at]:
                other = "another simgap wrote it, or it was changed"
                why = f"the file {spec.inputs.path!r} changed" if spec.inputs.kind == "file" else other
                raise ValueError(f"cells: {self.name(at)} is not what its key {self.key(at)} says: {why}")

    @cached_property
    def _build(self) -> Builder:
        return Builder(self.base, tuple(self.columns))

    def rows(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Every cell's values of the named fields."""
        start = flat(self.base)
        for at in range(len(self)):
            values = start | self.values(at)
            yield tuple(values[name] for name in names)

    def __repr__(self) -> str:
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"Cells({len(self)} of {', '.join(self.columns) or 'nothing'}{left})"

    def _repr_html_(self) -> str:
        """What the first cells vary."""
        rows = [self.values(at).values() for at in range(min(len(self), MOST_SHOWN))]
        return table([[*self.columns], *map(list, rows)], [f"{self!r}{', of which the first are shown' if len(self) > MOST_SHOWN else ''}"])


def cells_of(base: LayerSpec, names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Cells:
    """Cells of `base` with the named fields set to each row's values; those that cannot be built are left out with the reason.

    A cell that came before is not taken twice. A file of inputs is the one that its path leads to now, wherever this process goes later
    and wherever a worker is.
    """
    if base.inputs.path:
        base = replace(base, inputs=replace(base.inputs, path=_whole(base.inputs.path)))
    if PATH in names:
        at = names.index(PATH)
        rows = ((*row[:at], _whole(row[at]), *row[at + 1 :]) for row in rows)
    make, left_out = Builder(base, names), []
    seen: set[int] = set()
    readers = [attrgetter(name) for name in names]
    codebooks: list[dict[Any, int]] = [{} for _ in names]
    # Arrays of machine numbers: a list of Python's takes ten times the memory.
    codes, keys = array("i"), array("Q")
    for row in rows:
        try:
            spec = make(row)
            key = int(spec.key(), 16)
        except ValueError as error:
            left_out.append(LeftOut(named(dict(zip(names, row, strict=True))), str(error)))
            continue
        if key in seen:
            continue
        if len(seen) == MOST_CELLS:
            raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, this design has more")
        seen.add(key)
        keys.append(key)
        # As the layer holds them: one type to a field, so that equal values are one value.
        codes.extend(book.setdefault(read(spec), len(book)) for read, book in zip(readers, codebooks, strict=True))
    table = np.array(codes, np.int32).reshape(len(keys), len(names))
    return Cells(base, dict(zip(names, map(tuple, codebooks), strict=True)), table, np.array(keys, np.uint64), tuple(left_out))


def _whole(path: Any) -> Any:
    """A relative path as one from the root; anything else as it is."""
    if not isinstance(path, str | os.PathLike) or not isinstance(name := os.fspath(path), str) or not name:
        return path
    return absolute(PATH, name)


def united(parts: Sequence[Cells], progress: bool | None = None) -> Cells:
    """The cells of all parts, around the base of the first, each once. Raises ValueError where they are too many."""
    # By their keys, before a cell is built.
    if (count := len(np.unique(np.concatenate([part.keys for part in parts])))) > MOST_CELLS:
        raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, these are {count:,}")
    bases = [name for part in parts for name in differing(parts[0].base, part.base)]
    names = tuple(dict.fromkeys([*(name for part in parts for name in part.columns), *bases]))
    rows = (row for part in parts for row in part.rows(names))
    found = cells_of(parts[0].base, names, counted(rows, "uniting cells", sum(map(len, parts)), progress))
    return replace(found, left_out=tuple(dict.fromkeys([*(cell for part in parts for cell in part.left_out), *found.left_out])))


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
    table = np.array(codes, np.int32).reshape(len(columns), len(keys)).T
    cells = tuple(LeftOut(str(name), str(why)) for name, why in left_out)
    values = {name: tuple(column) for name, column in columns.items()}
    return Cells(build(flat(LayerSpec()) | plain["base"]), values, np.ascontiguousarray(table), keys, cells)


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
