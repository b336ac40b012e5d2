"""What each quantity of each cell says of its law: the rules, fixed before anything was measured, and the verdicts by them.

The error of a quantity is the standard deviation that its law gives to a mean over so many trials, where the law knows it, else the
measured standard error. p is `calibrate`'s: by the law's own distribution, or Student's t where only the standard error is known. It is
corrected over all quantities of all cells together (Holm). A law is REFUSED where that is below five sigma. Then

- "holds within error": not refused, and five errors are less than the law itself, so that a law twice as large would have been refused;
- "not resolved": not refused, but five errors are more than the law;
- "in doubt": an exact law, not refused, but corrected p below one in a hundred: it asks for more trials;
- "spread off": refused in units of a spread that the law knows to leading order only, while the trials' own scatter does not refuse the
  mean (Student's p, uncorrected, at least one in a hundred): the law of the spread is off, not that of the mean;
- "leading order only": refused, a leading-order law, and the deviation less five errors is at most TEN_TIMES the order that the law states
  for its error, and at most half the law: a stated order of more promises nothing;
- "fails": refused otherwise;
- "no law": no law says anything, with the reason.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simgap import LayerSpec, RunSpec, predict
from simgap.api.reported import FIVE_SIGMA
from simgap.specs import NESTED
from simgap.stats import holm, normal_score, student_p

HOLDS, NOT_RESOLVED, IN_DOUBT, SPREAD_OFF, LEADING, FAILS, NO_LAW = VERDICTS = (
    "holds within error",
    "not resolved",
    "in doubt",
    "spread off",
    "leading order only",
    "fails",
    "no law",
)
DOUBT = 0.01
ERRORS = 5
TEN_TIMES = 10
HALF = 0.5
# The terms in which a law may state the order of its error, as functions of the layer and the run.
ORDERS: dict[str, Callable[[LayerSpec, RunSpec], float]] = {
    "1/d_model": lambda spec, run: 1 / spec.d_model,
    "1/d_ff": lambda spec, run: 1 / spec.d_ff,
    "(n_experts/(tokens*top_k))^2": lambda spec, run: (spec.n_experts / (run.tokens * spec.top_k)) ** 2,
    "1/d_ff^2": lambda spec, run: 1 / spec.d_ff**2,
    "1/(d_model*d_ff)^2": lambda spec, run: 1 / (spec.d_model * spec.d_ff) ** 2,
    "d_ff/(pairs*trials)": lambda spec, run: spec.d_ff / (math.comb(spec.n_experts, 2) * run.trials),
}


@dataclass(frozen=True)
class Judged:
    """One quantity of one cell beside its law.

    sd: of the law, for the mean over all trials, None where it is not known. kind and sd_kind: "exact", "leading" or None. order: the size
    of the error that a leading law allows itself. p is alone, corrected with all others.
    """

    cell: str
    spec: LayerSpec
    quantity: str
    trials: int
    measured: float
    sem: float | None
    law_id: str | None = None
    law: float | None = None
    sd: float | None = None
    kind: str | None = None
    sd_kind: str | None = None
    z: float | None = None
    z_unit: str | None = None
    p: float | None = None
    order: float | None = None
    why: str = ""
    corrected: float = 1.0
    verdict: str = NO_LAW

    @property
    def error(self) -> float | None:
        """What z is in units of."""
        if self.law is None or self.z is None:
            return None
        return abs(self.measured - self.law) / abs(self.z) if self.z else (self.sd if self.z_unit == "null sd" else self.sem)

    @property
    def deviation(self) -> float | None:
        """Measured over law, less one."""
        return None if not self.law else self.measured / self.law - 1

    @property
    def constant(self) -> float | None:
        """The deviation in units of a leading law's order."""
        return None if self.law is None or not self.order else (self.measured - self.law) / self.order

    @property
    def normal(self) -> float | None:
        """The standard normal number that has this p and z's sign: what z would be, were its law normal."""
        if self.p is None or self.z is None:
            return None
        return normal_score(max(self.p, 1e-300), self.z)


