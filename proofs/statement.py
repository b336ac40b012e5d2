"""What a theorem says and what a check found: the words that every file of proofs/ is written in."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from simgap.certify.balls import BALL
from simgap.certify.verdict import Verdict, sign, weakest
from simgap.seeding import stream

Kind = Literal["equal", "upper", "lower", "rate"]
EQUAL: Kind = "equal"
UPPER: Kind = "upper"
LOWER: Kind = "lower"
RATE: Kind = "rate"

Way = Literal["symbolic", "certified", "numeric"]
WAYS: tuple[Way, ...] = ("symbolic", "certified", "numeric")
SIGMA = 5.0

End = int | Fraction | None


@dataclass(frozen=True)
class Premise:
    """What a proof takes from elsewhere: another theorem of this table, the literature, or nowhere."""

    mark: Literal["computed", "cited", "assumed"]
    text: str


def computed(theorem: str) -> Premise:
    return Premise("computed", theorem)


def cited(source: str) -> Premise:
    return Premise("cited", source)


def assumed(what: str) -> Premise:
    return Premise("assumed", what)


@dataclass(frozen=True)
class Statement:
    """A theorem's face. id: its name in the table. title: one plain line. claim: LaTeX. hypotheses: all of them, in words. box: the exact
    ends of each parameter (None: unbounded) for which it is claimed. tight: the witness that a bound is attained, a law not vacuous."""

    id: str
    kind: Kind
    title: str
    claim: str
    hypotheses: tuple[str, ...]
    box: Mapping[str, tuple[End, End]] = field(default_factory=dict)
    premises: tuple[Premise, ...] = ()
    tight: str = ""


@dataclass(frozen=True)
class Check:
    """What one way found: its verdict, the steps a reader can follow, and the balls behind it. reason: why it is undecided or does not
    apply. enclosures: certified constants by name, compared at two precisions."""

    verdict: Verdict
    steps: tuple[str, ...] = ()
    reason: str = ""
    enclosures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def not_applicable(cls, reason: str) -> "Check":
        return cls(Verdict.NOT_APPLICABLE, reason=reason)


@dataclass(frozen=True)
class Wrong:
    """A wrong form of the law, or a broken hypothesis: every way named here must call it REFUTED, each that applies unless `why` says which
    cannot see it. law takes the place of the theorem's own."""

    name: str
    law: Any
    ways: tuple[Way, ...] = WAYS
    why: str = ""


