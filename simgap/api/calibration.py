"""Put measured and predicted together: how much of an overlap is more than its null?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from simgap.api.predicted import predict
from simgap.notebook import text
from simgap.nulls import Prediction
from simgap.nulls.exchange import exchange_p
from simgap.nulls.prediction import SUPPOSES
from simgap.quantities import ROUTED, Quantity
from simgap.results import Gap
from simgap.settings import numpy_settings
from simgap.stats import LEVEL, Estimate, least_p, normal_p, p_text, student_p, two_sided_p
from simgap.theory import calibrated as laws
from simgap.theory.gap_law import gap_p, ratio_p
from simgap.theory.mso_law import mso_distribution
from simgap.theory.pearson import Distribution, Standard, matched_law
from simgap.theory.sign_flips import LEAST_SKEW

NO_SPREAD = "no spread is known: one trial, and no law for the sd"
# A squared cosine of exactly 0 may be any that round-off leaves nothing of.
ROUND_OFF = float(np.finfo(np.float64).eps) ** 2


# A sweep makes millions of these, and a tuple takes a quarter of a frozen dataclass's time.
class Comparison(NamedTuple):
    """One quantity against its null (law N7).

    excess = mean / null, from 0 to 1/null, so not comparable across spaces; scaled_excess = (mean - null) / (1 - null), at most 1 and
    comparable. z: deviations in units of the null's sd where that is known (z_unit "null sd"), else of the measured sem ("sem").
    p: two-sided; from the law of the mean over all pairs of isotropic vectors (law N1B) where the null is that, from the Beta law with the
    null's mean and sd elsewhere, which keeps a skew too, but for an overlap of exactly 0 (`least_p`); from Student's t where only the sem
    is known; of a simulated null from the exchange of trials and draws (`exchange_p`). bound: its draws, where no p of theirs is smaller;
    else 0. effective_dimension = 1 / mean: the dimension in which independent vectors would overlap as much. null_kind: "leading" says that
    the null's mean has an error of its own, which z and p do not know; null_error is its size, and what it explains is not called a
    deviation. pairs: that the mean rests on; dropped: pairs left out because a vector was undefined, the first of which dropped_at names.
    None where a part is missing. A gap measured with `prepare` is held against untrained experts all the same: that is the
    question it is asked.
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
    null_error: float | None = None
    supposes: str = SUPPOSES
    pairs: int = 0
    dropped: int = 0
    dropped_at: str = ""
    bound: int = 0

    def __str__(self) -> str:
        if self.mean is None or self.null is None or self.z is None or self.p is None:
            return f"not calibrated: {self.why}"
        said = verdict(self.z, self.p, of=self.supposes)
        if self.p <= LEVEL and within_error(self.z, self.mean - self.null, self.null_error):
            said = f"within the null's own error, {self.null_error:.2g}"
        ratio = f"{self.mean:.4g}, its null {self.null:.4g}" if self.excess is None else f"{self.excess:.3g} times its null"
        p = p_text(self.p)
        if self.bound:
            p = f"p <= {self.p:.2g} by {self.bound} draws"
            if self.p > LEVEL:
                said = f"beyond all of them; the level {LEVEL:g} asks for more draws or trials"
        return f"{ratio}, z {self.z:.1f} {self.z_unit}, {p}: {said}"

    def _repr_html_(self) -> str:
        return text(self)

    def as_dict(self) -> dict[str, Any]:
        names = ("mean", "null", "excess", "scaled_excess", "z", "z_unit", "p", "effective_dimension", "null_kind", "null_error")
        return {name: getattr(self, name) for name in names} | ({"why": self.why} if self.why else {})


