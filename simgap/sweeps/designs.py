"""Designs: which cells a sweep has. Grids, and points spread over ranges at random or by a Sobol sequence."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from simgap.checks import whole_number
from simgap.seeding import derived
from simgap.specs import LayerSpec
from simgap.sweeps.cells import MOST_CELLS, Cells, cells_of
from simgap.sweeps.fields import INNER, NESTED, TYPES, Draft, field_name, flat
from simgap.sweeps.progress import counted

Where = Callable[[Any], object]


@dataclass(frozen=True)
class Range:
    """The numbers from low to high, both included; log = True spreads them evenly over ratios. Whole numbers for fields that are."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
                raise ValueError(f"range: expected finite numbers, got {value!r}")
        if not isinstance(self.log, bool):
            raise ValueError(f"range: expected log = True or False, got {self.log!r}")
        if self.low > self.high or (self.log and self.low <= 0):
            least = "0 < low <= high" if self.log else "low <= high"
            raise ValueError(f"range: expected {least}, got low = {self.low!r}, high = {self.high!r}")

    def at(self, share: float, whole: bool) -> int | float:
        """The number at a share of the range, 0 <= share < 1."""
        low, high = (math.ceil(self.low), math.floor(self.high) + 1) if whole else (self.low, self.high)
        # Neither the ratio nor the difference of the ends need be finite.
        value = math.exp((1 - share) * math.log(low) + share * math.log(high)) if self.log else (1 - share) * low + share * high
        # Rounding may reach the open end, or fall below the other.
        return max(low, min(math.floor(value), high - 1)) if whole else min(max(value, low), high)

    def holds_whole(self) -> bool:
        """Whether there is a whole number in it."""
        return math.ceil(self.low) <= math.floor(self.high)


def grid(
    spec: LayerSpec, axes: Mapping[str, Any] | None = None, /, *, where: Where | None = None, progress: bool | None = None, **more: Any
) -> Cells:
    """Every combination of the axes' values around a base layer, the last axis fastest.

    An axis is a field with a list of values, a single value, or a function of the cell so far: d_ff=lambda s: 4 * s.d_model. Names with a
    dot go into the mapping: {"router.temperature": [0.5, 1.0]}; "router" and "inputs" take kinds. where: only cells for which
    where(cell) holds are in the design; it sees the fields before a layer is built of them. progress: a line of it where building them
    takes long, by default on a terminal.

    Raises ValueError for a field that no layer has (the nearest is suggested) and for an axis without values. Cells that no layer can be
    built of are left out and listed in `left_out`.
    """
    fixed, functions = _axes(spec, axes, more)
    count = math.prod(map(len, fixed.values()))
    if count > MOST_CELLS:
        raise ValueError(f"cells: a sweep has at most {MOST_CELLS:,} cells, this grid has {count:,}")
    return _cells(spec, tuple(fixed), itertools.product(*fixed.values()), count, functions, where, progress)


def zip_grid(
    spec: LayerSpec, axes: Mapping[str, Any] | None = None, /, *, where: Where | None = None, progress: bool | None = None, **more: Any
) -> Cells:
    """The first value of every axis together, then the second, and so on; arguments and errors as of `grid`, lists of one length
    or of one value."""
    fixed, functions = _axes(spec, axes, more)
    lengths = {name: len(values) for name, values in fixed.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"zip_grid: expected axes of one length, got {', '.join(f'{name} of {n}' for name, n in lengths.items())}")
    longest = max(lengths.values(), default=1)
    columns = [values if len(values) > 1 else values * longest for values in fixed.values()]
    return _cells(spec, tuple(fixed), zip(*columns, strict=True) if columns else [()], longest, functions, where, progress)


def one_at_a_time(
    spec: LayerSpec, axes: Mapping[str, Any] | None = None, /, *, where: Where | None = None, progress: bool | None = None, **more: Any
) -> Cells:
    """The base layer, and each axis alone around it; arguments and errors as of `grid`. Functions apply to every cell."""
    fixed, functions = _axes(spec, axes, more)
    names, start = tuple(fixed), flat(spec)
    around = [tuple(start[name] for name in names)]
    around += [tuple(value if name == axis else start[name] for name in names) for axis, values in fixed.items() for value in values]
    return _cells(spec, names, around, len(around), functions, where, progress)


def random_design(
    spec: LayerSpec,
    axes: Mapping[str, Any] | None = None,
    /,
    *,
    n: int,
    seed: int = 0,
    where: Where | None = None,
    progress: bool | None = None,
    **more: Any,
) -> Cells:
    """n independent cells, each axis uniform over a Range or over its list of values; arguments and errors as of `grid`.

    where is applied to the n points drawn, so that fewer may remain.
    """
    fixed, functions = _axes(spec, axes, more, ranges=True)
    shares = np.random.default_rng(derived(whole_number("seed", seed, 0), "design")).random((_count(n), len(fixed)))
    return _cells(spec, tuple(fixed), _spread(fixed, shares), n, functions, where, progress)


