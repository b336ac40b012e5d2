"""What trials add up to: sums of values and their counts, quantity by quantity and trial by trial, kept so that more may follow."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.checks import shown
from simgap.quantities import Quantity

# Skipped vectors that are named; of the others it is said how many there are.
NAMED = 3
# Numbers in one table that stored sums may ask for: their lists may be short for many equal numbers.
MOST = 1 << 24
# Round-off of a sum of so many values, relative to the largest that it can be.
SLACK = 1e-6
# The least and the largest that one value of a quantity can be.
Range = tuple[float, float]


@dataclass(frozen=True)
class Skipped:
    """Where vectors were left out: in how many places, and the first of them by name."""

    count: int = 0
    names: tuple[str, ...] = ()

    def plus(self, other: "Skipped") -> "Skipped":
        return Skipped(self.count + other.count, (*self.names, *other.names)[:NAMED])

    def __str__(self) -> str:
        return ", ".join(self.names) + (f" and {self.count - NAMED} more" if self.count > NAMED else "")


@dataclass
class Values:
    """One quantity over the trials of a group: sums of its values and how many there are, of as many pairs (or other units) as were
    expected, and in each trial where vectors were left out."""

    total: Float[np.ndarray, " s"]
    pairs: Int[np.ndarray, " s"]
    expected: Int[np.ndarray, " s"]
    at: dict[int, Skipped] = field(default_factory=dict)

    @classmethod
    def empty(cls, trials: int) -> "Values":
        return cls(np.zeros(trials), np.zeros(trials, np.int64), np.zeros(trials, np.int64))

    @classmethod
    def of(cls, values: Float[np.ndarray, " s"]) -> "Values":
        """One value to each trial; NaN for a trial that has none."""
        there = ~np.isnan(values)
        return cls(np.where(there, values, 0.0), there.astype(np.int64), np.ones(len(values), np.int64))

    @property
    def means(self) -> Float[np.ndarray, " s"]:
        """Of each trial; NaN for one without a value."""
        return np.divide(self.total, self.pairs, out=np.full(len(self.total), np.nan), where=self.pairs > 0)

    def add(self, other: "Values") -> None:
        """Add other pairs of the same trials."""
        self.total, self.pairs, self.expected = self.total + other.total, self.pairs + other.pairs, self.expected + other.expected
        for trial, skipped in other.at.items():
            self.skip(trial, skipped)

    def put(self, trial: int, each: Float[np.ndarray, " m"], why: tuple[str, ...]) -> None:
        """The values of one trial, one to each unit that was expected; NaN for a unit that has none, and why some have none."""
        there = ~np.isnan(each)
        self.total[trial], self.pairs[trial], self.expected[trial] = math.fsum(each[there]), there.sum(), len(each)
        if not there.all():
            self.skip(trial, Skipped(int((~there).sum()), why))

    def skip(self, trial: int, skipped: Skipped) -> None:
        self.at[trial] = self.at.get(trial, Skipped()).plus(skipped)


@dataclass(frozen=True)
class GroupSums:
    """Of one group: every quantity, the tokens that each routed expert took, and those that none did."""

    quantities: dict[Quantity, Values]
    taken: Int[np.ndarray, "s E"]
    dropped: Int[np.ndarray, " s"]


@dataclass(frozen=True, eq=False)
class Sums:
    """What the trials first, first + 1, ... of one layer add up to: all that the Estimates of a Gap are made of.

    total, pairs, expected (Q, s), a row for each of the quantities: sums of values (of cos^2, for an overlap), pairs of defined vectors,
    pairs of existing ones. taken (s, E): tokens that each routed expert took. dropped (s,): tokens that none took. skipped: where undefined
    vectors were, in those quantities that have any.
    """

    first: int
    quantities: tuple[Quantity, ...]
    total: Float[np.ndarray, "Q s"]
    pairs: Int[np.ndarray, "Q s"]
    expected: Int[np.ndarray, "Q s"]
    taken: Int[np.ndarray, "s E"]
    dropped: Int[np.ndarray, " s"]
    skipped: dict[Quantity, Skipped]

    @property
    def trials(self) -> int:
        return len(self.dropped)

    def followed_by(self, other: "Sums") -> "Sums":
        """These trials and those that come next. Raises ValueError where others come next, or of another layer."""
        if other.first != self.first + self.trials:
            raise ValueError(f"other: expected trials from {self.first + self.trials} on, got them from {other.first} on")
        if other.quantities != self.quantities or other.taken.shape[1] != self.taken.shape[1]:
            raise ValueError("other: expected the same quantities of as many experts")
        skipped = {quantity: self.skipped.get(quantity, Skipped()).plus(more) for quantity, more in other.skipped.items()}
        return Sums(
            first=self.first,
            quantities=self.quantities,
            total=np.concatenate([self.total, other.total], 1),
            pairs=np.concatenate([self.pairs, other.pairs], 1),
            expected=np.concatenate([self.expected, other.expected], 1),
            taken=np.concatenate([self.taken, other.taken]),
            dropped=np.concatenate([self.dropped, other.dropped]),
            skipped=self.skipped | skipped,
        )

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON, exact, without NaN; of a list of equal whole numbers there is one."""
        quantities = {}
        rows = zip(self.quantities, self.total.tolist(), self.pairs.tolist(), self.expected.tolist(), strict=True)
        for quantity, total, pairs, expected in rows:
            plain = {"total": total, "pairs": _short(pairs), "expected": _short(expected)}
            if quantity in self.skipped:
                skipped = self.skipped[quantity]
                plain |= {"skipped": skipped.count, "at": list(skipped.names)}
            quantities[str(quantity)] = plain
        return {
            "first": self.first,
            "trials": self.trials,
            "experts": self.taken.shape[1],
            "taken": [_short(row) for row in self.taken.tolist()],
            "dropped": _short(self.dropped.tolist()),
            "quantities": quantities,
        }

    @classmethod
    def from_plain(cls, plain: object, known: Mapping[str, tuple[Quantity, Range]]) -> "Sums":
        """The sums that `to_plain` gave these values for. Raises ValueError, naming the field, for anything that is not of its form.

        known: the quantities that there may be, by their texts, each with its range.
        """
        fields = _fields("sums", plain, ("first", "trials", "experts", "taken", "dropped", "quantities"))
        first = _whole("first", fields["first"])
        trials, experts = (_whole(name, fields[name], low=1) for name in ("trials", "experts"))
        quantities = _fields("quantities", fields["quantities"], (), tuple(known))
        if trials * max(experts, len(quantities)) > MOST:
            raise ValueError(f"trials: expected at most {MOST} numbers in a table, got {trials} trials")
        skipped = {}
        total, pairs, expected = np.empty((len(quantities), trials)), *np.empty((2, len(quantities), trials), np.int64)
        for row, (name, value) in enumerate(quantities.items()):
            one = _fields(name, value, ("total", "pairs", "expected"), ("skipped", "at"))
            quantity, (least, most) = known[name]
            total[row] = _sums(f"{name} total", one["total"], trials, signed=least < 0)
            pairs[row] = _wholes(f"{name} pairs", one["pairs"], trials)
            expected[row] = _wholes(f"{name} expected", one["expected"], trials)
            within = (total[row] <= pairs[row] * most * (1 + SLACK)) & (total[row] >= pairs[row] * least * (1 + SLACK))
            if not within.all() or not (pairs[row] <= expected[row]).all():
                raise ValueError(f"{name}: expected {least:g} <= total / pairs <= {most:g} and pairs <= expected in every trial")
            if "skipped" in one or "at" in one:
                skipped[quantity] = _skipped(name, one)
        return cls(
            first=first,
            quantities=tuple(known[name][0] for name in quantities),
            total=total,
            pairs=pairs,
            expected=expected,
            taken=np.array([_wholes("taken", row, experts) for row in _listed("taken", fields["taken"], trials)]),
            dropped=_wholes("dropped", fields["dropped"], trials),
            skipped=skipped,
        )


