"""Sweep files: what a sweep is of, as TOML that anyone may have written."""

import contextlib
import math
import operator
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from simgap.checks import choice, format_bytes, nearest, shown
from simgap.selection import Selection, select
from simgap.specs import LayerSpec, RunSpec, field_names
from simgap.sweeps.cells import MOST_CELLS, Cells, united
from simgap.sweeps.designs import Range, grid, one_at_a_time, random_design, sobol_design, zip_grid
from simgap.sweeps.fields import NESTED, TYPES, Draft, build, field_name, flat

# tomllib takes time with the square of a key's dots: with these limits the worst file takes seconds, and no honest one comes near.
MOST_BYTES = 256 * 1024
MOST_POINTS = 1000
# As TOML itself has it; also keeps what follows from a number small enough for every float.
LARGEST = 2**63
DESIGNS: dict[str, Callable[..., Cells]] = {
    "grid": grid,
    "zip": zip_grid,
    "one_at_a_time": one_at_a_time,
    "random": random_design,
    "sobol": sobol_design,
}
SPREAD = ("random", "sobol")
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, eq=False)
class SweepFile:
    """The cells of a sweep file, the settings of the run that it gives (names of RunSpec's fields), and the quantities."""

    cells: Cells
    run: dict[str, Any]
    selection: Selection


def read_file(path: str | Path, progress: bool | None = None) -> SweepFile:
    """The sweep that a TOML file describes.

    At the top: fields of RunSpec (tokens, trials, seed, device, dtype, memory), quantities = [their texts] or metrics = [names of metrics],
    null = "law", "simulated" or "isotropic", max_parameters = a number; larger cells are left out by name. [layer]: fields of the base
    layer. [[design]], one or more, whose cells are united: kind = "grid", "zip", "one_at_a_time", "random" or "sobol" (these two with n,
    and seed), where = ["top_k <= n_experts", ...], all of which must hold, [design.layer]: fields of the base that differ here, and
    [design.axes]: to a field a value, a list of values, {times = 4, plus = 0, of = "d_model"} for one that follows from another, or for
    random and sobol {low = 2, high = 256, log = true}. "router" is its kind; "router.temperature" in quotes, or a table router.kind,
    router.temperature, gives the rest. A path of inputs is relative to the working directory, not to the file. progress: a line of it where
    building the cells takes long, by default on a terminal.

    Raises ValueError, one line that names the file, the table and the key, for whatever is not of that form: also for more than 256 KiB and
    for more than ten million cells, which are refused before they are enumerated.
    """
    with _within(str(path)):
        table = _toml(_text(Path(path)))
        _known("a sweep file", table, (*field_names(RunSpec), "quantities", "metrics", "null", "max_parameters", "layer", "design"))
        run = {name: table[name] for name in field_names(RunSpec) if name in table}
        RunSpec(**run)
        chosen = {name: _texts(name, table[name], "names") for name in ("quantities", "metrics") if name in table}
        selection = select(**chosen, null=table.get("null", "law"))
        with _within("[layer]"):
            base = _layer(LayerSpec(), table.get("layer", {}))
        cells = _united(base, table.get("design"), progress)
        if "max_parameters" in table:
            cells = cells.at_most(_number("max_parameters", table["max_parameters"]), progress)
        return SweepFile(cells, run, selection)


@contextlib.contextmanager
def _within(place: str) -> Iterator[None]:
    """Begin the message of a ValueError with the place where it was met."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("cannot be read: not a regular file")
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"a sweep file has at most {format_bytes(MOST_BYTES)}, this one has more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not TOML: byte {error.start} is no UTF-8") from None


def _toml(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_POINTS:
            raise ValueError(
                f"line {number}: expected at most {MOST_POINTS} points, got {line.count('.')}; break the list over several lines"
            )
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("not TOML: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not TOML: {error}") from None


def _texts(name: str, given: object, what: str) -> list[str]:
    """A list of texts; one alone may stand without its brackets."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name}: expected a list of {what}, got {shown(given)}")
    return texts


def _known(what: str, table: object, names: tuple[str, ...]) -> Mapping[str, Any]:
    """The table, if it is one and has no other keys."""
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table, got {shown(table)}")
    for key in table:
        if key not in names:
            options = nearest(key, names) or f"; expected one of {', '.join(names)}"
            raise ValueError(f"{what} has no key {key!r}{options}")
    return table


