"""A user's own weights with each expert's hidden units in any order: law T8."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from simgap.nulls.prediction import Prediction
from simgap.quantities import Quantity
from simgap.theory import renumbered as laws
from simgap.theory.sign_flips import upper_p

SUPPOSES = "hidden units in any order (no common ancestor)"
DRAW = "draws= draws orders instead"
# A spread of a cosine below this is round-off: no order changes anything.
ROUND_OFF = 1e-12
# A p that asks for an explanation.
SMALL = 1e-3
# Pairs that are looked at by themselves.
MOST_ALONE = 64


@dataclass(frozen=True)
class Renumbered:
    """The null of each pair of experts, and of their mean, from their sums (`simgap.overlaps.OrderSums`)."""

    sums: Any

    @property
    def overlaps(self) -> Float[np.ndarray, " pairs"]:
        return np.minimum(self.sums.cosines**2, 1.0)

    @cached_property
    def moments(self) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
        """Mean and standard deviation of each pair's cosine over all orders, exactly."""
        mean, _ = laws.sum_moments(0, 0, 0, self.sums.totals, self.sums.units)
        # Units less their mean have the same spread, and sum to 0.
        _, variance = laws.sum_moments(self.sums.traces, 0, 0, 0, self.sums.units)
        sd = np.sqrt(np.maximum(variance, 0.0))
        return mean, np.where(sd > ROUND_OFF, sd, 0.0)

    @property
    def nulls(self) -> Float[np.ndarray, " pairs"]:
        """Mean overlap of each pair over all orders, exactly."""
        mean, sd = self.moments
        return laws.mean_overlap(mean, sd**2, 1)

    @property
    def kurtosis(self) -> Float[np.ndarray, " pairs"]:
        """Of each pair's cosine, above the normal law's, to leading order."""
        return laws.excess_kurtosis(self.sums.spreads[0], self.sums.spreads[1], self.sums.units)

    @property
    def pair_p(self) -> Float[np.ndarray, " pairs"]:
        """Upper tail of each pair's overlap: by the orders drawn, or of a normal cosine but not below what few pairs of units give that
        happen to meet; not to be relied on where the kurtosis exceeds MOST_KURTOSIS."""
        if self.sums.drawn is not None:
            return (1 + self.sums.above) / (1 + len(self.sums.drawn))
        mean, sd = self.moments
        scale, side = np.where(sd > 0, sd, np.inf), np.where(self.sums.cosines < 0, -1, 1)
        above = side * (self.sums.cosines - mean) / scale
        p = laws.pair_p(self.overlaps, mean, sd), laws.meeting_p(above, self.sums.largest / scale, self.sums.units)
        return np.maximum(np.maximum(*p), laws.least_p(self.sums.units, 2))

    @cached_property
    def cumulants(self) -> tuple[float, float, float]:
        """Mean, exactly, variance and third cumulant of the mean overlap over all pairs, for normal cosines; where orders were drawn, the
        variance is theirs. Pairs are independent two by two; what three add around a triangle is little (`triangle_moment`)."""
        mean, sd = self.moments
        first, second, third = (float(each.sum()) for each in laws.overlap_cumulants(mean, sd**2))
        drawn, pairs = self.sums.drawn, len(mean)
        variance = second / pairs**2 if drawn is None or len(drawn) < 2 else float(drawn.var(ddof=1))
        return first / pairs, variance, third / pairs**3

    def p(self, overlap: float) -> float:
        """Upper tail of a mean overlap over all pairs: by the orders drawn, or approximately."""
        if self.sums.drawn is not None:
            # Equal up to round-off counts as equal.
            return (1 + int((self.sums.drawn >= overlap * (1 - 1e-9)).sum())) / (1 + len(self.sums.drawn))
        approximate = self.pair_p[0] if len(self.overlaps) == 1 else self._approximate_p(overlap)
        return max(float(approximate), laws.least_p(self.sums.units, len(self.sums.experts)))

    def _approximate_p(self, overlap: float) -> float:
        """From three cumulants, but not below what the pairs that exceed their null most give by themselves, times that of the rest."""
        mean, sd = self.moments
        cumulants = np.stack(laws.overlap_cumulants(mean, sd**2))
        least = ROUND_OFF * float(cumulants[1].sum())
        first = np.argsort(self.nulls - self.overlaps)[:MOST_ALONE]
        own = np.concatenate([[0.0], np.cumsum(np.log(self.pair_p[first]))])
        taken = np.concatenate([np.zeros((1, 4)), np.cumsum(np.stack([self.overlaps, *cumulants])[:, first].T, 0)])
        rest = np.array([overlap * len(mean), *cumulants.sum(1)]) - taken
        tails = [upper_p(*each) if each[2] > least else 1.0 for each in rest]
        return max(math.exp(alone) * tail for alone, tail in zip(own, tails, strict=True))

    @property
    def dominated(self) -> bool:
        """Whether few large units rule the spread, so that an approximate p is not to be relied on: pairs count by their variance."""
        weights = self.moments[1] ** 4
        return float(weights @ self.kurtosis) > laws.MOST_KURTOSIS * float(weights.sum())


def renumbered(source: Any, observed: tuple[Quantity, ...], work: Any, draws: int = 0) -> dict[Quantity, Prediction]:
    """The null of each overlap of weights among the observed quantities. draws: orders to draw; 0 for the law alone."""
    return {q: _of(source.weights.by_unit(q.site), work, draws) for q in observed if q.metric == "weight_mso"}


def _of(parts: Any, work: Any, draws: int) -> Prediction:
    from simgap.overlaps import order_sums

    if parts[0].shape[1] < 2:
        return Prediction.missing("null = renumbered: one hidden unit has no other order")
    null = Renumbered(order_sums(parts, draws, work.task_map))
    if not len(null.overlaps):
        return Prediction.missing("fewer than 2 experts have a non-zero vector")
    mean, variance, third = null.cumulants
    if null.sums.drawn is not None:
        hypotheses = (*laws.HYPOTHESES, f"{draws} orders drawn")
        sd = variance**0.5
        return Prediction(mean, sd, "exact", "simulated", laws.ID, hypotheses, supposes=SUPPOSES, draws=null.sums.drawn)
    overlap = float(null.overlaps.mean())
    # Small by the cumulants alone, and not where few units may meet by chance.
    if null.dominated or upper_p(overlap, *null.cumulants) < SMALL < null.p(overlap):
        why = f"few units rule the spread, which no law knows; {DRAW}"
        return Prediction(mean, None, "exact", None, laws.ID, (*laws.HYPOTHESES, why), supposes=SUPPOSES)
    skew = third / variance**1.5 if variance > 0 else None
    return Prediction(mean, variance**0.5, "exact", "leading", laws.ID, laws.HYPOTHESES, skew=skew, supposes=SUPPOSES)