def cut(groups: Sequence[GroupSums], firsts: Sequence[int], lengths: Sequence[int]) -> list[Sums]:
    """The sums of layers whose trials follow one another through some groups: so many of each, numbered from its own first."""
    quantities = tuple(groups[0].quantities)
    columns = [[group.quantities[quantity] for group in groups] for quantity in quantities]
    total, pairs, expected = (
        np.array([np.concatenate([getattr(values, name) for values in column]) for column in columns]).reshape(
            len(quantities), sum(lengths)
        )
        for name in ("total", "pairs", "expected")
    )
    taken, dropped = np.concatenate([group.taken for group in groups]), np.concatenate([group.dropped for group in groups])
    starts = np.cumsum([0, *(len(group.dropped) for group in groups)]).tolist()
    at = [{start + t: names for start, values in zip(starts, column, strict=False) for t, names in values.at.items()} for column in columns]
    marked = [(quantity, skipped) for quantity, skipped in zip(quantities, at, strict=True) if skipped]
    layers, start = [], 0
    for first, length in zip(firsts, lengths, strict=True):
        own = slice(start, start + length)
        of_layer = {quantity: _joined(skipped, range(start, start + length)) for quantity, skipped in marked}
        layers.append(
            Sums(
                first=first,
                quantities=quantities,
                total=total[:, own],
                pairs=pairs[:, own],
                expected=expected[:, own],
                taken=taken[own],
                dropped=dropped[own],
                skipped={quantity: skipped for quantity, skipped in of_layer.items() if skipped.count},
            )
        )
        start += length
    return layers