def _fields(table: object) -> dict[str, Any]:
    """The entries of a table by dotted name, whether the table nests or not."""
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table of fields, got {shown(table)}")
    fields: dict[str, Any] = {}
    for key, value in table.items():
        nested = key in NESTED and isinstance(value, Mapping)
        for name, inner in [(f"{key}.{name}", inner) for name, inner in value.items()] if nested else [(key, value)]:
            full = field_name(name)
            if full in fields:
                raise ValueError(f"{name}: given twice")
            fields[full] = inner
    return fields


def _layer(base: LayerSpec, table: object) -> LayerSpec:
    values = {name: _value(name, value) for name, value in _fields(table).items()}
    return build(flat(base) | values)


def _value(name: str, value: Any) -> Any:
    """A value that a layer may have in this field, as far as that field alone decides. Anything else is a slip, not a cell to leave out."""
    of = TYPES[name]
    kinds = get_args(of) if get_origin(of) is Literal else ()
    if kinds:
        choice(name, value, kinds)
    elif of is int and type(value) is not int:
        raise ValueError(f"{name}: expected a whole number, got {shown(value)}")
    elif of in (int, float):
        _number(name, value)
    elif not isinstance(value, of):
        raise ValueError(f"{name}: expected {'true or false' if of is bool else 'text'}, got {shown(value)}")
    return value


def _number(name: str, value: Any) -> Any:
    if type(value) not in (int, float) or not abs(value) < (LARGEST if type(value) is int else math.inf):
        raise ValueError(f"{name}: expected a finite number, got {shown(value)}")
    return value


def _united(base: LayerSpec, designs: object, progress: bool | None) -> Cells:
    if not isinstance(designs, list) or not designs:
        raise ValueError("design: expected at least one [[design]], in double brackets")
    planned, count = [], 0
    for number, table in enumerate(designs, 1):
        with _within(f"[design {number}]"):
            build, size = _design(base, table, progress)
        planned.append((number, build))
        count += size
    if count > MOST_CELLS:
        raise ValueError(f"design: a sweep has at most {MOST_CELLS:,} cells, these designs have {count:,}")
    parts = []
    for number, build in planned:
        with _within(f"[design {number}]"):
            parts.append(build())
    return united(parts) if len(parts) > 1 else parts[0]


def _design(base: LayerSpec, given: object, progress: bool | None) -> tuple[Callable[[], Cells], int]:
    """What builds the cells of a design, and how many points it has."""
    table = _known("a design", given, ("kind", "n", "seed", "where", "layer", "axes"))
    kind = table.get("kind", "grid")
    choice("kind", kind, tuple(DESIGNS))
    options = {name: table[name] for name in ("n", "seed") if name in table}
    if options and kind not in SPREAD:
        raise ValueError(f"{next(iter(options))}: is for kind = 'random' or 'sobol', got kind = {kind!r}")
    if kind in SPREAD and (type(options.get("n")) is not int or not 1 <= options["n"] <= MOST_CELLS):
        raise ValueError(f"n: kind = {kind!r} needs a number of cells from 1 to {MOST_CELLS:,}, got {shown(options.get('n'))}")
    with _within("layer"):
        spec = _layer(base, table.get("layer", {}))
    with _within("axes"):
        axes = _axes(table.get("axes", {}), kind)
    lengths = [len(values) for values in axes.values() if isinstance(values, list)]
    sizes = {"grid": math.prod(lengths), "zip": max(lengths, default=1), "one_at_a_time": 1 + sum(lengths)}
    where = _where(table["where"]) if "where" in table else None
    return lambda: DESIGNS[kind](spec, axes, where=where, progress=progress, **options), sizes.get(kind) or options.get("n", 0)