def judge(records: Sequence[dict[str, Any]]) -> list[Judged]:
    """Every quantity that the records' cells have, in their order, with its verdict. Quantities that a cell does not have are left out."""
    return verdicts([point for record in records for point in beside(record)])


def verdicts(judged: Sequence[Judged]) -> list[Judged]:
    """The same with the corrected p and the verdict of each."""
    tested = [point.p for point in judged if point.p is not None]
    corrected = iter(holm(tested))
    return [_decided(point if point.p is None else replace(point, corrected=next(corrected))) for point in judged]


def _decided(point: Judged) -> Judged:
    return replace(point, verdict=verdict(point))


def verdict(point: Judged) -> str:
    """The verdict by the rules above, from p and its corrected value."""
    if point.law is None:
        return NO_LAW
    if point.p is None or point.error is None:
        return NOT_RESOLVED
    if point.corrected >= FIVE_SIGMA:
        if point.kind == "exact" and point.corrected < DOUBT:
            return IN_DOUBT
        return HOLDS if ERRORS * point.error < point.law else NOT_RESOLVED
    if point.sd_kind == "leading" and point.z_unit == "null sd" and point.sem:
        scatter = student_p((point.measured - point.law) / point.sem, point.trials - 1)
        if scatter >= DOUBT:
            return SPREAD_OFF
    if point.kind == "leading" and point.order is not None:
        beyond = abs(point.measured - point.law) - ERRORS * point.error
        return LEADING if beyond <= min(TEN_TIMES * point.order, HALF * point.law) else FAILS
    return FAILS


def beside(record: dict[str, Any]) -> Iterator[Judged]:
    """The quantities of one cell that were measured, each beside its law, without a verdict."""
    spec = LayerSpec(**nested(record["spec"]))
    orders: dict[str, str] | None = None
    for quantity, row in record["quantities"].items():
        if row["mean"] is None:
            continue
        point = Judged(record["name"], spec, quantity, row["n"], row["mean"], row["sem"], why=row["why"])
        if row["predicted_mean"] is not None:
            order = None
            if row["predicted_kind"] == "leading":
                run = RunSpec(tokens=record["tokens"], trials=record["trials"])
                orders = orders or stated_orders(spec, run, list(record["quantities"]))
                order = order_size(orders[quantity], spec, run)
            point = replace(
                point,
                law_id=row["law"],
                law=row["predicted_mean"],
                sd=row["predicted_sd"],
                kind=row["predicted_kind"],
                sd_kind=row["predicted_sd_kind"],
                z=row["z"],
                z_unit=row["z_unit"],
                p=row["p"],
                order=order,
            )
        yield point


def nested(plain: dict[str, Any]) -> dict[str, Any]:
    """A spec's plain values with its router, inputs and space made; a record that is older than one of them has its default."""
    return plain | {name: kind(**plain[name]) for name, kind in NESTED.items() if name in plain}


def stated_orders(spec: LayerSpec, run: RunSpec, names: Sequence[str]) -> dict[str, str]:
    """The order that each quantity's law states for its error, by name."""
    asked = [name.removeprefix("shared ") for name in names]
    whole = predict(spec, tokens=run.tokens, trials=run.trials, quantities=asked)
    return {str(quantity): value.order for quantity, value in whole.values.items()}


def order_size(order: str, spec: LayerSpec, run: RunSpec) -> float:
    """The number that O(1/d_model + 1/d_ff) is for a layer. Raises ValueError for a term that is not known here."""
    terms = re.fullmatch(r"O\((.*?)\)(?:, D = (\S+) .*)?", order)
    size = 0.0
    for term in terms[1].split(" + ") if terms else [order]:
        if terms and terms[2] and term == "1/D^2":
            size += float(terms[2]) ** -2
        elif term in ORDERS:
            size += ORDERS[term](spec, run)
        else:
            raise ValueError(f"order: {term!r} of {order!r} is none of {', '.join(ORDERS)}, 1/D^2")
    return size
