"""Claims over a whole box of parameters: a counterexample sought at midpoints, the box halved where a ball does not decide."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flint import arb, fmpq

from simgap.certify.verdict import Verdict

Ends = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class OverBox:
    """What was found. lowest: where PROVED a ball that holds the function's least value over the box, where REFUTED its value at the
    counterexample, else that of the parts decided so far, or None. boxes: how many it took. counterexample: its point."""

    verdict: Verdict
    lowest: Any
    boxes: int
    counterexample: tuple[Fraction, ...] | None = None


def interval(low: Fraction, high: Fraction) -> arb:
    """A ball that holds [low, high]."""
    return arb(fmpq(low.numerator, low.denominator)).union(arb(fmpq(high.numerator, high.denominator)))


def positive_over(function: Callable[..., Any], box: Sequence[Ends], max_boxes: int = 10_000) -> OverBox:
    """Is function(*x) > 0 for every x in the box? PROVED when balls over boxes that cover it are all above 0; REFUTED when a midpoint's
    ball is surely at or below 0; UNDECIDED after max_boxes.

    The box whose lower bound is worst is split next, along its widest side relative to the whole. function takes and gives balls.
    """
    if not box:
        raise ValueError("box: expected at least one pair of ends")
    whole = tuple((Fraction(low), Fraction(high)) for low, high in box)
    if any(low > high for low, high in whole):
        raise ValueError(f"box: expected low <= high, got {box}")
    queue: list[tuple[float, int, tuple[Ends, ...]]] = []
    lowest: Any = None
    count = 0
    pending = [whole]
    while True:
        for part in pending:
            count += 1
            point = tuple((low + high) / 2 for low, high in part)
            at_middle = function(*(interval(x, x) for x in point))
            if at_middle <= 0:
                return OverBox(Verdict.REFUTED, at_middle, count, point)
            value = function(*(interval(low, high) for low, high in part))
            if value > 0:
                lowest = value if lowest is None or value.lower() < lowest.lower() else lowest
            elif all(low == high for low, high in part):
                return OverBox(Verdict.UNDECIDED, value, count)
            else:
                bound = float(value.lower()) if value.is_finite() else float("-inf")
                heapq.heappush(queue, (bound, count, part))
        if not queue:
            return OverBox(Verdict.PROVED, lowest, count)
        if count >= max_boxes:
            return OverBox(Verdict.UNDECIDED, lowest, count)
        pending = _halves(heapq.heappop(queue)[2], whole)


def _halves(part: tuple[Ends, ...], whole: tuple[Ends, ...]) -> list[tuple[Ends, ...]]:
    shares = [
        (high - low) / (top - bottom) if top > bottom else Fraction(0) for (low, high), (bottom, top) in zip(part, whole, strict=True)
    ]
    axis = shares.index(max(shares))
    low, high = part[axis]
    middle = (low + high) / 2
    return [(*part[:axis], (low, middle), *part[axis + 1 :]), (*part[:axis], (middle, high), *part[axis + 1 :])]


def enclose_root(function: Callable[[Any], Any], low: Fraction, high: Fraction, steps: int) -> Any:
    """A ball that holds a zero of a continuous function between low and high, where its signs must surely differ; each step halves it.

    Stops early where a midpoint's sign is not decided: the ball found so far still holds the zero. Raises ValueError without a sure change
    of sign. Uniqueness is not claimed.
    """
    at_low, at_high = function(interval(low, low)), function(interval(high, high))
    if not ((at_low < 0 and at_high > 0) or (at_low > 0 and at_high < 0)):
        raise ValueError(f"function: no sure change of sign between {low} and {high}: {at_low}, {at_high}")
    rising = bool(at_high > 0)
    for _ in range(steps):
        middle = (low + high) / 2
        value = function(interval(middle, middle))
        if not (value > 0 or value < 0):
            break
        if bool(value > 0) == rising:
            high = middle
        else:
            low = middle
    return interval(low, high)
