"""What a check can say. An undecided comparison of balls is False both ways, so no verdict has a truth value."""

from enum import Enum
from typing import Any


class Verdict(Enum):
    """PROVED (by algebra or certified enclosures), AGREES (a simulation; it proves nothing), REFUTED, UNDECIDED, NOT_APPLICABLE."""

    PROVED = "proved"
    AGREES = "agrees"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"

    def __bool__(self) -> bool:
        raise TypeError(f"a verdict has no truth value; compare it: verdict is Verdict.{self.name}")

    def __str__(self) -> str:
        return self.value


def weakest(verdicts: "list[Verdict]") -> Verdict:
    """The verdict of a claim whose parts all have to hold: REFUTED by one part, else UNDECIDED by one, else AGREES by one, else PROVED.

    Parts that do not apply count for nothing; NOT_APPLICABLE where none does. No part at all is UNDECIDED: nothing was shown.
    """
    if not verdicts:
        return Verdict.UNDECIDED
    for worst in (Verdict.REFUTED, Verdict.UNDECIDED, Verdict.AGREES, Verdict.PROVED):
        if any(verdict is worst for verdict in verdicts):
            return worst
    return Verdict.NOT_APPLICABLE


def sign(ball: Any, expected: str) -> Verdict:
    """Whether a ball is surely above 0 (expected ">"), below ("<"), or holds 0 within ("="): an enclosure of 0 proves no equality.

    ">" and "<" give PROVED, REFUTED or UNDECIDED; "=" gives REFUTED where 0 lies outside, else AGREES: equal to within the radius.
    Raises ValueError for another sign.
    """
    if expected not in ("<", "=", ">"):
        raise ValueError(f"expected: expected '<', '=' or '>', got {expected!r}")
    if not ball.is_finite():
        return Verdict.UNDECIDED
    if expected == "=":
        return Verdict.AGREES if ball.contains(0) else Verdict.REFUTED
    above, below = bool(ball > 0), bool(ball < 0)
    if expected == "<":
        above, below = below, above
    if above:
        return Verdict.PROVED
    return Verdict.REFUTED if below or (ball.is_exact() and ball.is_zero()) else Verdict.UNDECIDED