def calibrate(measured: Gap[Estimate], predicted: Gap[Prediction] | None = None, *, null: str | None = None) -> Gap[Comparison]:
    """Each measured quantity against its prediction, by default that of `predict`: excess, z, p, effective dimension.

    null: its name, by default the one that `measure` was given.

    Raises ValueError where the two are not of the same layer, or the same numbers of tokens and trials.
    """
    if any(isinstance(value, Comparison) for value in measured.values.values()):
        raise ValueError("measured: expected what `measure` gives, got comparisons, which have their nulls already")
    if predicted is not None and null not in (None, predicted.null):
        raise ValueError(f"null: expected {predicted.null!r}, the null of these predictions, or none, got {null!r}")
    if predicted is None:
        predicted = nulls_of(measured if null is None else replace(measured, null=null))
    if measured.spec != predicted.spec:
        raise ValueError("measured, predicted: expected gaps of one spec, got two different ones")
    for name in ("tokens", "trials"):
        asked, got = getattr(measured.run, name), getattr(predicted.run, name)
        if asked != got:
            raise ValueError(f"predicted: expected {name} = {asked} as measured, got {got}")

    # Pairs with a shared expert are not all pairs of anything.
    def question(quantity: Quantity, mine: Estimate, null: Prediction) -> Asked:
        return Asked(mine, null, is_overlap(quantity), measured.spec.n_experts if quantity.side == ROUTED else 0)

    asked = measured.combine(predicted, question)
    return replace(asked, null=predicted.null, values=dict(zip(asked.values, compare_all(list(asked.values.values())), strict=True)))


def nulls_of(measured: Gap[Estimate]) -> Gap[Prediction]:
    """The predictions of the quantities that were measured, for as many tokens and trials."""
    asked = [str(quantity.on(ROUTED)) for quantity in measured.values]
    return predict(measured.spec, tokens=measured.run.tokens, trials=measured.run.trials, quantities=asked, null=measured.null)


class Asked(NamedTuple):
    """One estimate and the prediction that it is held against. overlap: it lies in [0, 1], as gaps and ratios need not. experts: how many
    the pairs are all pairs of, in each trial; 0 where they are not."""

    measured: Estimate
    null: Prediction
    overlap: bool = True
    experts: int = 0


class Deviation(NamedTuple):
    """How far an estimate is off, in which unit, and p as a function of a value, with the other, hashable arguments that it takes. bound:
    draws of the null, where p is the least that they can give."""

    z: float
    unit: str
    value: float
    p: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    bound: int = 0


def is_overlap(quantity: Quantity) -> bool:
    """Whether a quantity is a mean of squared cosines."""
    return quantity.metric in ("weight_mso", "activation_mso")


def compare(measured: Estimate, null: Prediction, overlap: bool = True, experts: int = 0) -> Comparison:
    """One estimate against one prediction; see `Asked`."""
    return compare_all([Asked(measured, null, overlap, experts)])[0]


@numpy_settings
def compare_all(asked: Sequence[Asked]) -> list[Comparison]:
    """Each estimate against its prediction, with the bits that it has alone: many at once take a fraction of the time."""
    # None is nan here.
    means = np.array([one.measured.mean for one in asked], np.float64)
    nulls = np.array([one.null.mean for one in asked], np.float64)
    overlap, both = np.array([one.overlap for one in asked], bool), ~np.isnan(means + nulls)
    # A ratio to the mean of draws on both sides of 0 says nothing: of a cosine, of a correlation.
    signed = np.array([one.null.draws is not None and bool((one.null.draws < 0).any()) for one in asked], bool)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        excess = _known(laws.excess(means, nulls), both & (nulls > 0) & (means >= 0) & ~signed)
        scaled = _known(laws.scaled_excess(means, nulls), both & overlap & (nulls != 1))
        dimension = _known(laws.effective_dimension(means), overlap & (means > 0))
    deviations = [_deviation(one) for one in asked]
    p = _p_values(deviations)
    comparisons = []
    for at, ((measured, null, *_), deviation) in enumerate(zip(asked, deviations, strict=True)):
        if measured.mean is None:
            comparisons.append(Comparison(None, null.mean, why=measured.why))
        elif null.mean is None:
            plain = Comparison(measured.mean, None, effective_dimension=dimension[at], why=null.why)
            comparisons.append(plain._replace(pairs=measured.pairs, dropped=measured.dropped, dropped_at=measured.dropped_at))
        else:
            z, unit = (None, None) if deviation is None else deviation[:2]
            no_sd = "the null has no spread: every such overlap is equal" if null.sd == 0 else NO_SPREAD
            why = no_sd if deviation is None else ""
            values = (measured.mean, null.mean, excess[at], scaled[at])
            lost, bound = (measured.pairs, measured.dropped, measured.dropped_at), 0 if deviation is None else deviation.bound
            told = (null.kind, why, null.error, null.supposes)
            comparisons.append(Comparison(*values, z, unit, p.get(at), dimension[at], *told, *lost, bound))
    return comparisons