class Derivation:
    """The steps of a check, written down as they are taken, and the verdicts they give; the claim needs all of them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.verdicts: list[Verdict] = []
        self.enclosures: dict[str, Any] = {}

    def step(self, text: str, expression: Any = None) -> None:
        self.steps.append(text if expression is None else f"{text}: {expression}")

    def record(self, text: str, verdict: Verdict) -> None:
        """A part of the claim, and what was found."""
        self.steps.append(f"{text} -> {verdict}")
        self.verdicts.append(verdict)

    def equal(self, text: str, derived: Any, claimed: Any) -> None:
        """Symbolic equality: PROVED if the difference simplifies to 0, REFUTED if it is not 0 at a rational point, else UNDECIDED."""
        self.record(f"{text}: derived {derived}, claimed {claimed}", symbolically_equal(derived, claimed))

    def holds(self, text: str, condition: bool) -> None:
        """A fact decided exactly (integers, rationals, sympy's True): PROVED or REFUTED."""
        if condition is not True and condition is not False:
            condition = bool(condition)
        self.record(text, Verdict.PROVED if condition else Verdict.REFUTED)

    def within(self, text: str, difference: Any, by: str) -> None:
        """Whether a ball of a difference is surely less than `by` (decimal text) away from 0; around 0, a ball proves no equality."""
        self.record(f"{text}, within {by}", sign(BALL.number(by) - abs(difference), ">"))

    def ball(self, name: str, enclosure: Any) -> Any:
        """Note a certified constant."""
        # A name used twice would hide the first ball from the comparison of precisions.
        taken = sum(known == name or known.startswith(f"{name} (again ") for known in self.enclosures)
        self.enclosures[f"{name} (again {taken})" if taken else name] = enclosure
        self.steps.append(f"{name} in {enclosure}")
        return enclosure

    def estimate(self, text: str, mean: float, sem: float, claimed: float, allowance: float = 0.0) -> None:
        """A simulated mean against the claim: AGREES within 5 standard errors, plus an allowance that the claim itself states (the error
        of a leading-order law, never a tolerance of convenience), else REFUTED. UNDECIDED where one of them is not a number."""
        distance = abs(mean - claimed) - allowance
        if math.isnan(distance) or not math.isfinite(sem):
            self.record(f"{text}: simulated {mean:.6g} +- {sem:.2g}, claimed {claimed:.6g}: no comparison", Verdict.UNDECIDED)
            return
        distance = max(0.0, distance)
        z = distance / sem if sem > 0 else (0.0 if distance == 0 else float("inf"))
        claimed_to = f", claimed to within {allowance:.2g}" if allowance else ""
        self.record(
            f"{text}: simulated {mean:.6g} +- {sem:.2g}, claimed {claimed:.6g}{claimed_to}, {z:.1f} sigma",
            Verdict.AGREES if z <= SIGMA else Verdict.REFUTED,
        )

    def bounded(self, text: str, mean: float, sem: float, low: float | None = None, high: float | None = None) -> None:
        """A simulated mean against bounds: REFUTED where it lies 5 standard errors outside, else AGREES. UNDECIDED where one of them is no
        number, or nothing was simulated (a mean of -inf, say, below `high`)."""
        out = [low - mean] if low is not None else []
        out += [mean - high] if high is not None else []
        if not out:
            raise ValueError("low, high: expected at least one bound")
        span = f"[{'-inf' if low is None else f'{low:.6g}'}, {'inf' if high is None else f'{high:.6g}'}]"
        if any(math.isnan(o) for o in out) or not math.isfinite(sem):
            verdict = Verdict.UNDECIDED
        elif max(out) > SIGMA * sem:
            verdict = Verdict.REFUTED
        else:
            verdict = Verdict.AGREES if math.isfinite(mean) else Verdict.UNDECIDED
        self.record(f"{text}: simulated {mean:.6g} +- {sem:.2g}, claimed in {span}", verdict)

    def agrees(self, text: str, computed: float, claimed: float, tolerance: float) -> None:
        """A computed number against the claim, to a round-off tolerance that the text explains: AGREES or REFUTED."""
        close = abs(computed - claimed) <= tolerance
        self.record(
            f"{text}: computed {computed:.12g}, claimed {claimed:.12g} to within {tolerance:.2g}",
            Verdict.AGREES if close else Verdict.REFUTED,
        )

    def check(self, reason: str = "") -> Check:
        return Check(weakest(self.verdicts), tuple(self.steps), reason, dict(self.enclosures))


def symbolically_equal(derived: Any, claimed: Any) -> Verdict:
    """Whether two sympy expressions are one: by simplification, and where that does not end at 0, by exact rational points."""
    import sympy as sp

    difference = sp.sympify(derived) - sp.sympify(claimed)
    if sp.simplify(difference) == 0:
        return Verdict.PROVED
    symbols = sorted(difference.free_symbols, key=str)
    for shift in range(3):
        point = {symbol: sp.Rational(7 + 3 * i + 2 * shift, 2 if not symbol.is_integer else 1) for i, symbol in enumerate(symbols)}
        value = difference.subs(point).evalf(40)
        if value.is_number and value.is_finite and abs(value) > sp.Float("1e-20"):
            return Verdict.REFUTED
    return Verdict.UNDECIDED


def generator(theorem: str, label: str = "") -> np.random.Generator:
    """The random numbers of one theorem's simulation: the same in every run, shared with no other."""
    digest = hashlib.blake2b(f"{theorem} {label}".encode(), digest_size=6).digest()
    return stream(int.from_bytes(digest, "big"), "proof")


def mean_and_sem(values: Any) -> tuple[float, float]:
    """Mean of independent values and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


Law = Callable[..., Any]