def _joined(skipped: Mapping[int, Skipped], trials: range) -> Skipped:
    """What was left out in some trials."""
    return functools.reduce(Skipped.plus, (skipped[trial] for trial in trials if trial in skipped), Skipped())


def _short(values: list) -> Any:
    """One value for a list of equal ones."""
    return values[0] if values.count(values[0]) == len(values) else values


def _fields(name: str, plain: object, needed: tuple[str, ...], allowed: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise ValueError(f"{name}: expected fields, got {shown(plain)}")
    missing = [key for key in needed if key not in plain]
    strange = [key for key in plain if key not in needed and key not in allowed]
    if missing or strange:
        raise ValueError(f"{name}: {'without ' + missing[0] if missing else 'with the unknown field ' + shown(strange[0])}")
    return plain


def _listed(name: str, value: object, length: int) -> list:
    if not isinstance(value, list) or len(value) != length:
        raise ValueError(f"{name}: expected a list of {length}, got {shown(value)}")
    return value


def _whole(name: str, value: object, low: int = 0) -> int:
    if type(value) is not int or not low <= value < 1 << 53:
        raise ValueError(f"{name}: expected a whole number, at least {low}, got {shown(value)}")
    return value


def _wholes(name: str, value: object, length: int) -> Int[np.ndarray, " m"]:
    """Whole numbers: a list of them, or one for a list of equal ones."""
    values = _listed(name, value, length) if isinstance(value, list) else [value] * length
    return np.array([_whole(name, one) for one in values], np.int64)


def _sums(name: str, value: object, length: int, signed: bool) -> list[float]:
    least = -(1 << 53) if signed else 0
    for one in _listed(name, value, length):
        if type(one) not in (int, float) or not least <= one < 1 << 53:
            raise ValueError(f"{name}: expected numbers{'' if signed else ' of at least 0'}, got {shown(one)}")
    return value  # type: ignore[return-value]


def _skipped(name: str, one: dict[str, Any]) -> Skipped:
    count, names = _whole(f"{name} skipped", one.get("skipped"), low=1), one.get("at")
    if (
        not isinstance(names, list)
        or len(names) != min(count, NAMED)
        or not all(isinstance(text, str) and len(text) < 500 for text in names)
    ):
        raise ValueError(f"{name} at: expected the names of the first {min(count, NAMED)} skipped ones, got {shown(names)}")
    return Skipped(count, tuple(names))