def _known(values: Float[np.ndarray, " n"], known: Bool[np.ndarray, " n"]) -> list[float | None]:
    return [value if is_known else None for value, is_known in zip(values.tolist(), known.tolist(), strict=True)]


def _p_values(deviations: Sequence[Deviation | None]) -> dict[int, float]:
    """The p of every deviation, by its index; those of one law in one call."""
    alike: dict[tuple[Callable[..., Any], tuple[Any, ...]], list[tuple[int, float]]] = {}
    for at, one in enumerate(deviations):
        if one is not None:
            alike.setdefault((one.p, one.arguments), []).append((at, one.value))
    p_values: dict[int, float] = {}
    for (p, arguments), asked in alike.items():
        indices, values = zip(*asked, strict=True)
        p_values |= zip(indices, p(np.array(values), *arguments).tolist(), strict=True)
    return p_values


def _deviation(asked: Asked) -> Deviation | None:
    measured, null, overlap, experts = asked
    if measured.mean is None or null.mean is None:
        return None
    deviation = measured.mean - null.mean
    if null.sd is not None and null.sd > 0:
        wider = _widened(measured, null)
        z, unit = deviation / (null.sd * wider), "null sd"
        # All pairs of each trial, as law N1B has them, or those that are left.
        whole = measured.pairs == null.pairs == experts * (experts - 1) // 2 * measured.trials
        rest = measured.trials, experts if whole else 0
        if null.sides is None:
            skew = null.skew or 0.0
            by_law = _skewed(measured.mean, null.mean, null.sd, skew) if skew else None
            if null.draws is not None:
                # Of a skewed law only the longer tail is known well.
                return _among(measured, null.draws, z, by_law if z * skew > 0 else None)
            if by_law is not None:
                return by_law
            law = _law(null.mean, null.sd * wider, null.isotropic, *rest)
            if law is None or not overlap:
                return Deviation(z, unit, z, normal_p)
            if measured.mean <= 0 and not null.isotropic:
                return Deviation(z, unit, 0.0, least_p, (null.mean, null.sd * wider))
            return Deviation(z, unit, max(measured.mean, ROUND_OFF), p_of, (law,))
        of_ratio, (out, weight) = null.contrast == "ratio", null.sides
        output = _law(out.mean, (out.sd or 0.0) * wider, out.isotropic, *rest)
        # Weights lose no pair.
        up = _law(weight.mean, weight.sd, weight.isotropic, measured.trials, experts)
        if up is None or (output is None and out.sd):
            return Deviation(z, unit, z, normal_p)
        if output is None:
            # In one dimension every output overlap is 1.
            return Deviation(z, unit, 1 / measured.mean if of_ratio else 1 - measured.mean, p_of, (up,))
        return Deviation(z, unit, measured.mean, ratio_p if of_ratio else gap_p, (output, up))
    if measured.sem:
        z = deviation / measured.sem
        return Deviation(z, "sem", z, student_p, (measured.trials - 1,))
    return None


def _among(measured: Estimate, draws: Float[np.ndarray, " n"], z: float, by_law: Deviation | None) -> Deviation:
    """By the place of the trials among draws, which a law goes on from where there is one."""
    trials = measured.values[~np.isnan(measured.values)]
    # A mean of trials that are not known strays less than one does.
    p, beyond = exchange_p(trials if len(trials) else np.array([measured.mean]), draws)
    if beyond and by_law is not None:
        p = min(p, float(by_law.p(by_law.value, *by_law.arguments)))
    return Deviation(z, "null sd", p, _given, (), len(draws) if beyond and by_law is None else 0)