def _axes(table: object, kind: str) -> dict[str, Any]:
    if isinstance(table, Mapping):
        for key in ("kind", "n", "seed", "where"):
            if key in table:
                raise ValueError(f"{key} is the design's own; it belongs before [design.axes]")
    given = _fields(table)
    follow = [name for name, value in given.items() if isinstance(value, Mapping) and not {"low", "high"} & set(value)]
    axes: dict[str, Any] = {}
    for name, value in given.items():
        if name in follow:
            # Those that follow are filled in one after the other: what is not there yet would be the base layer's.
            axes[name] = _following(name, value, follow[follow.index(name) :])
        elif isinstance(value, Mapping):
            if kind not in SPREAD:
                raise ValueError(f"{name}: low and high are for kind = 'random' or 'sobol', got kind = {kind!r}; expected a list of values")
            axes[name] = _range(name, value)
        else:
            axes[name] = [_value(name, each) for each in (value if isinstance(value, list) else [value])]
    return axes


def _range(name: str, table: Mapping[str, Any]) -> Range:
    with _within(name):
        _known("a range", table, ("low", "high", "log"))
        for end in ("low", "high"):
            if end not in table:
                raise ValueError(f"expected low and high, got no {end}")
        return Range(_number("low", table["low"]), _number("high", table["high"]), table.get("log", False))


def _following(name: str, table: Mapping[str, Any], later: Sequence[str]) -> Callable[[Draft], int | float]:
    """times x field + plus, exactly as written: 0.1 is one tenth."""
    with _within(name):
        if "of" not in table:
            raise ValueError(f"expected values, {{low, high, log}} or {{times, plus, of}}, got {shown(dict(table))}")
        _known("a field that follows", table, ("times", "plus", "of"))
        if len(table) == 1:
            raise ValueError("expected times or plus beside of")
        of = field_name(str(table["of"]))
        if of in later:
            raise ValueError(
                f"of: {of} follows from another itself, expected it before {name}" if of != name else "of: expected another field"
            )
        for each in (name, of):
            if TYPES[each] not in (int, float):
                raise ValueError(f"of: expected numbers, but {each} is none")
        times, plus = (Fraction(str(_number(part, table.get(part, default)))) for part, default in (("times", 1), ("plus", 0)))
    read = attrgetter(of)

    def follow(cell: Draft) -> int | float:
        start = read(cell)
        value = times * Fraction(str(start)) + plus
        if abs(value) >= LARGEST or (TYPES[name] is int and value.denominator != 1):
            why = "too large" if abs(value) >= LARGEST else f"{float(value):.6g}, not a whole number"
            raise ValueError(f"axes: {name}: what follows from {of} = {start} is {why}")
        return int(value) if TYPES[name] is int else float(value)

    return follow


def _where(lines: object) -> Callable[[Draft], bool]:
    texts = _texts("where", lines, "texts such as 'top_k <= n_experts'")
    with _within("where"):
        conditions = [_condition(line) for line in texts]
    return lambda cell: all(holds(cell) for holds in conditions)


def _condition(line: str) -> Callable[[Draft], bool]:
    """FIELD OP FIELD, or FIELD OP value, in three parts that are looked up: nothing is run."""
    parts = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*", line)
    if parts is None:
        raise ValueError(f"expected FIELD OP FIELD-or-value with one of {' '.join(OPERATORS)}, got {shown(line)}")
    name, compare = field_name(parts[1]), OPERATORS[parts[2]]
    numeric = TYPES[name] in (int, float)
    if not numeric and parts[2] not in ("==", "!="):
        raise ValueError(f"{name} has no order: expected == or !=, got {shown(line)}")
    read = attrgetter(name)
    if parts[3] in TYPES or parts[3] in NESTED:
        other = field_name(parts[3])
        if numeric != (TYPES[other] in (int, float)) or not (numeric or TYPES[other] == TYPES[name]):
            raise ValueError(f"{name} and {other} cannot be compared, got {shown(line)}")
        beside = attrgetter(other)
        return lambda cell: bool(compare(read(cell), beside(cell)))
    value = _literal(name, parts[3])
    return lambda cell: bool(compare(read(cell), value))


def _literal(name: str, text: str) -> Any:
    if TYPES[name] is bool and text in ("true", "false"):
        return text == "true"
    if TYPES[name] not in (int, float):
        return _value(name, text.strip("\"'"))
    try:
        return _number(name, int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text))
    except ValueError:
        raise ValueError(f"{shown(text)} is neither a field nor a number{nearest(text, list(TYPES))}") from None
