"""Means over pairs of experts, and how far they stray when the experts are others: each expert left out in turn."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from simgap.overlaps import OtherTokens


@dataclass(frozen=True)
class Spread:
    """A mean over pairs of experts and what it is without each of them, (E,)."""

    value: float
    without: Float[np.ndarray, " E"]

    @classmethod
    def of_pairs(cls, values: Float[np.ndarray, "E E"], weights: Float[np.ndarray, "E E"]) -> "Spread":
        """Symmetric tables; a pair without a value has weight 0."""
        weights = np.where(np.isnan(values), 0.0, weights)
        np.fill_diagonal(weights := weights.copy(), 0.0)
        sums = (weights * np.where(weights > 0, values, 0.0)).sum(1)
        return cls._of(sums.sum() / 2, weights.sum() / 2, sums, weights.sum(1))

    @classmethod
    def of_experts(cls, values: Float[np.ndarray, " E"], weights: Float[np.ndarray, " E"]) -> "Spread":
        weights = np.where(np.isnan(values), 0.0, weights)
        sums = weights * np.where(weights > 0, values, 0.0)
        return cls._of(sums.sum(), weights.sum(), sums, weights)

    @classmethod
    def _of(cls, total: float, weight: float, sums: Float[np.ndarray, " E"], weights: Float[np.ndarray, " E"]) -> "Spread":
        with np.errstate(invalid="ignore", divide="ignore"):
            # Experts that say nothing leave nothing out.
            without = ((total - sums) / (weight - weights))[weights > 0]
            return cls(float(np.divide(total, weight)), without)

    @classmethod
    def fixed(cls, value: float, experts: int) -> "Spread":
        """What is the same for any experts."""
        return cls(value, np.full(experts, value))

    @property
    def error(self) -> float:
        """Delete-one-expert jackknife; for a mean over pairs of independent experts its square is too large by up to 2 (E-1)/(E-2).
        NaN where all pairs are of one expert."""
        count = len(self.without)
        if not np.isfinite(self.without).all():
            return math.nan
        return float(np.sqrt((count - 1) / count * np.square(self.without - self.without.mean()).sum()))

    def over(self, other: "Spread") -> "Spread":
        """Quotient."""
        if len(self.without) != len(other.without):
            return Spread(self.value / other.value, np.full(1, math.nan))
        with np.errstate(invalid="ignore", divide="ignore"):
            return Spread(self.value / other.value, self.without / other.without)

    def at(self, some: Bool[np.ndarray, " E"]) -> "Spread":
        """Of some of the experts that are left out in turn."""
        return Spread(self.value, self.without[some])

    def map(self, slope: float, constant: float) -> "Spread":
        return Spread(constant + slope * self.value, constant + slope * self.without)


def tables(sums: OtherTokens) -> tuple[Float[np.ndarray, "E E"], Float[np.ndarray, "E E"], Float[np.ndarray, "E E"]]:
    """Same and other of each pair, symmetric, NaN where there is none, and the tokens on which it meets."""
    left, right = sums.named.T
    same, other = np.full((2, sums.experts, sums.experts), math.nan)
    weights = np.zeros((sums.experts, sums.experts))
    for table, values in ((same, sums.same), (other, sums.other), (weights, sums.count)):
        table[left, right] = table[right, left] = values
    return same, other, weights