def _given(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return p


def _skewed(value: float, mean: float, sd: float, skew: float) -> Deviation:
    """Under the law of Pearson's type III with these moments; one with a tail to the left is looked at in a mirror."""
    g = max(abs(skew), LEAST_SKEW)
    law = Standard("gamma", (4 / g**2,), mean - 2 * sd / g, sd * g / 2)
    return Deviation((value - mean) / sd, "null sd", value if skew > 0 else 2 * mean - value, p_of, (law,))


@lru_cache(maxsize=4096)
def _law(mean: float, sd: float, isotropic: bool, trials: int, experts: int) -> Distribution | None:
    """The law of a null: that of the mean over all pairs of so many isotropic vectors (N1B), or the Beta law with this mean and sd; None
    where there is no such law."""
    if isotropic and experts:
        return mso_distribution(1 / mean, experts * (experts - 1) // 2, trials, experts)
    return matched_law(mean, sd) if 0 < sd * sd < mean * (1 - mean) else None


def p_of(values: Float[np.ndarray, " n"], law: Distribution) -> Float[np.ndarray, " n"]:
    """Two-sided p of overlaps under a law."""
    return two_sided_p(values, law.cdf, law.sf)


def _widened(measured: Estimate, null: Prediction) -> float:
    """By how much lost pairs widen the null's sd: the mean is over trials, so a trial with few pairs weighs as much as one with all."""
    if measured.pairs == null.pairs or not null.pairs:
        return 1.0
    counts = measured.per_trial[measured.per_trial > 0]
    if counts.size:
        return math.sqrt(float((1 / counts).sum()) * null.pairs) / counts.size
    return math.sqrt(null.pairs / measured.pairs) if 0 < measured.pairs < null.pairs else 1.0


def row(measured: Estimate, predicted: Prediction, calibrated: Comparison) -> dict[str, Any]:
    """Plain values of one quantity: what was measured, its null, and how far the two are apart."""
    return {
        "mean": measured.mean,
        "sem": measured.sem,
        "n": measured.trials,
        "pairs": measured.pairs,
        "dropped": measured.dropped,
        "predicted_mean": predicted.mean,
        "predicted_sd": predicted.sd,
        "predicted_error": predicted.error,
        "predicted_kind": predicted.kind,
        "predicted_sd_kind": predicted.sd_kind,
        "law": predicted.law,
        "excess": calibrated.excess,
        "scaled_excess": calibrated.scaled_excess,
        "z": calibrated.z,
        "z_unit": calibrated.z_unit,
        "p": calibrated.p,
        "effective_dimension": calibrated.effective_dimension,
        "why": measured.why or predicted.why or calibrated.why,
    }


def sentence(measured: Gap[Estimate], calibrated: Gap[Comparison]) -> str:
    """The one thing to take away: mean output overlap against its null, in words."""
    quantity = calibrated.activation_mso.get("mean", {}).get("output")
    if quantity is None or quantity.mean is None:
        return f"output overlap was not measured: {quantity.why if quantity else 'mean output not asked for'}"
    if quantity.excess is None or quantity.z is None:
        held = "its null is the same" if quantity.excess == 1 else "no null to hold it against"
        return f"output overlap is {quantity.mean:.3g}; {held}: {quantity.why}"
    return f"output overlap is {quantity}"


def within_error(z: float, deviation: float, error: float | None) -> bool:
    """Whether what is left of z beyond an error of the null's mean is no deviation at LEVEL."""
    return bool(error) and float(normal_p(abs(z) * max(0.0, 1 - (error or 0.0) / abs(deviation)))) > LEVEL


def verdict(z: float, p: float, level: float = LEVEL, of: str = SUPPOSES) -> str:
    """What a z and its p ask for, at a stated level, in a sentence that names what the null supposes."""
    if p > level:
        return f"nothing to explain at the level {level:g}"
    return f"{'more' if z > 0 else 'less'} than {of} give, at the level {level:g}"
