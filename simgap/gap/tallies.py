"""What trials add up to: sums of cos^2 and counts of pairs, quantity by quantity and trial by trial, kept so that more may follow."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from simgap.gap.shape import READINGS, SITES, WEIGHT_KINDS
from simgap.specs import shown

ROUTED, SHARED = "routed", "shared"
Path = tuple[str, ...]
# Every quantity that a layer can have: its pairs of routed experts, or of a routed with a shared one, then its place in a Gap.
PATHS: tuple[Path, ...] = tuple(
    (name, *path)
    for name in (ROUTED, SHARED)
    for path in [*(("weight_mso", kind) for kind in WEIGHT_KINDS), *product(["activation_mso"], READINGS, SITES)]
)
# Places that are named; of the others it is said how many there are.
NAMED = 3
# Numbers in one table that a stored tally may ask for: its lists may be short for many equal numbers.
MOST = 1 << 24
# Round-off of a sum of that many cosines, each at most 1.
SLACK = 1e-6


@dataclass(frozen=True)
class Places:
    """Where vectors were left out: in how many places, and the first of them by name."""

    count: int = 0
    names: tuple[str, ...] = ()

    def plus(self, other: "Places") -> "Places":
        return Places(self.count + other.count, (*self.names, *other.names)[:NAMED])

    def __str__(self) -> str:
        return ", ".join(self.names) + (f" and {self.count - NAMED} more" if self.count > NAMED else "")


@dataclass
class Tally:
    """One quantity over the trials of a group: sums of cos^2 and counts of pairs, and in each trial where vectors were left out."""

    total: Float[np.ndarray, " s"]
    pairs: Int[np.ndarray, " s"]
    expected: Int[np.ndarray, " s"]
    at: dict[int, Places] = field(default_factory=dict)

    @classmethod
    def empty(cls, trials: int) -> "Tally":
        return cls(np.zeros(trials), np.zeros(trials, np.int64), np.zeros(trials, np.int64))

    def add(self, other: "Tally") -> None:
        """Add other pairs of the same trials."""
        self.total, self.pairs, self.expected = self.total + other.total, self.pairs + other.pairs, self.expected + other.expected
        for trial, places in other.at.items():
            self.add_places(trial, places)

    def add_places(self, trial: int, places: Places) -> None:
        self.at[trial] = self.at.get(trial, Places()).plus(places)


@dataclass(frozen=True)
class GroupTallies:
    """Of one group: every quantity, the tokens that each routed expert took, and those that none did."""

    quantities: dict[Path, Tally]
    taken: Int[np.ndarray, "s E"]
    dropped: Int[np.ndarray, " s"]


@dataclass(frozen=True, eq=False)
class Tallies:
    """What the trials first, first + 1, ... of one layer add up to: all that the Estimates of a Gap are made of.

    total, pairs, expected (Q, s), a row for each of the paths: sums of cos^2, pairs of defined vectors, pairs of existing ones. taken
    (s, E): tokens that each routed expert took. dropped (s,): tokens that none took. left_out: where undefined vectors were, in those
    quantities that have any.
    """

    first: int
    paths: tuple[Path, ...]
    total: Float[np.ndarray, "Q s"]
    pairs: Int[np.ndarray, "Q s"]
    expected: Int[np.ndarray, "Q s"]
    taken: Int[np.ndarray, "s E"]
    dropped: Int[np.ndarray, " s"]
    left_out: dict[Path, Places]

    @property
    def trials(self) -> int:
        return len(self.dropped)

    def followed_by(self, other: "Tallies") -> "Tallies":
        """These trials and those that come next. Raises ValueError where others come next, or of another layer."""
        if other.first != self.first + self.trials:
            raise ValueError(f"other: expected trials from {self.first + self.trials} on, got them from {other.first} on")
        if other.paths != self.paths or other.taken.shape[1] != self.taken.shape[1]:
            raise ValueError("other: expected the same quantities of as many experts")
        places = {path: self.left_out.get(path, Places()).plus(more) for path, more in other.left_out.items()}
        return Tallies(
            first=self.first,
            paths=self.paths,
            total=np.concatenate([self.total, other.total], 1),
            pairs=np.concatenate([self.pairs, other.pairs], 1),
            expected=np.concatenate([self.expected, other.expected], 1),
            taken=np.concatenate([self.taken, other.taken]),
            dropped=np.concatenate([self.dropped, other.dropped]),
            left_out=self.left_out | places,
        )

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON, exact, without NaN; of a list of equal whole numbers there is one."""
        quantities = {}
        rows = zip(self.paths, self.total.tolist(), self.pairs.tolist(), self.expected.tolist(), strict=True)
        for path, total, pairs, expected in rows:
            plain = {"total": total, "pairs": _short(pairs), "expected": _short(expected)}
            if path in self.left_out:
                places = self.left_out[path]
                plain |= {"places": places.count, "at": list(places.names)}
            quantities[" ".join(path)] = plain
        return {
            "first": self.first,
            "trials": self.trials,
            "experts": self.taken.shape[1],
            "taken": [_short(row) for row in self.taken.tolist()],
            "dropped": _short(self.dropped.tolist()),
            "quantities": quantities,
        }

    @classmethod
    def from_plain(cls, plain: object) -> "Tallies":
        """The tallies that `to_plain` gave these values for. Raises ValueError, naming the field, for anything that is not of its form."""
        fields = _fields("tallies", plain, ("first", "trials", "experts", "taken", "dropped", "quantities"))
        first = _whole("first", fields["first"])
        trials, experts = (_whole(name, fields[name], low=1) for name in ("trials", "experts"))
        known = {" ".join(path): path for path in PATHS}
        quantities = _fields("quantities", fields["quantities"], (), tuple(known))
        if trials * max(experts, len(quantities)) > MOST:
            raise ValueError(f"trials: expected at most {MOST} numbers in a table, got {trials} trials")
        left_out = {}
        total, pairs, expected = np.empty((len(quantities), trials)), *np.empty((2, len(quantities), trials), np.int64)
        for row, (name, value) in enumerate(quantities.items()):
            one = _fields(name, value, ("total", "pairs", "expected"), ("places", "at"))
            total[row] = _sums(f"{name} total", one["total"], trials)
            pairs[row] = _wholes(f"{name} pairs", one["pairs"], trials)
            expected[row] = _wholes(f"{name} expected", one["expected"], trials)
            if not (total[row] <= pairs[row] * (1 + SLACK)).all() or not (pairs[row] <= expected[row]).all():
                raise ValueError(f"{name}: expected total <= pairs <= expected in every trial")
            if "places" in one or "at" in one:
                left_out[known[name]] = _places(name, one)
        return cls(
            first=first,
            paths=tuple(known[name] for name in quantities),
            total=total,
            pairs=pairs,
            expected=expected,
            taken=np.array([_wholes("taken", row, experts) for row in _listed("taken", fields["taken"], trials)]),
            dropped=_wholes("dropped", fields["dropped"], trials),
            left_out=left_out,
        )


