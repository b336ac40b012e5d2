"""Put measured and predicted together: how much of an overlap is more than its null?"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from simgap.gap.predicted import Prediction
from simgap.gap.shape import Gap
from simgap.settings import numpy_settings
from simgap.stats import Estimate, moment_matched_p, normal_p, student_p
from simgap.theory import calibrated as laws
from simgap.theory.mso_law import mso_p

NO_SPREAD = "no spread is known: one trial, and no law for the sd"


# A sweep makes millions of these, and a tuple takes a quarter of a frozen dataclass's time.
class Calibrated(NamedTuple):
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

    Raises ValueError where the two are not of the same layer, or the same numbers of tokens and trials.
    """
    if measured.spec != predicted.spec:
        raise ValueError("measured, predicted: expected gaps of one spec, got two different ones")
    for name in ("tokens", "trials"):
        asked, got = getattr(measured.run, name), getattr(predicted.run, name)
        if asked != got:
            raise ValueError(f"predicted: expected {name} = {asked} as measured, got {got}")

    found = _side(measured, predicted, measured.spec.n_experts)
    if measured.shared is None or predicted.shared is None:
        return found
    # Pairs with a shared expert are not all pairs of anything.
    return replace(found, shared=_side(measured.shared, predicted.shared, 0))


def _side(measured: Gap[Estimate], predicted: Gap[Prediction], experts: int) -> Gap[Calibrated]:
    asked = replace(measured, shared=None).combine(predicted, lambda path, m, p: Asked(m, p, is_overlap(path), experts))
    paths, questions = zip(*asked.items(), strict=True)
    found = dict(zip(paths, calibrated_all(questions), strict=True))
    return asked.combine(asked, lambda path, *_: found[path])


class Asked(NamedTuple):
    """One estimate and the prediction that it is held against. overlap: it lies in [0, 1], as gaps and ratios need not. experts: how many
    the pairs are all pairs of, in each trial; 0 where they are not."""

    measured: Estimate
    null: Prediction
    overlap: bool = True
    experts: int = 0


class Deviation(NamedTuple):
    """How far an estimate is off, in which unit, and p as a function of a value, with the other arguments that it takes."""

    z: float
    unit: str
    value: float
    p: Callable[..., Any]
    arguments: tuple[Hashable, ...] = ()


def is_overlap(path: tuple[str, ...]) -> bool:
    """Whether the quantity at this place in a Gap is a mean of squared cosines."""
    return path[0] not in ("gap", "ratio")


def calibrated(measured: Estimate, null: Prediction, overlap: bool = True, experts: int = 0) -> Calibrated:
    """One estimate against one prediction; see `Asked`."""
    return calibrated_all([Asked(measured, null, overlap, experts)])[0]


@numpy_settings
def calibrated_all(asked: Sequence[Asked]) -> list[Calibrated]:
    """Each estimate against its prediction, with the bits that it has alone: many at once take a fraction of the time."""
    # None is nan here.
    means = np.array([one.measured.mean for one in asked], np.float64)
    nulls = np.array([one.null.mean for one in asked], np.float64)
    overlap, both = np.array([one.overlap for one in asked], bool), ~np.isnan(means + nulls)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        excess = _known(laws.excess(means, nulls), both & (nulls != 0))
        scaled = _known(laws.scaled_excess(means, nulls), both & overlap & (nulls != 1))
        dimension = _known(laws.effective_dimension(means), overlap & (means > 0))
    deviations = [_deviation(one) for one in asked]
    p = _p_values(deviations)
    found = []
    for at, ((measured, null, *_), deviation) in enumerate(zip(asked, deviations, strict=True)):
        if measured.mean is None:
            found.append(Calibrated(None, null.mean, why=measured.why))
        elif null.mean is None:
            found.append(Calibrated(measured.mean, None, effective_dimension=dimension[at], why=null.why))
        elif deviation is None:
            why = "the null has no spread: every such overlap is equal" if null.sd == 0 else NO_SPREAD
            found.append(
                Calibrated(
                    measured.mean, null.mean, excess[at], scaled[at], effective_dimension=dimension[at], null_kind=null.kind, why=why
                )
            )
        else:
            z, unit = deviation[:2]
            found.append(Calibrated(measured.mean, null.mean, excess[at], scaled[at], z, unit, p[at], dimension[at], null.kind))
    return found


def _known(values: Float[np.ndarray, " n"], known: Bool[np.ndarray, " n"]) -> list[float | None]:
    return [value if is_known else None for value, is_known in zip(values.tolist(), known.tolist(), strict=True)]


def _p_values(deviations: Sequence[Deviation | None]) -> dict[int, float]:
    """The p of every deviation, by its place; those of one law in one call."""
    alike: dict[tuple[Callable[..., Any], tuple[Hashable, ...]], list[tuple[int, float]]] = {}
    for at, one in enumerate(deviations):
        if one is not None:
            alike.setdefault((one.p, one.arguments), []).append((at, one.value))
    found: dict[int, float] = {}
    for (p, arguments), asked in alike.items():
        places, values = zip(*asked, strict=True)
        found |= zip(places, p(np.array(values), *arguments).tolist(), strict=True)
    return found


def _deviation(asked: Asked) -> Deviation | None:
    measured, null, overlap, experts = asked
    if measured.mean is None or null.mean is None:
        return None
    deviation = measured.mean - null.mean
    if null.sd is not None and null.sd > 0:
        sd = null.sd * _widened(measured, null)
        z, unit = deviation / sd, "null sd"
        if not overlap or sd * sd >= null.mean * (1 - null.mean):
            return Deviation(z, unit, z, normal_p)
        of_each_trial = experts * (experts - 1) // 2
        if null.isotropic and measured.pairs == null.pairs == of_each_trial * measured.trials:
            law = 1 / null.mean, of_each_trial, measured.trials, experts
            return Deviation(z, unit, min(measured.mean, 1.0), mso_p, law)
        return Deviation(z, unit, measured.mean, moment_matched_p, (null.mean, sd))
    if measured.sem:
        z = deviation / measured.sem
        return Deviation(z, "sem", z, student_p, (measured.trials - 1,))
    return None


def _widened(measured: Estimate, null: Prediction) -> float:
    """By how much lost pairs widen the null's sd: the mean is over trials, so a trial with few pairs weighs as much as one with all."""
    if measured.pairs == null.pairs or not null.pairs:
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
