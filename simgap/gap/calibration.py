"""Put measured and predicted together: how much of an overlap is more than its null?"""

import math
from dataclasses import dataclass, replace
from typing import Any

from simgap.gap.predicted import Prediction
from simgap.gap.shape import Gap
from simgap.stats import Estimate, moment_matched_p, normal_p, student_p
from simgap.theory import calibrated as laws
from simgap.theory.mso_law import mso_p


@dataclass(frozen=True)
class Calibrated:
    """One quantity against its null (law N7).

    excess = mean / null, from 0 to 1/null, so not comparable across spaces; scaled_excess = (mean - null) / (1 - null), at most 1 and
    comparable. z: deviations in units of the null's sd where that is known (z_unit "null sd"), else of the measured sem ("sem").
    p: two-sided; from the law of the mean over all pairs of isotropic vectors (law N1B) where the null is that, from the Beta law with the
    null's mean and sd elsewhere, which keeps a skew too; from Student's t where only the sem is known.
    effective_dimension = 1 / mean: the dimension in which independent vectors would overlap as much. null_kind: "leading" says that the
    null's mean has an error of its own, which z and p do not know. None where a part is missing. A gap measured with `prepare` is held
    against untrained experts all the same: that is the question it is asked.
    """

    mean: float | None
    null: float | None
    excess: float | None = None
    scaled_excess: float | None = None
    z: float | None = None
    z_unit: str | None = None
    p: float | None = None
    effective_dimension: float | None = None
    null_kind: str | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.excess is None or self.z is None:
            return f"not calibrated: {self.why}"
        p = "" if self.p is None else f", p {self.p:.2g}"
        return f"{self.excess:.3g} times its null, z {self.z:.1f}{p}: {verdict(self.z, self.p)}"

    def as_dict(self) -> dict[str, Any]:
        names = ("excess", "scaled_excess", "z", "z_unit", "p", "effective_dimension", "null_kind")
        return {name: getattr(self, name) for name in names} | ({"why": self.why} if self.why else {})


def calibrate(measured: Gap[Estimate], predicted: Gap[Prediction]) -> Gap[Calibrated]:
    """Each measured quantity against its prediction: excess, z, p, effective dimension.

    Raises ValueError where the two are not of the same layer or the same number of trials.
    """
    if measured.spec != predicted.spec:
        raise ValueError("measured, predicted: expected gaps of one spec, got two different ones")
    if measured.run.trials != predicted.run.trials:
        raise ValueError(f"predicted: expected trials = {measured.run.trials} as measured, got {predicted.run.trials}")

    def of_side(experts: int) -> Any:
        return lambda path, m, p: calibrated_at(path, m, p, experts)

    found = replace(measured, shared=None).combine(predicted, of_side(measured.spec.n_experts))
    if measured.shared is None or predicted.shared is None:
        return found
    # Pairs with a shared expert are not all pairs of anything.
    return replace(found, shared=measured.shared.combine(predicted.shared, of_side(0)))


def calibrated_at(path: tuple[str, ...], measured: Estimate, null: Prediction, experts: int = 0) -> Calibrated:
    """One quantity of a Gap, by its place there, against its prediction: `calibrated` of an overlap, a gap or a ratio."""
    return calibrated(measured, null, overlap=path[0] not in ("gap", "ratio"), experts=experts)


def calibrated(measured: Estimate, null: Prediction, overlap: bool = True, experts: int = 0) -> Calibrated:
    """One estimate against one prediction; overlap says that it lies in [0, 1], as gaps and ratios need not. experts: how many the pairs
    are all pairs of, in each trial; 0 where they are not."""
    if measured.mean is None:
        return Calibrated(None, null.mean, why=measured.why)
    dimension = laws.effective_dimension(measured.mean) if overlap and measured.mean > 0 else None
    if null.mean is None:
        return Calibrated(measured.mean, None, effective_dimension=dimension, why=null.why)
    excess = laws.excess(measured.mean, null.mean) if null.mean else None
    scaled = laws.scaled_excess(measured.mean, null.mean) if overlap and null.mean != 1 else None
    z, unit, p = _deviation(measured, null, overlap, experts)
    why = ""
    if z is None:
        why = (
            "the null has no spread: every such overlap is equal"
            if null.sd == 0
            else "no spread is known: one trial, and no law for the sd"
        )
    return Calibrated(measured.mean, null.mean, excess, scaled, z, unit, p, dimension, null.kind, why)


def _deviation(measured: Estimate, null: Prediction, overlap: bool, experts: int) -> tuple[float | None, str | None, float | None]:
    if measured.mean is None or null.mean is None:
        return None, None, None
    deviation = measured.mean - null.mean
    if null.sd is not None and null.sd > 0:
        sd = null.sd * _widened(measured, null)
        proper = overlap and sd * sd < null.mean * (1 - null.mean)
        of_each_trial = experts * (experts - 1) // 2
        if proper and null.isotropic and measured.pairs == null.pairs == of_each_trial * measured.trials:
            p = mso_p(min(measured.mean, 1.0), 1 / null.mean, of_each_trial, measured.trials, experts)
            return deviation / sd, "null sd", p
        return deviation / sd, "null sd", moment_matched_p(measured.mean, null.mean, sd) if proper else normal_p(deviation / sd)
    if measured.sem:
        return deviation / measured.sem, "sem", student_p(deviation / measured.sem, measured.trials - 1)
    return None, None, None


def _widened(measured: Estimate, null: Prediction) -> float:
    """By how much lost pairs widen the null's sd: the mean is over trials, so a trial with few pairs weighs as much as one with all."""
    if not null.pairs:
        return 1.0
    counts = measured.per_trial[measured.per_trial > 0]
    if counts.size:
        return math.sqrt(float((1 / counts).sum()) * null.pairs) / counts.size
    return math.sqrt(null.pairs / measured.pairs) if 0 < measured.pairs < null.pairs else 1.0


def sentence(measured: Gap[Estimate], calibrated: Gap[Calibrated]) -> str:
    """The one thing to take away: mean output overlap against its null, in words."""
    quantity = calibrated.activation_mso.get("mean", {}).get("output")
    if quantity is None or quantity.mean is None:
        return f"output overlap was not measured: {quantity.why if quantity else 'mean output not asked for'}"
    if quantity.excess is None or quantity.z is None:
        held = "its null is the same" if quantity.excess == 1 else "no null to hold it against"
        return f"output overlap is {quantity.mean:.3g}; {held}: {quantity.why}"
    return f"output overlap is {quantity.excess:.3g} times its null, z {quantity.z:.1f}: {verdict(quantity.z, quantity.p)}"


def verdict(z: float, p: float | None, level: float = 1e-3) -> str:
    """What a z and its p ask for, at a stated level: one in a thousand."""
    if p is None or p > level:
        return "nothing to explain"
    return f"{'more' if z > 0 else 'less'} than independent sign-symmetric vectors give"