def cut(groups: Sequence[GroupTallies], firsts: Sequence[int], lengths: Sequence[int]) -> list[Tallies]:
    """The tallies of layers whose trials follow one another through some groups: so many of each, numbered from its own first."""
    paths = tuple(groups[0].quantities)
    columns = [[group.quantities[path] for group in groups] for path in paths]
    total, pairs, expected = (
        np.array([np.concatenate([getattr(tally, name) for tally in column]) for column in columns]).reshape(len(paths), sum(lengths))
        for name in ("total", "pairs", "expected")
    )
    taken, dropped = np.concatenate([group.taken for group in groups]), np.concatenate([group.dropped for group in groups])
    starts = np.cumsum([0, *(len(group.dropped) for group in groups)]).tolist()
    at = [{start + t: names for start, tally in zip(starts, column, strict=False) for t, names in tally.at.items()} for column in columns]
    marked = [(path, places) for path, places in zip(paths, at, strict=True) if places]
    found, start = [], 0
    for first, length in zip(firsts, lengths, strict=True):
        own = slice(start, start + length)
        left_out = {path: _together(places, range(start, start + length)) for path, places in marked}
        found.append(
            Tallies(
                first=first,
                paths=paths,
                total=total[:, own],
                pairs=pairs[:, own],
                expected=expected[:, own],
                taken=taken[own],
                dropped=dropped[own],
                left_out={path: places for path, places in left_out.items() if places.count},
            )
        )
        start += length
    return found


def _together(places: dict[int, Places], trials: range) -> Places:
    """The places of some trials."""
    return functools.reduce(Places.plus, (places[trial] for trial in trials if trial in places), Places())


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


def _sums(name: str, value: object, length: int) -> list[float]:
    for one in _listed(name, value, length):
        if type(one) not in (int, float) or not 0 <= one < 1 << 53:
            raise ValueError(f"{name}: expected numbers of at least 0, got {shown(one)}")
    return value  # type: ignore[return-value]


def _places(name: str, one: dict[str, Any]) -> Places:
    count, names = _whole(f"{name} places", one.get("places"), low=1), one.get("at")
    if (
        not isinstance(names, list)
        or len(names) != min(count, NAMED)
        or not all(isinstance(text, str) and len(text) < 500 for text in names)
    ):
        raise ValueError(f"{name} at: expected the names of the first {min(count, NAMED)} places, got {shown(names)}")
    return Places(count, tuple(names))