def sobol_design(
    spec: LayerSpec,
    axes: Mapping[str, Any] | None = None,
    /,
    *,
    n: int,
    seed: int = 0,
    where: Where | None = None,
    progress: bool | None = None,
    **more: Any,
) -> Cells:
    """The first n points of a scrambled Sobol sequence over Ranges or lists of values: as `random_design`, but evenly spread.

    Source: Owen (1998), as in scipy.stats.qmc.
    """
    from scipy.stats import qmc

    fixed, functions = _axes(spec, axes, more, ranges=True)
    if not fixed:
        raise ValueError("sobol_design: expected at least one axis")
    sampler = qmc.Sobol(len(fixed), scramble=True, rng=np.random.default_rng(derived(whole_number("seed", seed, 0), "design")))
    # Drawn to a power of two, where the sequence is balanced and scipy does not complain.
    shares = sampler.random_base2((_count(n) - 1).bit_length())[:n]
    return _cells(spec, tuple(fixed), _spread(fixed, shares), n, functions, where, progress)


def _axes(
    spec: LayerSpec, axes: Mapping[str, Any] | None, more: Mapping[str, Any], ranges: bool = False
) -> tuple[dict[str, Any], dict[str, Callable]]:
    """Axes with values (lists, and Ranges where the design takes them) and axes that follow from others, by full name."""
    if not isinstance(spec, LayerSpec):
        raise ValueError(f"spec: expected a LayerSpec to start from, got {type(spec).__name__}")
    fixed: dict[str, Any] = {}
    functions: dict[str, Callable] = {}
    if axes is not None and not isinstance(axes, Mapping):
        raise ValueError(f"axes: expected a mapping of fields to values, got {type(axes).__name__}")
    for name, values in itertools.chain((axes or {}).items(), more.items()):
        full = field_name(name)
        if full in fixed or full in functions:
            raise ValueError(f"{name}: given twice")
        if callable(values):
            functions[full] = values
        elif isinstance(values, Range):
            if not ranges:
                raise ValueError(f"{name}: a Range is for random_design and sobol_design; expected a list of values")
            if TYPES[full] not in (int, float):
                raise ValueError(f"{name}: a Range is of numbers; expected a list of values")
            if TYPES[full] is int and not values.holds_whole():
                raise ValueError(f"{name}: no whole number from {values.low} to {values.high}")
            fixed[full] = values
        else:
            fixed[full] = _values(name, values)
            if name in NESTED and not all(isinstance(value, str) for value in fixed[full]):
                raise ValueError(f"{name}: expected names of kinds; other fields are axes of their own, such as '{list(INNER[name])[1]}'")
    return fixed, functions


def _values(name: str, values: Any) -> list[Any]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    if isinstance(values, Mapping | Set):
        raise ValueError(f"{name}: expected a list of values, which has an order; got {type(values).__name__}")
    listed = list(itertools.islice(values, MOST_CELLS + 1))
    if not listed:
        raise ValueError(f"{name}: expected at least one value, got none")
    if len(listed) > MOST_CELLS:
        raise ValueError(f"{name}: expected at most {MOST_CELLS:,} values, got more")
    return listed


def _spread(axes: Mapping[str, Any], shares: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Rows of values at shares in [0, 1) of each axis."""
    for row in shares:
        yield tuple(
            axis.at(share, TYPES[name] is int) if isinstance(axis, Range) else axis[int(share * len(axis))]
            for (name, axis), share in zip(axes.items(), row.tolist(), strict=True)
        )


def _cells(
    spec: LayerSpec,
    names: tuple[str, ...],
    rows: Iterable[tuple[Any, ...]],
    total: int,
    functions: Mapping[str, Callable],
    where: Where | None,
    progress: bool | None,
) -> Cells:
    """Cells with dependent fields filled in, where the constraint holds."""
    rows = counted(rows, "building cells", total, progress)
    if where is not None and not callable(where):
        raise ValueError(f"where: expected a function of a cell, got {type(where).__name__}")
    if where is None and not functions:
        return cells_of(spec, names, rows)
    before = flat(spec)
    # A field that follows from others is not there before its turn, but for its own function: the base layer's would be taken for it.
    start = {name: value for name, value in before.items() if name not in functions}

    def drafted() -> Iterator[tuple[Any, ...]]:
        for row in rows:
            values = start | dict(zip(names, row, strict=True))
            for name, function in functions.items():
                try:
                    values[name] = function(Draft({name: before[name], **values}))
                except AttributeError as error:
                    raise ValueError(f"{name}: {error}") from None
            if where is None or where(Draft(values)):
                yield tuple(values[name] for name in (*names, *functions))

    return cells_of(spec, (*names, *functions), drafted())


def _count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_CELLS:
        raise ValueError(f"n: expected a number of cells from 1 to {MOST_CELLS:,}, got {n!r}")
    return n
